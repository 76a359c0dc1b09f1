"""`torch.utils.data`: loaders as series of full batches and at most one rest, from an arbitrary sample of the data set."""

import collections.abc
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.utils.data as data

from sparsam.shapes.environment import symbolic
from sparsam.shapes.guesses import alike
from sparsam.shapes.hooks import item
from sparsam.shapes.run import current
from sparsam.shapes.series import Repeated, Segment, Series, as_series, equal, length

PLAIN = 3  # samples of a batch that are all made one by one

REAL = {
    name: getattr(data, name)
    for name in ("DataLoader", "random_split", "default_collate")
    if hasattr(data, name)
}


class DataLoader(data.DataLoader):  # type: ignore[type-arg]
    """Stands in for `torch.utils.data.DataLoader`: no workers, no data, lengths that may be symbols.

    Raises:
        ValueError: As the original, for arguments that exclude each other and sizes that are not positive.
    """

    def __init__(  # type: ignore[no-untyped-def]
        self,
        dataset,
        batch_size=1,
        shuffle=None,
        sampler=None,
        batch_sampler=None,
        num_workers=0,
        collate_fn=None,
        pin_memory=False,
        drop_last=False,
        **others,
    ) -> None:
        if batch_sampler is not None and (batch_size != 1 or shuffle or sampler is not None or drop_last):
            raise ValueError(
                "batch_sampler option is mutually exclusive with batch_size, shuffle, sampler, and drop_last"
            )
        if sampler is not None and shuffle:
            raise ValueError("sampler option is mutually exclusive with shuffle")
        if batch_size is None and drop_last:
            raise ValueError(
                "batch_size=None option disables auto-batching and is mutually exclusive with drop_last"
            )
        if batch_size is not None and batch_sampler is None and not batch_size > 0:
            raise ValueError(
                f"batch_size should be a positive integer value, but got batch_size={batch_size}"
            )
        if (
            shuffle
            and sampler is None
            and not isinstance(dataset, data.IterableDataset)
            and not length(dataset) > 0
        ):
            raise ValueError(
                f"num_samples should be a positive integer value, but got num_samples={length(dataset)}"
            )
        fields = {
            "dataset": dataset,
            "batch_size": None if batch_sampler is not None else batch_size,
            "drop_last": drop_last,
            "sampler": sampler if sampler is not None else data.SequentialSampler(dataset),
            "batch_sampler": batch_sampler,
            "own_collate": collate_fn is not None and collate_fn is not REAL["default_collate"],
            "collate_fn": collate_fn or default_collate,
            "num_workers": num_workers,
            "pin_memory": pin_memory,
            "given_sampler": sampler,
            **others,
        }
        self.__dict__.update(fields)

    def __setattr__(self, name: str, value: Any) -> None:
        self.__dict__[name] = value

    def samples(self) -> Any:
        """Number of samples of one pass."""
        sampler = self.__dict__["given_sampler"]
        return length(self.dataset) if sampler is None else length(sampler)

    def __length__(self) -> Any:
        """Number of batches of one pass."""
        return self.__series__().length()

    def __len__(self) -> int:
        return int(self.__length__())

    def __series__(self) -> Series:
        """The batches."""
        if isinstance(self.dataset, data.IterableDataset):
            return self._streamed()
        if self.batch_sampler is not None:
            batches = as_series(self.batch_sampler) or _given(self.batch_sampler)
            return batches.map(lambda _, indices: self._from_indices(indices), "a data loader")
        return Series(self._segments, "a data loader")

    def _segments(self) -> list[Segment]:
        total, size = self.samples(), self.batch_size
        if size is None:
            return [Segment(total, lambda index: self._one(total))]
        made = [Segment(total // size, lambda index: self._batch(size, total))]
        rest = total % size
        if not self.drop_last and rest > 0:
            made.append(Segment(1, lambda index: self._batch(rest, total)))
        return made

    def _one(self, total: Any) -> Any:
        sample = self._sample(total)
        return self.collate_fn(sample) if self.__dict__["own_collate"] else _converted(sample)

    def _sample(self, total: Any) -> Any:
        run = current()
        sampler = self.__dict__["given_sampler"]
        if run is None:
            return self.dataset[0]
        if sampler is not None and hasattr(sampler, "num_samples"):
            # It may draw a sample more than once, or not at all.
            total = length(getattr(sampler, "weights", self.dataset))
        index = run.shapes.index("index of a sample", total)
        if sampler is not None and isinstance(getattr(sampler, "indices", None), (list, tuple)):
            index = item(sampler.indices, index)
        return self.dataset[index]

    def _batch(self, size: Any, total: Any) -> Any:
        """A batch of `size` samples: arbitrary ones, the second of which stands for all between it and the last."""
        if isinstance(size, int) and size <= PLAIN:
            return self.collate_fn([self._sample(total) for _ in range(size)])
        first = self._sample(total)
        if symbolic(size) and self.collate_fn is default_collate:
            # Two arbitrary samples that are alike, as they are in a batch of one: nothing is asked about its size.
            other = self._sample(total)
            if alike(first, other):
                return _collated([first, other], size)
        elif size > 1:
            other = self._sample(total)
        if not size > 1:
            return self.collate_fn([first])
        return self.collate_fn([first, Repeated(other, size - 2), other])

    def _from_indices(self, indices: Any) -> Any:
        series = as_series(indices)
        if series is None:
            return self.collate_fn([self.dataset[index] for index in indices])
        from sparsam.shapes.hooks import made

        return self.collate_fn(made(lambda index: self.dataset[index], series))

    def _streamed(self) -> Series:
        source = as_series(iter(self.dataset)) or as_series(self.dataset)
        if source is None:
            source = _given(list(iter(self.dataset)))
        if self.batch_size is None:
            return source
        total, size = source.length(), self.batch_size

        def segments() -> list[Segment]:
            def batch(count: Any) -> Any:
                first = source.segments()[0].item(0)
                return self.collate_fn([first, Repeated(first, count - 1)] if count != 1 else [first])

            made = [Segment(total // size, lambda index: batch(size))]
            rest = total % size
            if not self.drop_last and rest > 0:
                made.append(Segment(1, lambda index: batch(rest)))
            return made

        return Series(segments, "a data loader")

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        return iter(self.__series__())


def _given(items: Any) -> Series:
    return Series(lambda: [equal(value, 1) for value in items], "a list of batches")


def default_collate(samples: Any) -> Any:
    """As the original, for lists whose length may be a symbol.

    Raises:
        RuntimeError: If tensors have unequal sizes.
        TypeError: For samples of a kind that cannot be collated.
    """
    count: Any = 0
    distinct: list[Any] = []
    for sample in samples:
        count = count + (sample.count if isinstance(sample, Repeated) else 1)
        distinct.append(sample.item if isinstance(sample, Repeated) else sample)
    return _collated(distinct, count)


def _collated(samples: list[Any], count: Any) -> Any:
    first = samples[0]
    if isinstance(first, torch.Tensor):
        stacked = torch.stack(samples)
        return stacked if not symbolic(count) and len(samples) == count else _of_length(stacked, count)
    if type(first).__module__.startswith(("numpy", "torch._numpy")) and hasattr(first, "dtype"):
        return _collated([torch.as_tensor(sample) for sample in samples], count)
    if isinstance(first, (bool, int, torch.SymInt, torch.SymBool)):
        return torch.empty(count, dtype=torch.int64 if not isinstance(first, bool) else torch.bool)
    if isinstance(first, (float, torch.SymFloat)):
        return torch.empty(count, dtype=torch.float64)
    if isinstance(first, (str, bytes)):
        return _listed(samples, count)
    if isinstance(first, collections.abc.Mapping):
        made = {key: _collated([sample[key] for sample in samples], count) for key in first}
        try:
            return type(first)(made)  # type: ignore[call-arg]
        except TypeError:
            return made
    if isinstance(first, tuple) and hasattr(first, "_fields"):
        return type(first)(*(_collated(list(group), count) for group in zip(*samples, strict=True)))
    if isinstance(first, collections.abc.Sequence):
        if any(len(sample) != len(first) for sample in samples):
            raise RuntimeError("each element in list of batch should be of equal size")
        made_list = [_collated(list(group), count) for group in zip(*samples, strict=True)]
        return made_list
    raise TypeError(
        "default_collate: batch must contain tensors, numpy arrays, numbers, dicts or lists; "
        f"found {type(first)}"
    )


def _of_length(stacked: torch.Tensor, count: Any) -> torch.Tensor:
    return stacked.new_empty((count, *stacked.shape[1:]))


def _listed(samples: list[Any], count: Any) -> list[Any]:
    if not symbolic(count) and count == len(samples):
        return samples
    return [samples[0], Repeated(samples[-1], count - 2), samples[-1]] if count > 1 else samples[:1]


def _converted(sample: Any) -> Any:
    return data._utils.collate.default_convert(sample)


class Subset(data.Subset):  # type: ignore[type-arg]
    """Stands in for `torch.utils.data.Subset`: its indices may be a series."""

    def __init__(self, dataset: Any, indices: Any) -> None:
        self.dataset, self.indices = dataset, indices

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, list):
            return self.dataset[[self.indices[i] for i in index]]
        series = as_series(self.indices)
        return self.dataset[item(self.indices, index) if series is None else series[index]]

    def __series__(self) -> Series:
        return Series(lambda: [Segment(length(self.indices), self.__getitem__)], "a part of a data set")

    def __length__(self) -> Any:
        return length(self.indices)

    def __len__(self) -> int:
        return int(length(self.indices))


def random_split(dataset: Any, lengths: Any, generator: Any = None) -> list[Subset]:
    """As the original: parts of these lengths, or of these fractions, of arbitrary samples.

    Raises:
        ValueError: If the lengths do not add up to that of the data set.
    """
    total = length(dataset)
    if all(isinstance(part, float) for part in lengths) and abs(sum(lengths) - 1) < 1e-6:
        whole: list[Any] = [torch.sym_int(total * part) for part in lengths]
        rest = total
        for part in whole:
            rest = rest - part
        # What rounding left over goes to the first parts, one sample each.
        lengths = [
            part + torch.sym_min(torch.sym_max(rest - i, 0), 1)
            if symbolic(rest)
            else part + (1 if i < rest else 0)
            for i, part in enumerate(whole)
        ]
    given: Any = 0
    for part in lengths:
        given = given + part
    if given != total:
        raise ValueError("Sum of input lengths does not equal the length of the input dataset!")
    made, start = [], 0
    for part in lengths:
        made.append(Subset(dataset, _indices(start, part)))
        start = start + part
    return made


def _indices(start: Any, count: Any) -> Series:
    return Series(lambda: [Segment(count, lambda index: start + index)], "a part of a data set")


def _concatenated(self: Any, index: Any) -> Any:
    for dataset in self.datasets:
        size = length(dataset)
        if index < size:
            return dataset[index]
        index = index - size
    raise IndexError("index out of range of the concatenated data sets")


def _concatenated_length(self: Any) -> Any:
    total: Any = 0
    for dataset in self.datasets:
        total = total + length(dataset)
    return total


def patches() -> list[tuple[Any, str, Any]]:
    """(owner, attribute, stand-in) for all of this module."""
    found: list[tuple[Any, str, Any]] = [
        (owner, name, value)
        for owner in (data, data.dataloader, data.dataset)
        for name, value in (
            ("DataLoader", DataLoader),
            ("Subset", Subset),
            ("random_split", random_split),
            ("default_collate", default_collate),
        )
        if hasattr(owner, name)
    ]
    found += [
        (data.ConcatDataset, "__getitem__", _concatenated),
        (data.ConcatDataset, "__length__", _concatenated_length),
        (data.ConcatDataset, "__init__", lambda self, datasets: setattr(self, "datasets", list(datasets))),
        (data.TensorDataset, "__length__", lambda self: self.tensors[0].size(0)),
        (data.TensorDataset, "__init__", _tensor_dataset),
        (data.Sampler, "__length__", _sampler_length),
        (data.RandomSampler, "__init__", _random_sampler),
        (data.RandomSampler, "num_samples", property(_sampler_length)),
        (data.WeightedRandomSampler, "__init__", _weighted_sampler),
    ]
    return found


def _tensor_dataset(self: Any, *tensors: torch.Tensor) -> None:
    if any(tensors[0].size(0) != tensor.size(0) for tensor in tensors):
        raise AssertionError("Size mismatch between tensors")
    self.tensors = tensors


def _random_sampler(
    self: Any, data_source: Any, replacement: bool = False, num_samples: Any = None, generator: Any = None
) -> None:
    self.data_source, self.replacement, self._num_samples, self.generator = (
        data_source,
        replacement,
        num_samples,
        generator,
    )
    count = length(data_source) if num_samples is None else num_samples
    if not count > 0:
        raise ValueError(f"num_samples should be a positive integer value, but got num_samples={count}")


def _weighted_sampler(
    self: Any, weights: Any, num_samples: Any, replacement: bool = True, generator: Any = None
) -> None:
    if (
        not isinstance(num_samples, (int, torch.SymInt))
        or isinstance(num_samples, bool)
        or not num_samples > 0
    ):
        raise ValueError(f"num_samples should be a positive integer value, but got num_samples={num_samples}")
    weights = torch.as_tensor(weights, dtype=torch.double)
    if weights.dim() != 1:
        raise ValueError(
            f"weights should be a 1d sequence but given weights have shape {tuple(weights.shape)}"
        )
    self.weights, self.num_samples, self.replacement, self.generator = (
        weights,
        num_samples,
        replacement,
        generator,
    )


def _sampler_length(self: Any) -> Any:
    if isinstance(self, data.RandomSampler):
        given = getattr(self, "_num_samples", None)
        return length(self.data_source) if given is None else given
    for name in ("indices", "weights"):
        if hasattr(self, name) and not hasattr(self, "num_samples"):
            return length(getattr(self, name))
    if hasattr(self, "num_samples"):
        return self.num_samples
    if hasattr(self, "data_source"):
        return length(self.data_source)
    return type(self).__len__(self)


Collate = Callable[[list[Any]], Any]
_ = alike
