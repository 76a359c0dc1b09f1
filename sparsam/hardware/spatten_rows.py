"""SpAtten's rows: what is fetched for each query row of a head, in bytes; and the authors' workload tables.

Vectors lie in memory in transactions of 32 bytes, one channel each; address bits 5 and up choose the channel.
"""

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sparsam.errors import InputOutput, Refused

TRANSACTION = 32
"""Bytes of a transaction of one channel."""
LOW_BITS = 4
"""Of the plane that keys of 10 and 12 bits have below their 8 upper bits. Authors' hardware."""
PAIRED_BITS = 6
"""Vectors of so many bits are stored two heads to a line. Authors' hardware."""
COLUMNS = (
    "iteration_id", "layer_id", "head_id", "embedding_length_D", "sentence_length_L", "key_fetch_num", "quant_key_bit",
    "quant_query_bit", "auto_requant_thres", "if_requant", "auto_requant_incre", "value_fetch_num", "quant_value_bit",
    "if_accumulate_importance", "if_rescale_previous_importance", "if_topk", "topk",
)  # fmt: skip
"""Of the authors' workload tables."""


def vector_bytes(width: int | NDArray[np.int64], bits: int | NDArray[np.int64]) -> NDArray[np.int64]:
    """What a head's vector takes in memory, in whole transactions; at 6 bits its half of a line of two heads.

    Keys or values of 10 and 12 bits are two planes, 8 and 4 bits, each in transactions of its own.
    """
    width, bits = np.asarray(width, np.int64), np.asarray(bits, np.int64)
    two = (bits == 10) | (bits == 12)
    upper, paired = np.where(two, 8, bits), np.where(bits == PAIRED_BITS, 2, 1)

    def whole(b: NDArray[np.int64]) -> NDArray[np.int64]:
        return -(-(width * b * paired) // (8 * TRANSACTION)) * TRANSACTION // paired

    return np.asarray(np.where(bits == 0, 0, whole(upper) + np.where(two, whole(np.asarray(LOW_BITS)), 0)))


@dataclass(frozen=True)
class Rows:
    """Query rows in the order they run, all arrays (r,) int64; a record may stand for several queries.

    Args:
        iteration, layer, head: where it belongs.
        width: D of a head.
        context: tokens there would be without pruning.
        keys, values: how many the row works on.
        keys_fetched, values_fetched: how many are fetched for it; as many, if not given. A row with no keys fetched works on
            those of the row before, which stay in the buffer.
        key_bits, value_bits: as stored; 10 and 12 are two planes that are fetched together.
        low_bits: of the plane that is fetched where ``refetch``.
        refetch: 1 where the largest probability was below the threshold.
        queries: how many queries follow one another with the same keys, which are fetched once (1 in generation).
        late: 1 where values are asked for after the selection.
        other: bytes of queries and results that pass the fetcher, a query.
        tokens_from, tokens_to: the cascade's selection of tokens after the row; 0 where there is none.
    """

    iteration: NDArray[np.int64]
    layer: NDArray[np.int64]
    head: NDArray[np.int64]
    width: NDArray[np.int64]
    context: NDArray[np.int64]
    keys: NDArray[np.int64]
    values: NDArray[np.int64]
    keys_fetched: NDArray[np.int64]
    values_fetched: NDArray[np.int64]
    key_bits: NDArray[np.int64]
    value_bits: NDArray[np.int64]
    low_bits: NDArray[np.int64]
    refetch: NDArray[np.int64]
    queries: NDArray[np.int64]
    late: NDArray[np.int64]
    other: NDArray[np.int64]
    tokens_from: NDArray[np.int64]
    tokens_to: NDArray[np.int64]

    @classmethod
    def of(cls, **columns: int | Sequence[int] | NDArray[np.int64]) -> "Rows":
        """From columns of one length, or single numbers for all rows; what is missing is 0 (``queries`` 1).

        ``late`` is where values < keys and there is one query, if it is not given; ``context`` is ``keys``.

        Raises:
            Refused: ``spatten-rows``.
        """
        names = [one.name for one in fields(cls)]
        if unknown := set(columns) - set(names):
            raise Refused(f"rows have no column {', '.join(sorted(unknown))}.", code="spatten-rows")
        found = {name: np.asarray(x, np.int64) for name, x in columns.items()}
        many = max((x.size for x in found.values() if x.ndim), default=1)
        rows = {name: found.get(name, np.asarray(int(name == "queries"))) for name in names}
        try:
            rows = {name: np.ascontiguousarray(np.broadcast_to(x, (many,))) for name, x in rows.items()}
        except ValueError as error:
            raise Refused(f"columns of different lengths: {error}", code="spatten-rows") from error
        for name, like in (("context", "keys"), ("keys_fetched", "keys"), ("values_fetched", "values")):
            if name not in found:
                rows[name] = rows[like]
        if "late" not in found:
            rows["late"] = ((rows["values"] < rows["keys"]) & (rows["queries"] == 1)).astype(np.int64)
        made = cls(**rows)
        made._check()
        return made

    def _check(self) -> None:
        least = {"width": 1, "keys": 1, "values": 1, "queries": 1, "key_bits": 1, "value_bits": 1}
        for one in fields(self):
            x = getattr(self, one.name)
            if len(x) and int(x.min()) < (low := least.get(one.name, 0)):
                at = int(x.argmin())
                raise Refused(f"row {at}: {one.name} is {x[at]}, at least {low}.", code="spatten-rows")
        if len(self.keys) and (bad := self.values > self.keys).any():
            at = int(bad.argmax())
            raise Refused(
                f"row {at}: {self.values[at]} values for {self.keys[at]} keys.", code="spatten-rows"
            )

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, at: slice | NDArray[np.bool_]) -> "Rows":
        return Rows(**{one.name: getattr(self, one.name)[at] for one in fields(self)})

    @property
    def bytes(self) -> dict[str, NDArray[np.int64]]:
        """Of each record: keys, their low bits where refetched, values, and the rest, all its queries together."""
        return {
            "keys": self.keys_fetched * vector_bytes(self.width, self.key_bits),
            "low": self.refetch * self.keys_fetched * vector_bytes(self.width, self.low_bits),
            "values": self.values_fetched * vector_bytes(self.width, self.value_bits),
            "other": self.queries * self.other,
        }

    @property
    def kv_bytes(self) -> int:
        """Of keys and values, low bits included."""
        found = self.bytes
        return int(sum(int(found[name].sum()) for name in ("keys", "low", "values")))

    def dense_bytes(self, bits: int, rows: int | None = None) -> int:
        """Of keys and values of all tokens at a width in bits, packed: what is fetched without any of the savings.

        Args:
            rows: how many there would be with no head removed; None for these.
        """
        each = int((self.context * self.width).sum()) * 2 * bits // 8
        return each if rows is None else each * rows // max(len(self), 1)

    @property
    def macs(self) -> int:
        """Multiplications, second passes not counted."""
        return int((self.queries * self.width * (self.keys + self.values)).sum())

    @property
    def second_of_pair(self) -> NDArray[np.bool_]:
        """Rows whose values lie in one line with those of the row before, and were selected with them."""
        same = (self.value_bits == PAIRED_BITS) & (self.head % 2 == 1)
        same[:1] = False
        for name, step in (
            ("iteration", 0),
            ("layer", 0),
            ("keys", 0),
            ("values", 0),
            ("value_bits", 0),
            ("head", 1),
        ):
            x = getattr(self, name)
            same[1:] &= x[1:] == x[:-1] + step
        return np.asarray(same, np.bool_)

    def padded(self, multiple: int = 8) -> "Rows":
        """Counts of keys and values up to a multiple, as the authors' test bench runs them."""
        names = ("keys", "values", "keys_fetched", "values_fetched")
        up = {name: -(-getattr(self, name) // multiple) * multiple for name in names}
        return replace(self, **up)


def read_rows(file: str | os.PathLike[str], *, as_bench: bool = False) -> Rows:
    """The authors' workload tables: a CSV file with the columns :data:`COLUMNS`, one row a query row of a head.

    -1 bits are 12. ``if_requant`` rows fetch ``auto_requant_incre`` low bits. ``if_topk`` rows are followed by the cascade's
    selection of ``topk`` tokens, out of the row's keys, or of all tokens where ``topk`` is not fewer. A last line that holds
    nothing but the name of a settings file, as the authors' tables have, is passed over.

    Args:
        as_bench: as the authors' test bench maps them: counts padded to multiples of 8, keys of 10 and 12 bits as 8 bits and a
            second pass with the low 4, values of 10 and 12 bits as 8, no selection of tokens.

    Raises:
        InputOutput: ``spatten-table`` for a file that cannot be read.
        Refused: ``spatten-table`` for a missing column or a cell that is no number, with its line; ``spatten-rows``.
    """
    place = Path(file)
    try:
        with place.open(newline="", encoding="utf-8") as text:
            read = csv.DictReader(text)
            lines = list(read)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputOutput(f"workload table {place} cannot be read: {error}", code="spatten-table") from error
    if missing := [name for name in COLUMNS if name not in (read.fieldnames or ())]:
        raise Refused(f"workload table {place} has no column {', '.join(missing)}.", code="spatten-table")
    if lines and not any(lines[-1][name] for name in COLUMNS[1:]):
        lines.pop()
    if not lines:
        raise Refused(f"workload table {place} has no row.", code="spatten-table")

    def column(name: str) -> NDArray[np.int64]:
        out = np.zeros(len(lines), np.int64)
        for number, line in enumerate(lines):
            cell = (line[name] or "").strip()
            try:
                x = float({"true": "1", "false": "0"}.get(cell.lower(), cell))
                if x != int(x):
                    raise ValueError(cell)
                out[number] = int(x)
            except (ValueError, OverflowError) as error:
                raise Refused(
                    f"workload table {place}, row {number + 1}: {name} is {cell!r}, no whole number.",
                    code="spatten-table",
                ) from error
        return out

    bits = {name: column(f"quant_{name}_bit") for name in ("key", "value")}
    bits = {name: np.where(x == -1, 12, x) for name, x in bits.items()}
    keys, values, refetch = column("key_fetch_num"), column("value_fetch_num"), column("if_requant")
    low, chosen, context = (column(name) for name in ("auto_requant_incre", "if_topk", "sentence_length_L"))
    to = np.where(chosen == 1, column("topk"), 0)
    rows = Rows.of(
        iteration=column("iteration_id"), layer=column("layer_id"), head=column("head_id"),
        width=column("embedding_length_D"), context=context, keys=keys, values=np.minimum(values, keys),
        key_bits=bits["key"], value_bits=bits["value"], refetch=refetch, low_bits=np.where(refetch == 1, low, 0),
        tokens_from=np.where(chosen == 1, np.where(to < keys, keys, context), 0), tokens_to=to,
    )  # fmt: skip
    if not as_bench:
        return rows
    wide = (rows.key_bits == 10) | (rows.key_bits == 12)
    return replace(
        rows.padded(),
        key_bits=np.where(wide, 8, rows.key_bits),
        refetch=np.where(wide, 1, rows.refetch),
        low_bits=np.where(wide, LOW_BITS, rows.low_bits),
        value_bits=np.where((rows.value_bits == 10) | (rows.value_bits == 12), 8, rows.value_bits),
        tokens_from=np.zeros_like(rows.keys),
        tokens_to=np.zeros_like(rows.keys),
    )


def channel_load(ids: NDArray[np.int64], vector: int, channels: int, base: int = 0) -> NDArray[np.int64]:
    """Transactions of each channel for fetching vectors; a channel is address bits 5 and up.

    Args:
        ids: (n,), the vectors' numbers; vector ``i`` begins at ``base + i * vector``.
        vector: bytes, a multiple of 32.
        channels: a power of two.
        base: address of vector 0, a multiple of 32.
    """
    if vector % TRANSACTION or base % TRANSACTION:
        raise Refused(
            f"vectors of {vector} bytes from {base}: both are multiples of {TRANSACTION}.",
            code="spatten-rows",
        )
    addresses = base + ids[:, None] * vector + TRANSACTION * np.arange(vector // TRANSACTION)
    return np.bincount(((addresses // TRANSACTION) % channels).ravel(), minlength=channels).astype(np.int64)
