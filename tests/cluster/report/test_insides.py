"""Pages of what is inside models, from runs' insides.json, and in a browser."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import synthetic

from cluster.ledger.database import Ledger
from cluster.report import details, every_run, insides, page, results, run_pages
from cluster.report.figures import drawing
from cluster.report.insides import run_page, study_page
from cluster.report.page import Page
from cluster.report.run_tables import SettingsOfRuns
from cluster.report.study_tables import Section
from tiny_transformers.common.insides import INSIDES, LEVELS


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Of four GPT-Neos and four RoBERTas; one of them was not looked into."""
    runs = synthetic.planned(("insides",))
    root = synthetic.make(tmp_path_factory.mktemp("insides"), runs, with_pairs=False)
    (root.run(runs[0].id).path / INSIDES).write_text("{")
    return root


@pytest.fixture(scope="module")
def ledger(root):
    with_it = Ledger(root.ledger, read_only=True)
    yield with_it
    with_it.close()


@pytest.fixture(scope="module")
def study(ledger):
    (found,) = results.read(ledger)
    return found


@pytest.fixture(scope="module")
def pages(ledger, study, root):
    return insides.pages([study], ledger.runs(), root)


def rows(html, title):
    """The cells of each row of the grid of this title."""
    grid = re.search(rf"<figcaption>{re.escape(title)}</figcaption>(.*?)</figure>", html, re.S)[1]
    body = re.search(r"<tbody>(.*?)</tbody>", grid, re.S)[1]
    return [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", body, re.S)]


def test_every_run_that_was_looked_into_has_a_page_and_a_study_has_one_of_all(pages, study, root):
    seen = [run.run_id for run in study.runs if insides.read(root, run.run_id)]
    assert len(seen) == len(study.runs) - 1
    assert pages.keys() == {study_page(study), *map(run_page, seen)}


def test_what_a_model_says_is_text_and_nothing_else(pages, study):
    assert "Once &lt;u&gt;" in pages[study_page(study)]
    (run,) = [page for name, page in pages.items() if "girl</mark> &lt;i&gt;ran" in page][:1]
    assert "<i>" not in run
    assert "<b>" not in run.split('id="drawn">')[1].split("</script>")[0]


def test_layers_stand_side_by_side_with_whose_weights_they_have(pages, study, root):
    html = pages[study_page(study)]
    models = insides.seen(study, root)
    cells = rows(html, "Mean distance that heads look, tokens")
    assert len(cells) == len(models)
    deepest = max(len(model.found.layers.cosine) for model in models)
    for row, model in zip(cells, models, strict=True):
        assert len(row) == deepest
        own = len(model.found.layers.cosine)
        assert row[own:] == ["–"] * (deepest - own)
        expected = [sum(head.distance for head in each.heads) / len(each.heads) for each in model.found.attentions]
        assert [cell.split("<")[0] for cell in row[:own]] == [insides.short(value) for value in expected]
        if insides.shares(model.found):
            assert "weights 1" in row[0]
        else:
            assert "weights" not in "".join(row)


def test_the_head_with_most_weight_on_the_previous_token_stands_for_its_layer(study, root):
    model = insides.seen(study, root)[0]
    figures = insides.of_heads("previous", max)(model.found)
    assert figures[1] == max(head.previous for head in model.found.attentions[0].heads)


def test_the_reports_page_leads_to_them_where_they_are(ledger, study, root, pages):
    part = details.run_details(ledger, root, [run.run_id for run in study.runs])
    report = Page("2026-11-22T12:00:00", [Section(study)], details.MadeWith(), insides=pages.keys())
    (of_study,) = re.findall(r'href="(insides/[^"]*)"', page.text(report))
    settings = SettingsOfRuns(every_run.settings_of([each.run for each in part.runs]))
    of_runs = {file: text for _, text in run_pages.pages(part, {study.name}, pages, settings)
               for file in re.findall(r'href="../(insides/[^"]*)"', text)}  # fmt: skip
    assert {of_study, *of_runs} == set(pages)
    assert "insides/" not in page.text(replace(report, insides=()))
    for file, text in pages.items():
        (back,) = re.findall(r'href="\.\./([^"]*)"', text)
        assert back == (f"index.html#study-{study.name}" if file == of_study else f"runs/{Path(file).name}")


def test_a_figure_has_a_line_for_each_model_through_all_its_layers(study, root):
    sheets = {sheet.name: sheet for sheet in drawing.sheets_of(study, root) if sheet.name.startswith("depths")}
    assert sheets.keys() == {"depths-gpt_neo", "depths-roberta"}
    family = study.families[1]
    distance, _, agreement, _ = sheets[f"depths-{family.name}"].drawing.axes
    seen = {v.title: insides.read(root, v.runs[0].run_id) for v in family.variants}
    lines = {line.get_label().replace("\n", " "): line.get_xydata().tolist() for line in agreement.lines}
    assert lines.keys() == {label for label, found in seen.items() if found}
    for label, line in lines.items():
        assert line == [[n, lens.agreement] for n, lens in enumerate(seen[label].layers.lens)]
    assert all(line.get_xdata()[0] == 1 for line in distance.lines)
    assert all(axes.get_ylim()[0] == 0 for axes in (distance, agreement))  # small differences look small


@pytest.fixture(scope="module")
def tab():
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
def opened(tab, pages, tmp_path: Path):
    trouble = []
    tab.on("console", lambda message: trouble.append(message.text))
    tab.on("pageerror", lambda error: trouble.append(str(error)))

    def go(name):
        path = tmp_path / "page.html"
        path.write_text(pages[name])
        tab.goto(path.as_uri())
        assert trouble == []
        return tab

    return go


def test_a_chosen_head_is_shown_with_its_tokens_and_weights(opened, study, root):
    model = insides.seen(study, root)[0]
    tab = opened(run_page(model.run_id))
    attentions = model.found.attentions
    assert tab.locator("#pictures button").count() == sum(len(each.heads) for each in attentions)
    tab.locator("#pictures button").nth(len(attentions[0].heads)).click()
    assert tab.locator("#large h4").inner_text().endswith("head 1")
    cells = tab.locator("#large td[title]")
    letters, tokens = model.found.pictures[0].weights[1][0], model.found.pictures[0].tokens
    assert cells.count() == len(letters) == len(tokens) ** 2
    told = [float(title.rpartition(": ")[2]) for title in cells.evaluate_all("all => all.map(each => each.title)")]
    assert told == [round(LEVELS.index(letter) / (len(LEVELS) - 1), 2) for letter in letters]
    assert tab.locator("#large tbody th").all_inner_texts()[5].strip() == "<b>"


def test_one_layer_of_all_models_can_be_looked_at(opened, study, root):
    tab = opened(study_page(study))
    models = insides.seen(study, root)
    tab.locator("#layer").select_option("3")
    assert tab.locator("#pictures h4").count() == len(models)
    heads = sum(len(each.heads) for model in models for each in model.found.attentions if each.place.layer == 3)
    assert tab.locator("#pictures button").count() == heads
    assert tab.locator("#pictures .row span").first.inner_text().startswith("layer 3")


@pytest.mark.parametrize("width", [400, 1400])
def test_a_page_is_no_wider_than_the_window(opened, study, width):
    tab = opened(study_page(study))
    tab.set_viewport_size({"width": width, "height": 900})
    assert tab.evaluate("document.documentElement.scrollWidth") == width
