"""Kernels compiled by numba where it is installed (extra ``hardware``), and the same functions in plain Python where not.

Kernels loop over independent units in parallel, never over time. Results do not depend on the number of threads.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])

numba: Any
try:
    import numba
except ImportError:  # pragma: no cover - the tests run with numba
    numba = None

COMPILED = numba is not None
prange: Any = numba.prange if numba is not None else range


def jit(function: F) -> F:
    """Compile for one thread, kept on disk."""
    made: Any = numba.njit(cache=True, nogil=True)(function) if numba is not None else function
    return cast(F, made)


def parallel(function: F) -> F:
    """Compile with loops over :data:`prange` on all cores, kept on disk."""
    made: Any = numba.njit(cache=True, nogil=True, parallel=True)(function) if numba is not None else function
    return cast(F, made)
