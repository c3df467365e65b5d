import pytest

from tiny_transformers.common.data_root import explain

STORIES = ["tinystories/train.jsonl", "tinystories/validation.jsonl"]


def write(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x")


def test_a_folder_that_is_not_there_is_said_to_be_not_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = explain((tmp_path / "dta").relative_to(tmp_path), STORIES)
    assert told.startswith(f"dta: there is no such folder in {tmp_path}. Say with --data-root where the data is; ")
    assert "`tiny-transformers fetch`" in told
    write(tmp_path / "file")
    assert (
        explain(tmp_path / "file", ["mine/t"])
        == f"{tmp_path}/file: is no folder. Say with --data-root where the data is."
    )


@pytest.mark.parametrize(
    ("there", "told"),
    [
        ([], "It is empty. Put it there, or run `tiny-transformers fetch"),
        (["mine/t", "b/c"], "It has b, mine. Put it there, or run"),
        (["char/text8.txt", "mine/t"], "It has the files of text8. Put it there"),
        ([f"here/{file}" for file in STORIES], "They are below {root}/here: is that the --data-root?"),
        ([f"../{file}" for file in STORIES], "They are below {root.parent}: is that the --data-root?"),
    ],
)
def test_a_folder_that_lacks_files_is_told_with_what_it_has(tmp_path, there, told):
    root = tmp_path / "data"
    root.mkdir()
    for file in there:
        write(root / file)
    said = explain(root, STORIES, root)
    assert said.startswith(f"{root}: lacks {STORIES[0]}, {STORIES[1]}. {told.format(root=root)}")


def test_fetch_is_advised_for_what_it_brings(tmp_path):
    assert "`tiny-transformers fetch" not in explain(tmp_path, ["mine/t"])
    assert explain(tmp_path, ["corpora/babylm_10m/train.jsonl"]).endswith(
        "run `tiny-transformers fetch --corpus babylm_10m`."
    )
