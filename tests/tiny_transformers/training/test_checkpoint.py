import json

import fresh
import pytest
import torch

from tiny_transformers.training import checkpoint
from tiny_transformers.training.checkpoint import MODEL, OPTIMIZER, STATE


def training(seed=0, steps=3):
    """A small model and its optimizer after some steps; two of its parameters are one."""
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    model[1].weight = model[0].weight
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    for _ in range(steps):
        step(model, optimizer)
    return model, optimizer


def step(model, optimizer):
    optimizer.zero_grad()
    model(torch.arange(4.0)).square().sum().backward()
    optimizer.step()


def write(root, number, seed=0):
    checkpoint.write(root, number, *training(seed), {"step": number})


def names(root):
    return sorted(path.name for path in root.iterdir())


def test_restored_training_goes_on_bit_for_bit(tmp_path):
    model, optimizer = training()
    checkpoint.write(tmp_path, 3, model, optimizer, {"step": 3, "loss": 0.1})
    other_model, other_optimizer = training(seed=1, steps=0)
    found = checkpoint.read_newest(tmp_path)
    checkpoint.restore(found, other_model, other_optimizer)
    for _ in range(3):
        step(model, optimizer)
        step(other_model, other_optimizer)
    assert found.state == {"step": 3, "loss": 0.1}
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other_model.parameters(), strict=True))


def test_only_the_newest_two_are_kept(tmp_path):
    for number in (5, 10, 15):
        write(tmp_path, number)
    assert names(tmp_path) == ["step-00000010", "step-00000015"]


def test_no_checkpoint_is_no_error(tmp_path):
    assert checkpoint.read_newest(tmp_path / "checkpoints") is None


def flip_a_bit(file):
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


SPOIL = {
    "truncated": lambda file: file.write_bytes(file.read_bytes()[:-10]),
    "empty": lambda file: file.write_bytes(b""),
    "flipped": flip_a_bit,
    "gone": lambda file: file.unlink(),
}


@pytest.mark.parametrize("file", [MODEL, OPTIMIZER, STATE])
@pytest.mark.parametrize("damage", SPOIL)
def test_damaged_newest_falls_back_to_the_one_before_and_says_so(tmp_path, capsys, file, damage):
    write(tmp_path, 5)
    write(tmp_path, 10)
    SPOIL[damage](tmp_path / "step-00000010" / file)
    assert checkpoint.read_newest(tmp_path).state == {"step": 5}
    assert "step-00000010 is damaged" in capsys.readouterr().out


def test_all_damaged_is_none(tmp_path):
    write(tmp_path, 5)
    (tmp_path / "step-00000005" / STATE).write_text(json.dumps([]))
    assert checkpoint.read_newest(tmp_path) is None


def test_damaged_checkpoint_is_replaced_by_the_same_step(tmp_path):
    write(tmp_path, 5)
    (tmp_path / "step-00000005" / STATE).unlink()
    write(tmp_path, 5, seed=1)
    assert checkpoint.read_newest(tmp_path).state == {"step": 5}


KILLED = """
import os, pathlib, signal, sys
import torch
from tiny_transformers.training import checkpoint

write_bytes = pathlib.Path.write_bytes

def killed(self, data):
    if self.name == checkpoint.OPTIMIZER:
        os.kill(os.getpid(), signal.SIGKILL)  # the weights are written, the optimizer's state is not
    return write_bytes(self, data)

pathlib.Path.write_bytes = killed
model = torch.nn.Linear(2, 2)
checkpoint.write(pathlib.Path(sys.argv[1]), 10, model, torch.optim.AdamW(model.parameters()), {"step": 10})
"""


def test_kill_between_two_files_leaves_the_checkpoint_before(tmp_path):
    write(tmp_path, 5)
    done = fresh.python(KILLED, tmp_path)
    assert done.returncode == -9, done.stderr
    (draft,) = (path for path in tmp_path.iterdir() if path.name.startswith("."))
    assert [path.name for path in draft.iterdir()] == [MODEL]
    assert checkpoint.read_newest(tmp_path).state == {"step": 5}
    checkpoint.remove_drafts(tmp_path)
    assert names(tmp_path) == ["step-00000005"]
