"""Does the first screen of a report answer? Effects are drawn by a seed; somebody looks once and says what was found.

    python tests/benchmarks/first_screen.py draw SEED FOLDER     # a made-up ledger, its report, page.png and phone.png
    python tests/benchmarks/first_screen.py score FOLDER ANSWERS.json

Who answers sees the two pictures alone (1400 x 1000; the first two screens of a phone, 400 x 1600) and writes, for each
study and family, which variants are better than the baseline and which are worse, by the names in the picture:
{"heads": {"GPT-Neo": {"better": ["8H"], "worse": []}}}. Needs Chromium. One seed in three draws no effect at all."""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1])]

import synthetic  # noqa: E402

from cluster.report.results import FAMILIES  # noqa: E402

STUDIES = {  # study -> the words of runs' names, and how the page calls these variants
    "activations": {
        "-silu-": "SiLU",
        "-relu-": "ReLU",
        "-geglu-": "GEGLU",
        "-none-": "no activation",
        "-prelu-": "PReLU",
    },
    "heads": {"-1H-": "1H", "-2H-": "2H", "-8H-": "8H", "-16H-": "16H"},
    "qk_width": {"-qk64-": "gelu-qk64", "-qk128-": "gelu-qk128", "-qk256-": "gelu-qk256"},
}
SEEDS, SIZE, SPREAD = 6, 0.06, 0.006
SCREENS = {"page": (1400, 1000), "phone": (400, 1600)}


def draw(seed: int, folder: Path) -> None:
    random_ = random.Random(seed)
    truth: dict[str, dict[str, dict[str, list[str]]]] = {}
    by_word: dict[tuple[str, str, str], float] = {}  # study, family, word of a run's name -> effect
    for study, words in STUDIES.items():
        for family in ("gpt_neo", "roberta"):
            better, worse = ([], []) if seed % 3 == 0 else _drawn(random_, list(words))
            truth.setdefault(study, {})[FAMILIES[family]] = {
                "better": [words[word] for word in better],
                "worse": [words[word] for word in worse],
            }
            by_word |= {(study, family, word): SIZE for word in better}
            by_word |= {(study, family, word): -SIZE for word in worse}

    def effect(run: synthetic.Run) -> float:
        found = [
            size
            for (study, family, word), size in by_word.items()
            if study in run.studies and run.config.family == family and word in run.name
        ]
        return sum(found)

    synthetic.make(folder, synthetic.planned(tuple(STUDIES), seeds=SEEDS), effect=effect, spread=SPREAD, luck=(seed,))
    subprocess.run([sys.executable, "-m", "cluster.cli", "report", "--output-root", str(folder)], check=True)
    for name, (width, height) in SCREENS.items():
        page = (folder / "report" / "index.html").resolve().as_uri()
        subprocess.run(
            ["chromium", "--headless=new", "--no-sandbox", "--hide-scrollbars", "--virtual-time-budget=8000",
             f"--window-size={width},{height}", f"--screenshot={(folder / name).resolve()}.png", page], check=True,
        )  # fmt: skip
    (folder / "truth.json").write_text(json.dumps(truth, indent=1))


def _drawn(random_: random.Random, words: list[str]) -> tuple[list[str], list[str]]:
    random_.shuffle(words)
    better = words[: random_.choice([0, 1, 1])]
    rest = words[len(better) :]
    return better, rest[: random_.choice([0, 1, 1])]


def score(folder: Path, answers: Path) -> int:
    """Print what was answered wrongly; return how much."""
    truth, said = json.loads((folder / "truth.json").read_text()), json.loads(answers.read_text())
    wrong = 0
    for study, families in truth.items():
        for family, drawn in families.items():
            for side, names in drawn.items():
                told = said.get(study, {}).get(family, {}).get(side, [])
                if sorted(told) != sorted(names):
                    wrong += 1
                    print(f"{study}, {family}: {side}: drawn {names}, answered {told}")
    print(f"{wrong} of {sum(2 * len(each) for each in truth.values())} answers are wrong")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    drawing = commands.add_parser("draw")
    drawing.add_argument("seed", type=int)
    drawing.add_argument("folder", type=Path)
    scoring = commands.add_parser("score")
    scoring.add_argument("folder", type=Path)
    scoring.add_argument("answers", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "draw":
        draw(arguments.seed, arguments.folder)
    else:
        sys.exit(score(arguments.folder, arguments.answers) > 0)


if __name__ == "__main__":
    main()
