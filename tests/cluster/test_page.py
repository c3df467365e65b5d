"""The report's page: what is in it, and how it behaves in a browser (headless Chromium)."""

import re
import shutil
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import synthetic

from cluster import page, results
from cluster.ledger import Ledger
from cluster.page import Drawing, Page, Section
from cluster.results import MAIN, Study
from cluster.rundir import OutputRoot

HOSTILE = "<script>fail('run')</script>"
LOG = "\x1b[31mred\x1b[0m \x1b]0;title\x07</pre><script>fail('log')</script> & more\r50%|#####     |\r100%|##########|\n"
SVG = """<svg viewBox="0 0 400 200" role="img" aria-label="scores" xmlns="http://www.w3.org/2000/svg">
<path d="M40 10V170H390" fill="none" stroke="currentColor"/>
<text x="40" y="190" fill="currentColor" font-size="14">parameters</text></svg>"""


def interval(values: list[float]) -> Any:
    mean = statistics.fmean(values)
    margin = 2 * statistics.stdev(values) / len(values) ** 0.5 if len(values) > 2 else None
    few = margin is None
    return SimpleNamespace(
        mean=mean, low=None if few else mean - margin, high=None if few else mean + margin, n=len(values)
    )


def comparisons(study: Study) -> Iterator[Any]:
    """As the statistics make them, with p-values from nowhere: a third of them significant."""
    for family in study.families:
        for number, variant in enumerate(family.variants[1:]):
            for measure in map(results.BY_KEY.__getitem__, MAIN):
                ours, base = variant.values(measure), family.baseline.values(measure)
                both = sorted(ours.keys() & base.keys())
                if not both:
                    continue
                told = interval([ours[seed] - base[seed] for seed in both])
                p = None if told.low is None else (0.004, 0.2, 0.9)[number % 3]
                yield SimpleNamespace(
                    measure=measure, family=family, variant=variant, n=len(both), difference=told.mean,
                    low=told.low, high=told.high, p=p, p_corrected=p and min(1, 2 * p),
                    test="sign-flip permutation over seeds" if p else "2 seeds: at least 5 are needed for p < 0.05",
                    effect_size=0.4 if p else None,
                    items=SimpleNamespace(n=5000, difference=told.mean, low=-0.01, high=0.02, p=0.03, p_corrected=0.06)
                    if measure.key == "blimp" else None,
                    sentence=f"{variant.label} is {100 * told.mean:+.1f} from {family.baseline.label} on "
                    f"{measure.title}, {len(both)} seeds.",
                )  # fmt: skip


def section(study: Study) -> Section:
    kept = {
        (variant.key, measure.key): list(variant.values(measure).values())
        for variant in study.variants
        for measure in study.measures()
    }
    theirs = SimpleNamespace(measure=None, value=0.614, low=0.60, high=0.63, n=6, source="thesis, table 3")
    return Section(
        study,
        answers=["GPT-Neo: no variant is better than gelu on BLiMP; 2 seeds are too few to tell."],
        intervals={key: interval(values) for key, values in kept.items() if values},
        comparisons=list(comparisons(study)),
        published={(variant.key, "blimp"): theirs for variant in study.families[0].variants[:3]},
        known_differences=["The originals did not mask.", "Their averages are micro averages."],
        drawings=[Drawing(f"{study.name}-{number}", "Score against parameters", "A point is a variant.", SVG)
                  for number in range(3)],
    )  # fmt: skip


def write(folder: Path, root: OutputRoot) -> Path:
    ledger = Ledger(root.ledger, read_only=True)
    studies = results.read(ledger)
    details = page.run_details(ledger, root, [run.id for run in ledger.runs()])
    ledger.close()
    sections = [section(study) for study in studies]
    for drawing in (drawing for each in sections for drawing in each.drawings):
        for kind in ("svg", "pdf"):
            (folder / "figures").mkdir(parents=True, exist_ok=True)
            (folder / "figures" / f"{drawing.name}.{kind}").touch()
    return page.write(folder, Page("2026-11-22T12:00:00", sections, details, ["blimp.jsonl has 2 versions"]))


@dataclass(frozen=True)
class Report:
    path: Path
    failed: str  # id of a run whose fine-tuning failed
    hostile: str  # id of a run with markup in its name and its log

    @property
    def url(self) -> str:
        return self.path.as_uri()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Of 66 runs over two studies; one failed, one is running, one wants to be a script."""
    folder = tmp_path_factory.mktemp("report")
    runs = [*synthetic.planned(("activations",), seeds=2), *synthetic.planned(("heads",))]
    runs = list({run.id: run for run in runs}.values())
    hostile, failed, running = runs[0].id, runs[3].id, runs[-1].id
    runs[0] = replace(runs[0], name=HOSTILE)
    root = synthetic.make(
        folder / "output",
        runs,
        failing=lambda run: "superglue" if run.id == failed else None,
        unfinished=lambda run: "pretrain" if run.id == running else None,
    )
    root.run(hostile).attempt("pretrain", 1).log.write_text(LOG)
    return Report(write(folder / "page", root), failed, hostile)


# -- in a browser -----------------------------------------------------------------------------------------------------


class Visit:
    """The page, opened; `trouble` is what the console and the network had to say."""

    def __init__(self, tab: Any, url: str, **media: str) -> None:
        self.tab, self.trouble, self.requests = tab, [], []
        tab.on("console", lambda message: self.trouble.append(message.text))
        tab.on("pageerror", lambda error: self.trouble.append(str(error)))
        tab.on("request", lambda request: self.requests.append(request.url))
        tab.emulate_media(**media)
        tab.goto(url)

    def ask(self, script: str, value: Any = None) -> Any:
        return self.tab.evaluate(script, value)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium is installed: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e .[dev]")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def visit(browser: Any, report: Report) -> Iterator[Callable[..., Visit]]:
    tab = browser.new_page()
    yield lambda target="", width=1400, **media: (
        tab.set_viewport_size({"width": width, "height": 900}),
        Visit(tab, report.url + target, **media),
    )[1]
    tab.close()


def test_the_page_asks_for_nothing_but_itself_and_has_no_errors(visit, report):
    opened = visit()
    assert opened.requests == [report.url]
    assert opened.trouble == []
