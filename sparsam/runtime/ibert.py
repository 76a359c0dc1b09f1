"""An integer-only encoder in machine code: ``ibert.c``, the same integers as the reference's.

One call takes token ids through all layers. Where there is no compiler (:mod:`sparsam.native`) the reference runs.
"""

import ctypes
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Integer
from numpy.typing import NDArray
from torch import Tensor

from sparsam.attention.native import SOURCE as ATTENTION
from sparsam.errors import Usage
from sparsam.native import library
from sparsam.quantization.dyadic import Dyadic, limit
from sparsam.quantization.ibert import Norm
from sparsam.quantization.integer_only import IntegerEncoder, Layer, Product, Rows
from sparsam.runtime.encoder import SOURCE as PRODUCTS
from sparsam.runtime.encoder import layout

SOURCE = Path(__file__).with_name("ibert.c")
POINTER, LONG, INT, I64, I32 = ctypes.c_void_p, ctypes.c_long, ctypes.c_int, ctypes.c_int64, ctypes.c_int32
OCTAVE_BITS = 24
"""Bits below the point of 1 / ln 2's steps, by which octaves are counted; checked for every logit there is."""


class _Factor(ctypes.Structure):
    _fields_ = [("m", I32), ("e", I32)]


class _Product(ctypes.Structure):
    _fields_ = [
        ("weight", POINTER), ("bias", POINTER), ("m", POINTER), ("inputs", I64), ("outputs", I64), ("e", I32), ("end", I32),
    ]  # fmt: skip


class _Norm(ctypes.Structure):
    _fields_ = [
        ("g", POINTER), ("b", POINTER), ("eps", I64), ("e", I32), ("end", I32), ("out", _Factor), ("width", I32),
        ("spare", I32),
    ]  # fmt: skip


class _Gelu(ctypes.Structure):
    _fields_ = [("b", I32), ("c", I32), ("shift", I32), ("one", I32), ("out", _Factor)]


class _Layer(ctypes.Structure):
    _fields_ = [
        ("q", _Product), ("k", _Product), ("v", _Product), ("o", _Product), ("up", _Product), ("down", _Product),
        ("attention", _Norm), ("ffn", _Norm), ("table", POINTER), ("gelu", _Gelu), ("logits", _Factor), ("context", _Factor),
        ("o_residual", _Factor), ("ffn_residual", _Factor), ("heads", I32), ("width", I32),
    ]  # fmt: skip


class _Rows(ctypes.Structure):
    _fields_ = [("weight", POINTER), ("m", POINTER), ("e", I64)]


class _Encoder(ctypes.Structure):
    _fields_ = [
        ("words", _Rows), ("kinds", _Rows), ("positions", _Rows), ("sum", _Factor), ("norm", _Norm), ("layers", POINTER),
        ("count", I64), ("ln2", I32), ("b", I32), ("c", I32), ("lowest", I32), ("magic", I32), ("down", I32),
        ("probabilities", I32), ("spare", I32),
    ]  # fmt: skip


@lru_cache
def machine(*flags: str) -> ctypes.CDLL | None:
    """The compiled text; None where it cannot be had. The first call on a machine compiles for a few seconds."""
    found = library(SOURCE, [PRODUCTS, ATTENTION], flags)
    if found is None:
        return None
    for name, answer, arguments in (
        ("panels", LONG, [LONG, LONG, INT]),
        ("pack_integers", None, [POINTER] * 3 + [LONG] * 2),
        ("layout", None, [POINTER] * 3),
        ("ibert_room", LONG, [POINTER, LONG]),
        ("ibert", INT, [POINTER] * 5 + [INT, INT] + [POINTER] * 2 + [INT]),
    ):
        function = getattr(found, f"sparsam_{name}")
        function.restype, function.argtypes = answer, arguments
    return found


class NativeIntegers:
    """An integer-only encoder for this machine. Holds its own copy of the weights, laid out in panels.

    Args:
        encoder: the integers.
        code: the compiled text; this machine's if None, and the reference where there is none.
    """

    def __init__(self, encoder: IntegerEncoder, code: ctypes.CDLL | None = None) -> None:
        self.encoder, self.code = encoder, machine() if code is None else code
        self.scale = encoder.scale
        self.width = encoder.norm.g.shape[0]
        self.kept: list[Any] = []
        self.room: NDArray[np.uint8] = np.empty(0, np.uint8)
        if self.code is not None:
            self.group, _, _ = layout(self.code)
            self.struct = self._encoder(encoder)
            self.sizes = [
                0 if rows is None else len(rows.weight)
                for rows in (encoder.words, encoder.kinds, encoder.positions)
            ]

    def run(
        self,
        ids: Integer[Tensor, " t"],
        positions: Integer[Tensor, " t"],
        kinds: Integer[Tensor, " t"] | None,
        lengths: Integer[Tensor, " b"],
        *,
        alone: bool = False,
    ) -> Integer[Tensor, "t2 d"]:
        """As the reference's ``run``, on torch's threads. One call at a time."""
        code = self.code
        if code is None:
            return self.encoder.run(ids, positions, kinds, lengths, alone=alone)
        b, t = len(lengths), len(ids)
        starts = np.zeros(b + 1, np.int64)
        np.cumsum(lengths.numpy(), out=starts[1:])
        if int(starts[-1]) != t or (b and int(lengths.min()) < 1):
            raise Usage(
                f"lengths add up to the tokens, and each sequence has one at least; got {lengths[:4].tolist()} for {t} tokens.",
                code="empty-sequence",
            )
        of_kind = kinds if self.sizes[1] else None
        given = [
            None if x is None else np.ascontiguousarray(x.numpy(), np.int64)
            for x in (ids, of_kind, positions)
        ]
        for name, array, size in zip(
            ("a token id", "a token type", "a position"), given, self.sizes, strict=True
        ):
            if array is not None and t and (int(array.min()) < 0 or int(array.max()) >= size):
                raise Usage(
                    f"{name} lies in 0 to {size - 1}; got {int(array.min())} to {int(array.max())}.",
                    code="token-id",
                )
        out = np.empty((b if alone else t, self.width), np.int32)
        if not t:
            return torch.from_numpy(out)
        needed = code.sparsam_ibert_room(ctypes.addressof(self.struct), t) + 64
        if self.room.size < needed:
            self.room = np.empty(needed + needed // 4, np.uint8)
        start = self.room.ctypes.data + (-self.room.ctypes.data % 64)
        addresses = [None if x is None else x.ctypes.data for x in given]
        failed = code.sparsam_ibert(
            ctypes.addressof(self.struct), *addresses, starts.ctypes.data, b, int(alone), start, out.ctypes.data,
            torch.get_num_threads(),
        )  # fmt: skip
        if failed:
            raise MemoryError(f"an encoder found no memory for {t} tokens")
        return torch.from_numpy(out)

    # ---- Laying out ------------------------------------------------------------------------------------------------------

    def _keep(self, x: Tensor | NDArray[Any], dtype: Any) -> int:
        """The address of a copy that nobody changes."""
        held = np.array(x.numpy() if isinstance(x, Tensor) else x, dtype=dtype, order="C")
        self.kept.append(held)
        return int(held.ctypes.data)

    def _product(self, one: Product, bits: int) -> _Product:
        assert self.code is not None
        outputs, inputs = one.weight.shape
        size = self.code.sparsam_panels(inputs, outputs, 1)
        held = np.zeros(size + 64, np.int8)
        shift = -held.ctypes.data % 64
        panels, sums = held[shift : shift + size], np.zeros(outputs, np.int32)
        self.kept.append(held)
        rows = np.ascontiguousarray(one.weight.numpy())
        self.code.sparsam_pack_integers(
            rows.ctypes.data, panels.ctypes.data, sums.ctypes.data, inputs, outputs
        )
        offset = 128 if self.group == 4 else 0
        bias = one.bias.numpy().astype(np.int64) - offset * sums.astype(np.int64)
        wide = (outputs + 63) // 64 * 64
        padded, factors = np.zeros(wide, np.int32), np.zeros(wide, np.int32)
        padded[:outputs] = bias.astype(np.int32)  # modulo 2^32, as the sum it is added to
        factors[:outputs] = one.by.m.numpy()
        return _Product(
            int(panels.ctypes.data), self._keep(padded, np.int32), self._keep(factors, np.int32), inputs, outputs, one.by.e,
            limit(bits),
        )  # fmt: skip

    def _norm(self, one: Norm, out: Dyadic) -> _Norm:
        return _Norm(
            self._keep(one.g, np.int32), self._keep(one.b, np.int64), one.eps, one.e, limit(one.bits), _factor(out),
            one.g.shape[0], 0,
        )  # fmt: skip

    def _rows(self, one: Rows | None) -> _Rows:
        if one is None:
            return _Rows(None, None, 1)
        return _Rows(self._keep(one.weight, np.int8), self._keep(one.by.m, np.int32), one.by.e)

    def _layer(self, one: Layer) -> _Layer:
        entries: int | None = None
        gelu, hidden = _Gelu(0, 0, 0, 0, _Factor(0, 1)), 8
        if one.entries is not None:
            entries = self._keep(one.entries.numpy().astype(np.int64) + 128, np.uint8)
        elif one.gelu is not None and one.gelu_out is not None:
            gelu = _Gelu(one.gelu.b, one.gelu.c, one.gelu.shift, one.gelu.one, _factor(one.gelu_out))
            hidden = 16
        return _Layer(
            self._product(one.q, 8), self._product(one.k, 8), self._product(one.v, 8), self._product(one.o, 22),
            self._product(one.up, hidden), self._product(one.down, 22), self._norm(one.attention_norm, one.attention_out),
            self._norm(one.ffn_norm, one.ffn_out), entries, gelu, _factor(one.logits), _factor(one.context),
            _factor(one.o_residual), _factor(one.ffn_residual), len(one.q.weight) // one.head_width, one.head_width,
        )  # fmt: skip

    def _encoder(self, one: IntegerEncoder) -> _Encoder:
        layers = (_Layer * len(one.layers))(*(self._layer(layer) for layer in one.layers))
        self.kept.append(layers)
        exp = one.exp
        return _Encoder(
            self._rows(one.words), self._rows(one.kinds), self._rows(one.positions), _factor(one.sum_by),
            self._norm(one.norm, one.out), ctypes.addressof(layers), len(layers), exp.ln2, exp.b, exp.c, exp.lowest,
            octave(exp.ln2, -exp.lowest), OCTAVE_BITS, one.method.probabilities, 0,
        )  # fmt: skip


def octave(ln2: int, most: int) -> int:
    """What u / ln2 is multiplied by instead, below 2^31 and exact for every u up to ``most``."""
    magic = -(-(1 << OCTAVE_BITS) // ln2)
    u = torch.arange(most + 1)
    assert most * magic < 1 << 31
    assert torch.equal((u * magic) >> OCTAVE_BITS, torch.div(u, ln2, rounding_mode="floor"))
    return magic


def _factor(one: Dyadic) -> _Factor:
    return _Factor(int(one.m), one.e)
