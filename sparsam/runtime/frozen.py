"""The packed encoder for inference alone: one layer's parts as prepacked products."""

import copy
import ctypes
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from sparsam.attention import native
from sparsam.models.encoder import Block, Linear, Stack, call
from sparsam.models.lift import RelativeBias
from sparsam.packed import Packed
from sparsam.runtime.encoder import NativeLayer, Norm, Serves, Workspace, layout, machine, run
from sparsam.runtime.integers import product_of
from sparsam.runtime.product import activation_name


class FrozenBlock(Block):
    """A layer on copies of its weights: q, k and v in one product, activation and residual in the others'.

    How its halves go is the block's own; gradients, dropout and hooks have no place here.
    """

    def __init__(self, block: Block, dtype: torch.dtype, last: bool) -> None:
        self.family, self.left = block.family, block.left
        q, k, v, o, up, down = (block.part(role) for role in ("q", "k", "v", "o", "up", "down"))
        formats = block.left.formats
        self.head_width = int(block.part("head_width"))
        # In the last layer not every token asks.
        self.q = product_of([q], formats.get("qkv"), dtype) if last else None
        self.mix = product_of([k, v] if last else [q, k, v], formats.get("qkv"), dtype)
        self.out = {
            "attention": product_of([o], formats.get("o"), dtype),
            "ffn": product_of([down], formats.get("down"), dtype),
        }
        act = block.part("act")
        name = activation_name(act)
        self.act = None if name is not None else act
        self.up = product_of([up], formats.get("up"), dtype, name or "none")
        self.norms = {role: _norm(block.part(role), dtype) for role in ("attention_norm", "ffn_norm")}

    @property
    def hooks(self) -> bool:
        """Nobody looks at a frozen layer."""
        return False

    @property
    def recomputes(self) -> bool:
        """There are no gradients."""
        return False

    def check(self) -> None:
        """Nobody can hang a hook here."""

    def dropout(self, role: str) -> float:
        """None."""
        return 0.0

    def attend_single(self, *args: Any, **kwargs: Any) -> Tensor:
        """Attention of one query a sequence."""
        return native.attend_single(*args, **kwargs)

    def attend_packed(
        self, x: Float[Tensor, "t d"], starts: Int[NDArray[np.int64], " b1"], *, scores: bool, alone: bool
    ) -> tuple[Float[Tensor, "t2 d"], Float[Tensor, " t"] | None]:
        """The attention half by the native kernel: new states of all tokens, or of each sequence's first ``alone``."""
        inner = self.norm("attention_norm", x) if self.family.pre_norm else x
        first = torch.from_numpy(starts[:-1])
        kept, asking = (x.index_select(0, first), inner.index_select(0, first)) if alone else (x, inner)
        q, k, v = self.projected(asking, inner, call)
        if v.shape[1]:
            scale = q.shape[2] ** -0.5
            mixed, received = native.attend_packed(q, k, v, starts, scale=scale, scores=scores, alone=alone)
        else:
            mixed, received = q, v.new_ones(v.shape[0], dtype=torch.float32)  # no heads: nobody is preferred
        summed = self.added("attention", kept, mixed.flatten(1), call)
        return (summed if self.family.pre_norm else self.norm("attention_norm", summed)), received

    def norm(self, role: str, x: Float[Tensor, "t d"]) -> Float[Tensor, "t d"]:
        """One of the two norms."""
        weight, bias, eps = self.norms[role]
        return F.layer_norm(x, weight.shape, weight, bias, eps)

    def projected(
        self, asking: Float[Tensor, "t2 d"], inner: Float[Tensor, "t d"], linear: Linear
    ) -> tuple[Float[Tensor, "t2 h k"], Float[Tensor, "t h k"], Float[Tensor, "t h k"]]:
        """Queries of the tokens that ask, keys and values of all."""
        mixed = self.mix(inner)
        parts = mixed.chunk(3, 1) if self.q is None else (self.q(asking), *mixed.chunk(2, 1))
        heads = parts[0].shape[1] // self.head_width
        q, k, v = (part.view(part.shape[0], heads, self.head_width) for part in parts)
        return q, k, v

    def hidden(self, inner: Float[Tensor, "t d"], linear: Linear) -> Float[Tensor, "t f"]:
        """The filters' answers."""
        found = self.up(inner)
        return found if self.act is None else self.act(found)

    def added(
        self, half: str, residual: Float[Tensor, "t d"], x: Float[Tensor, "t a"], linear: Linear
    ) -> Float[Tensor, "t d"]:
        """The output product of a half and the residual, in one pass."""
        return self.out[half](x, residual=residual)


def _starts(lengths: Int[Tensor, " b"]) -> Int[NDArray[np.int64], " b1"]:
    """Where each sequence begins, and the end."""
    starts = np.zeros(lengths.shape[0] + 1, np.int64)
    np.cumsum(lengths.numpy(), out=starts[1:])
    return starts


def _norm(module: Any, dtype: torch.dtype) -> Norm:
    return module.weight.detach().to(dtype), module.bias.detach().to(dtype), float(module.eps)


def code_for(stack: Stack, dtype: torch.dtype, integers: bool) -> ctypes.CDLL | None:
    """What serves a stack's layers in two calls each; None where they do not have what it needs, or are not the faster way.

    Products in integers always go there, and float32, where products are as fast as oneDNN's and the calls around them are
    saved; bfloat16 is oneDNN's (docs/decisions/0014-machine-code.md).
    """
    code = machine()
    if code is None or stack.bias is not None or stack.family.protected != 1:
        return None
    if stack.rule is not None and not isinstance(stack.rule, Serves):
        return None
    if not integers and (dtype != torch.float32 or not layout(code)[2]):
        return None
    return code if all(activation_name(block.part("act")) is not None for block in stack.blocks) else None


def native_layer(block: Block, code: ctypes.CDLL, *, alone: bool) -> NativeLayer:
    """One layer for the two calls; its activation is one that :func:`code_for` knows."""
    return NativeLayer(
        {role: block.part(role) for role in ("q", "k", "v", "o", "up", "down")},
        dict(block.left.formats),
        {role: _norm(block.part(role), torch.float32) for role in ("attention_norm", "ffn_norm")},
        int(block.part("head_width")),
        activation_name(block.part("act")) or "none",
        pre_norm=block.family.pre_norm,
        alone=alone,
        code=code,
    )


def native_layers(stack: Stack, dtype: torch.dtype) -> list[NativeLayer] | None:
    """A stack's layers for the two calls; None where :func:`code_for` has nothing for them."""
    code = code_for(stack, dtype, any(left.formats for left in stack.left))
    if code is None:
        return None
    last = len(stack.left) - 1
    return [native_layer(block, code, alone=index == last) for index, block in enumerate(stack.blocks)]


class FrozenStack(Stack):
    """A stack of frozen blocks; only what the head reads comes out."""

    def __init__(self, stack: Stack, dtype: torch.dtype) -> None:
        super().__init__(stack.family, stack.holder, stack.left)
        last = len(stack.left) - 1
        self.layers = native_layers(stack, dtype)
        """In machine code, two calls a layer, where this machine and this model have it so; the blocks then are not made."""
        self.room = Workspace()
        self.frozen: list[FrozenBlock] = [
            FrozenBlock(block, dtype, index == last)
            for index, block in enumerate(stack.blocks if self.layers is None else ())
        ]
        self.holder = self  # the user's layers are not needed any more
        self.rule, self.bias = stack.rule, copy.copy(stack.bias)
        if isinstance(self.bias, RelativeBias):  # its table alone, not the encoder around it
            self.bias.encoder = SimpleNamespace(
                relative_attention_bias=self.bias.encoder.relative_attention_bias
            )
        self.head_alone = True
        self.attend = native.attend

    def read(self, tokens: Packed) -> Float[Tensor, "b p d"]:
        """The protected tokens' last states: by the native kernel where it is to be had, else as in training."""
        if self.layers is not None:
            return self.in_two_calls(tokens.values, tokens.lengths)
        b, d, rule = tokens.lengths.shape[0], tokens.values.shape[1], self.rule
        usual = self.bias is not None or self.family.protected != 1
        if usual or native.kernel() is None or not (rule is None or isinstance(rule, Serves)):
            survivors, _ = self.run(tokens)
            return survivors.values.view(b, -1, d)
        x, last, starts = tokens.values, len(self.frozen) - 1, _starts(tokens.lengths)
        for index, block in enumerate(self.frozen):
            asked = rule is not None and index < last and rule.prunes(index)
            wanted = asked and rule is not None and rule.wants_scores(index)
            x, scores = block.attend_packed(x, starts, scores=wanted, alone=index == last)
            if asked and rule is not None:
                keep = rule.kept(index, None if scores is None else scores.numpy(), starts)
                if not keep.all():
                    x = x.index_select(0, torch.from_numpy(np.flatnonzero(keep)))
                    starts[1:] = np.cumsum(np.add.reduceat(keep, starts[:-1], dtype=np.int64))
            x = block.ffn(x, linear=call)
        return x.view(b, 1, d)

    def in_two_calls(self, x: Float[Tensor, "t d"], lengths: Int[Tensor, " b"]) -> Float[Tensor, "b 1 d"]:
        """:meth:`read` in machine code, two calls a layer."""
        assert self.layers is not None
        assert self.rule is None or isinstance(self.rule, Serves)
        states = run(self.layers, x, _starts(lengths), self.rule, self.room)
        return states.view(lengths.shape[0], 1, x.shape[1])

    def own_layers(self) -> Sequence[nn.Module]:
        """None: their weights were copied."""
        return []

    @property
    def blocks(self) -> list[Block]:
        """The frozen blocks."""
        return list(self.frozen)


class FrozenEncoder(nn.Module):
    """Takes the encoder's place in a model that is given one long row of packed tokens; gives back the protected ones."""

    def __init__(self, stack: FrozenStack) -> None:
        super().__init__()
        self.stack = stack
        self.tokens: Packed | None = None
        """Which sequences the next row is made of; its values are not looked at."""

    def forward(self, hidden_states: Float[Tensor, "1 t d"], *args: Any, **kwargs: Any) -> Any:
        """Packed states (1, t, d) in, the protected tokens' last states (b, p, d) out."""
        x = self.packed(hidden_states)
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=x)

    def packed(self, hidden_states: Tensor) -> Float[Tensor, "b p d"]:
        """Through the stack."""
        assert self.tokens is not None
        tokens = self.tokens.with_values(hidden_states.flatten(0, 1))
        return self.stack.read(tokens)


class FrozenLayers(nn.ModuleList):
    """Takes the place of a list of layers that the base model iterates over."""

    encoder: FrozenEncoder

    def __iter__(self) -> Any:
        yield lambda hidden_states, *args, **kwargs: self.encoder.packed(hidden_states)
