"""Arguments of a check: what `--arg` says, and what a script asks for on its command line."""

import ast
import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sparsam.errors import Refused
from sparsam.shapes.commands import commands_of

DTYPES = frozenset(
    {
        "float16", "half", "bfloat16", "float32", "float", "float64", "double", "complex32",
        "complex64", "complex128", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "short",
        "int32", "int", "int64", "long", "bool", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz",
        "float8_e5m2fnuz",
    }
)  # fmt: skip
_LARGEST = 2**63 - 1
_NAME = re.compile(r"[^\W\d][\w-]*(\.[^\W\d][\w-]*)*\Z")
_INTEGER = re.compile(r"[+-]?\d+(_\d+)*\Z")
_NUMBER = re.compile(r"[+-]?(\d+(_\d+)*\.?\d*|\.\d+)([eE][+-]?\d+)?\Z")
_SYMBOL = re.compile(r"[^\W\d]\w*\Z")
_CAPITALS = re.compile(r"(\d+|[A-Z][A-Z0-9_]*)(\s*x\s*(\d+|[A-Z][A-Z0-9_]*))+\Z")
_DEVICE = re.compile(r"(cpu|cuda|mps|meta|xpu|hpu|xla)(:\d+)?\Z")
_MOST_DIMENSIONS = 64


@dataclasses.dataclass(frozen=True)
class Argument:
    """What one `--arg` says.

    Args:
        name: Of the parameter, the option or the symbol, without leading dashes.
        kind: "range" (`1..512`), "number" (`64`, `0.1`), "tensor" (`N×3×H×W:float32@cuda`), "sizes" (`(B,T)`), "text",
            or "flag" (a name alone).
        text: What stood behind the `=`, quotes taken off.
        low: Of a range, smallest value; None if unbounded.
        high: Of a range, largest value, inclusive; None if unbounded.
        number: Of a number.
        sizes: Of a tensor or sizes: integers, and names of symbols.
        dtype: Of a tensor, "" where not given.
        device: Of a tensor, "" where not given.
    """

    name: str
    kind: str
    text: str = ""
    low: int | None = None
    high: int | None = None
    number: int | float | None = None
    sizes: tuple[int | str, ...] = ()
    dtype: str = ""
    device: str = ""


@dataclasses.dataclass(frozen=True)
class ScriptArgument:
    """What a script asks for on its command line.

    Args:
        names: By which it can be given, without dashes and with underscores; the one the program reads comes first.
        flag: As the program wrote it, "--data"; of a positional one, its name.
        required: Whether the script stops without it.
        positional: Whether it stands without a flag.
        type: Name of the function that converts it ("int"), "" for text.
        default: Source of the default, "" for none.
        choices: Source of each allowed value, () for any.
        takes_value: False for switches (`store_true`).
        line: Where it is declared.
        under: Sub-commands that it stands behind; None where the source does not tell.
        selects: Whether it chooses a sub-command.
    """

    names: tuple[str, ...]
    flag: str
    required: bool
    positional: bool = False
    type: str = ""
    default: str = ""
    choices: tuple[str, ...] = ()
    takes_value: bool = True
    line: int = 0
    under: tuple[str, ...] | None = ()
    selects: bool = False

    @property
    def shown(self) -> str:
        """How a person would call it."""
        return f"the argument {self.flag}" if self.positional else self.flag

    @property
    def example(self) -> str:
        """How it could be given."""
        value = {"int": "1..512", "float": "0.1"}.get(self.type, "…")
        if self.choices:
            value = self.choices[0].strip("'\"")
        return f"{self.names[0]}={value}" if self.takes_value else self.names[0]


def parse_arguments(texts: Iterable[str]) -> dict[str, Argument]:
    """Several `--arg`, by name.

    Raises:
        Refused: As `parse_argument`, and "argument" for a name given twice.
    """
    found: dict[str, Argument] = {}
    for text in texts:
        one = parse_argument(text)
        if one.name in found:
            raise Refused(f"--arg {one.name} is given twice; give it once", code="argument")
        found[one.name] = one
    return found


def parse_argument(text: str) -> Argument:
    """What one `--arg` says.

    Forms: `name=1..512` (also `1..`, `..512`), `name=64`, `name=0.1`, `name=N×3×H×W` (`x` between capitals and integers,
    and `*`, mean the same), with `:dtype` and `@device` behind, `name=(B,T)` for sizes (with `:dtype` or `@device`
    a tensor), `name=text`, `name='text'` for text whatever it looks like, and `name` for a switch.

    Raises:
        Refused: "argument", with the piece that is wrong.
    """
    name, equals, value = text.strip().partition("=")
    name, value = name.strip().removeprefix("--"), value.strip()
    if not _NAME.match(name):
        raise _wrong(text, f"{name!r} is no name of an argument" if name else "there is no name before the =")
    if not equals:
        return Argument(name, "flag")
    if not value:
        raise _wrong(text, f"there is no value after the =; for an empty text write {name}=''")
    if value[0] in "'\"":
        if len(value) < 2 or value[-1] != value[0]:
            raise _wrong(text, f"the quote {value[0]} is not closed")
        return Argument(name, "text", value[1:-1])
    if ".." in value and re.match(r"[\w.+-]*\Z", value):
        low, high = _bounds(value, text)
        return Argument(name, "range", value, low=low, high=high)
    if _INTEGER.match(value):
        return Argument(name, "number", value, number=_integer(value, text))
    if _NUMBER.match(value):
        return Argument(name, "number", value, number=float(value))
    return _shaped(name, value, text) or Argument(name, "text", value)


def _shaped(name: str, value: str, text: str) -> Argument | None:
    """A tensor or sizes, if that is what the value looks like."""
    shape, at, device = value.partition("@")
    shape, colon, dtype = shape.partition(":")
    shape, dtype, device = shape.strip(), dtype.strip(), device.strip()
    bracketed = shape[:1] in ("(", "[")
    starred = re.match(r"[\w\s*+-]*\w[\w\s*+-]*\Z", shape) is not None and "*" in shape
    product = "×" in shape or starred or _CAPITALS.match(shape) is not None
    if not bracketed and not product:
        single = re.match(r"(\d+|[A-Z][A-Z0-9_]*)\Z", shape) is not None
        if not single or not (colon or at) or (colon and dtype not in DTYPES and not at):
            return None
    if bracketed:
        if shape[-1:] != {"(": ")", "[": "]"}[shape[0]]:
            raise _wrong(text, f"the bracket {shape[0]} is not closed")
        inside = shape[1:-1].strip()
        pieces = [] if not inside else inside.removesuffix(",").split(",")
    else:
        pieces = re.split(r"[×*x]" if _CAPITALS.match(shape) else r"[×*]", shape)
    sizes = tuple(_size(piece.strip(), text) for piece in pieces)
    if len(sizes) > _MOST_DIMENSIONS:
        raise _wrong(text, f"a tensor of {len(sizes)} dimensions; at most {_MOST_DIMENSIONS} are taken")
    if colon and dtype not in DTYPES:
        raise _wrong(text, f"{dtype!r} is no dtype of torch; such as float32, int64, bool")
    if at and not _DEVICE.match(device):
        raise _wrong(text, f"{device!r} is no device; such as cpu, cuda, cuda:0")
    kind = "sizes" if bracketed and not colon and not at else "tensor"
    return Argument(name, kind, value, sizes=sizes, dtype=dtype, device=device)


def _size(piece: str, text: str) -> int | str:
    if not piece:
        raise _wrong(text, "a size is missing; write one between every two signs, as in N×3×H×W")
    if _INTEGER.match(piece):
        size = _integer(piece, text)
        if size < 0:
            raise _wrong(text, f"the size {piece} is negative")
        return size
    if not _SYMBOL.match(piece):
        raise _wrong(text, f"{piece!r} is no size; a size is an integer or a name, as in N×3×H×W")
    return piece


def _bounds(value: str, text: str) -> tuple[int | None, int | None]:
    first, _, last = value.partition("..")
    for piece in (first, last):
        if piece and not _INTEGER.match(piece):
            raise _wrong(text, f"{piece!r} is no integer; a range is written 1..512, 1.. or ..512")
    low = _integer(first, text) if first else None
    high = _integer(last, text) if last else None
    if low is None and high is None:
        raise _wrong(text, "a range needs a bound: 1..512, 1.. or ..512")
    if low is not None and high is not None and low > high:
        raise _wrong(text, f"the range is empty: {low} is more than {high}")
    return low, high


def _integer(piece: str, text: str) -> int:
    if len(piece) > 40 or abs(int(piece)) > _LARGEST:
        raise _wrong(text, f"{piece[:40]} does not fit into 64 bits")
    return int(piece)


def _wrong(text: str, why: str) -> Refused:
    shown = text if len(text) <= 100 else text[:97] + "…"
    return Refused(f"--arg {shown!r}: {why}", code="argument")


def script_arguments(tree: ast.Module) -> tuple[ScriptArgument, ...]:
    """What a script declares with argparse's `add_argument` or click's `option` and `argument`, as its source says.

    Only literal names are seen; what is built at run time, or by a library, is not.
    """
    selectors, owners = commands_of(tree)
    found = [
        ScriptArgument(
            names=(one.name.replace("-", "_"),),
            flag=one.name,
            required=one.required,
            positional=True,
            choices=one.choices,
            line=one.line,
            under=one.under,
            selects=True,
        )
        for one in selectors
    ]
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called not in ("add_argument", "option", "argument"):
            continue
        if called != "add_argument" and not _of_click(node.func):
            continue
        names = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        if len(names) == len(node.args) and all(names):
            one = _declared(names, node, click=called != "add_argument", positional=called == "argument")
            found += [dataclasses.replace(one, under=under) for under in owners.get(node, ((),))]
    return tuple(sorted(found, key=lambda one: one.line))


def chosen_commands(
    declared: Sequence[ScriptArgument], given: Mapping[str, Argument] | Iterable[str]
) -> tuple[str, ...]:
    """The sub-commands that the given arguments choose, the outermost first."""
    if not isinstance(given, Mapping):
        return ()
    path: tuple[str, ...] = ()
    while True:
        selector = next((one for one in declared if one.selects and one.under == path), None)
        value = given.get(selector.names[0]) or given.get(selector.flag) if selector is not None else None
        if value is None or not value.text:
            return path
        path = (*path, value.text)


def behind(declared: Sequence[ScriptArgument], path: tuple[str, ...]) -> tuple[ScriptArgument, ...]:
    """The arguments that a command line with these sub-commands can have."""
    return tuple(one for one in declared if one.under is None or path[: len(one.under)] == one.under)


def _of_click(func: ast.expr) -> bool:
    return isinstance(func, ast.Attribute) and isinstance(func.value, ast.Name) and func.value.id == "click"


def _declared(names: list[str], node: ast.Call, *, click: bool, positional: bool) -> ScriptArgument:
    words: dict[str, Any] = {word.arg: word.value for word in node.keywords if word.arg}
    flags = [name for name in names if name.startswith("-")]
    positional = positional or not flags
    action = _constant(words.get("action"))
    switch = action in (
        "store_true", "store_false", "store_const", "count", "help", "version", "append_const",
    ) or (click and _constant(words.get("is_flag")) is True)  # fmt: skip
    has_default = "default" in words and _constant(words["default"], missing=Ellipsis) is not None
    required = _constant(words.get("required")) is True and not (click and has_default)
    if positional:
        optional = _constant(words.get("nargs")) in ("?", "*") or has_default or switch
        required = (
            not optional if not click else _constant(words.get("required")) is not False and not has_default
        )
    long = [name for name in flags if name.startswith("--")] or flags or names
    plain = [name.lstrip("-").replace("-", "_") for name in [*long, *names]]
    dest = _constant(words.get("dest"))
    chosen = words.get("choices")
    return ScriptArgument(
        names=tuple(dict.fromkeys([*([dest] if isinstance(dest, str) else []), *plain])),
        flag=long[0],
        required=required,
        positional=positional,
        type=_short(words.get("type")),
        default=_short(words.get("default")),
        choices=tuple(_short(e) for e in chosen.elts)
        if isinstance(chosen, ast.List | ast.Tuple | ast.Set)
        else (),
        takes_value=not switch,
        line=node.lineno,
    )


def _constant(node: ast.expr | None, *, missing: Any = None) -> Any:
    return node.value if isinstance(node, ast.Constant) else missing


def _short(node: ast.expr | None) -> str:
    """Source of a simple expression; "" for none, and for what is long or deep."""
    if isinstance(node, ast.Constant):
        return repr(node.value)[:200]
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_short(node.value)}.{node.attr}" if isinstance(node.value, ast.Name) else ""
    if isinstance(node, ast.UnaryOp) and isinstance(node.operand, ast.Constant):
        return ast.unparse(node)[:200]
    return ""
