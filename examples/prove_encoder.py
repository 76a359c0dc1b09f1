"""The packed encoder for every choice of heads, filters and kept tokens, in every layer, for every number of layers.

    sparsam check examples/prove_encoder.py:encode --arg "x=B×N×48" --arg layers=0..48

Each layer draws how many heads and filters are left of it, and which tokens go on is up to the data; the check is
about all of these choices, none and one among them.
"""

import random

import torch
from transformers.models.bert.modeling_bert import BertConfig, BertLayer

from sparsam.models.encoder import Block, call
from sparsam.models.lift import family_of, linear_like
from sparsam.packed import pack, select, unpack

WIDTH, HEADS, FILTERS = 48, 12, 192
CONFIG = BertConfig(hidden_size=WIDTH, num_attention_heads=HEADS, intermediate_size=FILTERS)
FAMILY = family_of("bert")


def attend(q, k, v, lengths, *, scale, scores, sequences, **others):
    """Attention among the tokens of the same sequence, and what each token receives of it."""
    logits = torch.bmm(q.transpose(0, 1), k.permute(1, 2, 0)) * scale
    apart = sequences[:, None] != sequences[None, :]
    weights = logits.masked_fill(apart, float("-inf")).softmax(-1)
    return torch.bmm(weights, v.transpose(0, 1)).transpose(0, 1), weights.sum((0, 1))


def cut(layer, heads, filters):
    """Leaves so many heads and filters of a layer."""
    width = heads * (WIDTH // HEADS)
    own = layer.attention.self
    for name in ("query", "key", "value"):
        setattr(own, name, linear_like(getattr(own, name), WIDTH, width))
    layer.attention.output.dense = linear_like(layer.attention.output.dense, width, WIDTH)
    layer.intermediate.dense = linear_like(layer.intermediate.dense, WIDTH, filters)
    layer.output.dense = linear_like(layer.output.dense, filters, WIDTH)


def one_layer(tokens, heads, filters):
    """The living tokens through a layer with so many heads and filters: those that go on, and those that do not."""
    layer = BertLayer(CONFIG).eval()
    cut(layer, heads, filters)
    block = Block(layer, FAMILY)

    def attention(*args, **settings):
        return attend(*args, sequences=tokens.sequences, **settings)

    states, received = block.attention(
        tokens.values,
        (),
        attend=attention,
        linear=call,
        scores=True,
        key_bias=None,
        row_weight=None,
        pair_bias=None,
        positions=None,
    )
    tokens = tokens.with_values(states)
    keep = received > 0.5
    gone = select(tokens, ~keep)
    tokens = select(tokens, keep)
    return tokens.with_values(block.ffn(tokens.values, linear=call)), gone


def encode(x, layers):
    """Padded states (b, n, d) through so many layers; tokens that are dropped keep their last state."""
    batch = x.shape[0]
    tokens = pack(x)
    last = torch.zeros_like(x)
    for _ in range(layers):
        tokens, gone = one_layer(tokens, random.randint(0, HEADS), random.randint(0, FILTERS))
        last = last + unpack([gone], batch)
    result = last + unpack([tokens], batch)
    assert result.shape == x.shape
    return result
