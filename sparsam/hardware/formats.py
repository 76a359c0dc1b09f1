"""Workloads from and for other simulators.

    SCALE-Sim   topology CSV (convolutions) and GEMM CSV (M, N, K): shapes alone, numbers are drawn
    DNNsim      a folder of float32 ``act-LAYER-BATCH.npy``, ``wgt-LAYER.npy`` and ``model.csv``
    Timeloop    a problem in YAML for each product, with the densities that were measured (written alone)
    DRAM        lines of address and direction (Ramulator), or address, direction and cycle (DRAMsim3)

The forms are those of the tools' own repositories, as far as they are described there; no tool was run on what is written
here. What a form cannot hold is left out, and named in what the writing functions give back.

What is imported is read, or drawn, layer by layer when it is asked for.
"""

import csv
import hashlib
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sparsam.errors import InputOutput, Refused, Usage
from sparsam.workload import Attention, Conv, Gemm, Layer, Tensor, Workload, bf16_bits, rounded

TOPOLOGY = (
    "Layer name", "IFMAP Height", "IFMAP Width", "Filter Height", "Filter Width", "Channels", "Num Filter", "Strides",
)  # fmt: skip
GEMM = ("Layer", "M", "N", "K")
MOST = 1 << 24
"""Largest size of an axis that is read from a file. Chosen by us: a layer beyond it is a slip of the pen."""

LeftOut = dict[str, str]
"""Name of a layer, and why a form cannot hold it."""


# shapes without numbers: SCALE-Sim


@dataclass(frozen=True)
class Shape:
    """A layer whose numbers are to be drawn.

    Args:
        name: of the layer.
        flowing: shape of the activations.
        staying: shape of the weights.
        stride: of a convolution; None for a matrix product.
        pattern: N and M where N of every M weights along k are not zero; None where their number alone is given.
        stream: which stream of random numbers it is drawn from.
    """

    name: str
    flowing: tuple[int, ...]
    staying: tuple[int, ...]
    stride: tuple[int, int] | None = None
    pattern: tuple[int, int] | None = None
    stream: int = 0


Density = float | Mapping[str, float] | Sequence[float] | Literal["random"]
"""Share of numbers that are not zero: one for all layers, by a layer's name, one a layer in order, or drawn for each."""

RANDOM = (0.1, 1.0)
"""Between what densities are drawn, all alike. Chosen by us."""


@dataclass(frozen=True)
class Drawn(Sequence[Layer]):
    """Layers of given shapes with random numbers, each drawn when it is asked for, the same ones every time.

    Args:
        shapes: in order.
        flowing: share of activations that are not zero, for each.
        staying: the same of weights.
        format: ``int8`` (uniform, without zero) or ``bf16`` (normal).
        seed: of all layers; each has a stream of its own.
    """

    shapes: tuple[Shape, ...]
    flowing: tuple[float, ...]
    staying: tuple[float, ...]
    format: str = "int8"
    seed: int = 0

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return replace(self, shapes=self.shapes[at], flowing=self.flowing[at], staying=self.staying[at])
        shape = self.shapes[at]
        draw = np.random.default_rng([self.seed, shape.stream])
        flowing = _drawn(draw, shape.flowing, self.format, draw.random(shape.flowing) < self.flowing[at])
        if shape.pattern is None:
            keep = draw.random(shape.staying) < self.staying[at]
        else:
            keep = _n_of_m(draw, shape.staying, *shape.pattern)
        staying = _drawn(draw, shape.staying, self.format, keep)
        if shape.stride is None:
            return Gemm(shape.name, flowing, staying)
        return Conv(shape.name, flowing, staying, shape.stride)


def _drawn(draw: np.random.Generator, shape: tuple[int, ...], format: str, keep: NDArray[np.bool_]) -> Tensor:
    """Random numbers that are not zero where ``keep`` says so."""
    if format == "int8":
        size = draw.integers(1, 128, shape, np.int16) * (2 * draw.integers(0, 2, shape, np.int8) - 1)
        return Tensor(np.where(keep, size, 0).astype(np.int8), "int8")
    bits = bf16_bits(draw.standard_normal(shape, np.float32))
    bits = np.where(bits & 0x7FFF, bits, 0x3F80)  # a draw of zero becomes one
    return Tensor(np.where(keep, bits, 0).astype(np.uint16), "bf16")


def _n_of_m(draw: np.random.Generator, shape: tuple[int, ...], n: int, m: int) -> NDArray[np.bool_]:
    """True for ``n`` of every ``m`` weights of an output, in the order (kh, kw, channels) of the sum; the last may be fewer."""
    outputs, k = shape[0], math.prod(shape[1:])
    blocks = -(-k // m)
    rank = draw.random((outputs, blocks, m)).argsort(2).argsort(2)
    keep = (rank < n).reshape(outputs, blocks * m)[:, :k]
    if len(shape) == 2:
        return keep
    _, channels, height, width = shape
    return keep.reshape(outputs, height, width, channels).transpose(0, 3, 1, 2)


def read_topology(
    file: str | os.PathLike[str],
    *,
    flowing: Density = 1.0,
    staying: Density = 1.0,
    format: str = "int8",
    seed: int = 0,
    chain: bool = False,
) -> Workload:
    """Convolutions of a SCALE-Sim topology CSV, with numbers drawn at given densities.

    Columns are those of :data:`TOPOLOGY`; one more may be the stride across, or a pattern such as ``2:4`` (version 3), which
    then decides the weights. Sizes of images hold their padding. A line of three numbers behind the name is refused: it is a
    GEMM.

    Args:
        file: the CSV; its first line is a heading.
        flowing: densities of activations.
        staying: densities of weights.
        format: ``int8`` or ``bf16``.
        seed: of the draw.
        chain: refuse layers that do not read what the layer before gives (:func:`check_chain`).

    Raises:
        InputOutput: ``format-file``. Refused: ``format-invalid`` with file and line, ``workload-chain``.
        Usage: ``format-density``.
    """
    shapes = []
    for where, cells in _lines(file):
        name, *rest = cells
        pattern = None
        if rest and ":" in rest[-1]:
            pattern = _pattern(where, rest.pop())
        if len(rest) not in (7, 8):
            raise Refused(
                f"{where}: {name} has {len(rest)} sizes; a convolution has {', '.join(TOPOLOGY[1:])}. A file of M, N, K is "
                "read by read_gemms.",
                code="format-invalid",
            )
        height, width, kh, kw, channels, filters, stride, *across = (_whole(where, name, x) for x in rest)
        if kh > height or kw > width:
            raise Refused(
                f"{where}: {name} has filters of {kh} x {kw} on images of {height} x {width}.",
                code="format-invalid",
            )
        steps = (stride, across[0] if across else stride)
        shapes.append(Shape(name, (1, channels, height, width), (filters, channels, kh, kw), steps, pattern))
    return _as_workload(file, "SCALE-Sim topology", shapes, flowing, staying, format, seed, chain)


def read_gemms(
    file: str | os.PathLike[str],
    *,
    flowing: Density = 1.0,
    staying: Density = 1.0,
    format: str = "int8",
    seed: int = 0,
    chain: bool = False,
) -> Workload:
    """Matrix products of a SCALE-Sim GEMM CSV (layer, M, N, K), with numbers drawn at given densities.

    M rows flow, N stay. Arguments and errors are those of :func:`read_topology`.
    """
    shapes = []
    for where, cells in _lines(file):
        name, *rest = cells
        pattern = None
        if rest and ":" in rest[-1]:
            pattern = _pattern(where, rest.pop())
        if len(rest) != 3:
            raise Refused(
                f"{where}: {name} has {len(rest)} sizes; a product has M, N, K. A file of convolutions is read by "
                "read_topology.",
                code="format-invalid",
            )
        m, n, k = (_whole(where, name, x) for x in rest)
        shapes.append(Shape(name, (m, k), (n, k), None, pattern))
    return _as_workload(file, "SCALE-Sim GEMM", shapes, flowing, staying, format, seed, chain)


def _lines(file: str | os.PathLike[str]) -> Iterator[tuple[str, list[str]]]:
    """Place and cells of each line behind the heading; empty lines and cells at the end are nothing."""
    try:
        text = Path(file).read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise InputOutput(f"{file} cannot be read: {error}", code="format-file") from error
    count = 0
    for number, line in enumerate(csv.reader(text.splitlines()), 1):
        cells = [cell.strip() for cell in line]
        while cells and not cells[-1]:
            cells.pop()
        if not cells:
            continue
        count += 1
        if count == 1:
            if len(cells) > 1 and re.fullmatch(r"-?\d+", cells[1]):
                raise Refused(
                    f"{file}:{number}: the first line names a layer; it must be a heading.",
                    code="format-invalid",
                )
            continue
        if not cells[0]:
            raise Refused(f"{file}:{number}: a layer without a name.", code="format-invalid")
        yield f"{file}:{number}", cells
    if count < 2:
        raise Refused(f"{file} names no layer behind its heading.", code="format-invalid")


def _whole(where: str, name: str, text: str) -> int:
    if not re.fullmatch(r"\d{1,12}", text) or not 1 <= int(text) <= MOST:
        raise Refused(
            f"{where}: {name} has the size {text!r}; sizes are whole numbers from 1 to {MOST}.",
            code="format-invalid",
        )
    return int(text)


def _pattern(where: str, text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,4}):(\d{1,4})", text)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise Refused(f"{where}: a pattern is N:M with N from 1 to M; got {text!r}.", code="format-invalid")
    return int(found[1]), int(found[2])


def _as_workload(
    file: str | os.PathLike[str],
    what: str,
    shapes: list[Shape],
    flowing: Density,
    staying: Density,
    format: str,
    seed: int,
    chain: bool,
) -> Workload:
    if format not in ("int8", "bf16"):
        raise Usage(f"format is int8 or bf16; got {format!r}.", code="format-density")
    shapes = _numbered(shapes)
    names = [shape.name for shape in shapes]
    drawn = Drawn(
        tuple(shapes), _densities(flowing, names, seed, 0), _densities(staying, names, seed, 1), format, seed
    )
    facts = {
        "source": str(file), "form": what, "drawn": True, "seed": seed, "format": format,
        "flowing": list(drawn.flowing), "staying": list(drawn.staying),
    }  # fmt: skip
    if chain:
        _check_shapes([(shape.name, shape.flowing, shape.staying) for shape in shapes])
    return Workload(drawn, facts)


def _numbered(shapes: list[Shape]) -> list[Shape]:
    """Later layers of one name get a number; each gets a stream of its own."""
    taken, found = {shape.name for shape in shapes}, []
    seen: set[str] = set()
    for stream, shape in enumerate(shapes):
        name, count = shape.name, 1
        while name in seen or (count > 1 and name in taken):
            count += 1
            name = f"{shape.name}#{count}"
        seen.add(name)
        found.append(replace(shape, name=name, stream=stream))
    return found


def _densities(given: Density, names: list[str], seed: int, side: int) -> tuple[float, ...]:
    if isinstance(given, str):
        if given != "random":
            raise Usage(
                f"a density is a share from 0 to 1, or 'random'; got {given!r}.", code="format-density"
            )
        draw = np.random.default_rng([seed, (1 << 32) + side])  # no layer has that number
        found = draw.uniform(*RANDOM, len(names)).tolist()
    elif isinstance(given, Mapping):
        if unknown := set(given) - set(names):
            raise Usage(
                f"densities are given for {sorted(unknown)}, which are no layers.", code="format-density"
            )
        found = [float(given.get(name, 1.0)) for name in names]
    elif isinstance(given, Sequence):
        found = [float(x) for x in given]
        if len(found) != len(names):
            raise Usage(f"{len(found)} densities for {len(names)} layers.", code="format-density")
    else:
        found = [float(given)] * len(names)
    if wrong := [x for x in found if not 0 <= x <= 1]:
        raise Usage(f"a density is a share from 0 to 1; got {wrong[0]!r}.", code="format-density")
    return tuple(found)


def check_chain(workload: Iterable[Layer]) -> None:
    """Refuse layers that cannot be run one after the other: each reads as many channels as the one before gives.

    For plain stacks; a network with branches is no chain in this sense. Between a convolution and a matrix product the
    positions of the image may be flattened into k.

    Raises:
        Refused: ``workload-chain`` with both layers.
    """
    shapes = []
    for layer in workload:
        if isinstance(layer, Gemm):
            shapes.append((layer.name, layer.a.shape, layer.b.shape))
        elif isinstance(layer, Conv):
            shapes.append((layer.name, layer.x.shape, layer.weight.shape))
    _check_shapes(shapes)


def _check_shapes(shapes: Sequence[tuple[str, tuple[int, ...], tuple[int, ...]]]) -> None:
    for (before, flowed, stayed), (name, flowing, _) in pairwise(shapes):
        given, read = stayed[0], flowing[1]
        flattened = len(flowed) == 4 and len(flowing) == 2 and read % given == 0
        if read != given and not flattened:
            raise Refused(
                f"{name} reads {read} channels; {before}, the layer before it, gives {given}. Leave chain=True out for a "
                "network with branches.",
                code="workload-chain",
            )


def write_topology(workload: Iterable[Layer], file: str | os.PathLike[str]) -> LeftOut:
    """Shapes as a SCALE-Sim topology CSV.

    One image of a batch: its padding counts, rows and columns that the stride leaves over do not. A line for each group of a
    convolution; a matrix product, and each of attention's, as a 1 x 1 convolution of an image of M rows.

    Returns:
        Layers that the form cannot hold: dilation, strides that differ.
    """
    lines, left = [], LeftOut()
    for layer in workload:
        if isinstance(layer, Conv):
            if layer.dilation != (1, 1):
                left[layer.name] = f"its dilation is {layer.dilation}"
                continue
            strides = {layer.stride[axis] for axis in (0, 1) if layer.out[axis] > 1} or {layer.stride[0]}
            if len(strides) > 1:
                left[layer.name] = f"its strides are {layer.stride}"
                continue
            (o, per, kh, kw), groups = layer.weight.shape, layer.groups
            height, width = (
                s * (n - 1) + k for s, n, k in zip(layer.stride, layer.out, (kh, kw), strict=True)
            )
            for group in range(groups):
                name = layer.name if groups == 1 else f"{layer.name}[{group}]"
                lines.append((_labelled(layer, name), height, width, kh, kw, per, o // groups, *strides))
        else:
            for name, (m, n, k) in _sizes(layer):
                lines.append((name, m, 1, 1, 1, k, n, 1))
    _write_csv(file, TOPOLOGY, lines)
    return left


def write_gemms(workload: Iterable[Layer], file: str | os.PathLike[str]) -> None:
    """Every product's M, N, K as a SCALE-Sim GEMM CSV: one a group of a convolution, two a sequence and head of attention."""
    lines = [(name, *size) for layer in workload for name, size in _sizes(layer)]
    _write_csv(file, GEMM, lines)


def _labelled(layer: Layer, name: str) -> str:
    return name if layer.role == "forward" else f"{name}.{layer.role}"


def _sizes(layer: Layer) -> Iterator[tuple[str, tuple[int, int, int]]]:
    """Name and m, n, k of a layer's products, from its shapes alone."""
    if isinstance(layer, Gemm):
        yield _labelled(layer, layer.name), layer.size
    elif isinstance(layer, Conv):
        o, per, kh, kw = layer.weight.shape
        m = layer.x.shape[0] * math.prod(layer.out)
        for group in range(layer.groups):
            name = layer.name if layer.groups == 1 else f"{layer.name}[{group}]"
            yield _labelled(layer, name), (m, o // layer.groups, per * kh * kw)
    else:
        for number, n in enumerate(layer.lengths.tolist()):
            for head in range(layer.q.shape[1]):
                name = _labelled(layer, f"{layer.name}[{number},{head}]")
                yield f"{name}.scores", (n, n, layer.q.shape[2])
                yield f"{name}.context", (n, layer.v.shape[2], n)


def _write_csv(file: str | os.PathLike[str], heading: Sequence[str], lines: Sequence[Sequence[Any]]) -> None:
    """Cells without quotes: these readers cut at every comma. Lines end in a comma, as theirs do."""
    text = [", ".join(heading) + ","]
    text += [", ".join((_cell(line[0]), *map(str, line[1:]))) + "," for line in lines]
    _write_text(file, "\n".join(text) + "\n")


def _cell(name: str) -> str:
    """A name without what would end a cell or a line."""
    return re.sub(r'[,;:"\s\x00-\x1f]', "_", name) or "_"


def _write_text(file: str | os.PathLike[str], text: str) -> None:
    try:
        Path(file).write_text(text, encoding="utf-8", errors="replace", newline="\n")
    except OSError as error:
        raise InputOutput(f"{file} cannot be written: {error}", code="format-file") from error


# numbers: DNNsim


@dataclass(frozen=True)
class Traces(Sequence[Layer]):
    """The layers of a DNNsim folder, read when they are asked for.

    Args:
        folder: that holds the arrays.
        lines: (where it stands in model.csv, name, kind, stride, padding, batch) a layer.
        format: ``int8`` or ``bf16``.
    """

    folder: Path
    lines: tuple[tuple[str, str, str, int, int, int], ...]
    format: str

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return replace(self, lines=self.lines[at])
        where, name, kind, stride, padding, batch = self.lines[at]
        called = name if batch == 0 else f"{name}#{batch + 1}"
        x = self._array(where, called, f"act-{name}-{batch}.npy")
        weight = self._array(where, called, f"wgt-{name}.npy")
        if kind == "fc":
            x = x.reshape(len(x), -1)
            weight = weight.reshape(len(weight), -1)
            if x.shape[1] != weight.shape[1]:
                raise Refused(
                    f"{where}: {called} reads {x.shape[1]} numbers, its weights are {weight.shape}.",
                    code="workload-shape",
                )
            return Gemm(called, self._tensor(called, x), self._tensor(called, weight, per_row=True))
        if x.ndim != 4 or weight.ndim != 4 or weight.shape[1] < 1 or x.shape[1] % weight.shape[1]:
            raise Refused(
                f"{where}: {called} is a convolution of images (b, c, h, w) with weights (o, c / groups, kh, kw); got "
                f"{x.shape} and {weight.shape}.",
                code="workload-shape",
            )
        return Conv(
            called, self._tensor(called, x), self._tensor(called, weight, per_row=True), (stride, stride),
            (padding, padding), groups=x.shape[1] // weight.shape[1],
        )  # fmt: skip

    def _array(self, where: str, name: str, file: str) -> NDArray[Any]:
        place = self.folder / file
        try:
            found = np.load(place, allow_pickle=False)
        except FileNotFoundError as error:
            raise InputOutput(f"{where}: {name} has no {place}.", code="format-file") from error
        except (OSError, ValueError, EOFError, MemoryError) as error:
            raise InputOutput(f"{place} of {name} cannot be read: {error}", code="format-file") from error
        if not isinstance(found, np.ndarray) or found.dtype.kind not in "fiu" or found.ndim < 2:
            raise Refused(
                f"{place} of {name} holds no array of numbers of two axes and more.", code="format-invalid"
            )
        return found

    def _tensor(self, name: str, x: NDArray[Any], *, per_row: bool = False) -> Tensor:
        if x.dtype.kind == "f" and not np.isfinite(x).all():
            at = tuple(int(i) for i in np.argwhere(~np.isfinite(x))[0])
            raise Refused(
                f"{name}: {'weights' if per_row else 'activations'} of {self.folder} are infinite or NaN, the first at {at}: "
                f"{x[at]}.",
                code="workload-not-finite",
            )
        if self.format == "int8":
            return rounded(x.astype(np.float32), 8, per_row=per_row)
        try:
            return Tensor(bf16_bits(x.astype(np.float32)), "bf16")
        except Refused as error:  # finite, but beyond bfloat16
            raise Refused(f"{name}: {error}", code=error.code) from error


def read_dnnsim(folder: str | os.PathLike[str], *, format: str = "int8", chain: bool = False) -> Workload:
    """The layers of a DNNsim folder, batch by batch; arrays are read when a layer is asked for.

    ``model.csv`` has a line ``name:type:stride:padding`` a layer, type ``conv`` or ``fc``. Numbers are rounded to ``format``.

    Raises:
        InputOutput: ``format-file``.
        Refused: ``format-invalid`` for a line that is none, or ``rnn``; ``workload-shape``, ``workload-not-finite`` when a
            layer is read; ``workload-chain``.
    """
    if format not in ("int8", "bf16"):
        raise Usage(f"format is int8 or bf16; got {format!r}.", code="format-density")
    place = Path(folder)
    try:
        text = (place / "model.csv").read_text(encoding="utf-8-sig")
        files = {file.name for file in place.iterdir()}
    except (OSError, ValueError) as error:
        raise InputOutput(f"{place / 'model.csv'} cannot be read: {error}", code="format-file") from error
    lines: list[tuple[str, str, str, int, int, int]] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        where = f"{place / 'model.csv'}:{number}"
        name, kind, stride, padding = _dnnsim_line(where, line)
        pattern = re.compile(rf"act-{re.escape(name)}-(\d{{1,9}})\.npy")
        batches = sorted(int(found[1]) for file in files if (found := pattern.fullmatch(file)))
        if not batches:
            raise InputOutput(f"{where}: {name} has no act-{name}-0.npy.", code="format-file")
        lines += [(where, name, kind, stride, padding, batch) for batch in batches]
    if not lines:
        raise Refused(f"{place / 'model.csv'} names no layer.", code="format-invalid")
    read = Workload(
        Traces(place, tuple(lines), format), {"source": str(place), "form": "DNNsim", "format": format}
    )
    if chain:
        first: dict[str, tuple[str, tuple[int, ...], tuple[int, ...]]] = {}
        for entry, layer in zip(lines, read, strict=True):
            x, weight = layer.tensors().values()
            first.setdefault(entry[1], (layer.name, x.shape, weight.shape))
        _check_shapes(list(first.values()))
    return read


def _dnnsim_line(where: str, line: str) -> tuple[str, str, int, int]:
    cells = [cell.strip() for cell in line.strip().split(":")]
    if len(cells) != 4 or not re.fullmatch(r"[^/\\\x00-\x1f]{1,200}", cells[0]) or cells[0] in (".", ".."):
        raise Refused(
            f"{where}: a layer is name:type:stride:padding; got {line.strip()!r}.", code="format-invalid"
        )
    name, kind, stride, padding = cells
    if kind not in ("conv", "fc"):
        raise Refused(f"{where}: {name} is of type {kind!r}; conv and fc are read.", code="format-invalid")
    if kind == "fc" and not stride and not padding:
        stride, padding = "1", "0"
    if not re.fullmatch(r"\d{1,4}", stride) or int(stride) < 1 or not re.fullmatch(r"\d{1,4}", padding):
        raise Refused(
            f"{where}: {name} has stride {stride!r} and padding {padding!r}; expected whole numbers, the stride from 1 on.",
            code="format-invalid",
        )
    return name, kind, int(stride), int(padding)


def write_dnnsim(workload: Iterable[Layer], folder: str | os.PathLike[str]) -> LeftOut:
    """Forward products as DNNsim reads them: float32 arrays and ``model.csv``, which is written last.

    Later calls of a layer (``name#2``) become further batches where their weights are the same.

    Returns:
        Layers that the form cannot hold: attention, gradients, dilation, strides or paddings that differ.

    Raises:
        Usage: ``format-folder`` for a folder with files in it. InputOutput: ``format-file``.
    """
    place, left, lines = Path(folder), LeftOut(), []
    batches: dict[str, tuple[int, str]] = {}
    try:
        place.mkdir(parents=True, exist_ok=True)
        if any(place.iterdir()):
            raise Usage(f"{place} holds files. Name a new folder.", code="format-folder")
        for layer in workload:
            why = _not_for_dnnsim(layer)
            if why is not None:
                left[layer.name if layer.role == "forward" else f"{layer.name} ({layer.role})"] = why
                continue
            x, weight = layer.tensors().values()
            name = _file_name(layer.name.partition("#")[0])
            digest = hashlib.sha256(weight.real().tobytes()).hexdigest()
            if name in batches and batches[name][1] == digest:
                batch = batches[name][0] + 1
            else:
                if name in batches:
                    name = _file_name(layer.name)
                batch = 0
                np.save(place / f"wgt-{name}.npy", weight.real())
                stride, padding = (layer.stride[0], layer.padding[0]) if isinstance(layer, Conv) else (1, 0)
                lines.append(f"{name}:{'conv' if isinstance(layer, Conv) else 'fc'}:{stride}:{padding}")
            batches[name] = batch, digest
            np.save(place / f"act-{name}-{batch}.npy", x.real())
    except OSError as error:
        if isinstance(error, InputOutput):
            raise
        raise InputOutput(f"{place} cannot be written: {error}", code="format-file") from error
    _write_text(place / "model.csv", "".join(f"{line}\n" for line in lines))
    return left


def _not_for_dnnsim(layer: Layer) -> str | None:
    if isinstance(layer, Attention):
        return "attention has no weights"
    if layer.role != "forward":
        return "the form has forward products"
    if isinstance(layer, Conv):
        if layer.dilation != (1, 1):
            return f"its dilation is {layer.dilation}"
        if layer.stride[0] != layer.stride[1] or layer.padding[0] != layer.padding[1]:
            return f"its strides are {layer.stride}, its paddings {layer.padding}"
    return None


def _file_name(name: str) -> str:
    """A name that is a part of a file's name, and of a line that is cut at colons."""
    return re.sub(r"[^A-Za-z0-9._+\[\]#-]", "_", name).lstrip(".")[:180] or "_"


# problems: Timeloop


def write_timeloop(workload: Iterable[Layer], folder: str | os.PathLike[str]) -> list[Path]:
    """A problem in YAML for each product, with the densities of its operands as measured, distributed hypergeometrically.

    Convolutions have Timeloop's seven dimensions (and G for groups), matrix products M, N, K, attention one problem a
    sequence for scores and one for context, heads as H. Densities of results are not known here and left out.

    Returns:
        The files, in order.

    Raises:
        InputOutput: ``format-file``.
    """
    place = Path(folder)
    files: list[Path] = []
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputOutput(f"{place} cannot be written: {error}", code="format-file") from error
    for layer in workload:
        for name, problem in _problems(layer):
            file = place / f"{len(files):05d}-{_file_name(name)}.yaml"
            _write_text(file, problem)
            files.append(file)
    return files


def _problems(layer: Layer) -> Iterator[tuple[str, str]]:
    name = _labelled(layer, layer.name)
    if isinstance(layer, Gemm):
        m, n, k = layer.size
        yield name, _matrix_problem(name, {"M": m, "N": n, "K": k}, layer.a.density, layer.b.density)
    elif isinstance(layer, Conv):
        yield name, _conv_problem(name, layer)
    else:
        h, d, e = layer.q.shape[1], layer.q.shape[2], layer.v.shape[2]
        seen: dict[str, list[Gemm]] = {}
        for one in layer.products():  # the products of a sequence follow each other
            number = one.name.rpartition("[")[2].partition(",")[0]
            part = one.name.rpartition(".")[2]
            seen.setdefault(part, []).append(one)
            if part == "context" and len(seen[part]) == h:
                for part, width in (("scores", d), ("context", e)):
                    a, b = ([getattr(x, side).density for x in seen[part]] for side in "ab")
                    n = seen[part][0].size[0]
                    sizes = {"H": h, "M": n} | (
                        {"N": n, "K": width} if part == "scores" else {"N": width, "K": n}
                    )
                    called = f"{name}[{number}].{part}"
                    yield called, _matrix_problem(called, sizes, float(np.mean(a)), float(np.mean(b)))
                seen = {}


def _matrix_problem(name: str, sizes: Mapping[str, int], flowing: float, staying: float) -> str:
    head = ["H"] if "H" in sizes else []
    spaces = {"Inputs": [*head, "M", "K"], "Weights": [*head, "N", "K"], "Outputs": [*head, "M", "N"]}
    projections = {space: [[[axis]] for axis in axes] for space, axes in spaces.items()}
    return _yaml(name, list(sizes), {}, projections, sizes, {"Inputs": flowing, "Weights": staying})


def _conv_problem(name: str, layer: Conv) -> str:
    """Inputs are (N, C, P · stride + R · dilation, Q · …); the image holds its padding."""
    (b, _, _, _), (o, per, kh, kw), (oh, ow) = layer.x.shape, layer.weight.shape, layer.out
    groups = layer.groups
    sizes = {"C": per, "M": o // groups, "R": kh, "S": kw, "N": b, "P": oh, "Q": ow}
    coefficients = {
        "Hstride": layer.stride[0], "Wstride": layer.stride[1],
        "Hdilation": layer.dilation[0], "Wdilation": layer.dilation[1],
    }  # fmt: skip
    projections: dict[str, list[list[list[str]]]] = {
        "Weights": [[["C"]], [["M"]], [["R"]], [["S"]]],
        "Inputs": [[["N"]], [["C"]], [["R", "Hdilation"], ["P", "Hstride"]], [["S", "Wdilation"], ["Q", "Wstride"]]],
        "Outputs": [[["N"]], [["M"]], [["P"]], [["Q"]]],
    }  # fmt: skip
    if groups > 1:
        sizes["G"] = groups
        projections = {space: [[["G"]], *axes] for space, axes in projections.items()}
    return _yaml(
        name, list(sizes), coefficients, projections, sizes,
        {"Inputs": layer.x.density, "Weights": layer.weight.density},
    )  # fmt: skip


def _yaml(
    name: str,
    dimensions: Sequence[str],
    coefficients: Mapping[str, int],
    projections: Mapping[str, list[list[list[str]]]],
    sizes: Mapping[str, int],
    densities: Mapping[str, float],
) -> str:
    """A problem as Timeloop's version 0.4 spells it."""
    lines = ["problem:", "  version: 0.4", "  shape:", f'    name: "{_cell(name)}"']
    lines.append(f"    dimensions: [{', '.join(dimensions)}]")
    if coefficients:
        lines.append("    coefficients:")
        for key, value in coefficients.items():
            lines += [f"      - name: {key}", f"        default: {value}"]
    lines.append("    data_spaces:")
    for space, axes in projections.items():
        lines += [f"      - name: {space}", "        projection:"]
        for sums in axes:
            terms = ", ".join(f"[{', '.join(term)}]" for term in sums)
            lines.append(f"          - [{terms}]")
        if space == "Outputs":
            lines.append("        read_write: true")
    lines.append("  instance:")
    lines += [f"    {key}: {value}" for key, value in (*sizes.items(), *coefficients.items())]
    lines.append("    densities:")
    for space, density in densities.items():
        lines += [
            f"      {space}:",
            "        distribution: hypergeometric",
            f"        density: {density:.6f}",
        ]
    return "\n".join(lines) + "\n"


# memory: Ramulator and DRAMsim3


@dataclass(frozen=True)
class Access:
    """One burst: its first byte's address, whether it is written, the cycle it is asked for."""

    address: int
    write: bool
    cycle: int = 0


def in_full(x: Tensor) -> int:
    """Bytes of an operand, every number of it."""
    return -(-x.values.size * x.bits // 8)


def with_a_mask(x: Tensor) -> int:
    """Bytes of an operand of which numbers that are not zero are stored, and a bit for each that says which."""
    return -(-int(x.nonzero.sum()) * x.bits // 8) + -(-x.values.size // 8)


def accesses_of(
    workload: Iterable[Layer],
    *,
    burst: int = 64,
    result_bits: int = 8,
    bytes_per_cycle: float = 32.0,
    stored: Callable[[Tensor], int] = in_full,
    base: int = 0,
) -> Iterator[Access]:
    """The least traffic of a workload: layer by layer each operand is read once, then each result written once.

    Operands lie end to end from ``base`` on, each from a burst's start. Attention reads q, k, v and writes its context alone.

    Args:
        workload: its layers are read one by one.
        burst: bytes of an access, a power of two.
        result_bits: of a number that is written.
        bytes_per_cycle: accesses are asked for at this rate.
        stored: bytes of an operand; :func:`in_full` or :func:`with_a_mask`.
        base: the first address.

    Raises:
        Usage: ``format-dram``.
    """
    if burst < 1 or burst & (burst - 1) or base % burst or base < 0:
        raise Usage(
            f"burst is a power of two and base a multiple of it; got {burst} and {base}.", code="format-dram"
        )
    if not (math.isfinite(bytes_per_cycle) and bytes_per_cycle > 0) or result_bits < 1:
        raise Usage(
            f"bytes_per_cycle is above 0 and result_bits at least 1; got {bytes_per_cycle!r} and {result_bits!r}.",
            code="format-dram",
        )
    done, address = 0, base
    for layer in workload:
        parts = [(stored(x), False) for x in layer.tensors().values()]
        parts.append((-(-_results(layer) * result_bits // 8), True))
        for size, write in parts:
            for _ in range(-(-size // burst)):
                yield Access(address, write, int(done * burst / bytes_per_cycle))
                address += burst
                done += 1


def _results(layer: Layer) -> int:
    if isinstance(layer, Gemm):
        return layer.a.shape[0] * layer.b.shape[0]
    if isinstance(layer, Conv):
        return layer.x.shape[0] * layer.weight.shape[0] * math.prod(layer.out)
    return layer.v.values.size


DRAM_FORMS = {"ramulator": ("R", "W", False), "dramsim3": ("READ", "WRITE", True)}
"""Name of a form, its words for reading and writing, and whether it has cycles."""


def write_dram(accesses: Iterable[Access], file: str | os.PathLike[str], form: str = "ramulator") -> int:
    """Accesses as lines: ``0xADDRESS R`` (Ramulator) or ``0xADDRESS READ CYCLE`` (DRAMsim3). Returns how many there are.

    Raises:
        Usage: ``format-dram``. InputOutput: ``format-file``.
    """
    if form not in DRAM_FORMS:
        raise Usage(f"form is one of {', '.join(DRAM_FORMS)}; got {form!r}.", code="format-dram")
    reading, writing, timed = DRAM_FORMS[form]
    count = 0
    try:
        with open(file, "w", encoding="ascii", newline="\n") as out:
            for one in accesses:
                cycle = f" {one.cycle}" if timed else ""
                out.write(f"0x{one.address:X} {writing if one.write else reading}{cycle}\n")
                count += 1
    except OSError as error:
        if isinstance(error, InputOutput):
            raise
        raise InputOutput(f"{file} cannot be written: {error}", code="format-file") from error
    return count


_ACCESS = re.compile(r"0[xX]([0-9a-fA-F]{1,16})\s+(R|W|READ|WRITE|LD|ST)(?:\s+(\d{1,18}))?")


def read_dram(file: str | os.PathLike[str]) -> Iterator[Access]:
    """The accesses of either form, line by line; cycles are 0 where there are none. Empty lines and ``#`` are passed over.

    Raises:
        InputOutput: ``format-file``. Refused: ``format-invalid`` with file and line.
    """
    try:
        with open(file, encoding="ascii") as lines:
            for number, line in enumerate(lines, 1):
                text = line.strip()
                if not text or text.startswith("#"):
                    continue
                found = _ACCESS.fullmatch(text)
                if found is None:
                    raise Refused(
                        f"{file}:{number}: an access is 0xADDRESS R|W or 0xADDRESS READ|WRITE CYCLE; got {text[:80]!r}.",
                        code="format-invalid",
                    )
                yield Access(int(found[1], 16), found[2] in ("W", "WRITE", "ST"), int(found[3] or 0))
    except UnicodeDecodeError as error:
        raise Refused(f"{file} is no text of addresses: {error}", code="format-invalid") from error
    except OSError as error:
        raise InputOutput(f"{file} cannot be read: {error}", code="format-file") from error
