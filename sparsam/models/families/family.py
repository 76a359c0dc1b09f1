"""What a family is to sparsam: a table of roles."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Family:
    """Where the parts of a family's encoder are, as attribute paths.

    ``container`` leads from the base model to the module that owns the list of layers, ``layers`` is that list's
    name there. ``replace`` says how the packed encoder comes in: ``encoder`` takes the container's place, ``list`` takes
    the list's place (where the base model iterates over it itself). The other paths lead from a layer.
    """

    name: str
    q: str
    k: str
    v: str
    o: str
    up: str
    act: str
    down: str
    attention_norm: str
    ffn_norm: str
    head_width: str
    """Path from a layer to the width of one head."""
    container: str = "encoder"
    layers: str = "layer"
    replace: str = "encoder"
    pre_norm: bool = False
    """Norms before each part and a plain residual stream (ViT), or after each sum (BERT)."""
    probability_dropout: str | None = None
    """Path to the dropout on attention probabilities: a module or a number."""
    attention_dropout: str | None = None
    ffn_dropout: str | None = None
    protected: int = 1
    """Leading tokens that are never removed: the class token, a distillation token."""
    relative_bias: bool = False
    positions_after_padding: bool = False
    """Positions count from the padding token's id plus 1 (RoBERTa), not from 0."""
    extras: tuple[str, ...] = field(default=())
    """Children of the container that the packed encoder carries along under the same names."""
