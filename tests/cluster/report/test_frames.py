"""What other tools take: rows of runs and of curves, model cards, the hub."""

import csv
import importlib
from contextlib import closing

import huggingface_hub
import pytest
import synthetic
import yaml

from cluster.cli import entry, shared
from cluster.errors import InputError
from cluster.files.folders import OutputRoot
from cluster.ledger.database import Ledger
from cluster.reconcile.session import LedgerView
from cluster.report import cards, details, frames, writing


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    runs = synthetic.planned(["quickstart"])
    made = synthetic.make(tmp_path_factory.mktemp("frames") / "output", runs, with_pairs=False)
    model = made.run(runs[0].id).model
    model.mkdir()
    (model / "config.json").write_text("{}")
    return made


@pytest.fixture
def first(root):
    with closing(Ledger(root.ledger, read_only=True)) as ledger:
        return ledger.runs()[0]


def run(words):
    """A command in this process; its errors are raised."""
    entry.load(words[0])
    shared.app(args=words, standalone_mode=False)


def test_ten_lines_give_a_frame_of_settings_scores_and_metrics(root, first):
    runs = frames.read(root.path)
    assert len(runs) == 4
    row = runs[runs.run_id == first.id].iloc[0]
    assert (row["name"], row["model.hidden_size"], row["status.pretrain"]) == (first.name, 512, "completed")
    with closing(Ledger(root.ledger, read_only=True)) as ledger:
        scores = {(each["stage"], each["task"], each["metric"]): each["value"] for each in ledger.scores()
                  if each["run_id"] == first.id}  # fmt: skip
    assert row["blimp.average.accuracy"] == scores["blimp", "average", "accuracy"]
    assert runs.groupby("model.activation")["blimp.average.accuracy"].mean().notna().all()


def test_curves_are_one_long_table_without_what_is_torn(root, first):
    path = root.run(first.id).path / "curve.jsonl"
    before = path.read_text()
    path.write_text(before + '{"step": 99, "lo')
    table = frames.curves(root.path)
    path.write_text(before)
    assert len(table[table.run_id == first.id]) == len(before.splitlines())
    assert table["loss"].notna().any()
    assert table["eval_loss"].notna().any()


@pytest.mark.parametrize("torn", [
    ['{"step": 2, "of": [{}', '{"step": 3}]}'],  # with a comma between them they would be one
    ['{"step": 2}, {"step": 3}'], ["[" * 100_000], ["NaN"], ['"step"'],
])  # fmt: skip
def test_torn_lines_are_read_as_if_each_stood_alone(torn, tmp_path):
    path = OutputRoot(tmp_path).run("a").path / "curve.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("\n".join(['{"step": 1, "loss": 4.5}', *torn, '{"step": 4, "loss": 4.0}']))
    assert [record["step"] for record in frames.curve(OutputRoot(tmp_path), "a")] == [1, 4]


def test_without_pandas_rows_are_dictionaries(root, monkeypatch):
    def lacking(name):
        raise ImportError(name)

    monkeypatch.setattr(frames.importlib, "import_module", lacking)
    rows = frames.read(root.path)
    assert all(row.keys() == rows[0].keys() for row in rows)
    assert rows[0]["model.hidden_size"] == 512
    monkeypatch.setattr(frames.importlib, "import_module", importlib.import_module)
    with pytest.raises(InputError, match="ledger.db: is not there"):
        frames.read(root.path / "nowhere")


def test_a_saved_model_has_a_card_beside_it_that_says_what_it_is(root, first, tmp_path):
    with closing(Ledger(root.ledger, read_only=True)) as ledger:
        writing.write(LedgerView(ledger, "2026-11-22T12:00:00", "none"), root, tmp_path / "report")
    path = root.run(first.id).model / "README.md"
    _, front, text = path.read_text().split("---\n", 2)
    assert yaml.safe_load(front) == {"library_name": "transformers", "tags": ["tiny-transformers", "gpt_neo"]}
    assert f"# {first.name}" in text
    assert f"{first.parameters:,} parameters, trained on tinystories" in text
    assert "| `model.activation` | gelu |" in text
    assert "| blimp | average | accuracy | 0." in text
    assert "| `pretrain.jsonl` | SHA-256 `" in text
    others = [run for run in root.run_ids() if run != first.id]
    assert not any((root.run(run).model / "README.md").exists() for run in others), "of these no model was saved"


def test_in_a_folder_that_may_be_read_alone_no_card_is_written(root, first, monkeypatch):
    path = root.run(first.id).model / "README.md"
    path.unlink(missing_ok=True)
    path.parent.chmod(0o555)
    monkeypatch.setattr(cards.os, "access", lambda *_: False)  # root may write anywhere
    with closing(Ledger(root.ledger, read_only=True)) as ledger:
        made_of = details.run_details(ledger, root, [first.id])
    assert cards.write(made_of, root) == [first.id]
    path.parent.chmod(0o755)
    assert not path.exists()


def test_curves_are_written_on_request(root, tmp_path, capsys):
    told = ["--output-root", str(root.path), "--to", str(tmp_path)]
    run(["report", *told, "--curves", "csv"])
    with open(tmp_path / "curves.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(frames.curves(root.path))
    assert {"run", "run_id", "step", "loss", "eval_loss"} <= rows[0].keys()
    assert f"{tmp_path / 'curves.csv'}: {len(rows)} lines" in capsys.readouterr().out.replace("\n", "")


def test_a_run_is_pushed_with_its_card_and_what_the_hub_says_is_told(root, first, monkeypatch, capsys):
    calls = []

    class Hub:
        def create_repo(self, name, **how):
            calls.append((name, how))
            if name == "no":
                raise OSError("401 Client Error:\n invalid token")
            return f"https://huggingface.co/{name}"

        def upload_folder(self, **how):
            assert (how["folder_path"] / "README.md").is_file()
            calls.append(how)

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    told = ["--output-root", str(root.path)]
    run(["push", first.id, "me/tiny", "--private", *told])
    assert calls[0] == ("me/tiny", {"private": True, "exist_ok": True})
    assert (calls[1]["repo_id"], calls[1]["folder_path"]) == ("me/tiny", OutputRoot(root.path).run(first.id).model)
    assert "https://huggingface.co/me/tiny" in capsys.readouterr().out
    for words, message in (
        ([first.id, "no"], "push: no: 401 Client Error: invalid token"),
        ([next(run for run in root.run_ids() if run != first.id), "me/other"], "holds no model"),
    ):
        with pytest.raises(InputError, match=message):
            run(["push", *words, *told])
