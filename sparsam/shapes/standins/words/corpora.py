"""Corpora of torchtext: their parts are as long as symbols say."""

from typing import Any

from sparsam.shapes.standins.lengths import length_of
from sparsam.shapes.standins.words.fields import BucketIterator, Dataset


class _Corpus(Dataset):
    """A corpus with named columns and parts."""

    columns: tuple[str, ...] = ("text", "label")
    parts: tuple[str, ...] = ("train", "test")

    @classmethod
    def splits(cls, *fields: Any, **kwargs: Any) -> tuple[Dataset, ...]:
        """The parts, with the fields in the order of the columns, or by name."""
        given = dict(zip(cls.columns, fields, strict=False))
        names = {"text_field": 0, "label_field": len(cls.columns) - 1}
        given.update({cls.columns[names[key]]: value for key, value in kwargs.items() if key in names})
        if "premise" in given and "hypothesis" in cls.columns:
            given = {"premise": fields[0], "hypothesis": fields[0], "label": fields[1]}
        dropped = {
            part for part in cls.parts if kwargs.get("validation" if part == "valid" else part, "") is None
        }
        return tuple(
            cls(
                length_of((cls.__name__, part), f"length of torchtext.datasets.{cls.__name__} ({part})"),
                given,
            )
            for part in cls.parts
            if part not in dropped
        )

    @classmethod
    def iters(cls, batch_size: Any = 32, **kwargs: Any) -> Any:
        """Iterators over the parts."""
        from sparsam.shapes.standins.words.fields import Field, LabelField

        text, label = Field(), LabelField()
        made = cls.splits(text, label)
        text.build_vocab(*made)
        label.build_vocab(*made)
        return BucketIterator.splits(made, batch_size=batch_size)


class SNLI(_Corpus):
    """Two sentences and one of three answers."""

    columns = ("premise", "hypothesis", "label")
    parts = ("train", "valid", "test")


class MultiNLI(SNLI):
    """Two sentences and one of three answers."""


class IMDB(_Corpus):
    """Reviews of films."""


class SST(_Corpus):
    """Sentences with a sentiment."""

    parts = ("train", "valid", "test")


class TREC(_Corpus):
    """Questions with a kind."""


class Multi30k(_Corpus):
    """Sentences in two languages."""

    columns = ("src", "trg")
    parts = ("train", "valid", "test")

    @classmethod
    def splits(cls, exts: Any = None, fields: Any = (), **kwargs: Any) -> tuple[Dataset, ...]:
        """The parts, with one field for each language."""
        return super().splits(*fields)
