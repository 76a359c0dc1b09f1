"""The call that failed, as the rules look at it."""

import dataclasses
import functools
import itertools
import re
from collections.abc import Mapping, Sequence

from sparsam.shapes.diagnose import sizes
from sparsam.shapes.verdict import Failure, Operand, Symbol, Value

NUMBERS = r"[\[(]((?:[^\[\]()]|\([^()]*\))*)[\])]"
"""A shape in a sentence of the framework: "[2, 3]" or "(2, 3)"."""


@dataclasses.dataclass(frozen=True)
class Call:
    """A failure with its witness.

    The operands of a function are its arguments, those in lists one by one. Those of a module are the arguments of the
    call (or of the function that failed inside), then its parameters, named "self.weight" and so on, and its settings as
    it prints them, in one operand named "self" ("Linear(in_features=8, out_features=2, bias=True)").
    What a rule needs it takes from there first, and from the framework's sentence where the operands do not say it.

    Args:
        failure: What failed, where.
        witness: Sizes for which it fails.
        requirement: The condition that these sizes break.
        symbols: What is known of the symbols, by name.
        conditions: What was decided on the way there.
    """

    failure: Failure
    witness: Mapping[str, Value]
    requirement: str | None = None
    symbols: Mapping[str, Symbol] = dataclasses.field(default_factory=dict)
    conditions: Sequence[str] = ()

    @functools.cached_property
    def text(self) -> str:
        """The framework's sentence, on one line."""
        return " ".join(
            re.sub(
                r"torch\.Size\((\[[^\]]*\])\)",
                r"\1",
                self.failure.text[:4000].partition("Exception raised from ")[0],
            ).split()
        )

    @functools.cached_property
    def name(self) -> str:
        """Last part of the operation, without the underscore of an operation in place: "view", "Conv2d"."""
        name = self.failure.operation.rpartition(".")[2]
        return name if name.startswith("__") else name.rstrip("_")

    @functools.cached_property
    def names(self) -> frozenset[str]:
        """What the operation goes by: the name the program called, and the operator's that raised."""
        aten = self.failure.aten.removeprefix("aten.").partition(".")[0].strip("_")
        return frozenset(name for name in (self.name, aten) if name)

    @functools.cached_property
    def words(self) -> str:
        """How the operation is named in a message: "Conv2d", "torch.cat", "view"."""
        operation = self.failure.operation
        if not operation:
            return self.failure.aten.removeprefix("aten.").partition(".")[0] or self._written or "the call"
        if self.name.startswith("__"):
            return OPERATORS.get(self.name, self.name)
        return self.name

    @property
    def _written(self) -> str:
        """What the marked piece of the line calls."""
        if not self.failure.chain:
            return ""
        place = self.failure.place
        piece = place.source[place.column - 1 : place.end_column - 1 if place.end_column else None]
        called = re.match(r"[\w.]*?([A-Za-z_]\w*)\(", piece)
        if not called or not piece.endswith(")"):
            return ""
        inside = itertools.accumulate(
            {"(": 1, ")": -1}.get(character, 0) for character in piece[called.end() :]
        )
        return called[1] if all(depth >= 0 for depth in list(inside)[:-1]) else ""

    @functools.cached_property
    def tensors(self) -> Sequence[Operand]:
        """Operands that are tensors with a known shape, parameters of a module excepted."""
        return [o for o in self.arguments if o.kind == "tensor" and o.shape is not None]

    @functools.cached_property
    def arguments(self) -> Sequence[Operand]:
        """Operands without the parameters and settings of a module."""
        if not self.is_module:
            return self.failure.operands
        return [
            o for o in self.failure.operands if o.name not in PARAMETERS and not o.name.startswith("self")
        ]

    @functools.cached_property
    def settings(self) -> Mapping[str, str]:
        """Settings of a module by name, as it prints them."""
        printed = next((o.text for o in self.failure.operands if o.name == "self" and o.kind == "other"), "")
        inside = printed.partition("(")[2].removesuffix(")")
        positions = next((names for end, names in POSITIONS.items() if re.fullmatch(end, self.name)), ())
        found = {}
        for at, part in enumerate(listed(inside)):
            name, equals, value = part.partition("=")
            if equals:
                found[name.strip()] = value.strip()
            elif at < len(positions):
                found[positions[at]] = part
        return found

    @functools.cached_property
    def is_module(self) -> bool:
        """Whether a module was called (its class's name begins with a capital letter), and no function."""
        return self.name[:1].isupper()

    def operand(self, *names: str) -> Operand | None:
        """The operand with one of the names."""
        return next(
            (o for name in names for o in self.failure.operands if o.name in (name, f"self.{name}")), None
        )

    def shape(self, position: int = 0, *names: str) -> Sequence[str] | None:
        """The sizes of the tensor with one of the names, else of the one in this position of the tensors."""
        named = self.operand(*names)
        if named is not None and named.shape is not None:
            return named.shape
        return self.tensors[position].shape if position < len(self.tensors) else None

    def number(self, *names: str) -> str | None:
        """The number with one of the names, as text; of a module also from its settings."""
        named = self.operand(*names)
        if named is not None and named.kind == "number":
            return named.text
        return next((self.settings[name] for name in names if name in self.settings), None)

    @functools.cached_property
    def numbers(self) -> Sequence[str]:
        """All arguments that are numbers, in order, as text."""
        return [o.text for o in self.arguments if o.kind == "number"]

    @functools.cached_property
    def asked(self) -> Sequence[str] | None:
        """The shape that was asked for: an argument that is a shape, or the numbers in a row."""
        given = next((o.shape for o in self.arguments if o.kind == "shape" and o.shape is not None), None)
        return given if given is not None else (self.numbers or None)

    def said(self, pattern: str) -> re.Match[str] | None:
        """Where the framework's sentence has this pattern, in any case of letters."""
        return re.search(pattern, self.text, re.IGNORECASE)

    def equal(self, left: str, right: str) -> bool:
        """Whether two sizes are the same under the witness."""
        return sizes.equal(left, right, self.witness)

    def value(self, size: str) -> int | None:
        """A size under the witness."""
        return sizes.value(size, self.witness)


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a rule says: a message of one line, what stands under the marked piece, and a hint ("" for none)."""

    message: str
    caret: str = ""
    fix: str = ""


def listed(text: str) -> list[str]:
    """The sizes in a shape as the framework prints it: "2, Mod(N, 4), 64" or "2 x 12 x 64"."""
    parts, depth, part = [], 0, ""
    for character in text.replace(" x ", ", "):
        depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(character, 0)
        if character == "," and depth == 0:
            parts.append(part)
            part = ""
        else:
            part += character
    return [part.strip() for part in [*parts, part] if part.strip()]


POSITIONS: Mapping[str, Sequence[str]] = {
    r"Conv(Transpose)?[123]d": ("in_channels", "out_channels"),
    r"RNN|LSTM|GRU|RNNCell|LSTMCell|GRUCell": ("input_size", "hidden_size", "num_layers"),
    r"GroupNorm": ("num_groups", "num_channels"),
    r"(Batch|Instance)Norm[123]d|SyncBatchNorm": ("num_features",),
    r"Embedding(Bag)?": ("num_embeddings", "embedding_dim"),
    r"LayerNorm|RMSNorm": ("normalized_shape",),
}
"""Settings that a module prints without their names, by its class."""

PARAMETERS = frozenset(
    {"weight", "bias", "running_mean", "running_var", "num_batches_tracked", "in_proj_weight", "in_proj_bias"}
)

OPERATORS = {
    "__add__": "+", "__radd__": "+", "__iadd__": "+=", "__sub__": "-", "__rsub__": "-", "__isub__": "-=",
    "__mul__": "*", "__rmul__": "*", "__imul__": "*=", "__truediv__": "/", "__rtruediv__": "/", "__pow__": "**",
    "__floordiv__": "//", "__mod__": "%", "__matmul__": "@", "__rmatmul__": "@", "__getitem__": "indexing",
    "__setitem__": "assignment to an index", "__and__": "&", "__or__": "|", "__xor__": "^", "__eq__": "==",
    "__ne__": "!=", "__lt__": "<", "__le__": "<=", "__gt__": ">", "__ge__": ">=", "__len__": "len",
    "__bool__": "bool", "__int__": "int", "__float__": "float", "__iter__": "iteration",
}  # fmt: skip
