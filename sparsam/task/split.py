"""Rows of a task, and a split: some rows of a table, in an order."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsam.errors import Refused, Usage
from sparsam.task.columns import Columns
from sparsam.task.images import decode_image
from sparsam.task.labels import LabelReader
from sparsam.task.tables import Table


@dataclass(frozen=True, eq=False)
class Rows:
    """Some rows, read: texts (and their partners), or images uint8 (h, w, c); labels (n,) int64 or float32.

    ``numbers`` (n,) are the rows' places in the file, from 0, and ``where`` names the split: both for errors.
    """

    texts: list[str] | None
    texts2: list[str] | None
    images: list[NDArray[np.uint8]] | None
    labels: NDArray[Any]
    numbers: NDArray[np.int64]
    where: str = ""

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Split:
    """``order`` holds row numbers of ``table``; None means all rows as they lie. Nothing is read before asked for."""

    name: str
    table: Table
    chosen: Columns
    reader: LabelReader
    order: NDArray[np.int64] | None = None
    where: str = ""

    def __len__(self) -> int:
        return len(self.table) if self.order is None else len(self.order)

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns of the files, used or not."""
        return tuple(self.table.kinds)

    @cached_property
    def labels(self) -> NDArray[Any]:
        """All labels in the split's order: int64 or float32 (n,). Reads the label column only."""
        column = self.chosen.label
        pieces = [self.reader.read(piece[column]) for piece in self.table.stream([column], 8192)]
        found = np.concatenate(pieces) if pieces else self.reader.read([])
        return found if self.order is None else found[self.order]

    def batches(self, size: int) -> Iterator[Rows]:
        """Rows in the split's order, ``size`` at a time (the last may be smaller).

        Files are streamed where the order follows them (validation, test); a shuffled split keeps its columns in
        memory, images in their encoded form.
        """
        if size < 1:
            raise Usage(f"a batch needs at least one row; got size {size}.", code="batch-size")
        if self.order is not None and not _rises(self.order):
            for start in range(0, len(self), size):
                yield self.take(np.arange(start, min(start + size, len(self))))
            return
        held: dict[str, list[Any]] = {name: [] for name in self._read_columns}
        numbers: list[int] = []
        for piece_numbers, piece in self._stream(size):
            numbers += piece_numbers
            for name, values in piece.items():
                held[name] += values
            while len(numbers) >= size:
                yield self._rows(
                    {name: values[:size] for name, values in held.items()}, np.array(numbers[:size])
                )
                held = {name: values[size:] for name, values in held.items()}
                numbers = numbers[size:]
        if numbers:
            yield self._rows(held, np.array(numbers))

    def _stream(self, size: int) -> Iterator[tuple[list[int], dict[str, list[Any]]]]:
        at = 0
        for piece in self.table.stream(self._read_columns, size):
            n = len(piece[self.chosen.label])
            if self.order is None:
                yield list(range(at, at + n)), piece
            else:
                first, last = np.searchsorted(self.order, (at, at + n))
                wanted = self.order[first:last].tolist()
                yield wanted, {name: [values[row - at] for row in wanted] for name, values in piece.items()}
                if last == len(self.order):
                    return
            at += n

    def take(self, indices: NDArray[np.int64]) -> Rows:
        """The rows at these places of the split, read and decoded; the columns stay in memory from then on."""
        rows = self._numbers(np.asarray(indices, np.int64))
        return self._rows(self.table.take(self._read_columns, rows), rows)

    def subset(self, indices: NDArray[np.int64]) -> "Split":
        """A view of the rows at these places, in the given order."""
        return replace(self, order=self._numbers(np.asarray(indices, np.int64)))

    def sample(self, n: int, seed: int = 0) -> "Split":
        """A view of ``n`` rows drawn without replacement, in the split's order; all rows where it has fewer."""
        drawn = np.random.default_rng(seed).permutation(len(self))[: max(0, n)]
        return self.subset(np.sort(drawn))

    def _numbers(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        if indices.size and not 0 <= indices.min() <= indices.max() < len(self):
            raise Usage(
                f"{self.where}: rows {indices.min()} to {indices.max()} were asked for, it has 0 to {len(self) - 1}.",
                code="index-range",
            )
        return indices if self.order is None else self.order[indices]

    @property
    def _read_columns(self) -> list[str]:
        return [*self.chosen.inputs, self.chosen.label]

    def _rows(self, values: dict[str, list[Any]], numbers: NDArray[np.int64]) -> Rows:
        places = numbers.tolist()
        texts = [
            [
                _text(value, name, number, self.where)
                for value, number in zip(values[name], places, strict=True)
            ]
            for name in self.chosen.text
        ]
        images = None
        if self.chosen.image is not None:
            images = [
                decode_image(value, f"{self.where}: row {number}, column {self.chosen.image!r},")
                for value, number in zip(values[self.chosen.image], places, strict=True)
            ]
        return Rows(
            texts=texts[0] if texts else None,
            texts2=texts[1] if len(texts) > 1 else None,
            images=images,
            labels=self.reader.read(values[self.chosen.label]),
            numbers=numbers,
            where=self.where,
        )


def _rises(order: NDArray[np.int64]) -> bool:
    return bool((np.diff(order) > 0).all())


def _text(value: Any, column: str, number: int, where: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and value == value:  # a number is a text too; NaN is none
        return str(value)
    raise Refused(
        f"{where}: row {number} has no text in column {column!r} but {value!r}. Remove the row or fill in its text.",
        code="text-missing",
    )
