"""DistilBERT: BERT's layers under other names, no pooler."""

from sparsam.models.families.family import Family

DISTILBERT = Family(
    name="distilbert",
    container="transformer",
    q="attention.q_lin",
    k="attention.k_lin",
    v="attention.v_lin",
    o="attention.out_lin",
    up="ffn.lin1",
    act="ffn.activation",
    down="ffn.lin2",
    attention_norm="sa_layer_norm",
    ffn_norm="output_layer_norm",
    head_width="attention.attention_head_size",
    probability_dropout="attention.dropout",
    ffn_dropout="ffn.dropout",
)
