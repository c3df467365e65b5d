import json

import pytest

from tiny_transformers.common import contents, survey
from tiny_transformers.common.work import TinyTransformersError
from tiny_transformers.settings.corpora import Corpus

LINES = Corpus(train="t", validation="v", format="text", documents="line")
ROWS = Corpus(train="t", validation="v")


def test_documents_are_counted_by_their_words(tmp_path):
    (tmp_path / "t").write_text("one\n\n1 2 3 4\n1 2 3 4 5 6\n")
    found = survey.survey(tmp_path / "t", LINES, None)
    assert (found.documents, found.empty, found.whole) == (3, 0, True)
    assert [found.longer(length) for length in (3, 5, 6, 8)] == [2, 2, 1, 0]
    assert found.beyond(5) == pytest.approx((1 + 3) / 11)
    (tmp_path / "rows").write_text('{"text": "a b"}\n{"text": " "}\n')
    found = survey.survey(tmp_path / "rows", ROWS, None)
    assert (found.documents, found.empty) == (1, 1)


@pytest.mark.parametrize(
    ("corpus", "text", "message"),
    [
        (LINES, b"a\nb <|endoftext|>\n", r"t: line 2: holds <\|endoftext\|>"),
        (LINES, b"a\n\xe9\n", "t: line 2: is not UTF-8"),
        (LINES, b"\n \n", "t: holds no document with text"),
        (ROWS, b'{"txt": "a"}\n', "t: line 1: lacks the field 'text'"),
        (ROWS, b'{"text": null}\n', "t: line 1: text is None, not a text"),
    ],
)
def test_what_a_job_would_refuse_is_refused(tmp_path, corpus, text, message):
    (tmp_path / "t").write_bytes(text)
    with pytest.raises(TinyTransformersError, match=message):
        survey.survey(tmp_path / "t", corpus, tmp_path / "cache")
    assert not (tmp_path / "cache" / "surveys").exists(), "it is looked at again when it is mended"


def test_a_corpus_is_looked_through_once_and_of_a_large_one_the_beginning(tmp_path, monkeypatch):
    monkeypatch.setattr(contents, "SETTLED", -1)
    (tmp_path / "t").write_text("".join(json.dumps({"text": f"story {n}"}) + "\n" for n in range(100)))
    whole = survey.survey(tmp_path / "t", ROWS, tmp_path / "cache")
    with monkeypatch.context() as patch:
        patch.setattr(survey, "every", lambda *_: pytest.fail("read again"))
        assert survey.survey(tmp_path / "t", ROWS, tmp_path / "cache") == whole
    monkeypatch.setattr(survey, "MOST", 80)
    part = survey.survey(tmp_path / "t", ROWS, None)
    assert (part.documents, part.whole) == (12, False)


@pytest.mark.parametrize("spoilt", [b"", b"{", b"[]", b'{"words": []}', b'{"words": {"a": 1}}', b"\xff"])
def test_a_spoilt_record_is_counted_again(tmp_path, spoilt):
    (tmp_path / "t").write_text("one two\n")
    found = survey.survey(tmp_path / "t", LINES, tmp_path / "cache")
    (record,) = (tmp_path / "cache" / "surveys").iterdir()
    record.write_bytes(spoilt)
    assert survey.survey(tmp_path / "t", LINES, tmp_path / "cache") == found
    assert json.loads(record.read_text())["all_words"] == 2
