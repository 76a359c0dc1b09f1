"""What sparsam can do with a model, found out before any compute: per layer, with the reason where it cannot."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sparsam.errors import Refused
from sparsam.models.families import Family
from sparsam.models.heads import NO_HEAD, why_not
from sparsam.models.lift import family_of
from sparsam.plan import PRODUCTS, LayerPlan, Plan


@dataclass(frozen=True)
class Finding:
    """One line of the answer: what, supported or not, and why."""

    part: str
    supported: bool
    reason: str


@dataclass(frozen=True)
class Inspection:
    """What is supported of a model. Each layer says whether it is, and why not."""

    model_type: str
    supported: bool
    findings: tuple[Finding, ...]
    layers: tuple[dict[str, Any], ...] = ()
    problems: tuple[str, ...] = ()
    """The reasons for which the model is not supported; none where it is."""

    def to_json(self) -> dict[str, Any]:
        """The same facts as one JSON object."""
        return {
            "model_type": self.model_type,
            "supported": self.supported,
            "findings": [vars(f) for f in self.findings],
            "problems": list(self.problems),
            "layers": list(self.layers),
        }


def inspect_model(config: Any, plan: Plan | None = None, problem: str | None = None) -> Inspection:
    """What is supported, from a configuration alone (a config, or anything with ``.config``).

    Never raises for an unsupported model: the reason is a finding.

    Args:
        config: of the model, or the model.
        plan: what is left of it, where it was compressed.
        problem: why the files it lies in are refused, if they are.
    """
    given, config = config, getattr(config, "config", config)
    model_type = str(getattr(config, "model_type", "?"))
    findings, problems = [], []
    if problem is not None:
        findings.append(Finding("files", False, problem))
        problems.append(problem)
    try:
        family = family_of(model_type, config)
    except Refused as refused:
        findings.insert(0, Finding("model", False, str(refused)))
        problems.append(str(refused))
    else:
        findings.insert(0, Finding("model", True, f"family {family.name}"))
        head = _head(given, config)
        findings += [
            head,
            Finding("tokens", True, "removed between attention and feed-forward, in every layer"),
            Finding(
                "protected tokens", True, f"the first {family.protected} of each sequence are never removed"
            ),
            _positions(family),
            Finding("hidden states", True, "recorded; a removed token shows its last state"),
            Finding("attentions", False, "not kept by packed attention; refused when asked for"),
        ]
        if plan is not None and plan.in_integers:
            findings.append(_integers(plan))
        if not head.supported and head.reason != _FRESH_HEAD:
            problems.append(head.reason)
    depth, width, heads, filters = (_first(config, *names) for names in _NAMES)
    if heads and width % heads:
        findings.append(Finding("heads", False, f"{heads} heads do not divide width {width}"))
        problems.append(findings[-1].reason)
    if not (depth or problems):
        findings.append(Finding("layers", False, "it has no layers"))
        problems.append(findings[-1].reason)
    if plan is not None and (plan.family != model_type or len(plan.layers) != depth):
        fit = f"the plan is for {plan.family} with {len(plan.layers)} layers; the model is {model_type} with {depth}"
        findings.append(Finding("plan", False, fit))
        problems.append(fit)
    layers, whole = [], problems[:1]
    for index in range(depth):
        left = plan.layers[index] if plan is not None and index < len(plan.layers) else LayerPlan()
        reason = next(iter([*whole, *_beyond(left, heads, filters)]), "")
        if reason and not whole:
            problems.append(f"layer {index + 1}: {reason}")
        layers.append(
            {
                "layer": index, "heads": heads, "head_width": width // max(heads, 1), "filters": filters,
                "supported": not reason, "reason": reason,
            }
        )  # fmt: skip
    return Inspection(model_type, not problems, tuple(findings), tuple(layers), tuple(problems))


_NAMES = (
    ("num_hidden_layers", "n_layers"),
    ("hidden_size", "dim"),
    ("num_attention_heads", "n_heads"),
    ("intermediate_size", "hidden_dim"),
)
_FRESH_HEAD = f"{NO_HEAD}; sparsam finetune gives it one"


def _first(config: Any, *names: str) -> int:
    for name in names:
        value = getattr(config, name, None)
        if isinstance(value, int):
            return max(value, 0)
    return 0


def _head(given: Any, config: Any) -> Finding:
    """What the head is for, by the class of a model, or by the class its configuration names."""
    names: Sequence[str] = [str(name) for name in getattr(config, "architectures", None) or ()][:1]
    if given is not config:
        names = [part.__name__ for part in type(given).__mro__]
    reason = why_not(names)
    if reason is None:
        return Finding("head", True, "one answer for a whole text or image")
    return Finding("head", False, _FRESH_HEAD if reason == NO_HEAD else reason)


def _beyond(left: LayerPlan, heads: int, filters: int) -> list[str]:
    """What a layer's plan keeps that the layer does not have."""
    return [
        f"the plan keeps {kind} {kept[-1]}; the dense model has {count} {kind}s"
        for kind, kept, count in (("head", left.heads, heads), ("filter", left.filters, filters))
        if kept and kept[-1] >= count
    ]


def _integers(plan: Plan) -> Finding:
    """What of a plan is in integers."""
    bits = sorted({one.bits for left in plan.layers for one in left.formats.values()})
    count = sum(len(left.formats) for left in plan.layers)
    said = (
        [f"{count} of {len(PRODUCTS) * len(plan.layers)} products in {' and '.join(map(str, bits))} bits"]
        if count
        else []
    )
    if plan.embeddings is not None:
        said.append(f"the words' embeddings in {plan.embeddings} bits")
    if plan.integer_only is not None:
        said.append("from token ids to the last norm no floating point (I-BERT)")
    return Finding("integers", True, "; ".join(said))


def _positions(family: Family) -> Finding:
    if family.relative_bias:
        return Finding("positions", True, "relative bias, from original positions")
    return Finding("positions", True, "absolute, added in the embeddings")
