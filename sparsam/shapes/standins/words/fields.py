"""Fields turn a column of examples into tensors: texts as token ids (time, batch), labels as (batch,)."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils._pytree import tree_map

from sparsam.shapes.run import current
from sparsam.shapes.series import Segment, Series
from sparsam.shapes.standins.lengths import length_of, value


class Vocab:
    """Tokens with numbers: as many as a symbol says.

    Args:
        count: How many.
    """

    def __init__(self, count: Any) -> None:
        self.count = count
        self.vectors: torch.Tensor | None = None

    def __length__(self) -> Any:
        """Number of tokens."""
        return self.count

    def __len__(self) -> int:
        return int(self.count)

    @property
    def stoi(self) -> Any:
        """Numbers by token."""
        return _Numbers(self)

    @property
    def itos(self) -> Any:
        """Tokens by number."""
        return Series(lambda: [Segment(self.count, lambda index: "a token")], "a vocabulary")

    def load_vectors(self, vectors: Any, **kwargs: Any) -> None:
        """A vector for each token, as wide as the name of the vectors says: "glove.6B.300d"."""
        name = str(vectors[0] if isinstance(vectors, (list, tuple)) else vectors)
        last = name.rpartition(".")[2].removesuffix("d")
        width = int(last) if last.isdigit() else value("width of word vectors", 1)
        self.vectors = torch.empty(self.count, width)

    def set_vectors(self, stoi: Any, vectors: Any, dim: Any, **kwargs: Any) -> None:
        """A vector of that width for each token."""
        self.vectors = torch.empty(self.count, dim)


class _Numbers:
    """A dictionary from tokens to numbers."""

    def __init__(self, vocab: Vocab) -> None:
        self.vocab = vocab

    def __getitem__(self, token: Any) -> Any:
        run = current()
        return 0 if run is None else run.shapes.index("the number of a token", self.vocab.count)

    def get(self, token: Any, default: Any = None) -> Any:
        """The number of a token."""
        return self[token]

    def __contains__(self, token: Any) -> bool:
        return True

    def __length__(self) -> Any:
        """Number of tokens."""
        return self.vocab.count


class Field:
    """A column of examples."""

    def __init__(
        self, sequential: bool = True, use_vocab: bool = True, init_token: Any = None, eos_token: Any = None,
        fix_length: Any = None, dtype: torch.dtype = torch.long, preprocessing: Any = None, postprocessing: Any = None,
        lower: bool = False, tokenize: Any = None, tokenizer_language: str = "en", include_lengths: bool = False,
        batch_first: bool = False, pad_token: str = "<pad>", unk_token: str = "<unk>", pad_first: bool = False,
        truncate_first: bool = False, stop_words: Any = None, is_target: bool = False,
    ) -> None:  # fmt: skip
        self.sequential, self.use_vocab, self.dtype = sequential, use_vocab, dtype
        self.include_lengths, self.batch_first, self.fix_length = include_lengths, batch_first, fix_length
        self.init_token, self.eos_token, self.pad_token, self.unk_token = (
            init_token,
            eos_token,
            pad_token,
            unk_token,
        )
        self.vocab: Any = None

    def build_vocab(self, *datasets: Any, vectors: Any = None, max_size: Any = None, **kwargs: Any) -> None:
        """Numbers for the tokens of data sets."""
        meaning = (
            "number of tokens of a vocabulary" if self.sequential else "number of labels of a vocabulary"
        )
        self.vocab = Vocab(length_of(("vocabulary", self.sequential, meaning), meaning, 2))
        if vectors is not None:
            self.vocab.load_vectors(vectors)

    def numbers(self, size: Any) -> Any:
        """The column of a batch of that many examples."""
        if not self.sequential:
            return _ids((size,), self, self.dtype)
        length = (
            self.fix_length
            if self.fix_length is not None
            else value("tokens of the longest text of a batch", 1)
        )
        ids = _ids((size, length) if self.batch_first else (length, size), self, self.dtype)
        return (ids, torch.empty((size,), dtype=torch.int64)) if self.include_lengths else ids

    def preprocess(self, text: Any) -> Any:
        """A text as tokens."""
        return str(text).split()

    tokenize = preprocess


def _ids(sizes: tuple[Any, ...], field: Field, dtype: torch.dtype) -> torch.Tensor:
    made = torch.empty(sizes, dtype=dtype)
    if field.vocab is not None and not dtype.is_floating_point:
        made.value_range = (0, field.vocab.count)  # type: ignore[attr-defined]
    return made


class LabelField(Field):
    """A column of labels."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**({"sequential": False, "unk_token": None, "is_target": True} | kwargs))


class RawField(Field):
    """A column that stays as it is."""


class Dataset:
    """Examples with columns.

    Args:
        examples: How many.
        fields: (name, field) of each column.
    """

    def __init__(self, examples: Any, fields: Any, *args: Any, **kwargs: Any) -> None:
        self.count = examples
        self.fields = dict(fields)

    def __length__(self) -> Any:
        """Number of examples."""
        return self.count

    def __len__(self) -> int:
        return int(self.count)

    @property
    def examples(self) -> Any:
        """All examples."""
        return Series(lambda: [Segment(self.count, lambda index: _Example())], "examples")


class _Example:
    """An example whose columns are lists of tokens."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return ["a token"]


class Batch:
    """A batch: a tensor for each column, on the device that the iterator was given."""

    def __init__(self, dataset: Dataset, size: Any, device: Any = None) -> None:
        self.batch_size, self.dataset, self.fields = size, dataset, list(dataset.fields)
        for name, field in dataset.fields.items():
            if name is not None and field is not None:
                numbers = field.numbers(size)
                if isinstance(device, (str, torch.device)):
                    numbers = tree_map(lambda column: column.to(device), numbers)
                setattr(self, name, numbers)

    def __length__(self) -> Any:
        """Number of examples."""
        return self.batch_size


class Iterator_:
    """Batches of a data set: full ones, and at most one rest."""

    def __init__(
        self, dataset: Dataset, batch_size: Any, sort_key: Any = None, device: Any = None, batch_size_fn: Any = None,
        train: bool = True, repeat: bool = False, shuffle: Any = None, sort: Any = None, sort_within_batch: Any = None,
    ) -> None:  # fmt: skip
        self.dataset, self.batch_size, self.train, self.repeat = dataset, batch_size, train, repeat
        self.device, self.iterations, self.epoch = device, 0, 0

    @classmethod
    def splits(
        cls, datasets: Any, batch_sizes: Any = None, batch_size: Any = None, **kwargs: Any
    ) -> tuple["Iterator_", ...]:
        """One iterator for each data set."""
        sizes = batch_sizes if batch_sizes is not None else [batch_size] * len(datasets)
        return tuple(cls(dataset, size, **kwargs) for dataset, size in zip(datasets, sizes, strict=False))

    def init_epoch(self) -> None:
        """A new pass."""

    def __series__(self) -> Series:
        """The batches."""
        return Series(self._segments, "an iterator over batches")

    def _segments(self) -> list[Segment]:
        total, size = self.dataset.count, self.batch_size
        made = [Segment(total // size, lambda index: Batch(self.dataset, size, self.device))]
        rest = total % size
        if rest > 0:
            made.append(Segment(1, lambda index: Batch(self.dataset, rest, self.device)))
        return made

    def __length__(self) -> Any:
        """Number of batches."""
        return (self.dataset.count + self.batch_size - 1) // self.batch_size

    def __len__(self) -> int:
        return int(self.__length__())

    def __iter__(self) -> Iterator[Any]:
        return iter(self.__series__())


Iterator_.__name__ = "Iterator"


class BucketIterator(Iterator_):
    """Batches of texts of like length."""


class BPTTIterator(Iterator_):
    """Pieces of one long text: `text` and `target` of (steps, batch)."""

    def __init__(self, dataset: Dataset, batch_size: Any, bptt_len: Any, **kwargs: Any) -> None:
        super().__init__(dataset, batch_size, **kwargs)
        self.bptt_len = bptt_len


def interleave_keys(a: Any, b: Any) -> int:
    """A key to sort by two lengths."""
    return 0


class _Vectors:
    """Word vectors by name."""

    def __init__(self, name: str = "6B", dim: int = 300, **kwargs: Any) -> None:
        self.dim, self.vectors = dim, torch.empty(2, dim)

    def __str__(self) -> str:
        return f"vectors.{self.dim}d"


GloVe = FastText = CharNGram = Vectors = _Vectors


def __getattr__(name: str) -> Any:
    if name == "Iterator":
        return Iterator_
    raise AttributeError(name)


Converter = Callable[[Any], Any]
