"""The packed encoder: a stack of the user's own layers, run on tokens laid end to end.

It owns no parameters under new names. A :class:`Block` looks its linears and norms up in the user's layer each time it runs,
so state dicts, adapters and hooks keep working. Its seams:

    rule     which tokens go on (``tokens/rule.py``), asked between attention and feed-forward
    attend   attention on packed q, k, v (``attention/softmax.py``)
    linear   how a linear module is applied; a frozen runtime puts prepacked weights here
    gate     what heads and filters give is multiplied with (``structure/mask.py``), in front of the output products

Where the plan has a product in integers, its weights lie on their grid and its input is rounded to its own
(:meth:`Block.read`): what an integer runtime answers, up to float rounding. This form is for accuracy, not for speed.

Letters: b batch, n padded tokens of one sequence, t packed tokens, d width, h heads, k head width.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from operator import attrgetter
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sparsam.attention.single import attend_single
from sparsam.attention.softmax import Attend, PairBias
from sparsam.attention.softmax import attend as softmax
from sparsam.dropout import dropout
from sparsam.errors import Refused
from sparsam.models.families.family import Family
from sparsam.models.simulate import rounded
from sparsam.packed import Packed, fill_with_survivors, merge, pack, select, unpack
from sparsam.plan import LayerPlan
from sparsam.tokens.rule import Living, Rule

Linear = Callable[[nn.Module, Tensor], Tensor]
Gate = Callable[[int, str, Tensor, Tensor], Tensor]
"""Layer, half (``attention`` or ``ffn``), input of its output product (t, a), each token's sequence (t,): that input, gated."""

DEAD = -1e4
"""What an additive mask must add at least to mean that a token is not there."""


def call(module: nn.Module, x: Tensor) -> Tensor:
    """The plain ``linear`` seam."""
    result: Tensor = module(x)
    return result


class Kept:
    """Tokens that went through a forward pass: (b,) at each layer's attention and at its feed-forward part."""

    def __init__(self) -> None:
        self.attention: list[Tensor] = []
        self.ffn: list[Tensor] = []


class Block:
    """One layer of the user's model by roles. Holds the layer, not its parts."""

    def __init__(self, layer: nn.Module, family: Family, left: LayerPlan | None = None) -> None:
        self.layer = layer
        self.family = family
        self.left = LayerPlan() if left is None else left
        self._parts = {
            role: attrgetter(getattr(family, role))
            for role in ("q", "k", "v", "o", "up", "act", "down", "attention_norm", "ffn_norm", "head_width")
        }
        self._dropouts = {
            role: attrgetter(path) if path else None
            for role, path in (
                ("probability", family.probability_dropout),
                ("attention", family.attention_dropout),
                ("ffn", family.ffn_dropout),
            )
        }

    @property
    def hooks(self) -> bool:
        """Whether somebody looks at this layer's output."""
        return bool(self.layer._forward_hooks)

    @property
    def recomputes(self) -> bool:
        """Whether activations are worked out again for the gradient instead of kept (gradient checkpointing)."""
        return self.layer.training and bool(getattr(self.layer, "gradient_checkpointing", False))

    def part(self, role: str) -> Any:
        """The module (or number) that plays ``role`` in this layer now."""
        return self._parts[role](self.layer)

    def output(self, half: str) -> nn.Module:
        """The linear module that ends a half (``attention`` or ``ffn``)."""
        module: nn.Module = self.part("o" if half == "attention" else "down")
        return module

    def check(self) -> None:
        """Refuse hooks that would be passed over: a layer's parts are called, the layer itself is not."""
        if self.layer._forward_pre_hooks:
            raise Refused(
                f"a {type(self.layer).__name__} has a hook before its forward pass; the packed encoder calls the layer's "
                "parts, so it would never run. Put the hook on one of its linears or norms, or call "
                "sparsam.models.unlift(model).",
                code="layer-hook",
            )

    def dropout(self, role: str) -> float:
        """The dropout rate of ``role`` now; 0 outside training."""
        getter = self._dropouts[role]
        if getter is None or not self.layer.training:
            return 0.0
        found: Any = getter(self.layer)
        rate: Any = found.p if isinstance(found, nn.Module) else found
        return float(rate)

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
        """The attention half with its residual: new states and, if asked for, received attention.

        With ``only``, the new states of those tokens alone; with ``sequences``, too, they are one a sequence, and no other
        query is worked out.
        """
        inner = self.norm("attention_norm", x) if self.family.pre_norm else x
        received: Tensor | None = None
        kept = x if only is None else x.index_select(0, only)
        asking = inner if sequences is None or only is None else inner.index_select(0, only)
        q, k, v = self.projected(asking, inner, linear)
        rate, scale = self.dropout("probability"), q.shape[2] ** -0.5
        if sequences is not None:
            mixed = self.attend_single(q, k, v, sequences, scale=scale, key_bias=key_bias, dropout=rate)
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
                dropout=rate,
            )
            if only is not None:
                mixed = mixed.index_select(0, only)
        summed = self.added("attention", kept, mixed.flatten(1), linear)
        return (summed if self.family.pre_norm else self.norm("attention_norm", summed)), received

    def attend_single(self, *args: Any, **kwargs: Any) -> Tensor:
        """Attention of one query a sequence."""
        return attend_single(*args, **kwargs)

    def ffn(self, x: Float[Tensor, "t d"], *, linear: Linear) -> Float[Tensor, "t d"]:
        """The feed-forward half with its residual."""
        inner = self.norm("ffn_norm", x) if self.family.pre_norm else x
        summed = self.added("ffn", x, self.hidden(inner, linear), linear)
        return summed if self.family.pre_norm else self.norm("ffn_norm", summed)

    def norm(self, role: str, x: Float[Tensor, "t d"]) -> Float[Tensor, "t d"]:
        """One of the two norms."""
        normed: Tensor = self.part(role)(x)
        return normed

    def read(self, product: str, x: Float[Tensor, "t i"]) -> Float[Tensor, "t i"]:
        """What a product reads of its input: all of it, or where it is computed in integers, what 8 bits hold.

        Raises:
            Refused: ``quantized`` for weights that were cast away from float32, and with it off their grid.
        """
        form = self.left.formats.get(product)  # type: ignore[call-overload]
        if form is None:
            return x
        weight: Tensor = self.part(product[0] if product == "qkv" else product).weight
        if weight.dtype != torch.float32:
            raise Refused(
                f"the weights of this {type(self.layer).__name__} were cast to {str(weight.dtype).removeprefix('torch.')}; "
                "integers times their scales are held in float32. Load the model again and leave its dtype alone.",
                code="quantized",
            )
        return rounded(x, form)

    def projected(
        self, asking: Float[Tensor, "t2 d"], inner: Float[Tensor, "t d"], linear: Linear
    ) -> tuple[Float[Tensor, "t2 h k"], Float[Tensor, "t h k"], Float[Tensor, "t h k"]]:
        """Queries of the tokens that ask, keys and values of all."""
        same = asking is inner
        inner = self.read("qkv", inner)
        asking = inner if same else self.read("qkv", asking)
        q, k, v = (linear(self.part(role), asking if role == "q" else inner) for role in ("q", "k", "v"))
        width = int(self.part("head_width"))
        heads = v.shape[1] // width
        self._check("heads", self.left.heads, heads)
        return tuple(part.view(part.shape[0], heads, width) for part in (q, k, v))  # type: ignore[return-value]

    def hidden(self, inner: Float[Tensor, "t d"], linear: Linear) -> Float[Tensor, "t f"]:
        """The filters' answers."""
        found: Tensor = self.part("act")(linear(self.part("up"), self.read("up", inner)))
        self._check("filters", self.left.filters, found.shape[1])
        return found

    def added(
        self, half: str, residual: Float[Tensor, "t d"], x: Float[Tensor, "t a"], linear: Linear
    ) -> Float[Tensor, "t d"]:
        """The output product of a half (``attention`` or ``ffn``), on top of the residual."""
        out = apply_linear(linear, self.output(half), self.read("o" if half == "attention" else "down", x))
        return residual + dropout(out, self.dropout(half))

    def _check(self, kind: str, planned: tuple[int, ...] | None, found: int) -> None:
        if planned is not None and len(planned) != found:
            raise Refused(
                f"the plan keeps {len(planned)} {kind} in this {type(self.layer).__name__}; its weights have {found}. "
                "Lift the model with the plan its weights were cut by, or cut them first.",
                code="plan-mismatch",
            )


def apply_linear(linear: Linear, module: nn.Module, x: Tensor) -> Tensor:
    """A product that is only its bias when nothing is left to multiply with."""
    if x.shape[1]:
        return linear(module, x)
    parts: Any = module
    rows = x.new_zeros(x.shape[0], parts.weight.shape[0])
    bias = getattr(parts, "bias", None)
    return rows if bias is None else rows + bias


class _Carry:
    """What passes from layer to layer beside the tokens, one row a living token."""

    def __init__(self, original: Tensor, state: Any) -> None:
        self.original = original
        """Tokens each sequence had at the start (b,)."""
        self.state = state
        """The rule's own: None, or a tuple of tensors."""
        self.gate: Tensor | None = None
        """Log of the product of soft gates so far, (t,) float32."""
        self.sizes: Tensor | None = None
        """How many tokens each one stands for, once tokens merge, (t,)."""

    def key_bias(self) -> Tensor | None:
        """What is added to a key's logits: its gate, and the log of its size (proportional attention)."""
        if self.sizes is None:
            return self.gate
        return self.sizes.log() if self.gate is None else self.gate + self.sizes.log()

    def select(self, keep: Tensor) -> None:
        """Drop the rows of removed tokens."""
        self.state = None if self.state is None else tuple(part[keep] for part in self.state)
        self.gate = None if self.gate is None else self.gate[keep]
        self.sizes = None if self.sizes is None else self.sizes[keep]


@runtime_checkable
class Holder(Protocol):
    """The module that stands in for the encoder: it has the user's layers."""

    def own_layers(self) -> Sequence[nn.Module]:
        """The layers as they stand now."""
        ...


class Stack:
    """Runs the blocks on a packed batch. Shared by both ways in which an encoder enters a model."""

    def __init__(self, family: Family, holder: Holder, left: Sequence[LayerPlan]) -> None:
        self.family = family
        self.holder = holder
        self.left = tuple(left)
        self._blocks: list[Block] = []
        self.rule: Rule | None = None
        self.attend: Attend = softmax
        self.linear: Linear = call
        self.gate: Gate | None = None
        self.output = "last"
        self.reads_class_token = False
        self.bias: Callable[[Tensor], Tensor] | None = None  # original positions (g, n) -> (g, h, n, n)
        self.kept: Kept | None = None
        self.states: list[Packed] | None = None
        self.head_alone = False
        """Set where nothing but the protected tokens' last states is read: the last layer works for them alone then."""

    @property
    def blocks(self) -> list[Block]:
        """One a layer of the user's model as it stands now: a layer may be replaced between two calls.

        Raises:
            Refused: ``plan-mismatch`` where the number of layers is no longer the plan's.
        """
        layers = self.holder.own_layers()
        if len(layers) != len(self.left):
            raise Refused(
                f"the model has {len(layers)} layers now; it was lifted with {len(self.left)}. Call "
                "sparsam.models.unlift(model) before layers are added or dropped, and sparsam.lift(model) after.",
                code="plan-mismatch",
            )
        known = self._blocks
        if len(known) != len(layers) or any(
            block.layer is not layer or block.left is not left
            for block, layer, left in zip(known, layers, self.left, strict=True)
        ):
            self._blocks = [
                Block(layer, self.family, left) for layer, left in zip(layers, self.left, strict=True)
            ]
        return self._blocks

    def held_by(self, holder: Holder) -> "Stack":
        """The same settings over another holder's layers: those of a replica on another device."""
        other = copy(self)
        other.holder, other._blocks = holder, []
        return other

    @contextmanager
    def recording(self) -> Iterator[Kept]:
        """Count the tokens of the forward passes inside the block."""
        before, self.kept = self.kept, Kept()
        try:
            yield self.kept
        finally:
            self.kept = before

    @contextmanager
    def gated(self, gate: Gate) -> Iterator[None]:
        """Run with gates inside the block."""
        before, self.gate = self.gate, gate
        try:
            yield
        finally:
            self.gate = before

    @contextmanager
    def using(self, rule: Rule | None) -> Iterator[None]:
        """Run with another rule inside the block."""
        before, self.rule = self.rule, rule
        try:
            yield
        finally:
            self.rule = before

    def __call__(self, x: Float[Tensor, "b n d"], mask: Any = None) -> Float[Tensor, "b n d"]:
        """From padded states to padded states; tokens that the mask excludes come back as zeros."""
        if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            raise Refused(
                "the packed encoder cannot be traced: lengths and removed tokens would be those of the example for ever. "
                "Call sparsam.models.unlift(model) to trace the stock forward pass.",
                code="trace",
            )
        b, n, _ = x.shape
        living = key_mask(mask, b, n)
        if living is not None:
            if self.reads_class_token and not bool(living[:, 0].all()):
                row = int((~living[:, 0]).nonzero()[0, 0])
                raise Refused(
                    f"position 0 of sequence {row} is masked, but this model's head reads it. Pad on the right "
                    "(tokenizer.padding_side = 'right'), or load the base model without a pooler.",
                    code="class-token-masked",
                )
            if bool(living.all()):
                living = None
        tokens = pack(x, living)
        survivors, removed = self.run(tokens)
        if removed and self.output == "survivors":
            removed = [fill_with_survivors(part, survivors) for part in removed]
        return unpack([survivors, *removed], b)

    def run(self, tokens: Packed) -> tuple[Packed, list[Packed]]:
        """Through all layers: the survivors, and the tokens removed on the way with their last states."""
        rule, blocks = self.rule, self.blocks
        batch = tokens.lengths.shape[0]
        removed: list[Packed] = []
        carry = _Carry(tokens.lengths, None if rule is None else rule.start(tokens.values.shape[0]))
        lengths = tuple(tokens.lengths.tolist())
        for index, block in enumerate(blocks):
            block.check()
            before = tokens
            alone = self._alone(index, tokens)
            asked = alone is None and rule is not None and rule.prunes(index)
            half: dict[str, Any] = {
                "attend": self.attend,
                "scores": asked and rule is not None and rule.wants_scores(index),
                "key_bias": carry.key_bias(),
                "row_weight": None if carry.gate is None else carry.gate.exp(),
                "pair_bias": self.pair_bias(index),
                "positions": None if self.bias is None else tokens.positions,
            }
            if alone is not None:
                half["only"] = alone.nonzero().squeeze(1)
                if self.family.protected == 1 and self.attend is softmax and self.bias is None:
                    half["sequences"] = torch.cumsum(alone, 0) - 1  # among those with a token left
            half["linear"] = self._gated(index, "attention", tokens, alone)
            again = torch.is_grad_enabled() and block.recomputes
            if again:
                x, received = checkpoint(block.attention, tokens.values, lengths, use_reentrant=False, **half)
            else:
                x, received = block.attention(tokens.values, lengths, **half)
            if alone is not None:
                tokens = select(tokens, alone)  # nobody reads the others; they come back as zeros
            tokens = tokens.with_values(x)
            scale: Tensor | None = None
            if asked:
                tokens, gone, scale = self._decide(index, tokens, received, carry)
                if gone is not None:
                    removed.append(gone)
                    lengths = tuple(tokens.lengths.tolist())
            linear = self._gated(index, "ffn", tokens)
            if again:
                x = checkpoint(block.ffn, tokens.values, use_reentrant=False, linear=linear)
            else:
                x = block.ffn(tokens.values, linear=linear)
            if scale is not None:
                x = x * scale.unsqueeze(1).to(x.dtype)
            tokens = tokens.with_values(x)
            if self.kept is not None:
                self.kept.attention.append(before.lengths)
                self.kept.ffn.append(tokens.lengths)
            if self.states is not None:
                self.states.append(tokens)
            if block.hooks:
                self._tell_hooks(block.layer, before, tokens, removed, batch)
        return tokens, removed

    def _gated(self, index: int, half: str, tokens: Packed, alone: Tensor | None = None) -> Linear:
        """The ``linear`` seam with the gates in front of a half's output product, for tokens that all, or ``alone``, answer."""
        gate, linear = self.gate, self.linear
        if gate is None:
            return linear
        output = self.blocks[index].output(half)
        sequences = tokens.sequences if alone is None else tokens.sequences[alone]
        return lambda module, x: linear(module, gate(index, half, x, sequences) if module is output else x)

    def _alone(self, index: int, tokens: Packed) -> Bool[Tensor, " t"] | None:
        """The tokens this layer works for, where those are the protected ones alone; None where it works for all.

        Where gradients are wanted a rule is asked all the same: it may learn from its gates.
        """
        if not (self.head_alone and self._unseen(index)):
            return None
        rule = self.rule
        if rule is not None and rule.prunes(index) and torch.is_grad_enabled():
            return None
        return first_tokens(tokens, self.family.protected)

    def _unseen(self, index: int) -> bool:
        """Whether this is the last layer, and nobody counts or records what it does."""
        last = index == len(self.left) - 1
        return last and self.kept is None and self.states is None and not self.blocks[index].hooks

    def _decide(
        self, index: int, tokens: Packed, received: Tensor | None, carry: "_Carry"
    ) -> tuple[Packed, Packed | None, Tensor | None]:
        """Ask the rule: who goes on, who leaves here (None if nobody), and what scales this layer's output."""
        rule = self.rule
        assert rule is not None
        x = tokens.values
        protected = first_tokens(tokens, self.family.protected)
        living = Living(
            x, received, tokens.lengths, carry.original, tokens.sequences, tokens.positions, protected, index
        )  # fmt: skip
        carry.state, decision = rule.step(carry.state, living)
        scale: Tensor | None = None
        if decision.log_gate is not None:
            log_gate = decision.log_gate.masked_fill(protected, 0.0)
            if rule.soft == "scale":
                scale = log_gate.exp()
            else:
                carry.gate = log_gate if carry.gate is None else carry.gate + log_gate
        if decision.into is not None:
            sizes = torch.ones(x.shape[0], device=x.device) if carry.sizes is None else carry.sizes
            values, carry.sizes = merge(x, sizes, decision.into)
            tokens = tokens.with_values(values)
        keep = decision.keep | protected
        if bool(keep.all()):
            return tokens, None, scale
        carry.select(keep)
        return select(tokens, keep), select(tokens, ~keep), None if scale is None else scale[keep]

    def pair_bias(self, index: int) -> PairBias | None:
        """The bias by pairs of positions for the heads that a layer has left; None in a family without one."""
        bias, heads = self.bias, self.left[index].heads
        if bias is None or heads is None:
            return bias
        return lambda positions: bias(positions)[:, list(heads)]

    def _tell_hooks(
        self, layer: nn.Module, before: Packed, after: Packed, removed: list[Packed], batch: int
    ) -> None:
        """Forward hooks on a layer see what it would have taken and given: hidden states are recorded that way."""
        gone = [part for part in removed if part.rows.shape[0]]
        earlier = [part for part in gone if part.values.shape[0] and not _inside(part, before)]
        taken = unpack([before, *earlier], batch)
        given = unpack([after, *gone], batch)
        for key, hook in list(layer._forward_hooks.items()):
            with_kwargs = key in layer._forward_hooks_with_kwargs
            answer = hook(layer, (taken,), {}, given) if with_kwargs else hook(layer, (taken,), given)
            if answer is not None:
                raise Refused(
                    f"a forward hook on a {type(layer).__name__} gave another output; the packed encoder lets hooks look at a "
                    "layer, not change it. Put the hook on one of its linears or norms, or call "
                    "sparsam.models.unlift(model).",
                    code="layer-hook",
                )


def first_tokens(tokens: Packed, count: int) -> Bool[Tensor, " t"]:
    """The first ``count`` living tokens of each sequence: the class token stands first wherever the padding is."""
    starts = torch.cumsum(tokens.lengths, 0) - tokens.lengths
    place = torch.arange(tokens.rows.shape[0], device=tokens.rows.device) - starts[tokens.sequences]
    return place < count


def _inside(part: Packed, whole: Packed) -> bool:
    """Whether the tokens of ``part`` were still alive in ``whole``."""
    return bool(torch.isin(part.rows[:1], whole.rows).item())


def key_mask(mask: Any, b: int, n: int) -> Bool[Tensor, "b n"] | None:
    """Which tokens live, from any of the masks transformers hands to an encoder.

    None, (b, n) of 0/1, (b, 1, n or 1, n) boolean (True lives), or the same additive in floats (0 lives, -10000 and
    less is dead, as older code writes it).

    Raises:
        Refused: ``attention-mask`` for a mask that differs from query to query, a bias, or a form not listed.
    """
    if mask is None:
        return None
    if not isinstance(mask, Tensor):
        raise Refused(
            f"the attention mask is a {type(mask).__name__}; the packed encoder reads tensors. "
            "Load the model with attn_implementation='sdpa' or 'eager'.",
            code="attention-mask",
        )
    if mask.dim() == 2 and mask.shape == (b, n):
        if mask.dtype == torch.bool:
            return mask
        if bool((mask < 0).any()):
            raise Refused(
                "the attention mask (batch, tokens) has negative values; expected 1 for tokens and 0 for "
                "padding. Pass the tokenizer's attention_mask.",
                code="attention-mask",
            )
        return mask > 0
    if mask.dim() == 4 and mask.shape[0] in (1, b) and mask.shape[1] == 1 and mask.shape[3] == n:
        living = mask if mask.dtype == torch.bool else _from_additive(mask)
        first = living[:, 0, 0]
        if mask.shape[2] > 1 and not bool((living[:, 0] == first[:, None]).all()):
            raise Refused(
                "the attention mask differs from query to query (causal or custom); the packed encoder only leaves "
                "whole tokens out. Pass a (batch, tokens) mask.",
                code="attention-mask",
            )
        return first.expand(b, n)
    raise Refused(
        f"the attention mask has shape {tuple(mask.shape)}; expected ({b}, {n}) or ({b}, 1, {n}, {n}). "
        "Pass the tokenizer's attention_mask.",
        code="attention-mask",
    )


def _from_additive(mask: Tensor) -> Tensor:
    """True where an additive mask lets a token live."""
    if not mask.dtype.is_floating_point:
        raise Refused(
            f"the attention mask has 4 dimensions of {mask.dtype}; expected bool (True lives) or floats (added "
            "to the logits). Pass a (batch, tokens) mask.",
            code="attention-mask",
        )
    living = mask == 0
    if not bool((living | (mask <= DEAD)).all()):
        raise Refused(
            f"the attention mask has values that are neither 0 nor at most {DEAD:g}: a bias, not a mask. The packed "
            "encoder only leaves whole tokens out. Pass a (batch, tokens) mask.",
            code="attention-mask",
        )
    return living
