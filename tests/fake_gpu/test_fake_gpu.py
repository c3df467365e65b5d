"""What a GPU would be given to do, without one: fake_gpu.py. A model's work is looked at once, in another process."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from variants import PAIRS

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
EVERY = [*(f"{family} {variant}" for variant, family in PAIRS), "gpt_neo taught", "roberta taught", "gpt_neo pruned",
         *(f"brainformer {gate}" for gate in (
             "naive", "noisy", "gshard", "switch", "balanced", "hash", "random", "dense"))]  # fmt: skip
# One of each kind of layer: what differs in shapes or numbers only is among the longer tests.
CHOSEN = [
    "gpt_neo gelu",
    "gpt_neo taught",
    "roberta moe_k2",
    "llama kan",
    "llama pkm",
    "gpt_neo halting",
    "brainformer switch",
]
MODELS = [
    pytest.param(name, marks=() if name in CHOSEN else pytest.mark.longer, id=name.replace(" ", "-")) for name in EVERY
]
KNOWN = "_one_by_one", "ffn/kan.py", "cache_utils"  # in the places of what an evaluation may wait for, or copy, besides
ROW = 1.15  # launches with texts in a row / of a padded batch: a few small ones besides, for each layer
SPANS = "farthest"  # of a Brainformer's step, in the line that reads how far its heads look


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """guard.cc, compiled against the torch that is installed."""
    compiler = shutil.which("c++")
    if not compiler:
        pytest.skip("there is no C++ compiler here")
    import torch

    torch_folder, made = Path(torch.__file__).parent, tmp_path_factory.mktemp("guard") / "guard.so"
    options = ["-w", "-O0", "-shared", "-fPIC", "-std=c++20", f"-I{torch_folder}/include", f"-L{torch_folder}/lib"]
    linked = ["-lc10", "-ltorch_cpu", f"-Wl,-rpath,{torch_folder}/lib"]
    subprocess.run([compiler, *options, str(HERE / "guard.cc"), "-o", str(made), *linked], check=True)
    return made


@pytest.fixture(scope="module")
def looked(library, request):
    """By model and part, what was counted; of the models whose tests were asked for."""
    asked = [item.callspec.params.get("model") for item in request.session.items if hasattr(item, "callspec")]
    models = [name for name in EVERY if name in asked]
    command = [sys.executable, "-m", "tests.fake_gpu.steps", str(library), *models]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3_000:]
    records = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    found = {name: {} for name in models}
    for record in records:
        found[record["model"]][record["part"]] = record
    return found


@pytest.mark.parametrize("model", MODELS)
def test_a_training_step_waits_for_the_gpu_once(model, looked):
    """For the loss and the gradient's norm; a Brainformer with spans that change once more, for these."""
    waits = dict(looked[model]["step"]["waits"])
    spans = [place for place in waits if SPANS in place]
    assert len(spans) <= (1 if model.startswith("brainformer") else 0)
    assert sum(waits.values()) == 1 + len(spans), waits
    assert not looked[model]["step"]["pageable"]
    assert sum(looked[model]["validation"]["waits"].values()) == 1
    assert not looked[model]["validation"]["pageable"]


@pytest.mark.parametrize("model", MODELS)
def test_nothing_that_is_done_with_a_model_mixes_devices_or_types(model, looked):
    assert not [record["error"] for record in looked[model].values() if "error" in record]
    brainformer = model.startswith("brainformer")
    decoder = model.startswith(("gpt_neo", "llama"))
    training = {"move", "micro-batch", "step", "validation"} | ({"padded"} if decoder else set())
    own = {"bpc"} if brainformer else {"scores", "fine-tuning", "answers"}
    later = {"speed"} | own | ({"generation"} if decoder or brainformer else set())
    assert looked[model].keys() == training | (set() if model.endswith(("taught", "pruned")) else later)


@pytest.mark.parametrize("model", MODELS)
def test_an_evaluation_waits_for_the_gpu_once_and_fine_tuning_never(model, looked):
    """Whatever its batches are: for all results, at the end. Experts in float32 wait, for want of a kernel, and a KAN
    looks at its grid in its first pass; what transformers' cache begins with is not pinned."""
    allowed = {"scores": 1, "fine-tuning": 0, "answers": 1, "bpc": 1}
    for part in allowed.keys() & looked[model].keys():
        waits, copied = (
            {place: count for place, count in looked[model][part][kind].items() if not any(map(place.count, KNOWN))}
            for kind in ("waits", "pageable")
        )
        assert sum(waits.values()) == allowed[part], (part, waits)
        assert not copied, part


@pytest.mark.parametrize("model", [param for param in MODELS if param.values[0].startswith(("gpt_neo", "llama"))])
def test_texts_in_a_row_launch_little_more_than_a_padded_batch_and_are_computed_by_their_kernel(model, looked):
    assert looked[model]["micro-batch"]["kernels"] <= looked[model]["padded"]["kernels"] * ROW
    assert looked[model]["micro-batch"]["varlen"]
    assert not looked[model]["padded"]["varlen"]


def test_a_micro_batch_of_the_studies_decoder_launches_few_kernels(looked):
    """Two layers, as the studies' base model has; its widths change no number. It was 175, of loss and norms apart."""
    assert looked["gpt_neo gelu"]["padded"]["kernels"] <= 175
    assert looked["gpt_neo gelu"]["micro-batch"]["kernels"] <= 188
