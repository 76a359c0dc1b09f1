"""What a program can set for the whole process: the same at the beginning of each run, and part of the state within it."""

import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


def _set_filters(filters: list[Any]) -> None:
    warnings.filters[:] = filters  # type: ignore[index]
    warnings._filters_mutated()  # type: ignore[attr-defined]


def _set_path(path: list[str]) -> None:
    sys.path[:] = path


# How each is read and set; looked up here, before stand-ins take their place.
_SETTINGS: tuple[tuple[Callable[[], Any], Callable[[Any], Any]], ...] = (
    (sys.getrecursionlimit, sys.setrecursionlimit),
    (lambda: list(sys.path), _set_path),
    (lambda: list(warnings.filters), _set_filters),
    (torch.get_num_threads, torch.set_num_threads),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    (torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms),
    (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
)


def settings() -> tuple[Any, ...]:
    """All that can change what a program does, as they are now: of the filters of warnings those that raise."""
    raising = [entry for entry in warnings.filters if entry[0] == "error"]
    return (raising, *(get() for get, put in _SETTINGS if put is not _set_filters))


@contextmanager
def kept() -> Iterator[None]:
    """Puts all of them back behind it, and what loggers let pass."""
    before, loggers = [get() for get, _ in _SETTINGS], _loggers()
    try:
        yield
    finally:
        for (get, put), value in zip(_SETTINGS, before, strict=True):
            if get() != value:
                put(value)
        for logger in (logging.root, *list(logging.root.manager.loggerDict.values())):
            if isinstance(logger, logging.Logger):
                level, *others = loggers.get(logger.name, (logging.NOTSET, False, True, [], []))
                if logger.level != level:
                    logger.setLevel(level)
                logger.disabled, logger.propagate, logger.handlers, logger.filters = others


def _loggers() -> dict[str, tuple[Any, ...]]:
    every = (logging.root, *list(logging.root.manager.loggerDict.values()))
    return {
        one.name: (one.level, one.disabled, one.propagate, list(one.handlers), list(one.filters))
        for one in every
        if isinstance(one, logging.Logger)
    }
