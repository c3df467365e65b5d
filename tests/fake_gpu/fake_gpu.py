"""A pretended A100 in any build of torch, in a process of its own: shapes, types and devices are real, and nothing is
computed.

Tensors of device cuda:0 are torch's fake ones. Under `Launches` every ATen operation on them is counted: what would
launch a kernel, what would make the host wait for the GPU, what would be copied from memory that is not pinned. An
operation on tensors of two devices, or of types that do not fit, raises as it would on a GPU. Autograd asks a device
for a guard and for its context: guard.cc has both, and is loaded before torch.

What only the GPU itself decides is pretended: which kernel computes attention, and what a value is that the host waits
for (1; a mask's True)."""

from __future__ import annotations

import ctypes
import gc
import sys
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

GUARD = ctypes.CDLL(sys.argv[1], ctypes.RTLD_GLOBAL)
gc.disable()  # until all is imported, which takes a seventh longer with it

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_leaves, tree_map_only  # noqa: E402

GUARD.take_guard()
GPU = torch.device("cuda", 0)
ATEN = torch.ops.aten
NAME = "NVIDIA A100-SXM4-80GB"
# They make no new values: views, and memory that is not written.
FREE = {
    "alias", "detach", "empty", "empty_like", "empty_strided", "lift_fresh", "new_empty", "new_empty_strided",
    "resize_", "set_", "_unsafe_view", "_reshape_alias",
}  # fmt: skip
DATA_DEPENDENT = {"nonzero", "_unique2", "unique_dim", "unique_consecutive", "masked_select", "equal"}
INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}


class Launches(TorchDispatchMode):
    """Counts operations: `kernels` by name; `waits` and `pageable`, copies of memory that is not pinned, by place."""

    def __init__(self, fake: FakeTensorMode) -> None:
        super().__init__()
        self.fake = fake
        self.kernels: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self.pageable: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        (space, name), kwargs = func._schema.name.split("::"), kwargs or {}
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        on_gpu = any(tensor.is_cuda for tensor in given)
        if on_gpu and name == "_local_scalar_dense":
            self.waits[f"item {_place()}"] += 1
            return args[0].dtype.is_floating_point * 1.0 or 1
        if on_gpu and name in DATA_DEPENDENT:
            self.waits[f"{name} {_place()}"] += 1
            return self._pretended(name, args[0])
        if on_gpu and name in INDEXED:
            args = (args[0], [at for index in args[1] for at in self._positions(name, index)], *args[2:])
        if name in ("_to_copy", "copy_"):
            self._copied(name, args, kwargs)
        if name != "lift_fresh":  # of real ones: what torch.tensor has just made
            args, kwargs = tree_map_only(Tensor, self._faked, (args, kwargs))
        if name == "_to_copy" and torch.device(kwargs.get("device") or "cpu").type == "cuda":
            args[0].constant = None  # a value that torch knows it would copy in earnest
        made = func(*args, **kwargs)
        free = space == "prim" or name in FREE or _is_view(func)
        if not free and (on_gpu or any(_on_gpu(leaf) for leaf in tree_leaves(made))):
            self.kernels[name] += 1
        return made

    def _faked(self, tensor: Tensor) -> Tensor:
        return tensor if isinstance(tensor, FakeTensor) else self.fake.from_tensor(tensor)

    def _pretended(self, name: str, tensor: Tensor) -> Any:
        if name == "equal":
            return True
        if name == "nonzero":  # all are
            return tensor.new_empty((tensor.numel(), tensor.ndim), dtype=torch.long)
        if name == "masked_select":
            return tensor.new_empty(tensor.numel())
        return tensor.new_empty(tensor.numel()), torch.empty_like(tensor, dtype=torch.long), tensor.new_empty(0)

    def _positions(self, name: str, index: Tensor | None) -> list[Tensor | None]:
        """A mask as an index is a hidden `nonzero`; an index on the host is copied, unpinned."""
        if index is None:
            return [None]
        if index.dtype in (torch.bool, torch.uint8):
            self.waits[f"{name} by a mask {_place()}"] += 1
            return [torch.empty(index.numel(), dtype=torch.long, device=index.device)] * index.ndim
        if not index.is_cuda and index.ndim:
            self.pageable[f"{name} by an index on the host {_place()}"] += 1
        return [index]

    def _copied(self, name: str, args: Any, kwargs: Any) -> None:
        if name == "copy_":
            target, source, asynchronous = args[0].device, args[1], kwargs.get("non_blocking", (*args, False)[2])
        else:
            source, asynchronous = args[0], kwargs.get("non_blocking", False)
            target = torch.device(kwargs.get("device") or source.device)
        if source.is_cuda and target.type == "cpu":
            self.waits[f"to the host {_place()}"] += 1
        if not source.is_cuda and target.type == "cuda" and not (asynchronous and _pinned(source)):
            self.pageable[f"{name} {_place()}"] += 1


def _pinned(tensor: Tensor) -> bool:
    return getattr(tensor, "is_pinned_here", False)


def _on_gpu(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_cuda


def _is_view(func: Any) -> bool:
    alias = func._schema.returns and func._schema.returns[0].alias_info
    return bool(alias and not alias.is_write)


def is_ours(file: str) -> bool:
    return "/tiny_transformers/" in file and "site-packages" not in file


def _place() -> str:
    """Which line of ours an operation is of, and which of transformers below it."""
    below = ""
    for frame in reversed(traceback.extract_stack()):
        if is_ours(frame.filename):
            return f"{frame.filename.rpartition('/tiny_transformers/')[2]}:{frame.lineno} {frame.line}{below}"
        if "/transformers/" in frame.filename and not below:
            below = f" < {frame.filename.rpartition('/transformers/')[2]}:{frame.lineno}"
    return f"elsewhere{below}"


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **_: Any,
) -> Tensor:
    """scaled_dot_product_attention by the kernel that an A100 would take: flash without a mask, else the one that saves
    memory, which has float16's alignment."""
    if not query.is_cuda:
        return _ON_CPU(query, key, value, attn_mask, dropout_p, is_causal, scale=scale)
    if torch.is_autocast_enabled("cuda"):
        query, key, value = (each.to(torch.get_autocast_dtype("cuda")) for each in (query, key, value))
    if not query.dtype == key.dtype == value.dtype:
        raise RuntimeError(f"query, key and value are {query.dtype}, {key.dtype}, {value.dtype}")
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill(~attn_mask, -torch.inf)
    if attn_mask is not None and torch.is_autocast_enabled("cuda"):
        attn_mask = attn_mask.to(query.dtype)
    if attn_mask is not None and (attn_mask.dtype != query.dtype or attn_mask.device != query.device):
        raise RuntimeError(f"the mask is {attn_mask.dtype} on {attn_mask.device}, the query {query.dtype}")
    aligned = query.shape[-1] % 8 == 0 == value.shape[-1] % 8
    if attn_mask is None and aligned and query.dtype != torch.float32 and query.shape[-1] == value.shape[-1]:
        return ATEN._scaled_dot_product_flash_attention(query, key, value, dropout_p, is_causal, scale=scale)[0]
    if aligned:
        shape = *query.shape[:3], key.shape[2]
        bias = None if attn_mask is None else attn_mask.expand(shape)
        grad = query.requires_grad and torch.is_grad_enabled()
        return ATEN._scaled_dot_product_efficient_attention(
            query, key, value, bias, grad, dropout_p, is_causal, scale=scale
        )[0]
    return ATEN._scaled_dot_product_attention_math(query, key, value, attn_mask, dropout_p, is_causal, scale=scale)[0]


_ON_CPU, _MAKE = F.scaled_dot_product_attention, torch.tensor


def _tensor(data: Any, *, device: Any = None, **options: Any) -> Tensor:
    """torch.tensor, which makes a tensor of the GPU by itself, beside the modes."""
    made = _MAKE(data, **options)
    return made if device is None else made.to(device)


def _as_numpy(tensor: Tensor) -> Any:
    if tensor.is_cuda:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")
    return np.ones(tensor.shape, dtype=str(tensor.dtype).removeprefix("torch."))


def _pin(tensor: Tensor) -> Tensor:
    tensor.is_pinned_here = True
    return tensor


@contextmanager
def _no_grad(mode: bool = True) -> Iterator[None]:
    """In place of torch.inference_mode, which fake tensors do not have."""
    with torch.set_grad_enabled(torch.is_grad_enabled() and not mode):
        yield


@contextmanager
def pretended() -> Iterator[None]:
    """Let torch and transformers see an A100."""
    from transformers import masking_utils

    with ExitStack() as stack:
        for owner, name, value in (
            (torch.cuda, "is_available", lambda: True),
            (torch.cuda, "is_initialized", lambda: True),
            (torch.cuda, "is_bf16_supported", lambda including_emulation=True: True),  # noqa: ARG005
            (torch.cuda, "get_device_capability", lambda _=None: (8, 0)),
            (torch.cuda, "get_device_name", lambda _=None: NAME),
            (torch.cuda, "is_current_stream_capturing", lambda: False),
            (torch.cuda, "synchronize", lambda _=None: None),
            (torch.backends.cuda, "is_flash_attention_available", lambda: True),
            (torch.version, "cuda", "13.0"),
            (torch, "inference_mode", _no_grad),
            (torch, "tensor", _tensor),
            (F, "scaled_dot_product_attention", _attention),
            (Tensor, "pin_memory", _pin),
            (FakeTensor, "numpy", _as_numpy),
            (FakeTensor, "tolist", lambda tensor: _as_numpy(tensor.cpu()).tolist()),
            (masking_utils, "is_tracing", lambda _=None: False),  # as it is of tensors that are no fakes of torch's
        ):
            stack.enter_context(mock.patch.object(owner, name, value))
        yield


def moved(model: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
    """The model, with parameters and buffers on the GPU, those that are shared still shared; of another type, if it is
    given. In fake mode, where `to` cannot do it."""
    known: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                there = torch.empty(parameter.shape, dtype=dtype or parameter.dtype, device=GPU)
                known.setdefault(id(parameter), nn.Parameter(there, requires_grad=parameter.requires_grad))
                module._parameters[name] = known[id(parameter)]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(
                    buffer.shape, dtype=dtype if dtype and buffer.is_floating_point() else buffer.dtype, device=GPU
                )
    return model
