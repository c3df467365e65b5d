import json

import fresh
import pytest
from longer import longer

from tiny_transformers.common.work import TinyTransformersError, Work
from tiny_transformers.data import characters, tokenizer
from tiny_transformers.data.sources import read_rows
from tiny_transformers.models import auto
from tiny_transformers.settings.architecture import Brainformer, GPTNeo, Roberta
from tiny_transformers.settings.config import STREAMS, VALIDATION_STORIES, Data, RunConfig, tokenizer_file

SHAPES = {
    "gpt": GPTNeo(hidden_size=32, intermediate_size=32),
    "bert": Roberta(hidden_size=32, intermediate_size=32),
}


@pytest.fixture(params=SHAPES)
def work(request, shared_data, tmp_path):
    config = RunConfig(model=SHAPES[request.param])
    made = Work(config, shared_data, tmp_path / "cache", tmp_path)
    auto.build(config.model, 0).save_pretrained(made.model_dir)
    return made


one_shape = pytest.mark.parametrize("work", ["gpt", longer("bert")], indirect=True)


@one_shape
def test_a_fresh_process_gets_the_study_tokenizer_from_the_model_folder(work):
    outcome = tokenizer.run(work)
    assert [check.name for check in outcome.checks] == ["tokenizer_reload", "special_token_ids"]
    assert all(check.passed and check.blocking for check in outcome.checks)
    code = (
        "import json, sys, tiny_transformers\n"
        "from transformers import AutoTokenizer\n"
        "t = AutoTokenizer.from_pretrained(sys.argv[1])\n"
        "special = [t.pad_token_id, t.bos_token_id, t.eos_token_id, t.unk_token_id, t.mask_token_id, t.cls_token_id,"
        " t.sep_token_id]\n"
        "batch = t(['Once upon', 'Once upon a time'], padding=True)\n"
        "print(json.dumps([special, t('Once upon')['input_ids'], t('Once', 'upon')['input_ids'], dict(batch),"
        " t.decode(t(' a cat, <mask>!')['input_ids'], skip_special_tokens=False), t.model_max_length]))"
    )
    done = fresh.python(code, work.model_dir)
    special, alone, pair, batch, decoded, longest = json.loads(done.stdout)
    assert special == [0, 1, 2, 3, 9999, 1, 2]
    assert alone == [1, 7454, 2402, 2]
    assert (pair[0], pair[2:4], pair[-1]) == (1, [2, 2], 2)
    assert batch == {"input_ids": [[1, 7454, 2402, 2, 0, 0], [1, 7454, 2402, 257, 640, 2]],
                     "attention_mask": [[1, 1, 1, 1, 0, 0], [1] * 6]}  # fmt: skip
    assert "<mask>" in decoded
    assert longest == 512


def test_it_encodes_as_the_tokenizer_file_does(work, shared_data):
    from tokenizers import Tokenizer

    file = shared_data / "tokenizer" / "10k-tok" / "tokenizer.json"
    original, ours = Tokenizer.from_file(str(file)), tokenizer.load_tokenizer(file, work.config)
    for row in read_rows(shared_data / VALIDATION_STORIES, ["text"])[:100]:
        assert ours(row["text"])["input_ids"] == original.encode(row["text"]).ids


def test_a_reloaded_tokenizer_that_differs_fails_the_check(work, monkeypatch):
    real = tokenizer.AutoTokenizer.from_pretrained

    def other(folder):
        changed = real(folder)
        changed.backend_tokenizer.post_processor = None  # as a tokenizer class that adds no <s> would
        return changed

    monkeypatch.setattr(tokenizer.AutoTokenizer, "from_pretrained", other)
    reload, _ = tokenizer.run(work).checks
    assert not reload.passed


def test_a_model_with_other_special_ids_fails_the_check(work):
    path = work.model_dir / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": 50256}))
    _, ids = tokenizer.run(work).checks
    assert (ids.passed, ids.value) == (False, "config.json: eos_token_id is 50256")


def test_a_model_too_small_for_the_vocabulary_is_refused(shared_data):
    config = RunConfig(model=GPTNeo(vocab_size=9_000))
    with pytest.raises(TinyTransformersError, match="ids up to 9999.*room for 9000. Set model.vocab_size to 10000"):
        tokenizer.load_tokenizer(shared_data / tokenizer_file(config.data), config)


def test_special_tokens_elsewhere_are_refused(shared_data, tmp_path):
    content = json.loads((shared_data / "tokenizer" / "10k-tok" / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["<pad>"], vocabulary["<s>"] = vocabulary["<s>"], vocabulary["<pad>"]
    for token in content["added_tokens"]:
        token["id"] = vocabulary[token["content"]]
    folder = tmp_path / "tokenizer" / "10k-tok"
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(TinyTransformersError, match="<pad> is 1; models need it to be 0"):
        tokenizer.load_tokenizer(tmp_path / tokenizer_file(Data()), RunConfig(model=GPTNeo()))


@pytest.mark.parametrize("token", ["<unk>", "<mask>"])
def test_a_missing_special_token_is_not_made_up(shared_data, tmp_path, token):
    content = json.loads((shared_data / "tokenizer" / "10k-tok" / "tokenizer.json").read_text())
    content["added_tokens"] = [added for added in content["added_tokens"] if added["content"] != token]
    content["model"]["vocab"].pop(token)
    folder = tmp_path / "tokenizer" / "10k-tok"
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(TinyTransformersError, match=f"tokenizer.json: lacks {token}"):
        tokenizer.load_tokenizer(tmp_path / tokenizer_file(Data()), RunConfig(model=GPTNeo()))
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(TinyTransformersError, match=r"tokenizer.json: is no tokenizer: .*Bring it again"):
        tokenizer.load_tokenizer(tmp_path / tokenizer_file(Data()), RunConfig(model=GPTNeo()))


@one_shape
def test_a_process_that_does_not_know_the_model_type_still_gets_the_tokenizer(work):
    tokenizer.run(work)
    code = (
        "import sys\n"
        "from transformers import AutoTokenizer\n"
        "tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=False)\n"  # None: it would ask
        "print(tokenizer('Once upon')['input_ids'])"
    )
    done = fresh.python(code, work.model_dir)
    assert done.stdout.strip() == "[1, 7454, 2402, 2]"


def test_without_a_model_there_is_nothing_to_add_to(shared_data, tmp_path):
    with pytest.raises(TinyTransformersError, match="holds no model"):
        tokenizer.run(Work(RunConfig(model=GPTNeo()), shared_data, tmp_path, tmp_path))


PAGES = "<page>\n\t<title>Caf\u00e9 \u2116 7</title>  it's 3\u00a0\u20ac \U0001d11e\r\n</page> <s> </s>\n" * 60


@pytest.fixture(params=["bytes", "characters"])
def stream_work(request, tmp_path):
    path = tmp_path / STREAMS["enwik8"]
    path.parent.mkdir()
    path.write_bytes(PAGES.encode())
    data = Data(corpus="enwik8", units=request.param)
    made = Work(RunConfig(model=Brainformer(), data=data), tmp_path, tmp_path / "cache", tmp_path)
    made.model_dir.mkdir()
    (made.model_dir / "config.json").write_text(json.dumps({"model_type": "not known here"}))
    return made


def read(work):
    return characters.read_stream(work.data_root / STREAMS["enwik8"], work.config.data.units, work.cache)


def test_a_fresh_process_gets_the_ids_of_the_stream_from_the_model_folder(stream_work):
    outcome = tokenizer.run(stream_work)
    (check,) = outcome.checks
    assert (check.name, check.passed, check.value) == ("tokenizer_reload", True, "50 of 50 parts are the same")
    stream = read(stream_work)
    assert outcome.data == {"char/enwik8.xml": stream.fingerprint}
    assert outcome.metrics == {"vocabulary": len(stream.vocabulary)}
    code = (
        "import json, sys\n"
        "from transformers import AutoTokenizer\n"
        "t = AutoTokenizer.from_pretrained(sys.argv[1])\n"
        "text = open(sys.argv[2], newline='', encoding='utf-8').read()\n"
        "batch = t(text)\n"
        "print(json.dumps([list(batch), batch['input_ids'], t.decode(batch['input_ids']) == text, len(t)]))"
    )
    done = fresh.python(code, stream_work.model_dir, stream.path)
    keys, ids, same, size = json.loads(done.stdout or done.stderr)
    assert keys == ["input_ids"]
    assert ids == stream.ids.tolist()
    assert same
    assert size == len(stream.vocabulary), "no token was added"


def test_a_unit_that_the_stream_has_not_is_refused_and_not_left_out(stream_work):
    tokenizer.run(stream_work)
    loaded = tokenizer.AutoTokenizer.from_pretrained(stream_work.model_dir)
    assert loaded("page")["input_ids"]
    with pytest.raises(Exception, match="<unk>"):
        loaded("page \u4e00")


def test_every_byte_has_a_token():
    every = tokenizer.of_units(list(range(256)), "bytes")
    text = "".join(map(chr, range(0x800))) + "\u20ac\U0001d11e"
    assert every(text)["input_ids"] == list(text.encode())


def test_a_reloaded_tokenizer_of_another_stream_fails_the_check(stream_work, monkeypatch):
    real = tokenizer.of_units
    monkeypatch.setattr(tokenizer, "of_units", lambda vocabulary, units: real(vocabulary[::-1], units))
    (check,) = tokenizer.run(stream_work).checks
    assert (check.passed, check.blocking) == (False, True)


def test_a_model_too_small_for_the_stream_is_refused(stream_work):
    stream_work.config = stream_work.config.model_copy(update={"model": Brainformer(vocab_size=9)})
    with pytest.raises(TinyTransformersError, match="the model has room for 9. Set model.vocab_size to"):
        tokenizer.run(stream_work)
