"""The shared data is the data that our figures were measured on."""

import hashlib

import pytest


@pytest.mark.data
@pytest.mark.parametrize("name", ["sst2", "imdb", "fashion_mnist"])
def test_data_set_matches_its_checksums(shared, name):
    """Each file of a data set that a published figure stands on has its listed SHA-256."""
    lines = [line.split(maxsplit=1) for line in (shared / "data" / "SHA256SUMS").read_text().splitlines()]
    listed = {path.lstrip("*./"): digest for digest, path in lines}
    files = [path for path in listed if path.startswith(f"{name}/")]
    assert files, f"SHA256SUMS lists no file of {name}"
    for path in files:
        assert hashlib.sha256((shared / "data" / path).read_bytes()).hexdigest() == listed[path], path
