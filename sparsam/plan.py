"""What is left of a model, layer by layer: the one description that every method writes and every runtime reads.

A plan is a frozen dataclass and a JSON object. It is keyed by role (layer, kind), never by module path: module
names move between releases of transformers, names on disk do not. Thresholds live here, not in the weights.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import field
from itertools import pairwise
from typing import Annotated, Any, Literal

import pydantic
from pydantic.dataclasses import dataclass

from sparsam.errors import Refused

VERSION = 3
"""2 since products have number formats, 3 since encoders run in integers alone; older plans are read as they are."""

MAX_CHARACTERS = 2_000_000
"""What is read of a plan's text: several times what a plan of the largest encoders takes."""

_strict = pydantic.ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
Index = Annotated[int, pydantic.Field(ge=0)]


PRODUCTS = ("qkv", "o", "up", "down")
"""A layer's products, by what they read: queries, keys and values have one input, and one format."""


@dataclass(frozen=True, config=_strict)
class Format:
    """How a product is computed in integers: weights of ``bits`` bits, symmetric, one scale an output; inputs of 8, affine.

    The weights' scales lie beside the weights. ``scale`` and ``zero`` are the input's, as calibrated for all tokens;
    with ``input`` ``token`` each token has its own, worked out while the model runs, and these serve exports alone.
    ``pieces`` is b of weights in pieces (``quantization/pwlq.py``): integers of 8 bits that lie on few levels, so that files
    hold b + 1 bits of each; None for any integers of ``bits`` bits.
    """

    bits: Annotated[int, pydantic.Field(ge=2, le=8)] = 8
    input: Literal["token", "tensor"] = "token"
    scale: Annotated[float, pydantic.Field(gt=0)] | None = None
    zero: Annotated[int, pydantic.Field(ge=0, le=255)] | None = None
    pieces: Annotated[int, pydantic.Field(ge=2, le=7)] | None = None

    def __post_init__(self) -> None:
        if self.pieces is not None and self.bits != 8:
            raise ValueError(f"weights in pieces are integers of 8 bits; got bits {self.bits}")
        if (self.scale is None) != (self.zero is None):
            raise ValueError(f"scale and zero go together; got {self.scale} and {self.zero}")
        if self.input == "tensor" and self.scale is None:
            raise ValueError("input 'tensor' needs the scale and zero that calibration gives")


@dataclass(frozen=True, config=_strict)
class LayerPlan:
    """One layer: indices of the dense layer's heads and filters that are kept; ``None`` keeps all of them.

    ``formats`` holds the number formats of its products (:data:`PRODUCTS`); one that is not named is in floating point.
    """

    heads: tuple[Index, ...] | None = None
    filters: tuple[Index, ...] | None = None
    formats: dict[Literal["qkv", "o", "up", "down"], Format] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for kind, kept in (("heads", self.heads), ("filters", self.filters)):
            if kept is not None and any(a >= b for a, b in pairwise(kept)):
                raise ValueError(f"{kind} must rise without repeats; got {kept[:8]}")


@dataclass(frozen=True, config=_strict)
class IntegerOnly:
    """How an encoder runs in integers alone (``quantization/integer_only.py``), beside the formats of all its products.

    ``scales`` holds one scale a point, as calibrated; with the weights they make the integers, whose SHA-256 is ``digest``.
    """

    scales: dict[str, Annotated[float, pydantic.Field(gt=0)]]
    digest: Annotated[str, pydantic.Field(pattern="^[0-9a-f]{64}$")]
    activation: Literal["table", "polynomial"] = "table"
    probabilities: Literal[15, 8] = 15
    residual: Literal[16, 8] = 16


@dataclass(frozen=True, config=_strict)
class TokenPlan:
    """How tokens are chosen while the model runs.

    ``values`` holds one number a layer, read by the rule (a threshold, a share of tokens); ``None`` where the
    layer removes nothing. ``output`` says what stands at a removed token's place in the encoder's output:
    its ``last`` state, or the mean of its sequence's ``survivors`` (so that a mean over all tokens is the
    mean over survivors).
    """

    rule: str
    values: tuple[float | None, ...]
    options: dict[str, bool | int | float | str] = field(default_factory=dict)
    output: Literal["last", "survivors"] = "last"


@dataclass(frozen=True, config=_strict)
class Plan:
    """What is left of a model of ``family`` (transformers' ``model_type``)."""

    family: str
    layers: tuple[LayerPlan, ...]
    tokens: TokenPlan | None = None
    embeddings: Annotated[int, pydantic.Field(ge=2, le=8)] | None = None
    """Bits of the words' embeddings, symmetric, one scale a word; None for floating point."""
    integer_only: IntegerOnly | None = None
    """How the encoder runs without floating point; None where only products are in integers, or nothing."""
    version: Annotated[int, pydantic.Field(ge=1, le=VERSION)] = VERSION

    def __post_init__(self) -> None:
        if not self.layers:
            raise ValueError("a plan needs at least one layer")
        if self.tokens is not None and len(self.tokens.values) != len(self.layers):
            raise ValueError(
                f"tokens.values has {len(self.tokens.values)} entries for {len(self.layers)} layers"
            )

        if self.integer_only is not None:
            forms = [form for layer in self.layers for form in layer.formats.values()]
            if (
                self.tokens is not None
                or self.embeddings != 8
                or any(f.bits != 8 or f.input != "tensor" for f in forms)
            ):
                raise ValueError(
                    "integer_only needs embeddings and products of 8 bits with inputs on one grid each, and no token rule"
                )

    @staticmethod
    def dense(family: str, layers: int) -> "Plan":
        """The plan that leaves everything as it is."""
        return Plan(family, (LayerPlan(),) * layers)

    @property
    def changes_shapes(self) -> bool:
        """Whether the weights of this plan differ in shape from the dense model's."""
        return any(layer.heads is not None or layer.filters is not None for layer in self.layers)

    @property
    def in_integers(self) -> bool:
        """Whether any weights are integers: those of a product, or the words' embeddings."""
        return self.embeddings is not None or any(layer.formats for layer in self.layers)

    def to_json(self) -> dict[str, Any]:
        """A JSON object; :meth:`from_json` reads it back to an equal plan."""
        made: dict[str, Any] = _adapter.dump_python(self, mode="json")
        for layer in made["layers"]:
            if not layer["formats"]:  # as plans of version 1 are written, whose digests stand in files
                del layer["formats"]
            for form in layer.get("formats", {}).values():
                if form["pieces"] is None:  # nor had those of version 2 at first
                    del form["pieces"]
        if self.embeddings is None:
            del made["embeddings"]
        if self.integer_only is None:
            del made["integer_only"]
        return made

    @staticmethod
    def from_json(obj: object) -> "Plan":
        """Read a plan from JSON text or from the object it holds; anything else is refused, too.

        Raises:
            Refused: ``plan-version`` for a newer schema, ``plan-invalid`` for anything a plan cannot be.
        """
        try:
            if not isinstance(obj, str | Mapping):
                raise TypeError(f"it is a {type(obj).__name__}")
            if isinstance(obj, str) and len(obj) > MAX_CHARACTERS:
                raise ValueError(f"it has {len(obj)} characters")
            data = json.loads(obj) if isinstance(obj, str) else dict(obj)
        except (ValueError, TypeError, RecursionError) as error:
            raise Refused(
                f"the plan is not a JSON object: {error}. Restore it from the saved folder.",
                code="plan-invalid",
            ) from None
        version = data.get("version") if isinstance(data, dict) else None
        if isinstance(version, int) and not isinstance(version, bool) and version > VERSION:
            raise Refused(
                f"the plan has schema version {version}; this sparsam reads up to {VERSION}. Upgrade sparsam.",
                code="plan-version",
            )
        try:
            return _adapter.validate_json(json.dumps(data, allow_nan=False))
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"])) or "plan"
            raise Refused(
                f"the plan is not valid at {place}: {first['msg']} (got {_short(first.get('input'))}). "
                "Restore it from the saved folder or compress again.",
                code="plan-invalid",
            ) from None
        except (ValueError, TypeError, RecursionError) as error:
            raise Refused(
                f"the plan is not valid: {error}. Restore it from the saved folder.", code="plan-invalid"
            ) from None

    def digest(self) -> str:
        """SHA-256 of the canonical JSON."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()


def _short(value: object, width: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= width else text[: width - 1] + "…"


_adapter = pydantic.TypeAdapter(Plan)
