"""A name of data stands for one content in an OUTPUT_ROOT."""

import json
from contextlib import closing

import pytest
import yaml

from cluster.cli import entry
from cluster.errors import InputError
from cluster.files.folders import OutputRoot
from cluster.ledger.database import Ledger
from cluster.manifest import grids, loading
from cluster.plan import expansion
from cluster.submit import contents, requests
from tiny_transformers.common import contents as common

FILES = (
    "tinystories/train.jsonl",
    "tinystories/validation.jsonl",
    "tokenizer/10k-tok/tokenizer.json",
    "mine/t",
    "mine/v",
)
STUDY = {"model": "gpt", "grid": {"data.corpus": ["tinystories", "mine"]}, "stages": ["pretrain"], "seeds": [1, 2]}


@pytest.fixture
def data_root(tmp_path):
    for file in FILES:
        write(tmp_path / "data" / file, f"the first {file}")
    return tmp_path / "data"


@pytest.fixture
def root(tmp_path):
    return OutputRoot(tmp_path / "output")


@pytest.fixture
def manifest(tmp_path):
    models = {"gpt": {"family": "gpt_neo", "hidden_size": 32, "num_heads": 2, "intermediate_size": 48}}
    corpora = {"mine": {"train": "mine/t", "validation": "mine/v"}}
    path = tmp_path / "experiments.yaml"
    path.write_text(yaml.safe_dump({"models": models, "corpora": corpora, "studies": {"s": STUDY}}))
    return path


@pytest.fixture(autouse=True)
def _settled(monkeypatch):
    monkeypatch.setattr(common, "SETTLED", -1)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def submitted(manifest, data_root, root, accept=False, status="completed"):
    """The ids of the runs, as `submit` finds them; what it would remember is remembered, and all stages end so."""
    cells, known = contents.revise(grids.cells(loading.load(manifest)), data_root, root, accept)
    contents.keep(root, known)
    runs = expansion.expand(cells)
    ended(root, runs, status)
    return [run.id for run in runs]


def ended(root, runs, status="completed", number=1):
    with closing(Ledger(root.ledger)) as ledger:
        ledger.record_runs(runs, "2026")
        for run in runs:
            for stage in run.stages:
                ledger.put_attempt(run.id, stage, number, submission_id="cafe", pack_index=0, status=status)


def test_the_first_content_of_a_name_changes_no_id(manifest, data_root, root):
    plain = [run.id for run in expansion.expand(grids.cells(loading.load(manifest)))]
    assert submitted(manifest, data_root, root) == plain == submitted(manifest, data_root, root)


@pytest.mark.parametrize("file", FILES)
def test_another_content_is_refused_until_it_is_accepted_and_then_it_makes_other_runs(manifest, data_root, root, file):
    first = submitted(manifest, data_root, root)
    before = root.contents.read_bytes()
    write(data_root / file, "another")
    with pytest.raises(InputError, match=f"{file}: is not the file that was submitted here before as .*--accept-data"):
        submitted(manifest, data_root, root)
    assert root.contents.read_bytes() == before
    second = submitted(manifest, data_root, root, accept=True)
    reading = {0, 1} if "tinystories" in file else {2, 3} if "mine" in file else {0, 1, 2, 3}
    assert {index for index in range(4) if second[index] != first[index]} == reading
    assert submitted(manifest, data_root, root) == second, "it is known now"
    write(data_root / file, f"the first {file}")
    assert submitted(manifest, data_root, root) == first, "as before it was changed"


WHY = {
    "completed": "",
    "running": "Run .* is under way\\. ",
    "submitted": "Run .* is under way\\. ",
    "checkpoint": "Run .*without that folder it begins anew\\. ",
}


def made(root, run, what):
    if what == "checkpoint":
        write(root.run(run.id).path / "checkpoints" / "step-00000004" / "state.json", "{}")
    else:
        ended(root, [run], what, number=2)


@pytest.mark.parametrize("what", WHY)
def test_another_content_takes_the_place_of_one_of_which_nothing_was_made(manifest, data_root, root, capsys, what):
    first = submitted(manifest, data_root, root, status="failed")
    write(data_root / "mine/t", "mended")
    assert submitted(manifest, data_root, root, status="failed") == first
    assert "mine, train: has another content than before, of which nothing was made" in capsys.readouterr().out
    runs = expansion.expand(grids.cells(loading.load(manifest)))
    tinystories, mine = ([run for run in runs if run.config.data.corpus == name] for name in ("tinystories", "mine"))
    made(root, tinystories[0], what)
    write(data_root / "mine/t", "mended again")
    now = contents.check_contents([(run, run.stages) for run in mine], data_root, root)
    contents.keep(root, now)
    digest = json.loads(root.contents.read_text())["first"]["mine, train"]
    assert digest == common.corpus_fingerprint(data_root / "mine/t", mine[0].config.data.files, root.cache)
    made(root, mine[0], what)
    write(data_root / "mine/t", "once more")
    with pytest.raises(
        InputError, match="mine/t: is not the file that was submitted here before.*--accept-data.*own. " + WHY[what]
    ):
        submitted(manifest, data_root, root)
    with pytest.raises(InputError, match="mine/t: is not the file that was submitted as mine, .*again. " + WHY[what]):
        contents.check_contents([(run, run.stages) for run in mine[1:]], data_root, root)


def test_runs_of_another_content_are_never_pooled_with_those_of_the_first(manifest, data_root, root):
    submitted(manifest, data_root, root)
    write(data_root / FILES[0], "another")
    cells, _ = contents.revise(grids.cells(loading.load(manifest)), data_root, root, True)
    first, *_ = expansion.expand(cells)
    assert first.config.family == f"gpt_neo-{first.config.data.revision}"
    assert first.config.data.revision in first.name


def test_a_file_that_moved_is_the_same_and_a_name_that_means_another_file_is_not(manifest, data_root, root):
    first = submitted(manifest, data_root, root)
    document = yaml.safe_load(manifest.read_text())
    (data_root / "mine" / "t").rename(data_root / "moved")
    document["corpora"]["mine"]["train"] = "moved"
    manifest.write_text(yaml.safe_dump(document))
    assert submitted(manifest, data_root, root) == first
    document["corpora"]["mine"]["train"] = "tinystories/train.jsonl"
    manifest.write_text(yaml.safe_dump(document))
    with pytest.raises(InputError, match=r"tinystories/train.jsonl: is not the file .* as mine, train"):
        submitted(manifest, data_root, root)


def test_what_completed_runs_read_before_is_the_first_content(manifest, data_root, root):
    root.path.mkdir()
    ledger = Ledger(root.ledger)
    ledger.put_attempt("a1", "pretrain", 1, submission_id="cafe", pack_index=0, status="completed")
    ledger.put_outcome("a1", "pretrain", 1, {"data": {FILES[0]: "0" * 64}})
    ledger.close()
    with pytest.raises(InputError, match=r"train.jsonl: is not the file that 1 completed run read as tinystories,"):
        submitted(manifest, data_root, root)


def test_what_builtin_runs_have_read_is_no_content_of_a_name(manifest, data_root, root):
    """Whoever has tried it out on builtin data goes on with real data."""
    builtin = manifest.with_name("builtin.yaml")
    builtin.write_text(manifest.read_text() + "defaults: {data: {source: builtin}}\n")
    cells = grids.cells(loading.load(builtin))
    runs = expansion.expand([cell for cell in cells if cell.config.data.corpus == "tinystories"])
    ended(root, runs)
    with closing(Ledger(root.ledger)) as ledger:
        for run in runs:
            ledger.put_outcome(run.id, "pretrain", 1, {"data": dict.fromkeys(FILES, "0" * 64)})
    first = submitted(manifest, data_root, root)
    write(data_root / FILES[0], "another")
    with pytest.raises(InputError, match=r"train.jsonl: is not the file that was submitted here before as"):
        submitted(manifest, data_root, root)
    assert len(first) == 4


def test_two_commands_at_once_do_not_give_one_name_two_contents(manifest, data_root, root):
    _, one = contents.revise(grids.cells(loading.load(manifest)), data_root, root, False)
    write(data_root / "mine" / "t", "another")
    _, other = contents.revise(grids.cells(loading.load(manifest)), data_root, root, False)
    contents.keep(root, one)
    with pytest.raises(InputError, match="mine, train was submitted with another content a moment ago"):
        contents.keep(root, other)
    assert json.loads(root.contents.read_text()) == one


def test_what_is_done_again_is_done_with_the_content_that_it_was_submitted_with(manifest, data_root, root):
    cells, known = contents.revise(grids.cells(loading.load(manifest)), data_root, root, False)
    contents.keep(root, known)
    todo = [(run, run.stages) for run in expansion.expand(cells)]
    ended(root, [run for run, _ in todo])
    assert contents.check_contents(todo, data_root, root) is None
    write(data_root / "mine" / "v", "another")
    contents.check_contents(todo[:2], data_root, root)
    with pytest.raises(InputError, match="mine/v: is not the file that was submitted as mine, validation"):
        contents.check_contents(todo, data_root, root)


def test_submit_refuses_with_exit_code_2_and_leaves_all_as_it_was(manifest, data_root, root, capsys):
    given = ["--site", "local", "--data-root", str(data_root), "--output-root", str(root.path), "--yes"]
    submitted(manifest, data_root, root)
    write(data_root / "mine" / "t", "another")
    before = {path: path.read_bytes() for path in root.path.rglob("*") if path.is_file() and "cache" not in path.parts}
    with pytest.raises(SystemExit) as ended:
        entry.main(["submit", str(manifest), *given])
    assert ended.value.code == 2
    assert "Nothing was submitted" in " ".join(capsys.readouterr().err.split())
    after = {path: path.read_bytes() for path in root.path.rglob("*") if path.is_file() and "cache" not in path.parts}
    assert after == before
    assert json.loads(root.contents.read_text())["revisions"] == {}


@pytest.fixture
def of_lm_eval(manifest, data_root):
    """The manifest with the stage lm_eval and a task of the user's own."""
    document = yaml.safe_load(manifest.read_text())
    study = {"model": "gpt", "stages": ["pretrain", "add_tokenizer", "lm_eval"]}
    study["evaluation.lm_eval"] = {"tasks": ["verbs"], "include_path": "tasks"}
    document["studies"] = {"s": study}
    manifest.write_text(yaml.safe_dump(document))
    write(
        data_root / "tasks/verbs.yaml",
        "task: verbs\ndataset_path: json\noutput_type: multiple_choice\n"
        "dataset_kwargs: {data_files: {test: data/verbs.jsonl}}\n",
    )
    write(data_root / "data/verbs.jsonl", '{"good": "a", "bad": "b"}')
    return manifest


@pytest.mark.parametrize("file", ["tasks/verbs.yaml", "data/verbs.jsonl"])
def test_a_task_of_lm_eval_and_its_data_stand_for_one_content(of_lm_eval, data_root, root, file):
    first = submitted(of_lm_eval, data_root, root)
    write(data_root / "tasks/another.yaml", "task: another\n")
    assert submitted(of_lm_eval, data_root, root) == first, "nobody asks for that one"
    with open(data_root / file, "a") as opened:
        opened.write("\n")
    with pytest.raises(InputError, match=f"{file}: is not the file that was submitted here before"):
        submitted(of_lm_eval, data_root, root)
    assert submitted(of_lm_eval, data_root, root, accept=True) != first


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("task: verb\n", r"'verbs' is neither in .*/tasks nor .*Did you mean verb\?"),
        ("task: verbs\n", r"verbs generates text, and models are only scored here"),
        ("task: [", r"tasks/verbs.yaml: not valid YAML"),
        ("task: verbs\ninclude: lacking\n", r"tasks/lacking: cannot be read \(No such file"),
        ("task: verbs\noutput_type: multiple_choice\ndataset_path: json\n", "names none .data_files, data_dir."),
        ("task: verbs\noutput_type: multiple_choice\ndataset_path: json\n"
         "dataset_kwargs: {data_files: data/x.jsonl}\n", r"data/data/x.jsonl is not there"),
        ("task: verbs\noutput_type: multiple_choice\ndataset_path: json\n"
         "dataset_kwargs: {data_files: https://x/y.jsonl}\n", r"https://x/y.jsonl is not below DATA_ROOT"),
    ],
)  # fmt: skip
def test_a_task_of_lm_eval_that_cannot_be_scored_is_refused_before_anything_is_submitted(
    of_lm_eval, data_root, root, text, message
):
    write(data_root / "tasks/verbs.yaml", text)
    with pytest.raises(InputError, match=f"{message}.*Nothing was submitted"):
        submitted(of_lm_eval, data_root, root)
    runs = expansion.expand(grids.cells(loading.load(of_lm_eval)))
    with pytest.raises(InputError, match=message):
        requests.check_data(runs, data_root)


def test_plans_know_the_sizes_of_the_files_that_are_there(manifest, data_root):
    todo = [(run, run.stages) for run in expansion.expand(grids.cells(loading.load(manifest)))]
    (data_root / "mine/v").unlink()
    (data_root / "mine/t").unlink()
    for name in ("a.jsonl", "deeper/b.jsonl"):
        write(data_root / "mine/t" / name, "12345")
    expected = {file: len(f"the first {file}") for file in FILES[:3]} | {"mine/t": 10}
    assert contents.sizes(todo, data_root) == expected
    assert contents.sizes(todo, None) == {}
