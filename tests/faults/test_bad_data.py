"""Data that is wrong: each fault has its own error, which says what, where, and how to mend it."""

import gzip
import struct
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sparsam.errors import InputOutput, Refused, SparsamError, Usage
from sparsam.task import Rows, Task, hub
from sparsam.task.encode import encode


def parquet(path: Path, **columns) -> Path:
    """A parquet file of these columns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


@contextmanager
def refused(kind: type[SparsamError], code: str, *words: str):
    """Expect this error with this code, and every one of the words in its text."""
    with pytest.raises(kind) as caught:
        yield
    assert caught.value.code == code, caught.value
    for word in words:
        assert word in str(caught.value)


def test_a_name_that_is_nothing_says_what_may_be_given():
    """No folder, no file, no hub name."""
    with refused(InputOutput, "data-missing", "'nothing here'", "owner/name[:config]"):
        Task.load("nothing here")
    with refused(InputOutput, "data-missing", "imdb"):
        Task.load("imdb")


def test_without_network_the_error_names_the_cause_and_two_ways_out(monkeypatch):
    """The hub is not reached and nothing is cached."""

    def unreachable(repo, revision=None):
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr(hub, "list_files", unreachable)
    monkeypatch.setattr(hub, "cached_folder", lambda repo: None)
    with refused(
        InputOutput, "hub-unreachable", "Name or service not known", "hf download", "owner/name", "network"
    ):
        Task.load("owner/name")


def test_a_data_set_that_the_hub_does_not_have_is_named(monkeypatch):
    """The hub answers 404."""
    httpx = pytest.importorskip("httpx2")
    from huggingface_hub.errors import RepositoryNotFoundError

    def missing(repo, revision=None):
        raise RepositoryNotFoundError(
            "404", response=httpx.Response(404, request=httpx.Request("GET", "http://x"))
        )

    monkeypatch.setattr(hub, "list_files", missing)
    with refused(InputOutput, "hub-missing", "owner/name", "spelling", "hf auth login"):
        Task.load("owner/name")


def test_a_folder_without_data_lists_what_it_holds(tmp_path):
    """An empty folder and one with foreign files."""
    with refused(InputOutput, "data-missing", "it holds nothing", "train.parquet"):
        Task.load(tmp_path)
    (tmp_path / "notes.docx").touch()
    with refused(InputOutput, "data-missing", "notes.docx"):
        Task.load(tmp_path)
    with refused(Usage, "data-format", ".parquet"):
        Task.load(tmp_path / "notes.docx")


def test_file_names_must_tell_the_split(tmp_path):
    """Two files of unknown names are not guessed at."""
    for name in ("a", "b"):
        parquet(tmp_path / f"{name}.parquet", text=["x"] * 4, label=[0, 1] * 2)
    with refused(Usage, "split-names", "a.parquet, b.parquet", "train, validation and test"):
        Task.load(tmp_path)


def test_a_missing_shard_is_noticed(tmp_path):
    """Two of three files."""
    for i in (0, 2):
        parquet(tmp_path / f"train-{i:05}-of-00003.parquet", text=["x"] * 4, label=[0, 1] * 2)
    with refused(InputOutput, "data-incomplete", "belongs to 3 files, 2 are there"):
        Task.load(tmp_path)


def test_an_absent_label_column_lists_the_columns_and_the_option(tmp_path):
    """None by a usual name, one that is not there, two that could be."""
    path = parquet(tmp_path / "train.parquet", text=["x"] * 4, mood=[0, 1] * 2)
    with refused(Usage, "label-column", "text, mood", "--label"):
        Task.load(path)
    with refused(Usage, "label-column", "'feeling'", "text, mood"):
        Task.load(path, label="feeling")
    with refused(Usage, "label-column", "that one is the input"):
        Task.load(path, label="text", text="text")
    two = parquet(tmp_path / "two.parquet", text=["x"] * 4, fine_label=[0, 1] * 2, coarse_label=[0, 1] * 2)
    with refused(Usage, "label-column", "fine_label, coarse_label", "--label"):
        Task.load(two)


def test_an_ambiguous_text_column_lists_the_columns_and_the_option(tmp_path):
    """Two that could be, one that is not there, three at once."""
    path = parquet(tmp_path / "train.parquet", title=["x"] * 4, content=["y"] * 4, label=[0, 1] * 2)
    with refused(Usage, "text-column", "title", "content", "--text"):
        Task.load(path)
    with refused(Usage, "text-column", "'body'", "--text"):
        Task.load(path, text=("body",))
    with refused(Usage, "text-column", "3 names"):
        Task.load(path, text=("title", "content", "label"))


def test_data_without_text_or_image_is_refused(tmp_path):
    """Tables of numbers, and sounds."""
    numbers = parquet(tmp_path / "a" / "train.parquet", x=[0.5] * 4, label=[0, 1] * 2)
    with refused(Refused, "kind-unsupported", "x, label", "text and image tasks only"):
        Task.load(numbers)
    sounds = parquet(tmp_path / "b" / "train.parquet", audio=[b"\0"] * 4, speaker=["s"] * 4, label=[0, 1] * 2)
    with refused(Refused, "kind-unsupported", "audio, speaker, label"):
        Task.load(sounds)


def test_several_labels_a_row_are_refused(tmp_path):
    """A column of lists is no label."""
    path = parquet(tmp_path / "train.parquet", text=["x"] * 2, labels=[[0, 1], [1]])
    with refused(Refused, "label-kind", "'labels'", "Several labels a row"):
        Task.load(path)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_an_empty_split_is_refused(tmp_path, split):
    """A file with columns and no rows, in each format."""
    for name in ("train", "validation"):
        rows = 0 if name == split else 4
        (tmp_path / f"{name}.csv").write_text("text,label\n" + "x,0\nx,1\n" * (rows // 2))
    with refused(Refused, "empty-split", split, "no rows"):
        Task.load(tmp_path)
    parquet(tmp_path / "p" / "train.parquet", text=pa.array([], pa.string()), label=pa.array([], pa.int64()))
    with refused(Refused, "empty-split", "train.parquet"):
        Task.load(tmp_path / "p")
    (tmp_path / "train.jsonl").write_text("\n")
    with refused(Refused, "empty-split", "train"):
        Task.load(tmp_path / "train.jsonl")


def test_an_empty_or_faulty_test_split_is_left_out_and_said(tmp_path):
    """Train and validation carry on; the note says why."""
    for name in ("train", "validation"):
        parquet(tmp_path / f"{name}.parquet", text=["x"] * 4, label=[0, 1] * 2)
    for columns, note in (
        ({"text": pa.array([], pa.string()), "label": pa.array([], pa.int64())}, "test has no rows"),
        ({"text": ["x"]}, "test has no column 'label'"),
        ({"text": ["x"], "label": [7]}, "label 7"),
        ({"text": ["x"], "label": [-1]}, "test has no labels"),
    ):
        parquet(tmp_path / "test.parquet", **columns)
        task = Task.load(tmp_path)
        assert task.test is None
        assert note in task.notes[0]
        assert "left out" in task.notes[0]


def test_one_class_only_is_refused(tmp_path):
    """Nothing to tell apart, for classes and for numbers."""
    for label in ([1] * 6, [0.5] * 6, ["same"] * 6):
        path = parquet(tmp_path / "train.parquet", text=["x"] * 6, label=label)
        with refused(Refused, "one-class", "every row has the same label", "--label"):
            Task.load(path)


def test_rows_without_labels_are_refused_and_named(tmp_path):
    """Nulls, NaN and -1 among real labels; and a train split with none at all."""
    for label, first in (
        ([0, 1, None, 1], "the first is row 2"),
        ([0.5, float("nan"), 1.5, 2.0], "the first is row 1"),
    ):
        path = parquet(tmp_path / "train.parquet", text=["x"] * 4, label=label)
        with refused(Refused, "label-missing", "1 rows have no label", first):
            Task.load(path)
    path = parquet(tmp_path / "train.parquet", text=["x"] * 4, label=[0, 1, -1, 1])
    with refused(Refused, "label-missing", "1 rows have the label -1"):
        Task.load(path)
    path = parquet(tmp_path / "train.parquet", text=["x"] * 4, label=[-1] * 4)
    with refused(Refused, "label-missing", "no row has a label", "'label'"):
        Task.load(path)


def test_labels_that_do_not_fit_are_refused(tmp_path):
    """Infinite numbers, as many classes as rows, a class that train does not know, a metric of the other kind."""
    path = parquet(tmp_path / "train.parquet", text=["x"] * 4, label=[0.5, float("inf"), 1.0, 2.0])
    with refused(Refused, "label-not-finite", "infinite"):
        Task.load(path)
    path = parquet(tmp_path / "train.parquet", text=["x"] * 40, label=[f"title {i}" for i in range(40)])
    with refused(Refused, "too-many-classes", "40 different values in 40 rows"):
        Task.load(path)
    parquet(tmp_path / "d" / "train.parquet", text=["x"] * 4, label=["a", "b"] * 2)
    parquet(tmp_path / "d" / "validation.parquet", text=["x"] * 4, label=["a", "c"] * 2)
    with refused(Refused, "label-unknown", "'c'", "(a, b)", "validation"):
        Task.load(tmp_path / "d")
    with refused(Usage, "metric-label", "pearson_spearman", "wants numbers"):
        Task.load(tmp_path / "d" / "train.parquet", metric="pearson_spearman")
    with refused(Usage, "metric-unknown", "accuracy, f1"):
        Task.load(tmp_path / "d", metric="bleu")


def test_splits_with_different_columns_are_refused(tmp_path):
    """Validation lacks the text that train has."""
    parquet(tmp_path / "train.parquet", text=["x"] * 4, label=[0, 1] * 2)
    parquet(tmp_path / "validation.parquet", sentence=["x"] * 4, label=[0, 1] * 2)
    with refused(Usage, "text-column", "'text'", "validation", "--text"):
        Task.load(tmp_path)


@pytest.mark.parametrize("keep", [0, 10, 200, -8])
def test_a_cut_parquet_file_is_corrupt(tmp_path, keep):
    """Whatever is missing of the file, the error names it."""
    path = parquet(tmp_path / "train.parquet", text=["some text"] * 50, label=[0, 1] * 25)
    path.write_bytes(path.read_bytes()[:keep])
    with refused(InputOutput, "data-corrupt", str(path), "parquet", "fetch or write it again"):
        Task.load(path)


def test_a_damaged_page_is_noticed_while_reading(tmp_path):
    """The footer is whole, the rows are not."""
    path = parquet(tmp_path / "train.parquet", text=[f"text {i}" for i in range(500)], label=[0, 1] * 250)
    data = bytearray(path.read_bytes())
    data[4:200] = b"\xff" * 196
    path.write_bytes(bytes(data))
    with refused(InputOutput, "data-corrupt", str(path)):
        Task.load(path).train.take(np.arange(3))


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("train.csv", b"text,label\na,0\nb\n", ("line 3", "1 values under 2 column names")),
        ("train.csv", b"text,text\na,0\n", ("names a column twice",)),
        ("train.csv", b"", ("empty",)),
        ("train.csv", b"text,label\n\xff\xfe,0\n", ("CSV",)),
        ("train.csv", b'text,label\n"a,0\nb,1\n', ("CSV",)),
        ("train.csv.gz", gzip.compress(mtime=0, data=b"text,label\na,0\n" * 99)[:-9], ("CSV",)),
        ("train.csv.gz", b"not gzip", ("CSV",)),
        ("train.jsonl", b'{"text": "a", "label": 0}\n{"text": ', ("line 2", "one JSON object")),
        ("train.jsonl", b'[{"text": "a", "label": 0}]\n', ("line 1", "list")),
        ("train.jsonl", b"[" * 100_000, ("line 1",)),
    ],
)
def test_damaged_text_files_name_file_and_line(tmp_path, name, data, words):
    """Broken quotes, encodings, archives and JSON."""
    (tmp_path / name).write_bytes(data)
    with refused(InputOutput, "data-corrupt", name, *words):
        Task.load(tmp_path / name)


def test_damaged_idx_files_are_refused_before_anything_is_allocated(tmp_path):
    """Wrong magic, a header that promises 2^64 bytes, a cut archive, labels that are too few or absent."""
    images, labels = tmp_path / "train-images-idx3-ubyte", tmp_path / "train-labels-idx1-ubyte"
    good = b"\0\0\x08\x03" + struct.pack(">3I", 2, 2, 2) + bytes(8)
    images.write_bytes(good)
    with refused(InputOutput, "data-incomplete", "train-images-idx3-ubyte", "labels"):
        Task.load(tmp_path)
    labels.write_bytes(b"\0\0\x08\x01" + struct.pack(">I", 3) + bytes(3))
    with refused(InputOutput, "data-corrupt", "(2, 2, 2)", "(3,)"):
        Task.load(tmp_path)
    for data, word in (
        (b"PNG!" + good, "504e4721"),
        (b"\0\0\x08\x03" + struct.pack(">3I", 2**31, 2**31, 4) + bytes(8), "promises"),
        (good[:-1], "it holds 7"),
        (good[:9], "inside its header"),
        (b"", "nothing"),
    ):
        images.write_bytes(data)
        with refused(InputOutput, "data-corrupt", "train-images-idx3-ubyte", word):
            Task.load(tmp_path)


def test_an_image_that_is_none_is_named_by_its_row(tmp_path):
    """Bytes that are no image, no bytes at all, a damaged file in a folder, images without classes."""
    path = parquet(tmp_path / "train.parquet", image=[b"no image"] * 20, label=[0, 1] * 10)
    with refused(InputOutput, "image-corrupt", "row 0", "'image'", "Pillow"):
        Task.load(path).train.sample(20).subset(np.argsort(Task.load(path).train.order)[:1]).take(
            np.arange(1)
        )
    path = parquet(
        tmp_path / "validation.parquet",
        image=[{"bytes": None, "path": "../../etc/passwd"}] * 4,
        label=[0, 1] * 2,
    )
    with refused(InputOutput, "image-corrupt", "row 2", "no image bytes"):
        Task.load(path).validation.take(np.array([2]))
    for label in ("a", "b"):
        (tmp_path / "f" / "val" / label).mkdir(parents=True)
        (tmp_path / "f" / "val" / label / "1.png").write_bytes(b"\x89PNG\r\n")
    with refused(InputOutput, "image-corrupt", "1.png"):
        Task.load(tmp_path / "f").validation.take(np.array([0]))
    (tmp_path / "g" / "train").mkdir(parents=True)
    (tmp_path / "g" / "train" / "1.png").write_bytes(b"\x89PNG\r\n")
    with refused(Usage, "image-classes", "train/CLASS/file.png"):
        Task.load(tmp_path / "g")


def test_a_row_without_text_is_named(tmp_path):
    """None, or a hole that pandas wrote as NaN."""
    path = parquet(tmp_path / "validation.parquet", text=["a", None, "c", "d"], label=[0, 1] * 2)
    split = Task.load(path).validation
    with refused(Refused, "text-missing", "row 1", "'text'", "None"):
        list(split.batches(4))
    assert split.take(np.array([0, 2])).texts == ["a", "c"]


def test_a_text_that_is_too_long_is_an_error_on_request():
    """truncate=False names row, length, limit and option."""

    def words(texts, **options):
        return {"input_ids": [[0] * len(text) for text in texts]}

    rows = Rows(["ab", "abcdef"], None, None, np.array([0, 1]), np.array([7, 9]), "sst2, validation")
    with refused(
        Refused, "text-too-long", "sst2, validation: row 9", "6 tokens", "limit is 4", "--no-truncate"
    ):
        encode(words, rows, max_length=4, truncate=False)
    assert len(encode(words, rows, max_length=6, truncate=False)) == 2


def test_a_file_that_vanishes_is_named(tmp_path):
    """Gone between opening and reading."""
    task = Task.load(parquet(tmp_path / "train.parquet", text=["x"] * 20, label=[0, 1] * 10))
    (tmp_path / "train.parquet").unlink()
    with refused(InputOutput, "data-missing", "train.parquet", "not there"):
        task.train.take(np.arange(2))


@pytest.mark.data
@pytest.mark.parametrize("name", ["fsdd", "science"])
def test_sounds_and_tables_are_refused(shared, name):
    """Speech and telescope data: neither text nor images."""
    with refused(Refused, "kind-unsupported", name, "text and image tasks only"):
        Task.load(shared / "data" / name)
