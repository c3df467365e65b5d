"""Where the texts of a step lie in rows without padding, and that a training by them is the padded one."""

import pytest
import torch
from trainings import curve, weights

from tiny_transformers.common.work import TinyTransformersError
from tiny_transformers.training import packing, pretrain
from tiny_transformers.training.packing import packs

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
PLAIN = {"dropout": 0.0}


@pytest.fixture
def ampere(monkeypatch):
    monkeypatch.setattr(packing, "has_tensor_cores", lambda device: device.type == "cuda")
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: True)


@pytest.mark.parametrize("family", ["gpt_neo", "llama"])
def test_a_training_in_rows_has_the_losses_of_the_padded_one(work, family):
    runs = {packed: work(family, str(packed), model=PLAIN, packed=packed) for packed in (False, True)}
    outcomes = {packed: pretrain.run(each) for packed, each in runs.items()}
    lines = [[record["loss"] for record in curve(each) if "loss" in record] for each in runs.values()]
    assert lines[0] == pytest.approx(lines[1], rel=1e-5)
    assert weights(runs[True]) != weights(runs[False])
    assert [outcomes[packed].metrics.get("packed") for packed in (False, True)] == [None, 1]


def test_on_a_cpu_texts_are_padded_unless_told_otherwise(work):
    assert [packs(work(model=PLAIN, packed=asked).config, CPU, "float32") for asked in (None, False, True)] == [
        False, False, True,
    ]  # fmt: skip


@pytest.mark.usefixtures("ampere")
def test_on_a_gpu_they_lie_in_rows_where_it_has_the_kernel(work):
    found = {
        (family, precision, asked): packs(work(family, model=PLAIN, packed=asked).config, GPU, precision)
        for family in ("gpt_neo", "llama", "roberta")
        for precision in ("bfloat16", "tf32", "float32")
        for asked in (None, False)
    }
    assert not packs(work(model=PLAIN).config, GPU, "bfloat16")  # until it has run on one
    assert {each for each, packed in found.items() if packed} == {
        ("gpt_neo", "bfloat16", None),
        ("llama", "bfloat16", None),
    }


@pytest.mark.usefixtures("ampere")
def test_a_torch_without_the_kernel_pads(work, monkeypatch):
    assert packs(work(model=PLAIN, packed=None).config, GPU, "bfloat16")
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: False)
    assert not packs(work(model=PLAIN, packed=None).config, GPU, "bfloat16")


@pytest.mark.usefixtures("ampere")
@pytest.mark.parametrize(
    ("family", "model", "device", "precision", "said"),
    [
        ("roberta", PLAIN, CPU, "float32", "only decoders of stories"),
        ("gpt_neo", {"dropout": 0.1}, CPU, "float32", "has no dropout"),
        ("gpt_neo", PLAIN, GPU, "float32", "needs bfloat16 and FlashAttention on an NVIDIA GPU"),
        ("gpt_neo", PLAIN | {"qk_size": 1040, "num_heads": 4}, GPU, "bfloat16", "heads of 260 numbers"),
    ],
)
def test_what_cannot_lie_in_rows_is_refused_where_it_is_asked_for(work, family, model, device, precision, said):
    with pytest.raises(TinyTransformersError, match=f"train.packed is true, and .*{said}"):
        packs(work(family, model=model, packed=True).config, device, precision)
    assert not packs(work(family, model=model, packed=None).config, device, precision)
