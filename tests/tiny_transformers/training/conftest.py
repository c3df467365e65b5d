"""Small trainings on stories of a grammar, with a tokenizer of whole words."""

import json

import pytest
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import RobertaProcessing
from trainings import NOUNS, SPECIALS, TINY, VERBS, sentences

from tiny_transformers.common.work import Work
from tiny_transformers.settings import architecture, config
from tiny_transformers.settings.config import RunConfig, Train


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Data in the layout of DATA_ROOT: 40 and 12 stories, a tokeniser of whole words."""
    root = tmp_path_factory.mktemp("data")
    for file, count, seed in ((config.TRAIN_STORIES, 40, 1), (config.VALIDATION_STORIES, 12, 2)):
        (root / file).parent.mkdir(exist_ok=True)
        (root / file).write_text("".join(json.dumps({"text": text}) + "\n" for text in sentences(count, seed)))
    words = [*SPECIALS, "the", ".", *NOUNS, *VERBS, "<mask>"]
    tokenizer = Tokenizer(WordLevel({word: id for id, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in [*SPECIALS, "<mask>"]])
    tokenizer.post_processor = RobertaProcessing(("</s>", 2), ("<s>", 1))
    folder = root / "tokenizer/10k-tok"
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return root


@pytest.fixture
def work(root, tmp_path):
    """A function: settings -> the work of a run folder; the same folder for the same name."""

    def make(family="gpt_neo", name="run", model=(), seed=42, **train):
        settings = {"max_steps": 6, "stories_per_step": 8, "micro_batch_tokens": 100, "evaluations": 2}
        settings |= {"precision": "float32"} | train
        sizes = TINY | dict(model)
        own = {"gpt_neo": {"window_size": 4, "dropout": 0.1}, "llama": {"dropout": 0.1}}
        built = architecture.FAMILIES[family](**own.get(family, {}) | sizes)
        run_config = RunConfig(
            model=built,
            train=Train(**settings),
            data={"max_length": 30},
            evaluation={"superglue": {"max_length": 30}},
            seed=seed,
        )
        return Work(config=run_config, data_root=root, cache=tmp_path / "cache", run_dir=tmp_path / name)

    return make
