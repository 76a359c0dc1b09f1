"""What sparsam can do with a model, found out before any compute: per layer, with the reason where it cannot."""

from dataclasses import dataclass
from typing import Any

from sparsam.errors import Refused
from sparsam.models.families import Family
from sparsam.models.lift import family_of


@dataclass(frozen=True)
class Finding:
    """One line of the answer: what, supported or not, and why."""

    part: str
    supported: bool
    reason: str


@dataclass(frozen=True)
class Inspection:
    """What is supported of a model."""

    model_type: str
    supported: bool
    findings: tuple[Finding, ...]
    layers: tuple[dict[str, int], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The same facts as one JSON object."""
        return {
            "model_type": self.model_type,
            "supported": self.supported,
            "findings": [vars(f) for f in self.findings],
            "layers": list(self.layers),
        }


def inspect_model(config: Any) -> Inspection:
    """What is supported, from a configuration alone (a config, or anything with ``.config``).

    Never raises for an unsupported model: the reason is a finding.
    """
    config = getattr(config, "config", config)
    model_type = str(getattr(config, "model_type", "?"))
    try:
        family = family_of(model_type, config)
    except Refused as refused:
        return Inspection(model_type, False, (Finding("model", False, str(refused)),))
    depth, width, heads, filters = (_first(config, *names) for names in _NAMES)
    findings = [
        Finding("model", True, f"family {family.name}"),
        Finding("tokens", True, "removed between attention and feed-forward, in every layer"),
        Finding("protected tokens", True, f"the first {family.protected} of each sequence are never removed"),
        _positions(config, family),
        Finding("hidden states", True, "recorded; a removed token shows its last state"),
        Finding("attentions", False, "not kept by packed attention; refused when asked for"),
    ]
    problems = []
    if heads and width and width % heads:
        problems.append(Finding("heads", False, f"{heads} heads do not divide width {width}"))
    layers = tuple(
        {"layer": i, "heads": heads, "head_width": width // max(heads, 1), "filters": filters}
        for i in range(depth)
    )
    return Inspection(model_type, not problems, tuple(findings + problems), layers)


_NAMES = (
    ("num_hidden_layers", "n_layers"),
    ("hidden_size", "dim"),
    ("num_attention_heads", "n_heads"),
    ("intermediate_size", "hidden_dim"),
)


def _first(config: Any, *names: str) -> int:
    for name in names:
        value = getattr(config, name, None)
        if isinstance(value, int):
            return value
    return 0


def _positions(config: Any, family: Family) -> Finding:
    kind = getattr(config, "position_embedding_type", "absolute")
    if family.relative_bias:
        return Finding("positions", True, "relative bias, from original positions")
    if kind not in (None, "absolute"):
        return Finding("positions", False, f"position_embedding_type {kind!r} is not computed; absolute is")
    return Finding("positions", True, "absolute, added in the embeddings")
