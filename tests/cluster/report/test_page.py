"""The report's page: what is in it, and how it behaves in a browser (headless Chromium)."""

import csv
import json
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

from cluster.files.folders import OutputRoot
from cluster.ledger.database import Ledger
from cluster.report import details, every_run, forms, page, results, run_pages, run_tables
from cluster.report.findings import Comparison, PairsFinding
from cluster.report.page import Page
from cluster.report.results import MAIN, Study
from cluster.report.study_tables import PageFigure, Section

HOSTILE = "<script>fail('run')</script>"
LOG = (
    "\x1b[31mred\x1b[0m \x1b]0;title\x07</pre><script>fail('log')</script> & more\n50%|#####     |\r100%|##########|\n"
)
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
                yield Comparison(
                    measure=measure, family=family, variant=variant, n=len(both), difference=told.mean,
                    low=told.low, high=told.high, p=p, p_corrected=p and min(1, 2 * p),
                    test="sign-flip permutation over seeds" if p else "2 seeds: at least 5 are needed for p < 0.05",
                    effect_size=0.4 if p else None,
                    items=PairsFinding(n=5000, seeds=1, difference=told.mean, low=-0.01, high=0.02, p=0.03,
                                       p_corrected=0.06)
                    if measure.key == "blimp" else None,
                    sentence=f"{variant.label} is {100 * told.mean:+.1f} from {family.baseline.label} on "
                    f"{measure.title}, {len(both)} seeds.",
                )  # fmt: skip


def section(study: Study) -> Section:
    kept = {
        (variant.key, measure.key): list(variant.values(measure).values())
        for variant in study.variants
        for measure in study.measures
    }
    blimp = results.BY_KEY["blimp"]
    theirs = SimpleNamespace(
        measure=blimp, value=0.614, low=0.60, high=0.63, n=6, source="thesis, table 3",
        ours=lambda variant: list(variant.values(blimp).values()),
    )  # fmt: skip
    return Section(
        study,
        answers=["GPT-Neo: no variant is better than gelu on BLiMP; 2 seeds are too few to tell."],
        intervals={key: interval(values) for key, values in kept.items() if values},
        comparisons=list(comparisons(study)),
        published={(variant.key, "blimp"): theirs for variant in study.families[0].variants[:3]},
        known_differences=["The originals did not mask.", "Their averages are micro averages."],
        trials=["Built-in data"] if study.name == "heads" else [],
        notes=["mine and yours have each a tokenizer of their own"] if study.name == "heads" else [],
        drawings=[PageFigure(f"{study.name}-{number}", "Score against parameters", "A point is a variant.", SVG)
                  for number in range(3)],
    )  # fmt: skip


def write(folder: Path, root: OutputRoot) -> Path:
    ledger = Ledger(root.ledger, read_only=True)
    every, runs = results.every_result(ledger), ledger.runs()
    studies = results.read(ledger, every)
    settings = every_run.settings_of(runs)
    rows = every_run.columns(every, runs, settings, studies)
    made_with = details.MadeWith()
    (folder / "runs").mkdir(parents=True)
    (folder / run_pages.STYLE).write_text(run_pages.style())
    for part in details.in_parts(ledger, root, runs):
        made_with.add(part)
        names, of_runs = {study.name for study in studies}, run_tables.SettingsOfRuns(settings)
        for name, text in run_pages.pages(part, names, (), of_runs):
            (folder / name).write_text(text)
    ledger.close()
    sections = [section(study) for study in studies]
    for drawing in (drawing for each in sections for drawing in each.drawings):
        for kind in ("svg", "pdf"):
            (folder / "figures").mkdir(parents=True, exist_ok=True)
            (folder / "figures" / f"{drawing.name}.{kind}").touch()
    (folder / "runs.csv").write_text(forms.as_csv(every_run.rows(rows)))
    told = Page("2026-11-22T12:00:00", sections, made_with, ["blimp.jsonl has 2 versions"],
                every_run=every_run.as_json(rows, root))  # fmt: skip
    path = folder / "index.html"
    path.write_text(page.text(told))
    return path


@dataclass(frozen=True)
class Report:
    path: Path
    runs: int
    failed: str  # id of a run whose fine-tuning failed
    hostile: str  # id of a run with markup in its name and its log

    @property
    def url(self) -> str:
        return self.path.as_uri()

    def run_page(self, run_id: str) -> Path:
        return self.path.parent / "runs" / f"{run_id}.html"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Of two studies; one failed, one is running, one wants to be a script."""
    folder = tmp_path_factory.mktemp("report")
    runs = [*synthetic.planned(("activations",), seeds=2), *synthetic.planned(("heads",))]
    runs = list({run.id: run for run in runs if re.match("gpt|.*-(gelu|geglu)-", run.name)}.values())
    hostile, failed, running = runs[0].id, runs[3].id, runs[-1].id
    runs[0] = replace(runs[0], name=HOSTILE)
    root = synthetic.make(
        folder / "output",
        runs,
        failing=lambda run: "superglue" if run.id == failed else None,
        unfinished=lambda run: "pretrain" if run.id == running else None,
    )
    root.run(hostile).attempt("pretrain", 1).log.write_text(LOG)
    return Report(write(folder / "page", root), len(runs), failed, hostile)


# -- in a browser -----------------------------------------------------------------------------------------------------


class Visit:
    """The page, opened; `trouble` is what the console and the network had to say."""

    def __init__(self, tab: Any, url: str, **media: str) -> None:
        self.tab, self.trouble, self.requests = tab, [], []
        self.heard = {
            "console": lambda message: self.trouble.append(message.text),
            "pageerror": lambda error: self.trouble.append(str(error)),
            "request": lambda request: self.requests.append(request.url),
        }
        for event, note in self.heard.items():
            tab.on(event, note)
        tab.emulate_media(**{"media": "screen", "color_scheme": "light"} | media)
        tab.goto(url)

    def leave(self) -> None:
        for event, note in self.heard.items():
            self.tab.remove_listener(event, note)
        self.tab.goto("about:blank")

    def ask(self, script: str, value: Any = None) -> Any:
        return self.tab.evaluate(script, value)


@pytest.fixture(scope="module")
def tab() -> Iterator[Any]:
    """One for all tests: another one takes a second."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium is installed: apt-get install chromium")
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: `make test` installs it"
    )
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser.new_page()
        browser.close()


@pytest.fixture
def visit(tab: Any, report: Report) -> Iterator[Callable[..., Visit]]:
    visits = []

    def go(target: str = "", width: int = 1400, run: str = "", file: str = "index.html", **media: str) -> Visit:
        tab.set_viewport_size({"width": width, "height": 900})
        path = report.run_page(run) if run else report.path.with_name(file)
        visits.append(Visit(tab, path.as_uri() + target, **media))
        return visits[-1]

    yield go
    for each in visits:
        each.leave()


def test_the_page_asks_for_nothing_but_itself_and_has_no_errors(visit, report):
    opened = visit()
    assert opened.requests == [report.url]
    assert opened.trouble == []


def test_every_link_on_the_page_leads_somewhere_and_targets_are_unique(visit, report):
    opened = visit()
    ids = opened.ask("Array.from(document.querySelectorAll('[id]'), node => node.id)")
    assert len(ids) == len(set(ids))
    links = opened.ask("Array.from(document.querySelectorAll('a'), link => link.getAttribute('href'))")
    assert len(links) > 1_000
    assert {link.removeprefix("#") for link in links if link.startswith("#")} <= set(ids)
    files = {link for link in links if not link.startswith("#")}
    figures = {file for file in files if file.startswith("figures/")}
    assert len(figures) == 2 * 2 * 3
    assert len({file for file in files if file.startswith("runs/")}) == report.runs
    assert all((report.path.parent / file).is_file() for file in files)
    for file in files - figures - {"runs.csv"}:
        back = set(re.findall(r'href="(?!style.css)([^"]+)"', (report.path.parent / file).read_text()))
        assert "../index.html#runs" in back
        assert {link.removeprefix("../index.html#") for link in back} <= set(ids)


COLUMN = "(body, column) => Array.from(body.rows, row => row.cells[column].firstChild?.textContent ?? '')"


def test_tables_sort_numbers_as_numbers_with_what_is_missing_last(visit):
    table = visit().tab.locator("#study-heads [aria-label=RoBERTa]")
    score = table.locator("th[data-column='2']")
    assert score.get_attribute("aria-sort") is None
    score.locator("button").click()
    assert score.get_attribute("aria-sort") == "ascending"
    *values, missing = table.locator("tbody").evaluate(COLUMN, 2)
    assert missing == "–"
    assert values == sorted(values, key=float)
    assert len(values) > 1
    score.locator("button").press("Enter")
    assert score.get_attribute("aria-sort") == "descending"
    assert table.locator("tbody").evaluate(COLUMN, 2) == [*reversed(values), missing]


def test_numbers_with_commas_or_a_sign_sort_by_their_size(visit):
    table = visit().tab.locator("#study-activations [aria-label=GPT-Neo]")
    count = table.locator("th:has-text('parameters')")
    count.locator("button").click()
    shown = table.locator("tbody").evaluate(COLUMN, int(count.get_attribute("data-column")))
    sizes = [int(text.replace(",", "")) for text in shown]
    assert sizes == sorted(sizes)
    assert sizes[0] < 10_000_000 < sizes[-1]
    table.locator("th[data-column='3'] button").click()
    *differences, of_baseline = table.locator("tbody").evaluate(COLUMN, 3)
    assert of_baseline == ""
    numbers = [float(text.replace("−", "-").rstrip("*")) for text in differences]
    assert numbers == sorted(numbers)
    assert numbers[1] < 0 < numbers[-1]


def test_a_figure_leads_to_its_variants_runs_and_from_there_to_a_run(visit):
    opened = visit()
    opened.tab.locator("#study-heads [aria-label=GPT-Neo] tbody tr:nth-child(2) td:nth-child(3) a").click()
    target = opened.ask("location.hash")
    assert target.startswith("#variant-heads-")
    seed = opened.tab.locator(f"[id='{target[1:]}'] tbody td a").first
    assert seed.is_visible()
    seed.click()
    opened.tab.wait_for_url("**/runs/*.html")
    attempts = opened.tab.locator("table").first
    assert attempts.bounding_box()["y"] < 900
    opened.tab.locator("td a").first.click()
    opened.tab.wait_for_url("**/index.html#environment-*")
    assert opened.tab.locator("details[id^=environment-] pre").is_visible()
    opened.tab.go_back()
    assert attempts.is_visible()


def test_a_pages_address_with_a_target_opens_it(visit):
    opened = visit("#data-2")
    assert opened.tab.locator("#data-2 pre").is_visible()
    assert not opened.tab.locator("#data-1 pre").is_visible()


def test_where_a_run_stood_on_the_page_leads_to_its_own(visit, report):
    opened = visit(f"#run-{report.failed}")
    opened.tab.wait_for_url(report.run_page(report.failed).as_uri())
    assert "ValueError: the loss is not a number" in opened.tab.inner_text("main")


def test_what_runs_are_named_and_log_is_text_and_nothing_else(visit, report):
    opened = visit(run=report.hostile)
    assert opened.trouble == []
    assert HOSTILE in opened.tab.inner_text("h1")
    assert opened.ask("getComputedStyle(document.querySelector('table')).borderSpacing") == "0px", "it has its style"
    log = opened.tab.locator("details:has-text('pretrain, attempt 1') pre").text_content()
    assert log == "red </pre><script>fail('log')</script> & more\n100%|##########|"


OPEN = "document.querySelectorAll('details').forEach(node => { node.open = true })"


@pytest.mark.parametrize("width", [400, 1400])
def test_the_page_is_no_wider_than_the_window(visit, width):
    opened = visit(width=width)
    assert opened.ask("document.documentElement.scrollWidth") == width
    opened.ask(OPEN)
    assert opened.ask("document.documentElement.scrollWidth") == width


@pytest.mark.parametrize("width", [400, 1400])
def test_a_runs_page_is_no_wider_than_the_window(visit, report, width):
    opened = visit(run=report.failed, width=width)
    opened.ask(OPEN)
    assert opened.ask("document.documentElement.scrollWidth") == width


def test_no_table_is_cut_off_on_paper(visit):
    """A4 across, without its margins, has 1,032 CSS pixels."""
    opened = visit(width=1032, media="print")
    assert opened.tab.locator("#study-activations [aria-label=GPT-Neo]").is_visible()
    cut = "boxes => boxes.filter(box => box.scrollWidth > box.clientWidth).map(box => [box.ariaLabel, box.scrollWidth])"
    assert opened.tab.locator(".scroll").evaluate_all(cut) == []
    assert not opened.tab.locator(".files").first.is_visible()


def test_a_head_that_a_page_repeats_has_its_titles_on_paper(visit):
    """A head is repeated as it is, but for buttons, which Chromium then leaves out."""
    opened = visit(width=1032, media="print")
    displays = "nodes => [...new Set(nodes.map(node => getComputedStyle(node).display))]"
    assert opened.tab.locator("thead").evaluate_all(displays) == ["table-header-group"]
    assert opened.tab.locator("thead button").evaluate_all(displays) == ["contents"]


CONTRASTS = """() => {
  const parse = text => text.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const ground = node => {
    for (; node; node = node.parentElement) {
      const color = parse(getComputedStyle(node).backgroundColor);
      if (color.length === 3 || color[3] === 1) return color;
      if (color[3] > 0) throw new Error("a translucent ground: " + node.outerHTML.slice(0, 80));
    }
    throw new Error("no ground");
  };
  const found = new Map();
  for (const node of document.querySelectorAll("body *")) {
    const says = Array.from(node.childNodes).some(child => child.nodeType === 3 && child.data.trim());
    if (!says || !node.getClientRects().length) continue;
    const style = getComputedStyle(node), text = parse(node instanceof SVGElement ? style.fill : style.color);
    const [low, high] = [luminance(text), luminance(ground(node))].sort((a, b) => a - b);
    found.set(`${node.localName}.${node.className.baseVal ?? node.className}: ${text}`, (high + 0.05) / (low + 0.05));
  }
  return Object.fromEntries(found);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(visit, report, scheme):
    opened = visit(color_scheme=scheme)
    opened.ask(OPEN)
    ratios = opened.ask(CONTRASTS)
    assert len(ratios) > 10
    assert {what: ratio for what, ratio in ratios.items() if ratio < 4.5} == {}
    dark = opened.ask("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == (scheme == "dark")
    of_a_run = visit(run=report.failed, color_scheme=scheme)
    of_a_run.ask(OPEN)
    assert {what: ratio for what, ratio in of_a_run.ask(CONTRASTS).items() if ratio < 4.5} == {}


# -- the table of runs ------------------------------------------------------------------------------------------------

CELLS = """title => {
  const titles = Array.from(document.querySelectorAll("#run-rows thead th"), cell => cell.textContent);
  const rows = document.querySelectorAll("#run-rows tbody tr");
  return Array.from(rows, row => row.cells[titles.indexOf(title)].textContent);
}"""


def rows_of(report: Report) -> list[dict[str, str]]:
    return list(csv.DictReader((report.path.parent / "runs.csv").open()))


def find(opened: Visit, words: str) -> list[str]:
    """Type these words, and return the names of the runs that are left."""
    opened.tab.locator("#run-filter").fill(words)
    opened.tab.locator("#run-filter").press("Enter")
    return opened.ask(CELLS, "run")


@pytest.mark.parametrize(
    ("words", "fits"),
    [
        ("geglu roberta", lambda row: row["model.activation"] == "geglu" and row["family"] == "roberta"),
        ("activation=gelu", lambda row: row["model.activation"] == "gelu"),
        ("studies:heads family=roberta", lambda row: "heads" in row["studies"] and row["family"] == "roberta"),
        ("blimp>57", lambda row: row["BLiMP"] and round(100 * float(row["BLiMP"]), 1) > 57),
        ("status=failed", lambda row: row["status"] == "failed"),
        ("nothing=of&that", lambda row: False),  # noqa: ARG005
    ],
)
def test_runs_are_found_by_words_and_by_columns(visit, report, words, fits):
    opened = visit()
    every = rows_of(report)
    wanted = sorted(row["run"] for row in every if fits(row))
    assert len(wanted) < report.runs
    assert bool(wanted) == ("nothing" not in words)
    assert sorted(find(opened, words)) == wanted
    assert opened.tab.inner_text("#run-count") == f"{len(wanted)} of {report.runs} runs"
    assert len(find(opened, "")) == report.runs == len(every)
    assert opened.trouble == []


def test_the_runs_are_sorted_by_keyboard_with_what_is_missing_last(visit):
    opened = visit()
    opened.tab.locator("#run-rows th:has-text('BLiMP, %') button").press("Enter")
    *values, missing = opened.ask(CELLS, "BLiMP, %")
    assert missing == ""
    assert values == sorted(values, key=float)
    assert opened.ask("document.activeElement.parentElement.ariaSort") == "ascending", "the title keeps the focus"
    opened.tab.keyboard.press("Enter")
    assert opened.ask(CELLS, "BLiMP, %") == [*reversed(values), missing]
    assert opened.ask("document.activeElement.parentElement.ariaSort") == "descending"


def test_settings_that_do_not_differ_among_the_runs_found_are_not_shown_unless_chosen(visit):
    opened = visit()
    titles = "Array.from(document.querySelectorAll('#run-rows thead th'), cell => cell.textContent)"
    assert "model.activation" in opened.ask(titles)
    find(opened, "activation=gelu")
    assert "model.activation" not in opened.ask(titles)
    opened.tab.locator("#run-table summary").press("Enter")
    opened.tab.get_by_label("model.activation", exact=True).press("Space")
    assert "model.activation" in opened.ask(titles)
    assert set(opened.ask(CELLS, "model.activation")) == {"gelu"}
    opened.tab.get_by_label("BLiMP, %", exact=True).press("Space")
    assert "BLiMP, %" not in opened.ask(titles)


def test_chosen_runs_stand_side_by_side_by_keyboard_alone(visit):
    opened = visit()
    first, *_, last = find(opened, "studies:heads gpt_neo")
    for name in (first, last):
        opened.tab.get_by_label(f"Select {name}", exact=True).press("Space")
        assert opened.tab.locator("#run-compare").is_enabled() == (name == last)
    opened.tab.locator("#run-compare").press("Enter")
    assert opened.trouble == []
    assert opened.ask("document.activeElement.outerHTML") == '<h3 tabindex="-1">Side by side</h3>'
    table = opened.tab.locator("#run-compared")
    assert table.locator("thead a").all_inner_texts() == [first, last]
    rows = dict(zip(table.locator("tbody th").all_inner_texts(), table.locator("tbody tr").all(), strict=True))
    assert "model.num_heads" in rows
    assert "model.activation" not in rows, "they have the same"
    shown = dict(zip(opened.ask(CELLS, "run"), opened.ask(CELLS, "BLiMP, %"), strict=True))
    assert rows["BLiMP, %"].locator("td").all_inner_texts() == [shown[first], shown[last]]
    assert opened.tab.locator("#run-curves polyline").count() == 2
    opened.tab.locator("#run-close").press("Enter")
    assert not table.is_visible()
    assert opened.trouble == []


@pytest.mark.parametrize("width", [400, 1400])
def test_runs_side_by_side_are_no_wider_than_the_window(visit, width):
    opened = visit(width=width)
    opened.tab.locator("#run-table summary").click()
    for box in opened.tab.locator("#run-rows tbody input").all()[:8]:
        box.check()
    opened.tab.locator("#run-compare").click()
    assert opened.tab.locator("#run-curves polyline").count() == 8
    assert opened.ask("document.documentElement.scrollWidth") == width


def test_only_a_part_of_very_many_runs_is_drawn(visit, report):
    before, opening, rest = report.path.read_text().partition('id="run-data">')
    told, closing, after = rest.partition("</script>")
    data = json.loads(told)
    for column in data["columns"]:
        column["values"] *= 30
    data["curves"]["runs"] *= 30
    many = json.dumps(data).replace("<", "\\u003c")
    report.path.with_name("many.html").write_text(before + opening + many + closing + after)
    opened = visit(file="many.html")
    rows, more = opened.tab.locator("#run-rows tbody tr"), opened.tab.locator("#run-next")
    assert opened.tab.inner_text("#run-count") == f"{30 * report.runs:,} runs"
    assert (rows.count(), opened.tab.inner_text("#run-place")) == (100, "1 to 100")
    for _ in range(10):
        more.press("Enter")
    assert opened.tab.inner_text("#run-place") == f"1,001 to {30 * report.runs:,}"
    assert (rows.count(), more.is_enabled()) == (30 * report.runs - 1_000, False)
    assert len(find(opened, f"status=failed {report.failed}")) == 30
    assert opened.tab.inner_text("#run-place").startswith("1 to ")


# -- what is in it ----------------------------------------------------------------------------------------------------


def test_what_is_missing_or_failed_says_so_in_its_place(report):
    text = report.path.read_text()
    assert f"{report.runs - 2} of {report.runs} runs are complete" in text
    assert "1 of 2 seeds" in text
    assert "superglue failed (error)" in text
    assert set(re.findall(r"#missing-[^>]*>([0-9]+) failed<", text)) == {"1"}
    assert re.search(r'class="missing"[^>]*><a href="#variant-heads-[0-9a-f]+">–</a> <small>1 running</small>', text)
    assert "blimp.jsonl has 2 versions" in text


def test_what_holds_for_one_study_is_said_there(report):
    text = report.path.read_text()
    assert text.count('<p class="note">Built-in data.</p>') == 2, "under its headline, above and in its section"
    assert text.count("mine and yours have each a tokenizer of their own") == 1
    assert text.index("mine and yours") > text.index('<section id="study-heads">')


def test_runs_share_what_is_the_same_for_them(report):
    text = report.path.read_text()
    assert text.count('id="environment-') == 1
    assert text.count('id="data-') == 4  # of four stages
    assert len(report.run_page(report.failed).read_text()) < 30_000
