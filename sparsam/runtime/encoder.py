"""An encoder's layers in machine code: ``encoder.c``, products in 8-bit integers or in float32, a layer in two calls.

    mix    queries, keys, values and attention: what the heads mixed, and the attention each token received
    rest   output projection, norms and feed-forward part, of the tokens that go on

A product by itself is :class:`NativeProduct`, for layers that hold something the two calls do not know. Where there is no
compiler (:mod:`sparsam.native`) nothing of this is to be had, and :mod:`sparsam.runtime.integers` computes the same integers
with torch's operators.
"""

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn

from sparsam.attention.native import SOURCE as ATTENTION
from sparsam.models.integers import integers_of, scales_of
from sparsam.native import library
from sparsam.plan import Format

SOURCE = Path(__file__).with_name("encoder.c")
ACTIVATIONS = {"none": 0, "relu": 1, "gelu": 2, "gelu-tanh": 3}
"""Activations that the code applies itself, by their names in :data:`sparsam.runtime.product.FUSED`."""

POINTER, LONG, INT = ctypes.c_void_p, ctypes.c_long, ctypes.c_int
Norm = tuple[Tensor, Tensor, float]


@runtime_checkable
class Serves(Protocol):
    """A rule that also decides on host arrays, in a few microseconds a layer; the others are asked as in training."""

    def prunes(self, layer: int) -> bool:
        """Whether it can remove a token there."""
        ...

    def wants_scores(self, layer: int) -> bool:
        """Whether it looks at received attention."""
        ...

    def kept(
        self, layer: int, scores: Float[NDArray[Any], " t"] | None, starts: Int[NDArray[np.int64], " b1"]
    ) -> Bool[NDArray[Any], " t"]:
        """Which tokens go on. The first of each sequence does, whatever it says."""
        ...


class _Product(ctypes.Structure):
    _fields_ = [
        ("weight", POINTER), ("scale", POINTER), ("bias", POINTER), ("sums", POINTER),
        ("inputs", ctypes.c_int64), ("outputs", ctypes.c_int64), ("fixed", ctypes.c_int32), ("zero", ctypes.c_int32),
        ("step", ctypes.c_float), ("inverse", ctypes.c_float),
    ]  # fmt: skip


class _Norm(ctypes.Structure):
    _fields_ = [
        ("weight", POINTER), ("bias", POINTER), ("epsilon", ctypes.c_float), ("width", ctypes.c_int32),
    ]  # fmt: skip


class _Layer(ctypes.Structure):
    _fields_ = [
        ("mix", _Product), ("ask", _Product), ("out", _Product), ("up", _Product), ("down", _Product),
        ("attention", _Norm), ("ffn", _Norm), ("heads", ctypes.c_int32), ("width", ctypes.c_int32),
        ("pre_norm", ctypes.c_int32), ("activation", ctypes.c_int32), ("scale", ctypes.c_float), ("alone", ctypes.c_int32),
    ]  # fmt: skip


@lru_cache
def machine(*flags: str) -> ctypes.CDLL | None:
    """The compiled text; None where it cannot be had. The first call on a machine compiles for a few seconds."""
    found = library(SOURCE, [ATTENTION], flags)
    if found is None:
        return None
    for name, answer, arguments in (
        ("panels", LONG, [LONG, LONG, INT]),
        ("pack_integers", None, [POINTER] * 3 + [LONG] * 2),
        ("pack_floats", None, [POINTER] * 2 + [LONG] * 2),
        ("product", INT, [POINTER, POINTER, LONG, POINTER, LONG, POINTER, INT, INT]),
        ("mix", INT, [POINTER] * 3 + [INT] + [POINTER] * 4 + [INT]),
        ("rest", INT, [POINTER] * 5 + [LONG, INT]),
        ("layout", None, [POINTER] * 3),
    ):
        function = getattr(found, f"sparsam_{name}")
        function.restype, function.argtypes = answer, arguments
    return found


def layout(code: ctypes.CDLL) -> tuple[int, int, bool]:
    """Inputs of a group, numbers of a vector, and whether one instruction multiplies them."""
    found = [ctypes.c_int() for _ in range(3)]
    code.sparsam_layout(*map(ctypes.byref, found))
    return found[0].value, found[1].value, bool(found[2].value)


class NativeProduct:
    """Linear modules of one input as one product in panels: integers where a format is given, else float32.

    Args:
        linears: modules side by side; with a format their weights lie on the grids of their scales.
        form: the product's number format; None for float32.
        activation: a key of :data:`ACTIVATIONS`.
        code: the compiled text.
    """

    def __init__(
        self,
        linears: Sequence[nn.Linear],
        form: Format | None,
        activation: str = "none",
        code: ctypes.CDLL | None = None,
    ) -> None:
        found = machine() if code is None else code
        assert found is not None
        self.code, self.activation = found, ACTIVATIONS[activation]
        self.inputs = int(linears[0].weight.shape[1])
        self.outputs = sum(int(module.weight.shape[0]) for module in linears)
        biases: list[Tensor] = [
            torch.zeros(module.weight.shape[0]) if module.bias is None else module.bias for module in linears
        ]
        bias = _own(torch.cat(biases))
        size = found.sparsam_panels(self.inputs, self.outputs, form is not None)
        panels: NDArray[Any]
        if form is None:
            weight = _own(torch.cat([module.weight for module in linears]))
            panels = _aligned(size, np.float32)
            found.sparsam_pack_floats(weight.ctypes.data, panels.ctypes.data, self.inputs, self.outputs)
            self.kept: tuple[NDArray[Any], ...] = (panels, bias)
            fields: tuple[Any, ...] = (panels.ctypes.data, None, bias.ctypes.data, None)
        else:
            integers = np.ascontiguousarray(torch.cat([integers_of(module) for module in linears]).numpy())
            scales = _own(torch.cat([_scales(module) for module in linears]))
            panels, sums = _aligned(size, np.int8), np.zeros(self.outputs, np.int32)
            found.sparsam_pack_integers(
                integers.ctypes.data, panels.ctypes.data, sums.ctypes.data, self.inputs, self.outputs
            )
            self.kept = (panels, scales, bias, sums)
            fields = tuple(array.ctypes.data for array in self.kept)
        step, zero, fixed = 1.0, 0, form is not None and form.input == "tensor"
        if fixed and form is not None and form.scale is not None and form.zero is not None:
            step, zero = form.scale, form.zero
        inverse = float(np.float32(1.0) / np.float32(step))
        self.struct = _Product(*fields, self.inputs, self.outputs, int(fixed), zero, step, inverse)
        self.address = ctypes.addressof(self.struct)

    def __call__(
        self, x: Float[Tensor, "t i"], residual: Float[Tensor, "t o"] | None = None
    ) -> Float[Tensor, "t o"]:
        """Rows through the product, its activation, plus a residual."""
        x = x.contiguous()
        out = torch.empty(x.shape[0], self.outputs)
        more = None if residual is None else residual.contiguous()
        failed = self.code.sparsam_product(
            self.address, x.data_ptr(), self.inputs, out.data_ptr(), x.shape[0], None if more is None else more.data_ptr(),
            self.activation, torch.get_num_threads(),
        )  # fmt: skip
        if failed:
            raise MemoryError(f"a product of {x.shape[0]} tokens found no memory for their integers")
        return out


class NativeLayer:
    """A layer as the two calls take it. Holds its own copies of the weights.

    Args:
        parts: ``q``, ``k``, ``v``, ``o``, ``up`` and ``down``: linear modules.
        formats: of ``qkv``, ``o``, ``up``, ``down``; float32 where there is none.
        norms: ``attention_norm`` and ``ffn_norm``: weight, bias and epsilon.
        head_width: k.
        activation: a key of :data:`ACTIVATIONS`.
        pre_norm: norms in front of the halves, not behind them.
        alone: only each sequence's first token asks, and goes on.
        code: the compiled text.
    """

    def __init__(
        self,
        parts: dict[str, nn.Linear],
        formats: dict[Any, Format],
        norms: dict[str, Norm],
        head_width: int,
        activation: str,
        *,
        pre_norm: bool,
        alone: bool,
        code: ctypes.CDLL | None = None,
    ) -> None:
        qkv, q, k, v = formats.get("qkv"), parts["q"], parts["k"], parts["v"]
        mix = NativeProduct([k, v] if alone else [q, k, v], qkv, code=code)
        ask = NativeProduct([q], qkv, code=code) if alone else mix
        out, up, down = (
            NativeProduct([parts[role]], formats.get(role), code=code) for role in ("o", "up", "down")
        )
        self.width, self.inner = int(q.weight.shape[1]), int(q.weight.shape[0])
        self.heads = self.inner // head_width
        self.alone = alone
        self.side = mix.outputs
        self.code = mix.code
        norm_weights = [
            (role, _own(norms[role][0]), _own(norms[role][1])) for role in ("attention_norm", "ffn_norm")
        ]
        self.kept = (mix, ask, out, up, down, norm_weights)
        attention, ffn = (
            _Norm(weight.ctypes.data, bias.ctypes.data, norms[role][2], self.width)
            for role, weight, bias in norm_weights
        )
        products = (mix.struct, ask.struct, out.struct, up.struct, down.struct)
        self.struct = _Layer(
            *products, attention, ffn, self.heads, head_width, int(pre_norm), ACTIVATIONS[activation],
            head_width**-0.5, int(alone),
        )  # fmt: skip
        self.address = ctypes.addressof(self.struct)

    def mix(
        self,
        x: Float[Tensor, "t d"],
        starts: Int[NDArray[np.int64], " b1"],
        room: "Workspace",
        received: Float[NDArray[np.float32], " t"] | None = None,
    ) -> Float[NDArray[np.float32], " n"]:
        """What the heads mixed, of the tokens that ask: at the front of an array of ``room``, and until its next use.

        Args:
            x: states of packed tokens, float32.
            starts: where each sequence begins, and the end.
            room: of the encoder.
            received: where the attention each token received is written, if it is wanted.
        """
        t, b = x.shape[0], len(starts) - 1
        qkv = room.take("qkv", t * self.side + (b * self.inner if self.alone else 0))
        mixed = room.take("mixed", (b if self.alone else t) * self.inner)
        columns = None if received is None else room.take("columns", self.heads * t).ctypes.data
        failed = self.code.sparsam_mix(
            self.address, x.data_ptr(), starts.ctypes.data, b, qkv.ctypes.data, mixed.ctypes.data, columns,
            None if received is None else received.ctypes.data, torch.get_num_threads(),
        )  # fmt: skip
        if failed:
            raise MemoryError(f"a layer found no memory for {t} tokens")
        return mixed

    def rest(
        self,
        x: Float[Tensor, "t d"],
        mixed: Float[NDArray[np.float32], " n"],
        which: Int[NDArray[np.int32], " t2"] | None,
    ) -> Float[Tensor, "t2 d"]:
        """The states after the layer of the tokens that go on: rows of ``x``, all if ``which`` is None."""
        count = x.shape[0] if which is None else len(which)
        after = torch.empty(count, self.width)
        failed = self.code.sparsam_rest(
            self.address, x.data_ptr(), mixed.ctypes.data, None if which is None else which.ctypes.data,
            after.data_ptr(), count, torch.get_num_threads(),
        )  # fmt: skip
        if failed:
            raise MemoryError(f"a layer found no memory for {count} tokens")
        return after


class Workspace:
    """Room that the layers of one encoder share, grown as batches do. One thread at a time."""

    def __init__(self) -> None:
        self.held: dict[str, NDArray[np.float32]] = {}

    def take(self, name: str, count: int) -> NDArray[np.float32]:
        """At least ``count`` float32 numbers under a name, whatever they held."""
        found = self.held.get(name)
        if found is None or found.size < count:
            found = self.held[name] = np.empty(count + count // 4 + 64, np.float32)
        return found


def run(
    layers: Sequence[NativeLayer],
    x: Float[Tensor, "t d"],
    starts: Int[NDArray[np.int64], " b1"],
    rule: Serves | None,
    room: Workspace,
) -> Float[Tensor, "t2 d"]:
    """Through all layers; what is left of each sequence comes out, the first token alone where the last layer says so.

    Args:
        layers: in order; only the last one may be ``alone``, and it is not asked what to remove.
        x: states of packed tokens, float32.
        starts: where each sequence begins, and the end. Changed in place when tokens leave.
        rule: asked between the halves of a layer.
        room: of this encoder.
    """
    now, last = x.contiguous(), len(layers) - 1
    for index, layer in enumerate(layers):
        asked = rule is not None and index < last and rule.prunes(index)
        scored = asked and rule is not None and rule.wants_scores(index)
        received = np.empty(now.shape[0], np.float32) if scored else None
        mixed = layer.mix(now, starts, room, received)
        which: NDArray[np.int32] | None = None
        if layer.alone:
            which = starts[:-1].astype(np.int32)
        elif asked and rule is not None:
            keep = rule.kept(index, received, starts)
            if not keep.all():
                which = np.flatnonzero(keep).astype(np.int32)
                starts[1:] = np.cumsum(np.add.reduceat(keep, starts[:-1], dtype=np.int64))
        now = layer.rest(now, mixed, which)
    return now


def _own(x: Tensor) -> NDArray[np.float32]:
    """A copy that nobody changes."""
    found: NDArray[np.float32] = x.detach().float().contiguous().clone().numpy()
    return found


def _scales(module: nn.Module) -> Tensor:
    found = scales_of(module)
    assert found is not None
    return found


def _aligned(size: int, dtype: Any) -> NDArray[Any]:
    """Zeros that begin at a line of the cache."""
    width = np.dtype(dtype).itemsize
    held = np.zeros(size * width + 64, np.uint8)
    shift = -held.ctypes.data % 64
    return held[shift : shift + size * width].view(dtype)
