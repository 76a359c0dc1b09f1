"""BERT and those built like it: post-norm layers under ``encoder.layer``."""

from dataclasses import replace

from sparsam.models.families.family import Family

BERT = Family(
    name="bert",
    q="attention.self.query",
    k="attention.self.key",
    v="attention.self.value",
    o="attention.output.dense",
    up="intermediate.dense",
    act="intermediate.intermediate_act_fn",
    down="output.dense",
    attention_norm="attention.output.LayerNorm",
    ffn_norm="output.LayerNorm",
    head_width="attention.self.attention_head_size",
    probability_dropout="attention.self.dropout",
    attention_dropout="attention.output.dropout",
    ffn_dropout="output.dropout",
)
ROBERTA = replace(BERT, name="roberta", positions_after_padding=True)
XLM_ROBERTA = replace(ROBERTA, name="xlm-roberta")
ELECTRA = replace(BERT, name="electra")
MPNET = replace(
    BERT,
    name="mpnet",
    q="attention.attn.q",
    k="attention.attn.k",
    v="attention.attn.v",
    o="attention.attn.o",
    attention_norm="attention.LayerNorm",
    head_width="attention.attn.attention_head_size",
    probability_dropout="attention.attn.dropout",
    attention_dropout="attention.dropout",
    relative_bias=True,
    positions_after_padding=True,
    extras=("relative_attention_bias",),
)
