"""Files of minimal pairs as token ids: what a token is, what is left out, what is refused."""

import pytest
from transformers import AutoTokenizer

from tiny_transformers.common.work import TinyTransformersError
from tiny_transformers.evaluation.minimal_pairs import read_task
from tiny_transformers.settings.architecture import GPTNeo, Roberta
from tiny_transformers.settings.config import Data, RunConfig
from tiny_transformers.settings.stage.blimp import BLIMP_TASKS, SUPPLEMENT_TASKS, blimp_files

PAIR = {"sentence_good": "a", "sentence_bad": "b", "UID": "wh_island", "linguistics_term": "island_effects"}


def with_settings(model=None, **evaluation):
    return RunConfig.model_validate({"model": model or GPTNeo(), "evaluation": evaluation})


@pytest.fixture
def read(tmp_path, tokenizer, write_rows):
    """Write the rows to a file and read it as a task."""

    def read(*rows, task="binding", model=None, **evaluation):
        path = tmp_path / "pairs.json"
        write_rows(path, rows)
        return read_task(path, task, tokenizer, with_settings(model, **evaluation))

    return read


@pytest.mark.parametrize("model", [GPTNeo(), Roberta()], ids=["decoder", "encoder"])
def test_the_context_and_the_leading_space_are_settings(read, tokenizer, model):
    def first(**settings):
        return read(PAIR, model=model, blimp=settings).pairs[0].good

    space, a = tokenizer(" a", add_special_tokens=False)["input_ids"]
    if model.family == "roberta":
        assert first().ids == [1, space, a, 2]
        assert first(start_token="eos", leading_space=False).ids == [1, a, 2]
        assert first().words == [None, 0, 0, None]
    else:
        assert first().ids == [1, space, a]
        assert first(start_token="eos", leading_space=False).ids == [2, a]
        assert first().words == [None, 0, 0]


def test_a_divisor_counts_scored_tokens_or_characters_without_the_space(read):
    def divisor(normalisation):
        return read(PAIR | {"sentence_good": "né"}, blimp={"normalisation": normalisation}).pairs[0].good.divisor

    assert {name: divisor(name) for name in ("none", "tokens", "characters")} == {
        "none": 1,
        "tokens": 4,  # the space, n, the two bytes of é
        "characters": 2,
    }


def test_pairs_keep_the_number_of_their_row(read):
    rows = [PAIR | {"sentence_good": text} for text in ("b", "c", "d" * 600, "e", "f")]
    task = read(*rows)
    assert [pair.row for pair in task.pairs] == [1, 3, 4]
    assert (task.equal, task.too_long) == (1, 1)
    sampled = read(*rows, limit=3)
    assert [pair.row for pair in sampled.pairs] == [1, 3]
    assert (sampled.equal, sampled.too_long) == (1, 0)


def test_the_supplement_has_no_paradigms(read):
    bare = {"sentence_good": "a", "sentence_bad": "b", "template": "x"}
    assert read(bare, task="hypernym").pairs[0].paradigm is None
    assert read(bare | {"UID": "x"}, task="hypernym").pairs[0].paradigm is None
    with pytest.raises(TinyTransformersError, match=r"pairs\.json: line 1: lacks the field 'UID'; it has sentence_bad"):
        read(bare, task="binding")


@pytest.mark.parametrize(
    ("term", "phenomenon"),
    [
        ("island_effects", "island_effects"),
        ("filler_gap_dependency", "filler_gap"),
        ("s-selection", "argument_structure"),
    ],
)
def test_a_full_paradigm_belongs_to_a_group_of_the_filtered_files(read, term, phenomenon):
    task = read(PAIR | {"linguistics_term": term}, task="wh_island", blimp={"data": "full"})
    assert (task.name, task.phenomenon, task.pairs[0].paradigm) == ("wh_island", phenomenon, "wh_island")


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"sentence_good": "a"}, "lacks the field 'sentence_bad'"),
        (PAIR | {"sentence_bad": 3}, "sentence_bad is 3, not a text"),
        (PAIR | {"sentence_good": " "}, "sentence_good is empty"),
        (PAIR | {"UID": None}, "UID is None, not a text"),
        (
            {key: value for key, value in PAIR.items() if key != "linguistics_term"},
            "lacks the field 'linguistics_term'",
        ),
        (PAIR | {"linguistics_term": "phonology"}, "linguistics_term is 'phonology', none of BLiMP's: anaphor_agree"),
        (PAIR | {"linguistics_term": "binding"}, "is of binding, the rows before it of island_effects"),
    ],
)
def test_a_row_that_is_not_a_pair_is_refused_with_its_line(read, second, message):
    with pytest.raises(TinyTransformersError, match=rf"pairs\.json: line 2: {message}"):
        read(PAIR, second, task="wh_island", blimp={"data": "full"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "pairs.json: is empty"),
        ("\n \n", "pairs.json: is empty"),
        ('{"sentence_good": "a", \n', "pairs.json: line 1: not JSON"),
        ('\n["a", "b"]\n', "pairs.json: line 2: .* is no JSON object"),
    ],
)
def test_a_file_that_is_not_json_lines_is_refused(tmp_path, tokenizer, text, message):
    (tmp_path / "pairs.json").write_text(text)
    with pytest.raises(TinyTransformersError, match=message):
        read_task(tmp_path / "pairs.json", "hypernym", tokenizer, with_settings())


def test_a_missing_file_is_named(tmp_path, tokenizer):
    with pytest.raises(TinyTransformersError, match=r"none\.json: is missing"):
        read_task(tmp_path / "none.json", "hypernym", tokenizer, with_settings())


def test_a_word_is_a_pre_token_of_the_study_tokenizer(tmp_path, shared_data, write_rows):
    """A space belongs to the word after it; punctuation and contracted endings are words of their own."""
    real = AutoTokenizer.from_pretrained(shared_data / "tokenizer" / "10k-tok")
    sentence = "Katherine doesn't find it unbelievable, Galileo's friend said."
    write_rows(tmp_path / "pairs.json", [{"sentence_good": sentence, "sentence_bad": "x"}])
    read = read_task(tmp_path / "pairs.json", "hypernym", real, with_settings(Roberta())).pairs[0].good
    words: dict[int, list[str]] = {}
    for token, word in zip(real.convert_ids_to_tokens(read.ids), read.words, strict=True):
        if word is not None:
            words.setdefault(word, []).append(token.replace("Ġ", " "))
    assert [*map("".join, words.values())] == [
        *(" Katherine", " doesn", "'t", " find", " it", " unbelievable", ",", " Galileo", "'s", " friend", " said", ".")
    ]
    assert words[0] == [" K", "ather", "ine"]
    assert len(words[5]) > 1


def real_tasks(root, names):
    real, files = AutoTokenizer.from_pretrained(root / "tokenizer" / "10k-tok"), blimp_files(Data())
    return [read_task(root / files[name], name, real, with_settings()) for name in names]


def test_real_files_become_pairs(shared_data):
    """The smallest ones, and one of which five pairs have two equal sentences."""
    tasks = real_tasks(shared_data, (*SUPPLEMENT_TASKS, "binding"))
    assert sum(len(task.pairs) for task in tasks[:-1]) == 5_468
    assert [task.equal for task in tasks] == [0] * len(SUPPLEMENT_TASKS) + [5]
    assert sum(task.too_long for task in tasks) == 0


@pytest.mark.longer
def test_every_real_file_becomes_pairs(shared_data):
    """The counts of the whole filtered files; two pairs of one and five of another have two equal sentences."""
    tasks = real_tasks(shared_data, blimp_files(Data()))
    counted = {task.name: len(task.pairs) for task in tasks}
    assert sum(counted[task] for task in BLIMP_TASKS) == 57_812 - 7
    assert sum(counted[task] for task in SUPPLEMENT_TASKS) == 5_468
    assert {task.name: task.equal for task in tasks if task.equal} == {"argument_structure": 2, "binding": 5}
    assert sum(task.too_long for task in tasks) == 0
    assert len({(task.name, pair.paradigm) for task in tasks for pair in task.pairs if pair.paradigm}) == 62
