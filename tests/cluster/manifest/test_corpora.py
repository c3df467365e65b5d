"""`corpora` of a manifest: names for data of one's own."""

import pytest
import yaml

from cluster.errors import InputError
from cluster.manifest import grids, loading
from cluster.plan import expansion
from tiny_transformers.settings.stages import required_files

MINE = {"train": "mine/train.txt", "validation": "mine/validation.txt", "format": "text", "documents": "line"}
GPT = {"family": "gpt_neo", "hidden_size": 32, "num_heads": 2, "intermediate_size": 48}


def runs_of(tmp_path, corpora, smoke=False, models=GPT, **study):
    document = {
        "models": {"gpt": models},
        "corpora": corpora,
        "studies": {"s": {"model": "gpt", **study}},
        "smoke": {"data.source": "builtin"},
    }
    (tmp_path / "experiments.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    return expansion.expand(grids.cells(loading.load(tmp_path / "experiments.yaml"), smoke=smoke))


def test_a_corpus_of_ones_own_is_an_axis_like_any_other(tmp_path):
    plain, mine = runs_of(tmp_path, {"mine": MINE}, grid={"data.corpus": ["tinystories", "mine"]})
    assert plain.id == runs_of(tmp_path, {})[0].id != mine.id
    assert mine.name == "gpt-gelu-0.34M-2L-2H-32C-48I-mine-s42".replace("0.34", mine.name[9:13])
    assert (plain.config.family, mine.config.family) == ("gpt_neo", "gpt_neo-mine"), "never held against each other"
    assert required_files(mine.config, ["pretrain"])[:2] == ["mine/train.txt", "mine/validation.txt"]


def test_where_its_files_are_is_no_part_of_a_runs_id(tmp_path):
    ids = {
        runs_of(tmp_path, {"mine": MINE | change}, **{"data.corpus": "mine"})[0].id
        for change in ({}, {"train": "elsewhere.txt"}, {"documents": "file"})
    }
    assert len(ids) == 1


def test_a_stream_of_ones_own_is_for_brainformers(tmp_path):
    corpora = {"poems": {"stream": "poems.txt"}}
    (run,) = runs_of(
        tmp_path, corpora, models={"family": "brainformer"}, stages=["pretrain", "bpc"], **{"data.corpus": "poems"}
    )
    assert required_files(run.config, ["pretrain", "bpc"]) == ["poems.txt"]
    with pytest.raises(InputError, match="data.corpus poems is not for models of family gpt_neo: write tinystories"):
        runs_of(tmp_path, corpora, **{"data.corpus": "poems"})


def test_a_trial_of_it_reads_builtin_stories(tmp_path):
    (run,) = runs_of(tmp_path, {"mine": MINE}, smoke=True, **{"data.corpus": "mine"})
    assert required_files(run.config, ["pretrain"])[0] == "tinystories/train.jsonl"


@pytest.mark.parametrize(
    ("corpora", "study", "message"),
    [
        ({"mine": MINE}, {"data.corpus": "mien"}, r"studies.s.data.corpus: 'mien' is no corpus. Did you mean mine\?"),
        ({"mine": {"train": "a"}}, {}, "corpora.mine: .*: say where the documents are, with train and validation"),
        ({"mine": MINE | {"stream": "a"}}, {}, "corpora.mine: .*: a corpus is either a stream or"),
        ({"mine": MINE | {"train": "/data/a"}}, {}, "corpora.mine.train: '/data/a': name a file or folder below"),
        ({"mine": MINE | {"train": "../a"}}, {}, "corpora.mine.train: '../a': name a file or folder below DATA_ROOT"),
        ({"mine": MINE | {"documents": "page"}}, {}, "corpora.mine.documents: 'page'"),
        ({"mine": MINE | {"documnets": "line"}}, {}, r"corpora.mine.documnets: unknown key. Did you mean documents\?"),
        ({"text8": {"stream": "a"}}, {}, "corpora.text8: is the name of a corpus that is known"),
        ({"my texts": MINE}, {}, "corpora.my texts: must be letters, digits and _"),
        ({"mine": 3}, {}, "corpora.mine: must be a mapping"),
        ({}, {"data.definition.train": "a"}, "data.definition.train: is not for a manifest to say. Define a corpus"),
        ({}, {"data": {"revision": "1"}}, "data.revision: is not for a manifest to say"),
    ],
)
def test_a_mistake_is_told_by_where_it_is_written(tmp_path, corpora, study, message):
    with pytest.raises(InputError, match=message):
        runs_of(tmp_path, corpora, **study)


def test_a_study_of_vocabularies_is_a_grid_like_any_other(tmp_path):
    study = {"data.corpus": "mine", "grid": {"data.tokenizer.vocab_size": [1_000, 2_000]}}
    small, large = runs_of(tmp_path, {"mine": MINE}, **study)
    assert [run.config.model.vocab_size for run in (small, large)] == [1_000, 2_000]
    assert large.parameters - small.parameters == 1_000 * 32
    assert not any("tokenizer" in file for file in required_files(small.config, small.stages))
    with pytest.raises(InputError, match=r"vocab_size: .* greater than or equal to 261"):
        runs_of(tmp_path, {"mine": MINE}, **study | {"grid": {"data.tokenizer.vocab_size": [100]}})
