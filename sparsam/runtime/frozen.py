"""The packed encoder for inference alone: one layer's parts as prepacked products."""

import copy
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from sparsam.attention.single import attend_single
from sparsam.attention.softmax import Attend, PairBias
from sparsam.models.encoder import Block, Linear, Stack
from sparsam.models.lift import RelativeBias
from sparsam.packed import Packed
from sparsam.plan import LayerPlan
from sparsam.runtime.product import Product, activation_name

Norm = tuple[Tensor, Tensor, float]


class FrozenBlock:
    """A layer's two halves on copies of its weights: q, k and v in one product, activation and residual in the others'.

    It answers where :class:`~sparsam.models.encoder.Block` does; gradients, dropout and hooks have no place here.
    """

    hooks = False
    recomputes = False

    def __init__(self, block: Block, dtype: torch.dtype, last: bool) -> None:
        self.left: LayerPlan = block.left
        self.pre_norm = block.family.pre_norm
        q, k, v, o, up, down = (block.part(role) for role in ("q", "k", "v", "o", "up", "down"))
        self.head_width = int(block.part("head_width"))
        self.q = Product.of([q], dtype) if last else None  # the last layer asks for the class token alone
        self.mix = Product.of([k, v] if last else [q, k, v], dtype)
        self.o = Product.of([o], dtype)
        act = block.part("act")
        name = activation_name(act)
        self.act = None if name is not None else act
        self.up = Product.of([up], dtype, name or "none")
        self.down = Product.of([down], dtype)
        self.attention_norm, self.ffn_norm = (
            _norm(block.part(role), dtype) for role in ("attention_norm", "ffn_norm")
        )

    def check(self) -> None:
        """Nobody can hang a hook here."""

    def attention(
        self,
        x: Float[Tensor, "t d"],
        lengths: tuple[int, ...],
        *,
        attend: Attend,
        linear: Linear,
        scores: bool,
        key_bias: Float[Tensor, " t"] | None,
        row_weight: Float[Tensor, " t"] | None,
        pair_bias: PairBias | None,
        positions: Tensor | None,
        only: Int[Tensor, " t2"] | None = None,
        sequences: Int[Tensor, " t"] | None = None,
    ) -> tuple[Float[Tensor, "t2 d"], Float[Tensor, " t"] | None]:
        """As :meth:`sparsam.models.encoder.Block.attention`."""
        inner = _normed(x, self.attention_norm) if self.pre_norm else x
        kept = x if only is None else x.index_select(0, only)
        received: Tensor | None = None
        if self.q is None:
            q, k, v = self._heads(self.mix(inner), 3)
        else:
            alone = only is not None and sequences is not None
            (q,) = self._heads(
                self.q(inner.index_select(0, only) if alone and only is not None else inner), 1
            )
            k, v = self._heads(self.mix(inner), 2)
        scale = self.head_width**-0.5
        if self.q is not None and only is not None and sequences is not None:
            mixed = attend_single(q, k, v, sequences, scale=scale, key_bias=key_bias)
        else:
            mixed, received = attend(
                q,
                k,
                v,
                lengths,
                scale=scale,
                scores=scores,
                key_bias=key_bias,
                row_weight=row_weight,
                pair_bias=pair_bias,
                positions=positions,
            )
            if only is not None:
                mixed = mixed.index_select(0, only)
        summed = self.o(mixed.flatten(1), residual=kept)
        return (summed if self.pre_norm else _normed(summed, self.attention_norm)), received

    def ffn(self, x: Float[Tensor, "t d"], *, linear: Linear) -> Float[Tensor, "t d"]:
        """As :meth:`sparsam.models.encoder.Block.ffn`."""
        inner = _normed(x, self.ffn_norm) if self.pre_norm else x
        hidden = self.up(inner)
        hidden = hidden if self.act is None else self.act(hidden)
        summed = self.down(hidden, residual=x)
        return summed if self.pre_norm else _normed(summed, self.ffn_norm)

    def _heads(self, x: Float[Tensor, "t a"], parts: int) -> Sequence[Float[Tensor, "t h k"]]:
        width = x.shape[1] // parts
        return [
            part.view(x.shape[0], width // self.head_width, self.head_width) for part in x.chunk(parts, 1)
        ]


def _norm(module: Any, dtype: torch.dtype) -> Norm:
    return module.weight.detach().to(dtype), module.bias.detach().to(dtype), float(module.eps)


def _normed(x: Tensor, norm: Norm) -> Tensor:
    weight, bias, eps = norm
    return F.layer_norm(x, weight.shape, weight, bias, eps)


class FrozenStack(Stack):
    """A stack of frozen blocks; only what the head reads comes out."""

    def __init__(self, stack: Stack, dtype: torch.dtype) -> None:
        super().__init__(stack.family, stack.holder, stack.left)
        last = len(stack.left) - 1
        self.frozen = [FrozenBlock(block, dtype, index == last) for index, block in enumerate(stack.blocks)]
        self.holder = self  # the user's layers are not needed any more
        self.rule, self.bias = stack.rule, copy.copy(stack.bias)
        if isinstance(self.bias, RelativeBias):  # its table alone, not the encoder around it
            self.bias.encoder = SimpleNamespace(
                relative_attention_bias=self.bias.encoder.relative_attention_bias
            )
        self.head_alone = True

    def own_layers(self) -> Sequence[nn.Module]:
        """None: their weights were copied."""
        return []

    @property
    def blocks(self) -> Any:
        """The frozen blocks."""
        return self.frozen


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
        survivors, _ = self.stack.run(tokens)
        return survivors.values.view(self.tokens.lengths.shape[0], -1, hidden_states.shape[-1])


class FrozenLayers(nn.ModuleList):
    """Takes the place of a list of layers that the base model iterates over."""

    encoder: FrozenEncoder

    def __iter__(self) -> Any:
        yield lambda hidden_states, *args, **kwargs: self.encoder.packed(hidden_states)
