"""The task: data with its splits, what is predicted, and how it is scored."""

import hashlib
import os
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from sparsam.errors import Refused, Usage
from sparsam.task import columns as column_choice
from sparsam.task import labels as label_reading
from sparsam.task.encode import Encoded, Processor, encode
from sparsam.task.images import ArrayTable, ImageFolderTable
from sparsam.task.labels import LabelReader, Problem, Survey
from sparsam.task.metrics import check_metric, glue_regression, standard_metric
from sparsam.task.sources import Found, find
from sparsam.task.split import Rows, Split
from sparsam.task.tables import Table

#: The share of train that is held out where there is neither validation nor test.
HELD_OUT = 0.1


@dataclass(frozen=True, eq=False)
class Task:
    """Data, what is predicted from it, and the metric.

    ``labels`` are the names of the classes in the order of their indices, empty for a regression. ``train`` is
    always shuffled by the seed. A split that is not there is None. ``notes`` are facts to say aloud. ``drawn``: the
    validation rows were drawn out of the training data, by ``split_seed``.
    """

    name: str
    kind: Literal["text", "image"]
    problem: Problem
    metric: str
    labels: tuple[str, ...]
    train: Split | None
    validation: Split | None
    test: Split | None
    notes: tuple[str, ...] = ()
    drawn: bool = False
    split_seed: int = 0

    @staticmethod
    def load(
        spec: str | os.PathLike[str],
        *,
        label: str | None = None,
        text: tuple[str, ...] | str | None = None,
        metric: str | None = None,
        seed: int = 0,
        split_seed: int = 0,
        train_size: int | None = None,
    ) -> "Task":
        """A task from a hub data set ``owner/name[:config]``, a folder, a file, or ``digits``.

        ``label`` and ``text`` name columns where their usual names do not tell; ``train_size`` takes that many rows
        of the train split as ``seed`` shuffles it. ``split_seed`` draws the validation rows where the data has none:
        give a model's every training and evaluation the same, or it is measured on rows it learned from.

        Raises Usage (a name is off), Refused (the data is not fit for a task), InputOutput (a file or the hub).
        """
        if metric is not None:
            check_metric(metric)
        if train_size is not None and train_size < 1:
            raise Usage(f"train_size must be at least 1; got {train_size}.", code="train-size")
        text = (text,) if isinstance(text, str) else text
        found = find(os.fspath(spec), split_seed)
        return _define(found, label, text, metric, seed, split_seed, train_size)

    def encode(
        self, processor: Processor, rows: Rows, *, max_length: int | None = None, truncate: bool = True
    ) -> Encoded:
        """Rows to token ids (not padded) or pixel values; see :func:`sparsam.task.encode`."""
        return encode(processor, rows, max_length=max_length, truncate=truncate)

    def source_hashes(self) -> tuple[tuple[str, int, str], ...]:
        """(file, bytes, sha256) of every file behind the splits; read on the first call."""
        return tuple(line for lines in self._hashes.values() for line in lines)

    def train_hashes(self) -> tuple[str, ...]:
        """SHA-256 of every file behind the train split; read on the first call."""
        return () if self.train is None else tuple(line[2] for line in self._hashes[id(self.train.table)])

    @cached_property
    def _hashes(self) -> dict[int, list[tuple[str, int, str]]]:
        tables = {id(split.table): split.table for split in (self.train, self.validation, self.test) if split}
        return {key: _hash(table) for key, table in tables.items()}


def _define(
    found: Found,
    label: str | None,
    text: tuple[str, ...] | None,
    metric: str | None,
    seed: int,
    split_seed: int,
    train_size: int | None,
) -> Task:
    notes = list(found.notes)
    tables = dict(found.tables)
    for name in [name for name, table in tables.items() if not len(table)]:
        if name != "test":
            raise Refused(
                f"{found.name}: the {name} split ({_files(tables[name])}) has no rows. Write it again or remove it.",
                code="empty-split",
            )
        notes.append("test has no rows and is left out")
        del tables[name]
    if not tables:
        raise Refused(f"{found.name}: its only split has no rows. Write the file again.", code="empty-split")
    first = next(name for name in ("train", "validation", "test") if name in tables)
    where = {name: f"{found.name}, {name}" for name in tables}
    chosen = column_choice.choose(tables[first].kinds, label=label, text=text, where=where[first])
    for name in list(tables):
        absent = [column for column in (*chosen.inputs, chosen.label) if column not in tables[name].kinds]
        if absent and name != "test":
            raise Usage(
                f"{where[name]} has the columns {', '.join(tables[name].kinds)}; {absent[0]!r}, which {first} has, is "
                "missing. Name columns that all splits have with --label and --text.",
                code="label-column" if absent[0] == chosen.label else "text-column",
            )
        if absent:
            notes.append(f"test has no column {absent[0]!r} and is left out")
            del tables[name]

    surveys = {
        name: label_reading.survey(table, chosen.label, found.orders.get(name))
        for name, table in tables.items()
    }
    if surveys[first].unlabelled:
        raise Refused(
            f"{where[first]}: no row has a label in column {chosen.label!r} (empty, or -1). Name another column with "
            "--label, or give a labelled split.",
            code="label-missing",
        )
    names = tables[first].class_names.get(chosen.label)
    reader, said = label_reading.fit(
        surveys[first], chosen.label, names, metric or glue_regression(found.name), where[first]
    )
    notes += said
    usable: dict[str, Split] = {}
    for name, table in tables.items():
        wrong = None if name == first else _fault(surveys[name], reader, name, where[name])
        if wrong:
            notes.append(wrong)
        else:
            usable[name] = Split(name, table, chosen, reader, found.orders.get(name), where[name])
    drawn = found.drawn or ("train" in usable and not {"validation", "test"} & usable.keys())
    train, validation, test, said = _splits(usable, seed, split_seed, found.name)
    notes += said
    if train is not None and train_size is not None:
        train = train.subset(np.arange(min(train_size, len(train))))
    return Task(
        name=found.name,
        kind="image" if chosen.image else "text",
        problem=reader.problem,
        metric=metric or standard_metric(found.name, reader.problem),
        labels=reader.classes,
        train=train,
        validation=validation,
        test=test,
        notes=tuple(notes),
        drawn=drawn,
        split_seed=split_seed,
    )


def _fault(found: Survey, reader: LabelReader, name: str, where: str) -> str | None:
    """Why this split cannot be used, to be said aloud; None where it can. Raises for faults of validation."""
    if found.unlabelled:
        return f"{name} has no labels (empty, or -1) and is left out"
    try:
        label_reading.refuse_missing(found, reader.column, where)
        unknown = reader.unknown(found)
        if unknown:
            known = ", ".join(reader.classes[:6]) + (", ..." if len(reader.classes) > 6 else "") or "numbers"
            raise Refused(
                f"{where}: label {unknown[0]!r} in column {reader.column!r} is none of train's ({known}). "
                "Mend the file.",
                code="label-unknown",
            )
    except Refused as error:
        if name != "test":
            raise
        return f"test is left out: {error}"
    return None


def _splits(
    usable: dict[str, Split], seed: int, split_seed: int, name: str
) -> tuple[Split | None, Split | None, Split | None, tuple[str, ...]]:
    """Train (shuffled by ``seed``), validation, test: validation is that split, else test, else a tenth of train.

    The tenth is drawn by ``split_seed`` alone: whatever a model was trained with, the same rows are kept from it.
    """
    train, validation, test = (usable.get(split) for split in ("train", "validation", "test"))
    notes: tuple[str, ...] = ()
    order = np.random.default_rng(seed).permutation(len(train)) if train is not None else np.arange(0)
    if validation is None and test is not None:
        validation, test = test, None
        notes = (
            f"no usable validation split: {name}'s test split ({len(validation):,} rows) is used to validate",
        )
    elif validation is None and train is not None:
        count = max(1, round(HELD_OUT * len(train)))
        if count >= len(train):
            raise Refused(
                f"{name}: train has one row, and no other split is there. Give more rows.", code="empty-split"
            )
        held = np.sort(np.random.default_rng(split_seed).permutation(len(train))[:count])
        validation = replace(train.subset(held), name="validation", where=f"{name}, train")
        order = order[~np.isin(order, held)]
        notes = (
            f"no validation or test split: {count:,} rows of train, drawn with split seed {split_seed}, are held out",
        )
    if train is None:
        notes += ("no train split: this task can be evaluated, not trained on",)
    return train and train.subset(order), validation, test, notes


def _files(table: Table) -> str:
    return ", ".join(path.name for path in table.files[:3]) or "no file"


def _hash(table: Table) -> list[tuple[str, int, str]]:
    if isinstance(table, ImageFolderTable):
        total, digest = 0, hashlib.sha256()
        for path in table.files:
            digest.update(f"{path.relative_to(table.folder).as_posix()}\0{_sha256(path)}\n".encode())
            total += path.stat().st_size
        return [(f"{table.folder.name}/", total, digest.hexdigest())]
    if isinstance(table, ArrayTable) and not table.files:
        data = b"".join(values.tobytes() for values in table.values.values())
        return [("scikit-learn digits", len(data), hashlib.sha256(data).hexdigest())]
    return [("/".join(path.parts[-2:]), path.stat().st_size, _sha256(path)) for path in table.files]


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
