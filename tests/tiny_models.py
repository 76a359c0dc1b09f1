"""Tiny random models of every family, and the definition of masked execution to compare with."""

import copy
from collections.abc import Sequence
from operator import attrgetter
from types import SimpleNamespace
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from sparsam.models import FAMILIES

TEXT = ("bert", "roberta", "xlm-roberta", "distilbert", "electra", "mpnet")
IMAGES = ("vit", "deit")
PREFIX = {
    "bert": "Bert",
    "roberta": "Roberta",
    "xlm-roberta": "XLMRoberta",
    "distilbert": "DistilBert",
    "electra": "Electra",
    "mpnet": "MPNet",
    "vit": "ViT",
    "deit": "DeiT",
}


def config(name: str, dropout: float = 0.0, **changes: Any) -> Any:
    """Width 32, 4 heads, 3 layers; nothing of it is round where a mix-up could hide."""
    kind = getattr(transformers, PREFIX[name] + "Config")
    if name == "distilbert":
        own = {
            "dim": 32,
            "n_layers": 3,
            "n_heads": 4,
            "hidden_dim": 44,
            "dropout": dropout,
            "attention_dropout": dropout,
            "seq_classif_dropout": 0.0,
        }
    else:
        own = {
            "hidden_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "intermediate_size": 44,
            "hidden_dropout_prob": dropout,
            "attention_probs_dropout_prob": dropout,
        }
    if name in TEXT:
        own |= {"vocab_size": 60, "max_position_embeddings": 514, "pad_token_id": 1, "num_labels": 3}
    else:
        own |= {"image_size": 8, "patch_size": 2, "num_channels": 3, "num_labels": 3}
    if name == "electra":
        own |= {"embedding_size": 24}
    if name in ("bert", "roberta", "xlm-roberta", "electra"):
        own |= {"type_vocab_size": 2, "classifier_dropout": 0.0}
    return kind(**own | changes)


def build(name: str, head: str = "", seed: int = 0, attention: str | None = None, **changes: Any) -> Any:
    """A model with weights large enough that attention is uneven and no bias is zero. ``head`` ends the class name."""
    head = head or ("ForSequenceClassification" if name in TEXT else "ForImageClassification")
    kind = getattr(transformers, PREFIX[name] + head)
    extra = {key: changes.pop(key) for key in ("add_pooling_layer",) if key in changes}
    made = config(name, **changes)
    if attention is not None:
        made._attn_implementation = attention
    torch.manual_seed(seed)
    model = kind(made, **extra)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.2 if parameter.dim() > 1 else 0.1))
    return model.eval()


def text(
    lengths: Sequence[int], side: str = "right", seed: int = 0, width: int | None = None
) -> dict[str, Tensor]:
    """Token ids (b, n) and their mask; ``side`` is right, left or holes (position 0 lives)."""
    made = torch.Generator().manual_seed(seed)
    n = width or max(lengths)
    mask = torch.zeros(len(lengths), n, dtype=torch.long)
    for row, length in enumerate(lengths):
        if side == "right":
            mask[row, :length] = 1
        elif side == "left":
            mask[row, n - length :] = 1
        else:
            mask[
                row,
                torch.cat([torch.zeros(1).long(), 1 + torch.randperm(n - 1, generator=made)[: length - 1]]),
            ] = 1
    ids = torch.randint(2, 60, mask.shape, generator=made)
    return {"input_ids": torch.where(mask.bool(), ids, 1), "attention_mask": mask}


def images(b: int, seed: int = 0) -> dict[str, Tensor]:
    """Random pictures."""
    return {"pixel_values": torch.randn(b, 3, 8, 8, generator=torch.Generator().manual_seed(seed))}


def inputs(name: str, lengths: Sequence[int] = (12, 7, 1, 5), **more: Any) -> dict[str, Tensor]:
    """A batch for this family; pictures where it takes pictures."""
    return text(lengths, **more) if name in TEXT else images(len(lengths))


def alive(name: str, batch: dict[str, Tensor]) -> Tensor:
    """Which positions of the encoder live (b, n)."""
    if name in TEXT:
        return batch["attention_mask"].bool()
    return torch.ones(batch["pixel_values"].shape[0], 17 if name == "vit" else 18, dtype=torch.bool)


def masked(
    layers: Sequence[nn.Module],
    name: str,
    x: Tensor,
    living: Tensor,
    thresholds: Sequence[float],
    *,
    heads: Sequence[Sequence[int] | None] | None = None,
    table: nn.Embedding | None = None,
    protected: int | None = None,
    soft: tuple[str, float] | None = None,
    positions: Tensor | None = None,
) -> SimpleNamespace:
    """Token pruning by masks, from its definition: nothing is removed, dead keys get -inf. In float64.

    x (b, n, d), living (b, n). Protected are the first living tokens of each sequence. ``soft`` = (kind, temperature)
    runs the soft stage instead. Returns states (b, n, d) with each token's last state, the same after every layer,
    the living mask after every layer, scores, gates, and the smallest distance of a score to its threshold.
    """
    family = FAMILIES[name]
    x, living = x.double(), living.bool()
    first = living & (living.long().cumsum(1) <= (family.protected if protected is None else protected))
    bias = None
    if table is not None:
        n = x.shape[1]
        where = torch.arange(n)
        bucket = transformers.models.mpnet.modeling_mpnet.MPNetEncoder.relative_position_bucket
        bias = table.weight.double()[bucket(where[None, :] - where[:, None])].permute(2, 0, 1)  # (h, n, n)
    found = SimpleNamespace(states=[], living=[], scores=[], gates=[], margin=float("inf"))
    log_gate = x.new_zeros(x.shape[:2])
    for index, layer in enumerate(layers):
        layer = copy.deepcopy(layer).double()
        part = {
            role: attrgetter(getattr(family, role))(layer)
            for role in ("q", "k", "v", "o", "up", "act", "down", "attention_norm", "ffn_norm", "head_width")
        }
        width = part["head_width"]
        inner = part["attention_norm"](x) if family.pre_norm else x
        q, k, v = (
            part[role](inner).unflatten(-1, (-1, width)).transpose(1, 2) for role in "qkv"
        )  # (b, h, n, k)
        h = q.shape[1]
        if h:
            logits = q @ k.transpose(-1, -2) / width**0.5
            if bias is not None:
                kept = heads[index] if heads is not None and heads[index] is not None else range(h)
                logits = logits + bias[list(kept)]
            weight = living.double()
            if soft is not None and soft[0] == "mask":
                logits = logits + log_gate[:, None, None, :]
                weight = weight * log_gate.exp()
            logits = logits.masked_fill(~living[:, None, None, :], -torch.inf)
            p = logits.softmax(-1).nan_to_num(0.0)
            scores = (p * weight[:, None, :, None]).sum(2).mean(1)
            mixed = part["o"]((p @ v).transpose(1, 2).flatten(2))
        else:
            scores = living.double()
            mixed = part["o"].bias.double().expand_as(x)
        half = x + mixed if family.pre_norm else part["attention_norm"](x + mixed)
        theta = thresholds[index]
        keep = living
        gate = None
        if soft is not None:
            log_now = torch.nn.functional.logsigmoid((scores - theta) / soft[1]).masked_fill(first, 0.0)
            log_gate = log_gate + log_now if soft[0] == "mask" else log_now
            gate = log_now.exp() if soft[0] == "scale" else None
            found.gates.append(log_gate.exp())
        elif theta > 0:
            keep = living & ((scores >= theta) | first)
            others = living & ~first
            if bool(others.any()):
                found.margin = min(found.margin, float((scores.detach() - theta)[others].abs().min()))
        out = part["ffn_norm"](half) if family.pre_norm else half
        out = (
            part["down"](part["act"](part["up"](out)))
            if part["up"].weight.shape[0]
            else part["down"].bias.double()
        )
        full = half + out if family.pre_norm else part["ffn_norm"](half + out)
        if gate is not None:
            full = full * gate[..., None]
        x = torch.where(keep[..., None], full, torch.where(living[..., None], half, x))
        living = keep
        found.states.append(x)
        found.living.append(living)
        found.scores.append(scores)
    found.x = x
    return found


def sever(model: Any, name: str, plan: Any) -> Any:
    """A copy of a model with only the planned heads and filters, cut by index here, and the dense model masked alike.

    Returns (small, zeroed): in ``zeroed`` the same heads and filters have no way out.
    """
    from sparsam.models import resize
    from sparsam.models.lift import layers_of

    family = FAMILIES[name]
    small, zeroed = copy.deepcopy(model), copy.deepcopy(model)

    def part(layer: Any, role: str) -> Any:
        return attrgetter(getattr(family, role))(layer)

    resize(small, plan)
    for cut, whole, mute, left in zip(
        layers_of(small), layers_of(model), layers_of(zeroed), plan.layers, strict=True
    ):
        width = part(whole, "head_width")
        count = part(whole, "q").weight.shape[0] // width
        heads = list(range(count)) if left.heads is None else list(left.heads)
        rows = torch.tensor([h * width + i for h in heads for i in range(width)], dtype=torch.long)
        filters = (
            list(range(part(whole, "up").weight.shape[0])) if left.filters is None else list(left.filters)
        )
        chosen = torch.tensor(filters, dtype=torch.long)
        with torch.no_grad():
            for role in "qkv":
                part(cut, role).weight.copy_(part(whole, role).weight[rows])
                part(cut, role).bias.copy_(part(whole, role).bias[rows])
            part(cut, "up").weight.copy_(part(whole, "up").weight[chosen])
            part(cut, "up").bias.copy_(part(whole, "up").bias[chosen])
            for role, kept in (("o", rows), ("down", chosen)):
                part(cut, role).weight.copy_(part(whole, role).weight[:, kept])
                part(cut, role).bias.copy_(part(whole, role).bias)
                gone = torch.ones(part(mute, role).weight.shape[1], dtype=torch.bool)
                gone[kept] = False
                part(mute, role).weight[:, gone] = 0.0
    return small, zeroed


def in_integers(
    model: Any, name: str, bits: int = 8, words: int | None = 8, inputs: str = "token", tokens: Any = None
) -> Any:
    """The model with all its products in integers, and its words' embeddings where it has some."""
    from dataclasses import replace

    import sparsam

    def something_left(left: Any, product: str) -> bool:
        return left.heads != () if product in ("qkv", "o") else left.filters != ()

    from sparsam.models import dense_plan, plan_of
    from sparsam.models.formats import modules_in_integers
    from sparsam.models.integers import put
    from sparsam.models.lift import family_of, layers_of
    from sparsam.plan import PRODUCTS, Format
    from sparsam.quantization import MinMax, quantize_weight

    plan = plan_of(model) or dense_plan(model)
    formats = {product: Format(bits, inputs, 0.06, 90 + at) for at, product in enumerate(PRODUCTS)}
    layers = tuple(
        replace(left, formats={p: form for p, form in formats.items() if something_left(left, p)})
        for left in plan.layers
    )
    plan = replace(
        plan, layers=layers, tokens=tokens or plan.tokens, embeddings=words if name in TEXT else None
    )
    for module, width in modules_in_integers(
        model, list(layers_of(model).children()), family_of(name), plan
    ).values():
        integers, grid = quantize_weight(module.weight, width, method=MinMax())
        put(module, integers, grid.scale)
    return sparsam.lift(model, plan)


def cut_in_integers(name: str, layers: Sequence[Any]) -> Any:
    """A model with the heads and filters, and the products in integers, that ``layers`` name."""
    from dataclasses import replace

    import sparsam
    from sparsam.models import plan_of
    from sparsam.models.apply import cut
    from sparsam.models.formats import modules_in_integers
    from sparsam.models.integers import put
    from sparsam.models.lift import family_of, layers_of
    from sparsam.quantization import MinMax, quantize_weight

    model = sparsam.lift(build(name))
    cut(model, [replace(left, formats={}) for left in layers])
    plan = plan_of(model)
    assert plan is not None
    plan = replace(
        plan,
        layers=tuple(
            replace(now, formats=left.formats) for now, left in zip(plan.layers, layers, strict=True)
        ),
    )
    for module, width in modules_in_integers(
        model, list(layers_of(model).children()), family_of(name), plan
    ).values():
        integers, grid = quantize_weight(module.weight, width, method=MinMax())
        put(module, integers, grid.scale)
    return sparsam.lift(model, plan)


BUILDERS = SimpleNamespace(
    build=build,
    config=config,
    text=text,
    images=images,
    inputs=inputs,
    alive=alive,
    masked=masked,
    sever=sever,
    in_integers=in_integers,
    cut_in_integers=cut_in_integers,
    TEXT=TEXT,
    IMAGES=IMAGES,
)
"""The builders above under one name."""
