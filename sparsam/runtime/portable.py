"""The packed encoder in operations that other runtimes have: padded inputs in, logits out, tokens removed inside the graph.

No loop over sequences, and nothing that depends on an example's lengths. Tokens lie end to end between the products, as
everywhere; attention looks at them through one rectangle, as wide as the longest sequence is now, filled by computed indices:

    slots   the packed token that each place of the rectangle shows (a place without one shows another token, and is masked)
    rows    the place of each packed token

After a layer that removes tokens every later product has fewer rows, and the rectangle is narrower. The last layer works for
the class token alone: that is all the head reads.

Letters: b sequences, t packed tokens, n tokens of the longest sequence now, s = b·n slots, h heads, k head width, d width.
"""

import copy
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from sparsam.errors import Refused
from sparsam.models import lift, stack_of
from sparsam.models.encoder import Block, Stack
from sparsam.models.heads import why_not
from sparsam.models.integers import scales_of
from sparsam.models.lift import RelativeBias, base_of, family_of, set_submodule
from sparsam.models.positions import first_position
from sparsam.plan import Format
from sparsam.tokens import Threshold, TopK
from sparsam.tokens.ltp import ONLY_PROTECTED
from sparsam.tokens.rule import Rule, quota

RULES = ("ltp", "linear-threshold", "top-k")
"""Token rules that are put in a graph."""


class View(NamedTuple):
    """Packed sequences seen as one rectangle (b, n)."""

    lengths: Int[Tensor, " b"]
    sequences: Int[Tensor, " t"]
    starts: Int[Tensor, " b"]
    place: Int[Tensor, " t"]
    """Each token's place among the living ones of its sequence."""
    slots: Int[Tensor, " s"]
    rows: Int[Tensor, " t"]
    valid: Bool[Tensor, "b n"]

    def padded(self, x: Tensor) -> Tensor:
        """Packed rows (t, …) as (b, n, …)."""
        return x.index_select(0, self.slots).view(*self.valid.shape, *x.shape[1:])

    def packed(self, x: Tensor) -> Tensor:
        """The inverse."""
        return x.flatten(0, 1).index_select(0, self.rows)


def view(lengths: Int[Tensor, " b"], sequences: Int[Tensor, " t"]) -> View:
    """The rectangle of sequences of these lengths."""
    starts = torch.cumsum(lengths, 0) - lengths
    t, n = sequences.shape[0], lengths.max().item()
    torch._check(n >= 1)
    steps = torch.arange(n)
    slots = (starts[:, None] + steps[None, :]).clamp(max=t - 1).flatten()
    place = torch.arange(t) - starts.index_select(0, sequences)
    return View(
        lengths, sequences, starts, place, slots, sequences * n + place, steps[None, :] < lengths[:, None]
    )


def attend(
    q: Float[Tensor, "b h m k"],
    k: Float[Tensor, "b h n k"],
    v: Float[Tensor, "b h n k"],
    valid: Bool[Tensor, "b n"],
    *,
    scores: bool,
    bias: Float[Tensor, "b h m n"] | None = None,
) -> tuple[Float[Tensor, "b m a"], Float[Tensor, "b n"] | None]:
    """Softmax attention in the rectangle: heads' answers side by side and, if asked for, received attention.

    Rows of a place without a token mean nothing; they count nothing in the received attention.
    """
    h = q.shape[1]
    logits = (q * q.shape[3] ** -0.5) @ k.transpose(-1, -2)
    if bias is not None:
        logits = logits + bias
    missing = torch.zeros(valid.shape).masked_fill(~valid, -torch.inf)[:, None, None, :]
    p = (logits + missing).softmax(-1)
    mixed = (p @ v).transpose(1, 2).flatten(2)
    if not scores:
        return mixed, None
    received = (valid.float()[:, None, None, :] @ p).sum((1, 2)) / h
    return mixed, received


def kept(
    rule: Rule,
    layer: int,
    scores: Float[Tensor, "b n"] | None,
    protected: Bool[Tensor, "b n"],
    valid: Bool[Tensor, "b n"],
    count: Int[Tensor, " b"] | None,
) -> Bool[Tensor, "b n"]:
    """What a rule's ``step`` keeps, in the rectangle: nothing is sorted, and nothing added at computed places.

    Runtimes break ties of a sort each in their own way, and add at one place from several threads. ``count`` is how many tokens
    a rule by rank keeps of each sequence.
    """
    if isinstance(rule, TopK):
        assert scores is not None and count is not None
        held = scores.masked_fill(protected, torch.inf).masked_fill(~valid, -torch.inf)
        steps = torch.arange(valid.shape[1])
        ahead = held[:, None, :] > held[:, :, None]
        tied = (held[:, None, :] == held[:, :, None]) & (steps[None, None, :] < steps[None, :, None])
        rank = ((ahead | tied) & valid[:, None, :]).sum(2)
        return ((rank < count[:, None]) | protected) & valid
    assert isinstance(rule, Threshold)
    threshold = rule.thresholds[layer]
    if threshold >= ONLY_PROTECTED:
        return protected
    assert scores is not None
    if rule.relative_to == "others":
        counted = (valid & ~protected).float()
        mean = (scores * counted).sum(1) / counted.sum(1).clamp(min=1)
        scores = scores / mean.clamp(min=1e-9)[:, None]
    return ((scores >= threshold) | protected) & valid


class Product(nn.Module):
    """Linear modules of one input as one product, on copies of their weights, (inputs, outputs).

    In integers ``format`` says how, and ``scales`` (o,) span the weights' grid; the product here is the one in floating point.
    """

    def __init__(self, linears: Sequence[Any], form: Format | None = None) -> None:
        super().__init__()
        weight = torch.cat([module.weight.detach() for module in linears]).float()
        self.weight = nn.Parameter(weight.T.contiguous(), requires_grad=False)
        biases = [
            torch.zeros(module.weight.shape[0]) if module.bias is None else module.bias.detach().float()
            for module in linears
        ]
        none = all(module.bias is None for module in linears)
        self.bias = None if none else nn.Parameter(torch.cat(biases), requires_grad=False)
        self.format: Format | None = None
        self.scales: Tensor | None = None
        scales = [scales_of(module) for module in linears]
        if form is not None and all(part is not None for part in scales):
            self.format, self.scales = form, torch.cat([part for part in scales if part is not None])

    def forward(self, x: Float[Tensor, "t i"]) -> Float[Tensor, "t o"]:
        """x @ weight + bias; the bias alone where nothing is left to multiply with."""
        if self.weight.shape[0]:
            out = x @ self.weight
            return out if self.bias is None else out + self.bias
        rows: Tensor = x.new_zeros(x.shape[0], self.weight.shape[1])
        return rows if self.bias is None else rows + self.bias


class PortableBlock(nn.Module):
    """One layer: its products, norms and activation; ``last`` works for the class token alone."""

    def __init__(self, block: Block, last: bool) -> None:
        super().__init__()
        self.pre_norm, self.last, formats = block.family.pre_norm, last, block.left.formats
        self.head_width = int(block.part("head_width"))
        q, k, v, o, up, down = (block.part(role) for role in ("q", "k", "v", "o", "up", "down"))
        self.heads = v.weight.shape[0] // self.head_width
        self.filters = up.weight.shape[0]
        self.q = Product([q], formats.get("qkv")) if last and self.heads else None
        if self.heads:
            self.mix = Product([k, v] if last else [q, k, v], formats.get("qkv"))
        self.o, self.down = Product([o], formats.get("o")), Product([down], formats.get("down"))
        if self.filters:
            self.up, self.act = Product([up], formats.get("up")), block.part("act")
        self.attention_norm, self.ffn_norm = block.part("attention_norm"), block.part("ffn_norm")

    def attention(
        self, x: Float[Tensor, "t d"], seen: View, *, scores: bool, bias: Float[Tensor, "b h n n"] | None
    ) -> tuple[Float[Tensor, "t2 d"], Float[Tensor, "b n"] | None]:
        """The attention half: new states of all tokens, or of the class tokens; received attention if asked for."""
        inner = self.attention_norm(x) if self.pre_norm else x
        kept = x.index_select(0, seen.starts) if self.last else x
        received: Tensor | None = None
        if self.heads:
            # (b, n, parts, h, k) to (parts, b, h, n, k)
            parts = seen.padded(self.mix(inner).unflatten(1, (-1, self.heads, self.head_width)))
            *first, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
            if self.q is None:
                q = first[0]
            else:
                asking = self.q(inner.index_select(0, seen.starts))
                q = asking.unflatten(1, (self.heads, 1, self.head_width))
                bias = None if bias is None else bias[:, :, :1]
            mixed, received = attend(q, k, v, seen.valid, scores=scores, bias=bias)
            mixed = mixed.squeeze(1) if self.last else seen.packed(mixed)
        else:  # nobody is preferred
            mixed = kept.new_zeros(kept.shape[0], 0)
            received = seen.valid.float() if scores else None
        summed = kept + self.o(mixed)
        return (summed if self.pre_norm else self.attention_norm(summed)), received

    def ffn(self, x: Float[Tensor, "t d"]) -> Float[Tensor, "t d"]:
        """The feed-forward half."""
        inner = self.ffn_norm(x) if self.pre_norm else x
        hidden = self.act(self.up(inner)) if self.filters else inner.new_zeros(inner.shape[0], 0)
        summed: Tensor = x + self.down(hidden)
        return summed if self.pre_norm else self.ffn_norm(summed)


class PortableEncoder(nn.Module):
    """Takes the encoder's place: packed states (1, t, d) in, the class tokens' last states (b, 1, d) out."""

    def __init__(self, stack: Stack, longest: int) -> None:
        super().__init__()
        last = len(stack.blocks) - 1
        self.blocks = nn.ModuleList(PortableBlock(block, at == last) for at, block in enumerate(stack.blocks))
        self.rule: Rule | None = stack.rule
        self.protected = stack.family.protected
        self.heads = [left.heads for left in stack.left]
        self.quotas = nn.ParameterDict()
        """By layer, what a rule by rank keeps of a sequence of each length: exporters would round a share to float32."""
        if isinstance(stack.rule, TopK):
            for layer, share in enumerate(stack.rule.shares):
                if share is not None:
                    table = quota(share, torch.arange(longest + 1))
                    self.quotas[str(layer)] = nn.Parameter(table, requires_grad=False)
        self.bias: RelativeBias | None = None
        if isinstance(stack.bias, RelativeBias):
            self.relative_attention_bias = stack.bias.encoder.relative_attention_bias
            self.bias = RelativeBias(
                SimpleNamespace(relative_attention_bias=self.relative_attention_bias), stack.bias.bucket
            )
        self.lengths: Tensor | None = None
        """Tokens of each sequence of the row that comes next; with ``sequences`` and ``positions`` of each token."""
        self.sequences: Tensor | None = None
        self.positions: Tensor | None = None

    def forward(self, hidden_states: Float[Tensor, "1 t d"], *args: Any, **kwargs: Any) -> Any:
        """As a BERT-like model calls its encoder."""
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=self.run(hidden_states))

    def run(self, hidden_states: Tensor) -> Float[Tensor, "b 1 d"]:
        """Through the layers."""
        assert self.lengths is not None and self.sequences is not None and self.positions is not None
        x, original = hidden_states.flatten(0, 1), self.lengths
        seen, positions, rule = view(self.lengths, self.sequences), self.positions, self.rule
        for index, made in enumerate(self.blocks):
            block: Any = made
            asked = rule is not None and rule.prunes(index) and not block.last
            wanted = asked and rule is not None and rule.wants_scores(index)
            bias = self._pair_bias(index, seen, positions)
            x, received = block.attention(x, seen, scores=wanted, bias=bias)
            if asked and rule is not None:
                first = torch.arange(seen.valid.shape[1])[None, :] < self.protected
                count = None
                if isinstance(rule, TopK):
                    count = self.quotas[str(index)].index_select(0, original)
                keep = kept(rule, index, received, first & seen.valid, seen.valid, count)
                chosen = seen.packed(keep).nonzero().squeeze(1)
                x, positions = x.index_select(0, chosen), positions.index_select(0, chosen)
                seen = view(keep.sum(1), seen.sequences.index_select(0, chosen))
            x = block.ffn(x)
        return x.unsqueeze(1)

    def _pair_bias(self, index: int, seen: View, positions: Tensor) -> Tensor | None:
        bias: Any = self.bias
        if bias is None:
            return None
        found: Tensor = bias(seen.padded(positions))
        heads = self.heads[index]
        return found if heads is None else found[:, list(heads)]


class PortableLayers(nn.ModuleList):
    """Takes the place of a list of layers that the base model iterates over."""

    def __iter__(self) -> Any:
        encoder: Any = self[0]
        yield lambda hidden_states, *args, **kwargs: encoder.run(hidden_states)


class Portable(nn.Module):
    """A classifier as other runtimes take it. Inputs by place: see :attr:`inputs`; logits in float32.

    A sequence whose mask has no token gets NaN.
    """

    def __init__(self, model: Any, encoder: PortableEncoder, inputs: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.inputs = model, inputs
        self._encoder = [encoder]  # it is a part of the model already
        self.tokens_of_image = _most_tokens(model) if inputs == ("pixel_values",) else 0
        if not self.tokens_of_image:
            config = model.config
            self.first_position = first_position(config)
            self.counts_tokens = family_of(config.model_type).positions_after_padding

    def forward(self, *given: Tensor) -> Float[Tensor, "b c"]:
        """Logits of pictures, or of padded token ids, mask and token types."""
        return self._of_images(*given) if self.tokens_of_image else self._of_texts(*given)

    def _of_images(self, pixels: Float[Tensor, "b c x y"]) -> Tensor:
        b, n = pixels.shape[0], self.tokens_of_image
        sequences = torch.arange(b)[:, None].expand(b, n).flatten()
        positions = torch.arange(n)[None, :].expand(b, n).flatten()
        self._tell(torch.full((b,), n), sequences, positions)
        logits: Tensor = self.model(pixel_values=pixels).logits
        return logits

    def _of_texts(
        self, ids: Int[Tensor, "b n"], mask: Int[Tensor, "b n"], kinds: Int[Tensor, "b n"] | None = None
    ) -> Tensor:
        n = ids.shape[1]
        living = mask != 0
        chosen = living.flatten().nonzero().squeeze(1)
        lengths, sequences = living.sum(1), chosen // n
        columns = chosen - sequences * n
        if self.counts_tokens:  # RoBERTa counts the tokens before, others the places
            columns = (torch.cumsum(living, 1) - 1).flatten().index_select(0, chosen)
        self._tell(lengths, sequences, columns)
        inputs = {
            "input_ids": ids.flatten().index_select(0, chosen)[None],
            "position_ids": (columns + self.first_position)[None],
        }
        if kinds is not None:
            inputs["token_type_ids"] = kinds.flatten().index_select(0, chosen)[None]
        logits: Tensor = self.model(**inputs).logits
        return logits.masked_fill((lengths == 0)[:, None], torch.nan)

    def _tell(self, lengths: Tensor, sequences: Tensor, positions: Tensor) -> None:
        encoder = self._encoder[0]
        encoder.lengths, encoder.sequences, encoder.positions = lengths, sequences, positions


def _most_tokens(model: Any) -> int:
    """Tokens of a picture, or of the longest text."""
    if model.main_input_name == "pixel_values":
        return int(base_of(model).embeddings.position_embeddings.shape[1])
    return int(model.config.max_position_embeddings)


def portable(model: Any, inputs: tuple[str, ...]) -> Portable:
    """A copy of a classifier, dense or with a plan, that an exporter can take; the model itself is left as it is.

    Args:
        model: a transformers model with a head that reads the class token.
        inputs: names of what it is given, in order: ``input_ids``, ``attention_mask`` and perhaps ``token_type_ids``, or
            ``pixel_values``.

    Raises:
        Refused: ``export-head`` for another head than a classifier's, ``export-rule`` for a token rule that is not in
            :data:`RULES`, ``export-device``, ``family-unknown``, ``family-refused``.
    """
    reason = why_not([part.__name__ for part in type(model).__mro__])
    if reason is not None:
        raise Refused(
            f"{reason}. Only classifiers of whole texts and images, which read the class token alone, are exported.",
            code="export-head",
        )
    device = next(model.parameters()).device
    if device.type != "cpu":
        raise Refused(
            f"the model is on {device}; it is exported from the CPU. Move it there: model.to('cpu').",
            code="export-device",
        )
    own = nn.Module.float(
        copy.deepcopy(model).eval().requires_grad_(False)
    )  # transformers refuses it beside integers
    lift(own)
    tokens = own.sparsam_plan.tokens
    if tokens is not None and tokens.rule not in RULES:
        raise Refused(
            f"the token rule {tokens.rule!r} cannot be put in a graph yet; {', '.join(RULES)} can. Export the dense model, or "
            "serve this one with sparsam.load(DIR).predict.",
            code="export-rule",
        )
    base, family = base_of(own), family_of(own.config.model_type)
    encoder = PortableEncoder(stack_of(own), _most_tokens(own))
    if family.replace == "encoder":
        set_submodule(base, family.container, encoder)
    else:
        container = base.get_submodule(family.container) if family.container else base
        setattr(container, family.layers, PortableLayers([encoder]))
    own.config._attn_implementation = "sdpa"  # no mask is made for a row without padding
    return Portable(own, encoder, inputs).eval()
