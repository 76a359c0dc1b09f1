"""Sparse matrices from Matrix Market files (``.mtx``, ``.mtx.gz``), checked.

R. Boisvert, R. Pozo, K. Remington, *The Matrix Market Exchange Formats*, NIST 1996; the file is parsed by SciPy.
"""

import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
import scipy.sparse

from sparsam.errors import InputOutput, Refused

Sparse = Any
"""A ``scipy.sparse`` matrix or array, as :func:`canonical` takes it, or an array of NumPy."""
LARGEST = 2**27
"""Rows and columns are numbered in 32 bits."""


def read_matrix(file: str | os.PathLike[str]) -> Any:
    """A matrix from a file, as :func:`canonical` gives it. A pattern's entries are 1; stored zeros are dropped.

    Raises:
        InputOutput: ``matrix-file`` for a file that cannot be read, ``matrix-corrupt`` for one that is no Matrix Market file.
        Refused: ``matrix-complex``, ``matrix-empty``, ``matrix-size``, ``matrix-not-finite``.
    """
    place = Path(file)
    if not place.is_file():
        raise InputOutput(
            f"{place} is no file. A matrix is a file in Matrix Market form, .mtx or .mtx.gz.",
            code="matrix-file",
        )
    try:
        rows, columns, entries, form, field, _ = scipy.io.mminfo(place)
        packed = place.suffix == ".gz"
        if field == "complex":
            raise Refused(
                f"{place} holds complex numbers; the machine multiplies real ones.", code="matrix-complex"
            )
        if min(rows, columns) < 1 or entries < 1:
            raise Refused(
                f"{place} is a matrix of {rows} x {columns} with {entries} entries; it must hold something.",
                code="matrix-empty",
            )
        if max(rows, columns) > LARGEST:
            raise Refused(
                f"{place} is a matrix of {rows} x {columns}; at most {LARGEST} rows and columns.",
                code="matrix-size",
            )
        least = entries * (4 if form == "coordinate" else 2)  # "1 1" and "1", each with the end of its line
        if least > (place.stat().st_size + 1) * (1100 if packed else 1):  # deflate gains no more than 1032
            raise ValueError(
                f"its head promises {entries} entries, more than {place.stat().st_size} bytes can hold"
            )
        found = scipy.io.mmread(place)
    except Refused:
        raise
    except (ValueError, OSError, EOFError, OverflowError, zlib.error, TypeError, IndexError) as error:
        code = "matrix-file" if isinstance(error, PermissionError) else "matrix-corrupt"
        raise InputOutput(f"{place} cannot be read as a Matrix Market file: {error}", code=code) from error
    made = canonical(found, str(place))
    if made.nnz == 0:
        raise Refused(f"{place} holds zeros alone.", code="matrix-empty")
    return made


def canonical(matrix: Sparse, name: str = "matrix") -> Any:
    """Compressed rows, columns in order, each once, no stored zeros, integers in 64 bits and others as float64.

    Args:
        matrix: sparse of SciPy in any form, or a two-dimensional array. Repeated entries are added.
        name: for errors.

    Returns:
        A ``scipy.sparse.csr_array`` of its own, ``indptr`` and ``indices`` int64.

    Raises:
        Refused: ``matrix-complex``, ``matrix-not-finite``, ``matrix-size``, ``matrix-shape``.
    """
    if np.ndim(matrix) != 2 and not scipy.sparse.issparse(matrix):
        raise Refused(f"{name} has {np.ndim(matrix)} dimensions; a matrix has two.", code="matrix-shape")
    if np.issubdtype(matrix.dtype, np.complexfloating):
        raise Refused(
            f"{name} holds complex numbers; the machine multiplies real ones.", code="matrix-complex"
        )
    if max(matrix.shape) > LARGEST:
        raise Refused(f"{name} is {matrix.shape}; at most {LARGEST:,} rows and columns.", code="matrix-size")
    whole = np.issubdtype(matrix.dtype, np.integer) or matrix.dtype == np.bool_
    entries = scipy.sparse.coo_array(matrix).astype(np.int64 if whole else np.float64)
    if whole:
        most = float(np.abs(entries.data.astype(np.float64)).sum()) if entries.nnz else 0.0
        unsigned = matrix.dtype == np.uint64 and entries.nnz and (entries.data < 0).any()
        if unsigned or (most >= 2.0**63 and _adds_beyond(entries)):
            raise Refused(
                f"{name} holds integers, or repeated entries that add to ones, beyond 63 bits. Give real numbers.",
                code="matrix-overflow",
            )
    made = entries.tocsr()
    made.sum_duplicates()
    if not np.isfinite(made.data).all():
        at = int(np.flatnonzero(~np.isfinite(made.data))[0])
        row = int(np.searchsorted(made.indptr, at, "right")) - 1
        raise Refused(
            f"{name} holds {made.data[at]} in row {row}, column {int(made.indices[at])}.",
            code="matrix-not-finite",
        )
    made.eliminate_zeros()
    made.sort_indices()
    made.indptr, made.indices = made.indptr.astype(np.int64), made.indices.astype(np.int64)
    return made


def _adds_beyond(entries: Any) -> bool:
    """Whether the entries of one place, added without a limit, leave 64 bits."""
    sums: dict[tuple[int, int], int] = {}
    for row, column, value in zip(*(x.tolist() for x in (*entries.coords, entries.data)), strict=True):
        sums[row, column] = sums.get((row, column), 0) + int(value)
    return any(not -(2**63) <= x < 2**63 for x in sums.values())
