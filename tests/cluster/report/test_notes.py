"""What is said of the data before the figures."""

from cluster.report import notes
from cluster.report.results import Family, Result, Study, Variant
from cluster.report.study_tables import Section
from tiny_transformers.settings.architecture import GPTNeo
from tiny_transformers.settings.config import RunConfig
from tiny_transformers.settings.corpora import Corpus

MINE, YOURS = (
    {"corpus": name, "definition": Corpus(train=f"{name}/t", validation=f"{name}/v")} for name in ("mine", "yours")
)
BPE = {"tokenizer": {"kind": "bpe", "vocab_size": 1_000}}
TRAINED = "tokenizer/bpe-1000/tokenizer.json"


def study(*variants):
    """Of variants of these settings of data, each with a run that has read these files."""
    made = []
    for number, (data, files) in enumerate(variants):
        config = RunConfig(model=GPTNeo(), data=data)
        read = {("pretrain", file): digest for file, digest in files.items()}
        run = Result(str(number), "r", 1, ("s",), {"pretrain": {"status": "completed"}}, {}, {}, (), {}, read)
        made.append(Variant(str(number), "v", config.family, config, 1, False, (run,)))
    return Study("s", "", tuple(Family(each.family, (each,)) for each in made))


def test_what_holds_for_some_studies_is_said_of_these():
    builtin, of_files = study(({"source": "builtin"}, {})), study(({}, {}))
    (told,) = notes.trials(builtin)
    assert told.startswith("Built-in data")
    assert notes.trials(of_files) == []
    over, sections = notes.placed([Section(builtin), Section(builtin)])
    assert (over, [each.trials for each in sections]) == ([told], [[], []])
    over, sections = notes.placed([Section(builtin), Section(of_files)])
    assert (over, [each.trials for each in sections]) == ([], [[told], []])
    assert notes.placed([]) == ([], [])


def test_a_tokenizer_of_each_corpus_is_a_note_and_one_that_changed_is_flagged():
    planned = study((MINE | BPE, {"mine/t": "a", TRAINED: "b"}), (YOURS | BPE, {"yours/t": "c", TRAINED: "d"}))
    assert notes.changed_data([planned]) == []
    told = "".join(notes.own_tokenizers(planned))
    assert told.startswith(f"mine and yours have each a tokenizer of their own, trained on them ({TRAINED})")
    assert notes.own_tokenizers(study((MINE | BPE, {}), (MINE, {}))) == []
    changed = study((MINE | BPE, {TRAINED: "b"}), (MINE | BPE | {"max_length": 9}, {TRAINED: "d"}))
    assert notes.changed_data([changed]) == [f"{TRAINED}: 2 versions of it were read"]


def test_what_corpora_share_is_flagged_where_it_changed_and_not_where_that_was_accepted():
    of_mine, of_yours = (MINE, {"blimp/x": "a"}), (YOURS, {"blimp/x": "b"})
    assert notes.changed_data([study(of_mine), study(of_yours)]) == ["blimp/x: 2 versions of it were read"]
    accepted = (YOURS | {"revision": "12345678"}, {"blimp/x": "b"})
    assert notes.changed_data([study(of_mine, accepted)]) == []
