import json

import pytest
import torch
from longer import longer
from variants import perturb, small, tokens

from tiny_transformers.common.work import Work
from tiny_transformers.models import auto
from tiny_transformers.settings.config import RunConfig
from tiny_transformers.training.pretrain import Training

LENGTH = 64  # tokens a story is cut at, and padded to by Trainer
STEPS = 30


def test_the_trainers_decoder_has_hugging_faces_attention_and_its_mask():
    pytest.importorskip("accelerate", reason="Hugging Face's Trainer needs it")
    import padded_trainer

    theirs, ours = (
        padded_trainer.build(small("gpt_neo", "gelu"), seed=1).eval(),
        auto.build(small("gpt_neo", "gelu"), 1),
    )
    perturb(theirs)
    ours.load_state_dict(theirs.state_dict())
    text = tokens(rows=2, length=10)
    mask = torch.ones_like(text)
    mask[0, :4] = 0  # on the left, where it is seen
    found, expected = (model(text, attention_mask=mask).logits[mask.bool()] for model in (theirs, ours.eval()))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("variant", "family"),
    [
        ("gelu", "gpt_neo"),
        ("gelu", "roberta"),
        ("swiglu", "llama"),
        ("kan", "roberta"),
        longer("learnable_geglu", "gpt_neo"),
        longer("cycle2", "roberta"),
    ],
)
def test_thirty_steps_are_those_of_hugging_face_trainer_on_padded_stories(
    builtin_root, builtin_cache, tmp_path, family, variant
):
    pytest.importorskip("accelerate", reason="Hugging Face's Trainer needs it")
    import padded_trainer

    model = small(family, variant, vocab_size=1_000, max_position_embeddings=LENGTH + 1, dropout=0.0)
    settings = {"max_steps": STEPS, "stories_per_step": 4, "micro_batch_tokens": 100, "learning_rate": 5e-3}
    run = RunConfig(
        model=model,
        train=settings | padded_trainer.FLOAT32,
        data={"source": "builtin", "max_length": LENGTH},
        evaluation={"superglue": {"max_length": LENGTH}},
    )
    training = Training(Work(run, data_root=builtin_root, cache=builtin_cache, run_dir=tmp_path))
    for _ in range(STEPS):
        training._step()
    ours = [json.loads(line)["loss"] for line in (tmp_path / "curve.jsonl").read_text().splitlines()]
    theirs = padded_trainer.losses(training, tmp_path, length=LENGTH, micro_batches=2)
    assert ours[-1] < 0.7 * ours[0]
    assert ours == pytest.approx(theirs, rel=1e-5)
