"""Files with rows: parquet, CSV and JSON lines, read in a stream or row by row.

A table knows its columns and their kinds without reading its rows. ``stream`` never holds more than one piece of
a file; ``take`` reaches any row, and keeps the columns it was asked for in memory from then on.
"""

import csv
import gzip
import json
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from sparsam.errors import InputOutput, Refused

Kind = Literal["text", "int", "float", "bool", "bytes", "image", "other"]

#: Rows from which the kinds of the columns of a CSV or JSON lines file are read; chosen by us.
ROWS_FOR_KINDS = 1000


@runtime_checkable
class Table(Protocol):
    """Rows of named columns, from one or several files laid end to end."""

    files: tuple[Path, ...]
    kinds: dict[str, Kind]
    class_names: dict[str, tuple[str, ...]]

    def __len__(self) -> int: ...

    def stream(self, columns: Sequence[str], size: int) -> Iterator[dict[str, list[Any]]]:
        """All rows in order, in pieces of about ``size`` rows, as column name to values."""
        ...

    def take(self, columns: Sequence[str], rows: NDArray[np.int64]) -> dict[str, list[Any]]:
        """The given rows, in the given order."""
        ...


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what readers raise on a damaged or missing file into one error that names the file."""
    try:
        yield
    except FileNotFoundError as error:
        raise InputOutput(
            f"{path} is not there (any more). Give a folder or file that exists.", code="data-missing"
        ) from error
    except PermissionError as error:
        raise InputOutput(
            f"{path} may not be read: {error.strerror}. Change its mode.", code="data-unreadable"
        ) from error
    # pyarrow's ArrowInvalid is a ValueError and its ArrowIOError an OSError; so are UnicodeDecodeError and BadGzipFile.
    except (InputOutput, Refused):
        raise
    except (ValueError, OSError, EOFError, zlib.error, csv.Error, NotImplementedError) as error:
        raise InputOutput(
            f"{path} cannot be read as {_format_of(path)}: {str(error).splitlines()[0] if str(error) else error!r}. "
            "The file is damaged or has the wrong ending; fetch or write it again.",
            code="data-corrupt",
        ) from error


def _format_of(path: Path) -> str:
    name = path.name.removesuffix(".gz")
    if "ubyte" in name:
        return "idx"
    return {".parquet": "parquet", ".csv": "CSV", ".jsonl": "JSON lines"}.get(Path(name).suffix, "data")


class ParquetTable:
    """One or several parquet files with the same columns."""

    def __init__(self, files: Sequence[Path]) -> None:
        import pyarrow.parquet as pq

        self.files = tuple(files)
        self.kinds: dict[str, Kind] = {}
        self.class_names: dict[str, tuple[str, ...]] = {}
        self._counts: list[int] = []
        self._kept: dict[str, Any] = {}
        for path in self.files:
            with reading(path), pq.ParquetFile(path) as file:
                schema = file.schema_arrow
                self._counts.append(file.metadata.num_rows)
            kinds = {field.name: _kind_of_arrow(field.type) for field in schema}
            if self.kinds and set(kinds) != set(self.kinds):
                raise InputOutput(
                    f"{path} has the columns {', '.join(kinds)}; {self.files[0].name} of the same split has "
                    f"{', '.join(self.kinds)}. Files of one split need the same columns.",
                    code="data-columns-differ",
                )
            self.kinds = self.kinds or kinds
            self.class_names = self.class_names or _class_names(schema.metadata)

    def __len__(self) -> int:
        return sum(self._counts)

    def stream(self, columns: Sequence[str], size: int) -> Iterator[dict[str, list[Any]]]:
        import pyarrow.parquet as pq

        for path in self.files:
            with reading(path), pq.ParquetFile(path) as file:
                for batch in file.iter_batches(batch_size=size, columns=list(columns)):
                    yield {name: batch.column(name).to_pylist() for name in columns}

    def take(self, columns: Sequence[str], rows: NDArray[np.int64]) -> dict[str, list[Any]]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        for name in columns:
            if name not in self._kept:
                chunks: list[Any] = []
                for path in self.files:
                    with reading(path):
                        chunks += pq.read_table(path, columns=[name], partitioning=None).column(name).chunks
                self._kept[name] = pa.chunked_array(chunks)
        where = pa.array(rows)
        return {name: self._kept[name].take(where).to_pylist() for name in columns}


def _kind_of_arrow(kind: Any) -> Kind:
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return "text"
    if types.is_boolean(kind):
        return "bool"
    if types.is_integer(kind):
        return "int"
    if types.is_floating(kind) or types.is_decimal(kind):
        return "float"
    if types.is_binary(kind) or types.is_large_binary(kind):
        return "bytes"
    if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        return "image"
    return "other"


def _class_names(metadata: dict[bytes, bytes] | None) -> dict[str, tuple[str, ...]]:
    """The class names that the ``datasets`` library writes beside the schema; empty where there are none."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return {
            column: tuple(feature["names"])
            for column, feature in features.items()
            if isinstance(feature, dict)
            and isinstance(feature.get("names"), list)
            and feature["names"]
            and all(isinstance(name, str) for name in feature["names"])
        }
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}


class _RowFile:
    """What CSV and JSON lines share: rows are read one by one, counted once, kept when reached at random."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = tuple(files)
        self.class_names: dict[str, tuple[str, ...]] = {}
        self._count: int | None = None
        self._kept: dict[str, list[Any]] = {}
        self.kinds: dict[str, Kind] = self._read_kinds()

    def _rows(self, path: Path) -> Iterator[dict[str, Any]]:
        raise NotImplementedError

    def _kind(self, values: list[Any]) -> Kind:
        raise NotImplementedError

    def _read_kinds(self) -> dict[str, Kind]:
        values: dict[str, list[Any]] = {}
        for row, _ in zip(self._all_rows(), range(ROWS_FOR_KINDS), strict=False):
            for name, value in row.items():
                values.setdefault(name, []).append(value)
        return {name: self._kind(found) for name, found in values.items()}

    def _all_rows(self) -> Iterator[dict[str, Any]]:
        for path in self.files:
            with reading(path):
                yield from self._rows(path)

    def __len__(self) -> int:
        if self._count is None:
            self._count = sum(1 for _ in self._all_rows())
        return self._count

    def stream(self, columns: Sequence[str], size: int) -> Iterator[dict[str, list[Any]]]:
        piece: dict[str, list[Any]] = {name: [] for name in columns}
        held = 0
        for row in self._all_rows():
            for name in columns:
                piece[name].append(row.get(name))
            held += 1
            if held == size:
                yield piece
                piece, held = {name: [] for name in columns}, 0
        if held:
            yield piece

    def take(self, columns: Sequence[str], rows: NDArray[np.int64]) -> dict[str, list[Any]]:
        fresh = [name for name in columns if name not in self._kept]
        if fresh:
            found: dict[str, list[Any]] = {name: [] for name in fresh}
            for piece in self.stream(fresh, ROWS_FOR_KINDS):
                for name in fresh:
                    found[name] += piece[name]
            self._kept.update(found)
        return {name: [self._kept[name][row] for row in rows.tolist()] for name in columns}


class CsvTable(_RowFile):
    """Comma-separated text with a header, quoted as RFC 4180 says; ``.gz`` too. All values are read as text."""

    def _rows(self, path: Path) -> Iterator[dict[str, Any]]:
        csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
        with _open_text(path) as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, None)
            if header is None:
                raise InputOutput(
                    f"{path} is empty: not even a line of column names. Write the file again.",
                    code="data-corrupt",
                )
            if len(set(header)) < len(header):
                raise InputOutput(
                    f"{path} names a column twice: {', '.join(header)}. Give every column its own name.",
                    code="data-corrupt",
                )
            for values in reader:
                if not values:
                    continue
                if len(values) != len(header):
                    raise InputOutput(
                        f"{path}, line {reader.line_num}: {len(values)} values under {len(header)} column names. "
                        'Quote texts that hold commas: "so, like this".',
                        code="data-corrupt",
                    )
                yield dict(zip(header, values, strict=True))

    def _read_kinds(self) -> dict[str, Kind]:
        kinds = super()._read_kinds()
        if not kinds:  # a header without rows still names its columns
            with reading(self.files[0]), _open_text(self.files[0]) as file:
                kinds = dict.fromkeys(next(csv.reader(file), []), "text")
        return kinds

    def _kind(self, values: list[Any]) -> Kind:
        for kind, parse in (("int", int), ("float", float)):
            try:
                for value in values:
                    parse(value)
            except ValueError:
                continue
            return kind  # type: ignore[return-value]
        return "text"


class JsonLinesTable(_RowFile):
    """One JSON object a line; ``.gz`` too."""

    def _rows(self, path: Path) -> Iterator[dict[str, Any]]:
        with _open_text(path) as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise InputOutput(
                        f"{path}, line {number} is not JSON: {error}. Every line must be one JSON object.",
                        code="data-corrupt",
                    ) from error
                if not isinstance(row, dict):
                    raise InputOutput(
                        f"{path}, line {number} holds a {type(row).__name__}. Every line must be one JSON object.",
                        code="data-corrupt",
                    )
                yield row

    def _kind(self, values: list[Any]) -> Kind:
        found = {type(value) for value in values if value is not None}
        if found == {bool}:
            return "bool"
        if found and found <= {int, float}:
            return "int" if found == {int} else "float"
        return "text" if found <= {str, int, float, bool} else "other"


def _open_text(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return open(path, encoding="utf-8-sig", newline="")
