"""ViT and DeiT: pre-norm layers in a list that the base model iterates over itself."""

from dataclasses import replace

from sparsam.models.families.family import Family

VIT = Family(
    name="vit",
    container="",
    layers="layers",
    replace="list",
    pre_norm=True,
    q="attention.q_proj",
    k="attention.k_proj",
    v="attention.v_proj",
    o="attention.o_proj",
    up="mlp.fc1",
    act="mlp.activation_fn",
    down="mlp.fc2",
    attention_norm="layernorm_before",
    ffn_norm="layernorm_after",
    head_width="attention.head_dim",
    probability_dropout="attention.attention_dropout",
    attention_dropout="dropout",
    ffn_dropout="dropout",
)
DEIT = replace(VIT, name="deit", protected=2)
