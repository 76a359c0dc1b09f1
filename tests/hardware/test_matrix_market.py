"""Matrices from files: what is read, and by which names bad ones are refused."""

import gzip

import numpy as np
import pytest
import scipy.io
import scipy.sparse

from sparsam.errors import InputOutput, Refused, SparsamError
from sparsam.hardware.matrix_market import canonical, read_matrix

HEAD = "%%MatrixMarket matrix coordinate "


def test_pattern_is_ones_and_symmetry_unfolds(tmp_path):
    """A symmetric pattern of two entries, one of them on the diagonal, is three ones."""
    (tmp_path / "a.mtx").write_text(HEAD + "pattern symmetric\n3 3 2\n1 1\n3 1\n")
    assert read_matrix(tmp_path / "a.mtx").toarray().tolist() == [[1, 0, 1], [0, 0, 0], [1, 0, 0]]


@pytest.mark.parametrize("name", ["a.mtx", "a.mtx.gz"])
def test_written_matrix_reads_back(tmp_path, name):
    """Random reals through SciPy's writer, packed or not."""
    wanted = scipy.sparse.random_array((30, 20), density=0.1, rng=np.random.default_rng(1))
    scipy.io.mmwrite(tmp_path / "a.mtx", wanted)
    if name.endswith(".gz"):
        (tmp_path / name).write_bytes(gzip.compress((tmp_path / "a.mtx").read_bytes()))
    assert np.array_equal(read_matrix(tmp_path / name).toarray(), wanted.toarray())


def test_stored_zeros_are_dropped_and_repeats_added(tmp_path):
    """What is zero is no non-zero, and an entry given twice is a sum."""
    (tmp_path / "a.mtx").write_text(HEAD + "integer general\n2 2 4\n1 1 0\n2 1 3\n2 1 4\n1 2 5\n")
    found = read_matrix(tmp_path / "a.mtx")
    assert found.nnz == 2
    assert found.dtype == np.int64
    assert found.toarray().tolist() == [[0, 5], [7, 0]]


@pytest.mark.parametrize(
    ("text", "kind", "code", "says"),
    [
        (HEAD + "complex general\n1 1 1\n1 1 1.0 2.0\n", Refused, "matrix-complex", "complex numbers"),
        (HEAD + "real general\n2 3 0\n", Refused, "matrix-empty", "2 x 3 with 0 entries"),
        (HEAD + "real general\n2 2 1\n1 1 0.0\n", Refused, "matrix-empty", "zeros alone"),
        (HEAD + "real general\n2 2 1\n1 1 nan\n", Refused, "matrix-not-finite", "nan in row 0, column 0"),
        (HEAD + "real general\n5000000000 1 1\n1 1 1.0\n", Refused, "matrix-size", "5000000000"),
        (HEAD + "real general\n2 2 2\n1 1 1.0\n", InputOutput, "matrix-corrupt", "cannot be read"),
        (HEAD + "real general\n2 2 1\n3 1 1.0\n", InputOutput, "matrix-corrupt", "cannot be read"),
        (HEAD + "real general\n2 2 1\n1 1 x\n", InputOutput, "matrix-corrupt", "cannot be read"),
        (HEAD + "real general\n9 9 99999999999\n1 1 1.0\n", InputOutput, "matrix-corrupt", "promises"),
        ("no matrix\n", InputOutput, "matrix-corrupt", "cannot be read"),
        ("", InputOutput, "matrix-corrupt", "cannot be read"),
    ],
)
def test_bad_file_is_refused_by_name(tmp_path, text, kind, code, says):
    """Each error names the file and what is wrong with it."""
    (tmp_path / "bad.mtx").write_text(text)
    with pytest.raises(kind, match=says) as caught:
        read_matrix(tmp_path / "bad.mtx")
    assert isinstance(caught.value, SparsamError)
    assert caught.value.code == code
    assert "bad.mtx" in str(caught.value)


def test_torn_gzip_and_missing_file_are_refused(tmp_path):
    """A packed file that ends early, one that is not packed, none at all."""
    text = (
        HEAD
        + "real general\n50 50 500\n"
        + "".join(f"{i % 50 + 1} {i // 50 + 1} {i}.5\n" for i in range(500))
    )
    packed = gzip.compress(text.encode())
    (tmp_path / "a.mtx.gz").write_bytes(packed[: len(packed) // 2])
    (tmp_path / "b.mtx.gz").write_bytes(b"no gzip")
    for name in ("a.mtx.gz", "b.mtx.gz"):
        with pytest.raises(InputOutput) as caught:
            read_matrix(tmp_path / name)
        assert caught.value.code == "matrix-corrupt"
    with pytest.raises(InputOutput, match="is no file") as missing:
        read_matrix(tmp_path / "none.mtx")
    assert missing.value.code == "matrix-file"


def test_array_of_three_dimensions_is_no_matrix():
    """Said with the number of dimensions."""
    with pytest.raises(Refused, match="3 dimensions") as caught:
        canonical(np.zeros((2, 2, 2)))
    assert caught.value.code == "matrix-shape"


def test_integers_that_leave_64_bits_are_refused(tmp_path):
    """Repeated entries add up without wrapping, or are refused."""
    head = "%%MatrixMarket matrix coordinate integer general\n1 2 2\n"
    (tmp_path / "wraps.mtx").write_text(head + f"1 1 {2**63 - 1}\n1 1 {2**63 - 1}\n")
    with pytest.raises(Refused) as error:
        read_matrix(tmp_path / "wraps.mtx")
    assert error.value.code == "matrix-overflow"
    (tmp_path / "fits.mtx").write_text(head + f"1 1 {2**63 - 1}\n1 2 {2**63 - 1}\n")
    assert read_matrix(tmp_path / "fits.mtx").data.tolist() == [2**63 - 1] * 2
    with pytest.raises(Refused):
        canonical(np.array([[2**63 + 5]], np.uint64))


def test_matrices_too_large_for_memory_are_refused(tmp_path):
    """By their size, before anything is made of them."""
    (tmp_path / "wide.mtx").write_text(
        "%%MatrixMarket matrix coordinate real general\n2000000000 2000000000 1\n1 1 1\n"
    )
    with pytest.raises(Refused) as error:
        read_matrix(tmp_path / "wide.mtx")
    assert error.value.code == "matrix-size"
