"""How long planning N runs takes: manifest, cells, runs, items, packs and arrays.

    python tests/benchmarks/plan.py [N ...]        1,000, 10,000 and 100,000 runs unless given

Three manifests of each size: four models with many seeds, a grid of many models with a hundred seeds, and a grid in
which every run has settings of its own. Seconds of CPU time, the best of three."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from cluster.cli.entry import collect_rarely
from cluster.cli.shared import that_stays
from cluster.manifest import grids, loading
from cluster.plan import choosing, cost, expansion, packing
from cluster.sites import profiles

REPEATS = 3
MANIFEST = """
defaults: {{data: {{source: builtin}}, seeds: {seeds}}}
models: {{gpt: {{family: gpt_neo}}, bert: {{family: roberta}}, kan: {{family: gpt_neo, ffn.kind: kan}},
         moe: {{family: gpt_neo, ffn.kind: moe}}}}
studies: {{s: {{grid: {{model: {models}, model.intermediate_size: {sizes}}}}}}}
"""


def shapes(count: int) -> dict[str, str]:
    """Name -> a manifest of `count` runs."""

    def document(models: str, sizes: int, seeds: int) -> str:
        return MANIFEST.format(models=models, sizes=[256 + i for i in range(sizes)], seeds=list(range(seeds)))

    every = "[gpt, bert, kan, moe]"
    return {
        "4 models": document(every, 1, count // 4),
        "100 seeds": document("[gpt, bert]", count // 200, 100),
        "1 seed": document("[gpt, bert]", count // 2, 1),
    }


def planned(path: Path) -> tuple[int, float]:
    """Runs, and the seconds that planning them took."""
    started = time.process_time()
    with that_stays():  # as `submit` does
        runs = expansion.expand(grids.cells(loading.load(path)))
    where = profiles.load("delftblue")
    measured = cost.Measured.nothing(where)
    items = [choosing.item(run, choosing.missing(run, {}), {}, measured) for run in runs]
    packing.arrange(items, {run.id: run for run in runs}, where, measured)
    return len(runs), time.process_time() - started


def main(counts: list[int]) -> None:
    collect_rarely()  # as every command does
    print(f"{'manifest':12} {'runs':>8} {'seconds':>8}")
    for count in counts:
        for name, text in shapes(count).items():
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "experiments.yaml"
                path.write_text(text)
                found = [planned(path) for _ in range(REPEATS)]
            print(f"{name:12} {found[0][0]:8,} {min(seconds for _, seconds in found):8.2f}", flush=True)


if __name__ == "__main__":
    main([int(word) for word in sys.argv[1:]] or [1_000, 10_000, 100_000])
