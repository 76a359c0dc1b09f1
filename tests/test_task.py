"""Tasks: loaders, columns, labels, splits, encoding, batches."""

import gzip
import json
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sparsam.errors import Refused, Usage
from sparsam.task import (
    Encoded,
    ImagePreprocess,
    Task,
    collate,
    held_out,
    hub,
    in_order_batches,
    join,
    metric_value,
    token_budget_batches,
)
from sparsam.task.sources import arrange


def texts(n: int, start: int = 0) -> dict[str, list]:
    """``n`` rows with alternating labels."""
    return {"text": [f"text {i}" for i in range(start, start + n)], "label": [i % 2 for i in range(n)]}


def write_parquet(path: Path, columns: dict, metadata: dict | None = None, **options) -> Path:
    """A parquet file of these columns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    pq.write_table(table.replace_schema_metadata(metadata) if metadata else table, path, **options)
    return path


def write_csv(path: Path, columns: dict) -> Path:
    """A CSV file with every value quoted, packed where its name ends in .gz."""
    lines = [",".join(columns)] + [
        ",".join(f'"{v}"' for v in row) for row in zip(*columns.values(), strict=True)
    ]
    text = "\n".join(lines) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def write_jsonl(path: Path, columns: dict) -> Path:
    """JSON lines, packed where the name ends in .gz."""
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def write_idx(path: Path, values: np.ndarray) -> Path:
    """An idx file of bytes, packed where its name ends in .gz."""
    header = b"\0\0\x08" + bytes([values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    data = header + values.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def png(path: Path, value: int, mode: str = "RGB", size: int = 6) -> Path:
    """An image of one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (size, size), value if mode == "L" else (value, 0, 255)).save(path)
    return path


WRITERS = {
    "parquet": write_parquet, "csv": write_csv, "csv.gz": write_csv, "jsonl": write_jsonl, "jsonl.gz": write_jsonl,
}  # fmt: skip


def words(first: list[str], second: list[str] | None = None, **options) -> dict[str, list[list[int]]]:
    """A tokenizer: one token a word (its length) between 1 and 2; ``truncation`` keeps the last token 2."""
    made = [[1, *(2 + len(word) for word in text.split()), 2] for text in first]
    if second is not None:
        made = [[*a, *(2 + len(word) for word in b.split()), 2] for a, b in zip(made, second, strict=True)]
    if options.get("truncation"):
        made = [[*one[: options["max_length"] - 1], 2] for one in made]
    found = {"input_ids": made}
    if second is not None:
        found["token_type_ids"] = [[0] * len(one) for one in made]
    return found


# Loaders


@pytest.mark.parametrize("ending", WRITERS)
def test_a_folder_of_each_format_gives_the_same_task(tmp_path, ending):
    """The format of the files does not change rows, labels or classes."""
    WRITERS[ending](tmp_path / f"train.{ending}", texts(20))
    WRITERS[ending](tmp_path / f"dev.{ending}", texts(6, start=100))
    task = Task.load(str(tmp_path))
    assert (task.kind, task.problem, task.metric, task.labels) == (
        "text",
        "classification",
        "accuracy",
        ("0", "1"),
    )
    assert task.train is not None
    assert task.validation is not None
    assert task.test is None
    assert task.notes == ()
    rows = task.validation.take(np.arange(6))
    assert rows.texts == [f"text {i}" for i in range(100, 106)]
    assert rows.texts2 is None
    assert rows.images is None
    assert rows.labels.dtype == np.int64
    assert rows.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert len(task.train) == 20
    assert "text" in task.train.columns
    assert sorted(task.train.take(np.arange(20)).texts) == sorted(texts(20)["text"])


def test_csv_keeps_quotes_commas_newlines_and_words_that_look_like_nothing(tmp_path):
    """A quoted field is one text, whatever is in it; NA is a text."""
    (tmp_path / "train.csv").write_text('text,label\n"a, ""b""\nc",yes\nNA,no\n,no\n', encoding="utf-8")
    (tmp_path / "test.csv").write_text("text,label\n12,yes\n", encoding="utf-8")
    task = Task.load(tmp_path)
    assert task.labels == ("no", "yes")
    assert sorted(task.train.take(np.arange(3)).texts) == ["", "NA", 'a, "b"\nc']
    assert task.validation.take(np.arange(1)).texts == ["12"]


def test_sharded_files_in_a_data_folder_lie_end_to_end(tmp_path):
    """train-00000-of-00002 and train-00001-of-00002 are one split, in this order."""
    write_parquet(tmp_path / "data" / "train-00001-of-00002.parquet", texts(3, start=5))
    write_parquet(tmp_path / "data" / "train-00000-of-00002.parquet", texts(5))
    write_parquet(tmp_path / "data" / "validation-00000-of-00001.parquet", texts(2))
    task = Task.load(tmp_path)
    in_file_order = task.train.subset(np.argsort(task.train.order))
    assert [t for rows in in_file_order.batches(3) for t in rows.texts] == [f"text {i}" for i in range(8)]


def test_class_names_come_from_the_metadata_of_the_file(tmp_path):
    """A ClassLabel that the datasets library wrote names the classes, also those not met."""
    feature = {"names": ["bad", "good", "unsure"], "_type": "ClassLabel"}
    metadata = {
        "huggingface": json.dumps({"info": {"features": {"label": feature, "text": {"_type": "Value"}}}})
    }
    write_parquet(tmp_path / "train.parquet", texts(8), metadata)
    assert Task.load(tmp_path).labels == ("bad", "good", "unsure")
    write_parquet(tmp_path / "train.parquet", texts(8), {"huggingface": "{not json"})
    assert Task.load(tmp_path).labels == ("0", "1")


def test_a_single_file_is_train_and_a_tenth_of_it_validation(tmp_path):
    """A file without a split in its name is the train split; the held-out rows are said aloud and not trained on."""
    task = Task.load(write_csv(tmp_path / "reviews.csv", texts(30)))
    assert task.name == "reviews"
    assert (len(task.train), len(task.validation)) == (27, 3)
    assert "3 rows of train, drawn with split seed 0, are held out" in task.notes[0]
    assert not set(task.train.order) & set(task.validation.order)
    assert np.array_equal(task.validation.order, Task.load(tmp_path / "reviews.csv").validation.order)
    other = Task.load(tmp_path / "reviews.csv", split_seed=1)
    assert not np.array_equal(task.validation.order, other.validation.order)


def test_the_seed_of_training_leaves_the_held_out_rows_alone(tmp_path):
    """Whatever --seed a model was trained with, evaluation holds out rows it has not seen: files and digits."""
    for spec in (write_csv(tmp_path / "reviews.csv", texts(200)), "digits"):
        task, other = Task.load(spec, seed=0), Task.load(spec, seed=1)
        assert np.array_equal(task.validation.order, other.validation.order)
        assert not set(other.train.order) & set(task.validation.order)
        assert not np.array_equal(task.train.order, other.train.order)
        assert set(task.train.order) == set(other.train.order)


def test_a_model_is_not_measured_on_rows_it_learned(tmp_path):
    """Another split seed on the data it was trained on is refused, as are rows of a file it saw whole; other data is not."""
    path = write_csv(tmp_path / "reviews.csv", texts(30))
    recorded = held_out.record(Task.load(path, split_seed=1))
    assert recorded["split_seed"] == 1
    assert len(recorded["held_out"]) == 64
    held_out.check(Task.load(path, split_seed=1, seed=5), recorded, "m")
    with pytest.raises(Refused, match=r"m was trained with split seed 1; .*Give --split-seed 1") as caught:
        held_out.check(Task.load(path), recorded, "m")
    assert caught.value.code == "held-out"
    held_out.check(Task.load(write_csv(tmp_path / "new.csv", texts(40))), recorded, "m")
    held_out.check(Task.load(path), {}, "m")

    (tmp_path / "both").mkdir()
    write_csv(tmp_path / "both" / "train.csv", texts(30))
    write_csv(tmp_path / "both" / "validation.csv", texts(4))
    whole = held_out.record(Task.load(tmp_path / "both"))
    assert whole["held_out"] is None
    held_out.check(Task.load(tmp_path / "both", split_seed=3), whole, "m")
    with pytest.raises(
        Refused, match=r"m was trained on every row of the data .*Give the task it was trained for"
    ):
        held_out.check(Task.load(path), whole, "m")


def test_image_parquet_decodes_bytes_and_structs(tmp_path):
    """Images as bytes, or as the struct of the datasets library, in colour or grey."""
    colour, grey = (
        png(tmp_path / name, 7, mode).read_bytes() for name, mode in (("a.png", "RGB"), ("b.png", "L"))
    )
    write_parquet(tmp_path / "x" / "train.parquet", {"image": [colour, grey] * 4, "label": [0, 1] * 4})
    write_parquet(
        tmp_path / "y" / "train.parquet",
        {"img": [{"bytes": colour, "path": "a.png"}, {"bytes": grey, "path": None}] * 4, "label": [0, 1] * 4},
    )
    for folder in ("x", "y"):
        task = Task.load(tmp_path / folder)
        assert task.kind == "image"
        rows = task.train.take(np.arange(len(task.train)))
        shapes = {int(label): image.shape for image, label in zip(rows.images, rows.labels, strict=True)}
        assert shapes == {0: (6, 6, 3), 1: (6, 6, 1)}
        assert rows.images[0].dtype == np.uint8


def test_idx_files_are_read_packed_and_plain(tmp_path):
    """The four files of MNIST: t10k is the test split, which then validates."""
    pixels = np.arange(12 * 4 * 5).reshape(12, 4, 5) % 256
    write_idx(tmp_path / "train-images-idx3-ubyte.gz", pixels)
    write_idx(tmp_path / "train-labels-idx1-ubyte.gz", np.arange(12) % 3)
    write_idx(tmp_path / "t10k-images-idx3-ubyte", pixels[:3])
    write_idx(tmp_path / "t10k-labels-idx1-ubyte", np.arange(3))
    task = Task.load(tmp_path)
    assert task.labels == ("0", "1", "2")
    assert (len(task.train), len(task.validation)) == (12, 3)
    rows = task.validation.take(np.array([2, 0]))
    assert np.array_equal(rows.images[0][..., 0], pixels[2])
    assert rows.labels.tolist() == [2, 0]


@pytest.mark.parametrize("splits", [True, False])
def test_an_image_folder_has_a_folder_a_class(tmp_path, splits):
    """split/class/file.png, or class/file.png with a tenth held out."""
    for split in ("train", "val") if splits else ("",):
        for label in ("cat", "dog"):
            for i in range(10):
                png(tmp_path / split / label / f"{i}.png", i)
    task = Task.load(tmp_path)
    assert task.kind == "image"
    assert task.labels == ("cat", "dog")
    assert (len(task.train), len(task.validation)) == ((20, 20) if splits else (18, 2))
    assert bool(task.notes) is not splits
    assert task.source_hashes()[0][0].endswith("/")
    assert task.source_hashes()[0][1] > 0


@pytest.mark.parametrize("place", ["metadata.csv", "train/metadata.csv", "metadata.jsonl"])
def test_metadata_beside_image_folders_is_left_out(tmp_path, place):
    """A file that only describes the images is no table of texts: the folders name the classes, and that is said."""
    for split in ("train", "val"):
        for label in ("cat", "dog"):
            for i in range(4):
                png(tmp_path / split / label / f"{i}.png", i)
    columns = {
        "file_name": ["train/cat/0.png", "train/dog/0.png"],
        "text": ["a cat", "a dog"],
        "label": ["cat", "dog"],
    }
    (write_csv if place.endswith("csv") else write_jsonl)(tmp_path / place, columns)
    task = Task.load(tmp_path)
    assert (task.kind, task.labels, len(task.train), len(task.validation)) == ("image", ("cat", "dog"), 8, 8)
    assert task.notes == (f"left out: {place}; the folders name the classes",)


def test_texts_beside_pictures_stay_texts(tmp_path):
    """A table with texts, or one named after a split, is the data, whatever pictures lie beside it."""
    png(tmp_path / "figures" / "a.png", 1)
    write_csv(tmp_path / "reviews.csv", texts(20))
    assert Task.load(tmp_path).kind == "text"
    write_csv(tmp_path / "train.csv", texts(30))
    assert (Task.load(tmp_path).kind, len(Task.load(tmp_path).train)) == ("text", 27)


def test_digits_are_split_by_class_and_by_seed():
    """scikit-learn's digits: four fifths train, every class in both parts, the same for the same split seed."""
    task, again, other = Task.load("digits"), Task.load("digits"), Task.load("digits", split_seed=1)
    assert (len(task.train), len(task.validation)) == (1438, 359)
    assert len(task.labels) == 10
    assert set(np.unique(task.validation.labels)) == set(range(10))
    assert np.array_equal(task.train.order, again.train.order)
    assert not np.array_equal(task.train.order, other.train.order)
    assert sorted([*task.train.order, *task.validation.order]) == list(range(1797))
    image = task.validation.take(np.arange(1)).images[0]
    assert image.shape == (8, 8, 1)
    assert image.max() > 200
    assert task.source_hashes()[0][0] == "scikit-learn digits"


# The hub


@pytest.fixture
def fake_hub(tmp_path, monkeypatch):
    """A hub with one data set of two configurations; what was fetched is in the returned list."""
    root = tmp_path / "hub"
    for config, label in (("cola", [0, 1, 1, 0]), ("sst2", [1, 0, 1, 0])):
        for split in ("train", "validation"):
            columns = {"sentence": list("abcd"), "label": label, "idx": [0, 1, 2, 3]}
            write_parquet(root / config / f"{split}-00000-of-00001.parquet", columns)
        write_parquet(root / config / "test-00000-of-00001.parquet", columns | {"label": [-1] * 4})
    (root / "README.md").write_text("a card")
    fetched: list[str] = []

    def list_files(repo, revision=None):
        assert repo == "owner/glue"
        return [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]

    def fetch_file(repo, path, revision=None):
        fetched.append(path)
        return root / path

    monkeypatch.setattr(hub, "list_files", list_files)
    monkeypatch.setattr(hub, "fetch_file", fetch_file)
    return fetched


def test_a_hub_data_set_is_fetched_configuration_by_configuration(fake_hub):
    """Only the parquet files of the named configuration are fetched; -1 marks a test split without labels."""
    task = Task.load("owner/glue:cola")
    assert (task.name, task.metric, len(task.train), len(task.validation), task.test) == (
        "cola",
        "matthews",
        4,
        4,
        None,
    )
    assert sorted(fake_hub) == [f"cola/{s}-00000-of-00001.parquet" for s in ("test", "train", "validation")]
    assert task.notes == ("test has no labels (empty, or -1) and is left out",)
    assert {name for name, _, _ in task.source_hashes()} >= {"cola/train-00000-of-00001.parquet"}


def test_a_hub_data_set_with_several_configurations_wants_one_named(fake_hub):
    """Without a configuration, or with an unknown one, the error lists them and shows the form."""
    for spec in ("owner/glue", "owner/glue:mrpc"):
        with pytest.raises(Usage, match=r"configurations cola, sst2.*owner/glue:sst2") as caught:
            Task.load(spec)
        assert caught.value.code == "config"


def test_a_hub_data_set_without_parquet_is_read_from_the_parquet_branch(tmp_path, monkeypatch):
    """The hub's own parquet copy, CONFIG/SPLIT/0000.parquet, stands in for other formats."""
    asked = []
    made = write_parquet(tmp_path / "default" / "train" / "0000.parquet", texts(20))

    def list_files(repo, revision=None):
        asked.append(revision)
        return ["default/train/0000.parquet"] if revision else ["data.zip", "README.md"]

    monkeypatch.setattr(hub, "list_files", list_files)
    monkeypatch.setattr(hub, "fetch_file", lambda repo, path, revision=None: made if revision else None)
    assert len(Task.load("owner/name").train) == 18
    assert asked == [None, hub.PARQUET_BRANCH]


def test_without_network_the_cached_copy_is_used_and_said(tmp_path, monkeypatch):
    """An earlier download stands in where the hub is not reached."""
    write_parquet(tmp_path / "train.parquet", texts(20))

    def unreachable(repo, revision=None):
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr(hub, "list_files", unreachable)
    monkeypatch.setattr(hub, "cached_folder", lambda repo: tmp_path)
    task = Task.load("owner/name")
    assert task.name == "name"
    assert "the cached copy of owner/name is used" in task.notes[0] + task.notes[1]


@pytest.mark.parametrize(
    ("paths", "config", "expected"),
    [
        (["train.csv", "dev.csv", "README.csv"], None, {"train": ["train.csv"], "validation": ["dev.csv"]}),
        (["plain_text/test-00000-of-00001.parquet"], None, {"test": ["plain_text/test-00000-of-00001.parquet"]}),
        (["data/train-00000-of-00001-0a1b.parquet"], None, {"train": ["data/train-00000-of-00001-0a1b.parquet"]}),
        (["a/train.csv", "b/train.csv"], "b", {"train": ["b/train.csv"]}),
        (["m/dev_mismatched.csv", "m/dev_matched.csv"], None, {"validation": ["m/dev_matched.csv"]}),
        (["train.csv", "train.parquet"], "default", {"train": ["train.parquet"]}),
        (["all.csv"], None, {"train": ["all.csv"]}),
    ],
)  # fmt: skip
def test_files_are_sorted_into_splits(paths, config, expected):
    """Names and folders tell split and configuration."""
    assert arrange(paths, config, "here")[0] == expected


# Columns and labels


@pytest.mark.parametrize(
    ("columns", "first", "second"),
    [
        ({"sentence1": ["a"], "sentence2": ["b"], "idx": [1]}, ["a"], ["b"]),
        ({"premise": ["a"], "hypothesis": ["b"]}, ["a"], ["b"]),
        ({"question": ["a"], "sentence": ["b"]}, ["a"], ["b"]),
        ({"Review": ["a"], "id": ["7"]}, ["a"], None),
        ({"body": ["a"], "split": ["x"]}, ["a"], None),
        ({"text": [5]}, ["5"], None),
    ],
)
def test_text_columns_are_found_by_their_usual_names(tmp_path, columns, first, second):
    """One text or a pair, whatever other columns there are; a number is a text too."""
    columns = {name: values * 20 for name, values in columns.items()} | {"label": [0, 1] * 10}
    rows = Task.load(write_jsonl(tmp_path / "train.jsonl", columns)).validation.take(np.arange(1))
    assert rows.texts == first
    assert rows.texts2 == second


def test_the_user_names_columns(tmp_path):
    """--label and --text win over the usual names, in the order given."""
    columns = {
        "text": ["x"] * 20,
        "a": ["a"] * 20,
        "b": ["b"] * 20,
        "label": [0] * 20,
        "kind": ["u", "v"] * 10,
    }
    path = write_csv(tmp_path / "train.csv", columns)
    task = Task.load(path, text=("b", "a"), label="kind")
    rows = task.train.take(np.arange(1))
    assert (rows.texts, rows.texts2, task.labels) == (["b"], ["a"], ("u", "v"))


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        ([1, 2] * 6, ("1", "2")),
        ([-1, 1] * 6, ("-1", "1")),
        ([0, 1, 3, 1] * 3, ("0", "1", "2", "3")),
        (["no", "yes"] * 6, ("no", "yes")),
        ([True, False] * 6, ("False", "True")),
        (["10", "9"] * 6, ("9", "10")),
    ],
)
def test_classes_come_from_the_values(tmp_path, values, classes):
    """Whole numbers, truth values and words are classes, in their order; a gap above 0 is a class not met."""
    path = write_jsonl(tmp_path / "train.jsonl", {"text": ["t"] * 12, "label": values})
    task = Task.load(path)
    assert task.problem == "classification"
    assert task.labels == classes
    named = [classes[i] for i in task.train.labels]
    assert named == [str(values[row]) for row in task.train.order]


def test_fractions_are_a_regression(tmp_path):
    """Decimal labels are numbers to predict, as float32; --metric accuracy reads whole ones as classes."""
    path = write_parquet(tmp_path / "train.parquet", {"text": ["t"] * 20, "score": [0.0, 5.0] * 10})
    task = Task.load(path)
    assert (task.problem, task.metric, task.labels) == ("regression", "pearson_spearman", ())
    assert task.train.labels.dtype == np.float32
    assert "read as a regression" in task.notes[0]
    assert Task.load(path, metric="accuracy").labels == ("0", "5")
    many = write_parquet(tmp_path / "many.parquet", {"text": ["t"] * 600, "score": list(range(300)) * 2})
    assert Task.load(many).problem == "regression"


@pytest.mark.parametrize(
    ("folder", "metric"),
    [("cola", "matthews"), ("mrpc", "f1"), ("QQP", "f1"), ("sts-b", "pearson_spearman"), ("x", "accuracy")],
)
def test_the_metric_goes_by_the_glue_name_and_can_be_chosen(tmp_path, folder, metric):
    """GLUE's own metric where the name is known; the user's word wins."""
    write_parquet(tmp_path / folder / "train.parquet", texts(20))
    assert Task.load(tmp_path / folder).metric == metric
    assert Task.load(tmp_path / folder, metric="f1").metric == "f1"


# Splits


def test_train_is_shuffled_by_the_seed_and_limited_by_train_size(tmp_path):
    """The same seed gives the same order, another seed another; the labels follow their texts."""
    write_parquet(tmp_path / "train.parquet", texts(50))
    write_parquet(tmp_path / "validation.parquet", texts(4))
    task, again, other = (Task.load(tmp_path, seed=seed) for seed in (0, 0, 1))
    rows = task.train.take(np.arange(50))
    assert rows.texts == again.train.take(np.arange(50)).texts != other.train.take(np.arange(50)).texts
    assert rows.texts != texts(50)["text"]
    assert (
        [int(text.split()[1]) % 2 for text in rows.texts]
        == rows.labels.tolist()
        == task.train.labels.tolist()
    )
    small = Task.load(tmp_path, train_size=7)
    assert small.train.take(np.arange(7)).texts == rows.texts[:7]
    assert len(small.train) == 7


def test_test_validates_where_validation_is_missing_and_stays_apart_otherwise(tmp_path):
    """Validation, else test, said aloud; a test split is never counted twice."""
    write_parquet(tmp_path / "train.parquet", texts(10))
    write_parquet(tmp_path / "test.parquet", texts(4))
    task = Task.load(tmp_path)
    assert task.test is None
    assert len(task.validation) == 4
    assert "test split (4 rows) is used to validate" in task.notes[0]
    write_parquet(tmp_path / "valid.parquet", texts(6))
    task = Task.load(tmp_path)
    assert (len(task.validation), len(task.test), task.notes) == (6, 4, ())


def test_a_task_without_train_can_still_be_evaluated(tmp_path):
    """A lone validation file is a task; that it cannot be trained on is said aloud."""
    task = Task.load(write_parquet(tmp_path / "validation.parquet", texts(10)))
    assert task.train is None
    assert len(task.validation) == 10
    assert "not trained on" in task.notes[0]


def test_batches_follow_the_order_and_have_the_asked_size(tmp_path):
    """Streamed, filtered and shuffled splits give the rows that take gives, in batches of the size."""
    write_parquet(tmp_path / "train.parquet", texts(23), row_group_size=4)
    task = Task.load(tmp_path)
    for split in (
        task.train,
        task.validation,
        task.train.sample(9, seed=3),
        task.train.subset(np.array([5, 1])),
    ):
        batches = list(split.batches(4))
        whole = split.take(np.arange(len(split)))
        assert [text for rows in batches for text in rows.texts] == whole.texts
        assert np.array_equal(np.concatenate([rows.labels for rows in batches]), whole.labels)
        assert np.array_equal(np.concatenate([rows.numbers for rows in batches]), whole.numbers)
        assert [len(rows) for rows in batches[:-1]] == [4] * (len(batches) - 1)


def test_a_stream_reads_no_more_of_a_file_than_was_asked_for(tmp_path, monkeypatch):
    """Of a hundred row groups, the first batch of validation decodes a few; no whole table is ever read."""
    write_parquet(tmp_path / "train.parquet", texts(4))
    write_parquet(tmp_path / "validation.parquet", texts(1000), row_group_size=10)
    task = Task.load(tmp_path)
    decoded = []
    original = pq.ParquetFile.iter_batches

    def counting(self, *args, **options):
        for batch in original(self, *args, **options):
            decoded.append(batch.num_rows)
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counting)
    monkeypatch.setattr(pq, "read_table", None)
    batches = task.validation.batches(16)
    assert next(batches).texts == [f"text {i}" for i in range(16)]
    assert sum(decoded) <= 32
    assert sum(len(rows) for rows in batches) == 984
    assert max(decoded) <= 16


def test_the_length_of_a_parquet_split_comes_from_its_metadata(tmp_path, monkeypatch):
    """The length reads no rows."""
    write_parquet(tmp_path / "train.parquet", texts(40))
    task = Task.load(tmp_path)
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", None)
    monkeypatch.setattr(pq, "read_table", None)
    assert len(task.train) == 36
    assert len(task.train.table) == 40


def test_samples_are_seeded_views(tmp_path):
    """A sample draws without replacement, the same rows for the same seed; rows out of range are refused."""
    task = Task.load(write_parquet(tmp_path / "train.parquet", texts(40)))
    drawn = task.train.sample(10, seed=1)
    assert len(set(drawn.order)) == 10
    assert np.array_equal(drawn.order, task.train.sample(10, seed=1).order)
    assert not np.array_equal(drawn.order, task.train.sample(10, seed=2).order)
    assert len(task.train.sample(1000)) == len(task.train)
    with pytest.raises(Usage, match="rows 3 to 36 were asked for, it has 0 to 35"):
        task.train.take(np.array([3, 36]))


def test_source_hashes_name_every_file_with_its_sha256(tmp_path):
    """The hash is that of the file's bytes; one changed byte changes it."""
    path = write_csv(
        tmp_path / "d" / "train.csv" if (tmp_path / "d").mkdir() is None else tmp_path, texts(20)
    )
    ((name, size, digest),) = Task.load(path).source_hashes()
    assert (name, size, len(digest)) == ("d/train.csv", path.stat().st_size, 64)
    path.write_bytes(path.read_bytes().replace(b"text 7", b"text 8"))
    assert Task.load(path).source_hashes()[0][2] != digest


# Encoding and batches


def test_texts_are_tokenized_without_padding_and_long_ones_cut_and_counted(tmp_path):
    """Every text has its own length; those over the limit are truncated by the tokenizer and counted."""
    columns = {"text": ["a", "a bb ccc dddd", "a bb"] * 4, "label": [0, 1, 1] * 4}
    task = Task.load(write_parquet(tmp_path / "validation.parquet", columns))
    rows = task.validation.take(np.arange(3))
    encoded = task.encode(words, rows, max_length=4)
    assert encoded.input_ids == [[1, 3, 2], [1, 3, 4, 2], [1, 3, 4, 2]]
    assert encoded.truncated == 1
    assert encoded.token_type_ids is None
    assert encoded.lengths.tolist() == [3, 4, 4]
    assert encoded.labels.tolist() == [0, 1, 1]
    assert task.encode(words, rows).lengths.tolist() == [3, 6, 4]
    both = join([encoded, encoded])
    assert len(both) == 6
    assert both.truncated == 2
    assert both.input_ids == encoded.input_ids * 2


def test_pairs_keep_their_token_types(tmp_path):
    """The second text reaches the tokenizer, and what it says of types comes back, truncated alike."""
    columns = {"sentence1": ["a b", "c"] * 5, "sentence2": ["d e", "f"] * 5, "label": [0, 1] * 5}
    task = Task.load(write_parquet(tmp_path / "validation.parquet", columns))
    encoded = task.encode(words, task.validation.take(np.arange(2)), max_length=5)
    assert [len(one) for one in encoded.token_type_ids] == [len(one) for one in encoded.input_ids] == [5, 5]


@pytest.mark.parametrize("side", ["right", "left"])
def test_collate_pads_to_the_longest_of_the_batch(side):
    """Padding stands on the asked side, under a zero of the mask; the labels come along."""
    encoded = Encoded(
        np.array([0, 1, 2]), input_ids=[[5, 6, 7], [8], [9, 9]], token_type_ids=[[0, 1, 1], [0], [0, 1]]
    )
    batch = collate(encoded, [1, 2], pad_id=99, padding_side=side)
    right = side == "right"
    assert batch["input_ids"].tolist() == ([[8, 99], [9, 9]] if right else [[99, 8], [9, 9]])
    assert batch["attention_mask"].tolist() == ([[1, 0], [1, 1]] if right else [[0, 1], [1, 1]])
    assert batch["token_type_ids"].tolist() == [[0, 0], [0, 1]]
    assert batch["labels"].tolist() == [1, 2]


def test_our_own_image_preprocessing_scales_resizes_and_repeats_grey():
    """uint8 (h, w, c) to float32 (n, c, h, w): 0 to -1, 255 to 1; grey fills three channels, colour is weighed."""
    black, white = np.zeros((8, 8, 1), np.uint8), np.full((4, 4, 1), 255, np.uint8)
    made = ImagePreprocess(8)([black, white])["pixel_values"]
    assert made.shape == (2, 3, 8, 8)
    assert made.dtype == np.float32
    assert (made[0] == -1).all()
    assert (made[1] == 1).all()
    grey = ImagePreprocess(4, mean=0.0, std=1.0, channels=1)([np.full((4, 4, 3), 51, np.uint8)])[
        "pixel_values"
    ]
    assert grey.shape == (1, 1, 4, 4)
    assert np.allclose(grey, 0.2)
    with pytest.raises(Usage, match="channels 2"):
        ImagePreprocess(4, channels=2)


def test_image_processors_see_rgb_images_and_batches_their_pixels():
    """A transformers-like processor gets Pillow images in RGB, as pipelines give them; collate picks rows."""
    task = Task.load("digits")

    def processor(*, images):
        assert {image.mode for image in images} == {"RGB"}
        return {"pixel_values": [np.asarray(image, np.float32).transpose(2, 0, 1) for image in images]}

    encoded = task.encode(processor, task.validation.take(np.arange(5)))
    assert encoded.pixel_values.shape == (5, 3, 8, 8)
    assert encoded.pixel_values.dtype == np.float32
    assert collate(encoded, [4, 0])["pixel_values"].shape == (2, 3, 8, 8)
    assert np.array_equal(join([encoded, encoded]).pixel_values[5:], encoded.pixel_values)
    with pytest.raises(Usage, match="no lengths"):
        _ = encoded.lengths


@settings(deadline=None, max_examples=60)
@given(
    lengths=st.lists(st.integers(1, 40), max_size=60),
    budget=st.integers(1, 100),
    most=st.none() | st.integers(1, 8),
    bucket=st.none() | st.integers(1, 30),
    seed=st.integers(0, 3),
)
def test_token_budget_batches_hold_each_example_once_within_the_budget(lengths, budget, most, bucket, seed):
    """Each index once; no batch over the budget unless it is one example; the same generator, the same batches."""
    made, again = (
        token_budget_batches(
            lengths, budget, generator=np.random.default_rng(seed), max_examples=most, bucket=bucket
        )
        for _ in range(2)
    )
    assert sorted(int(i) for batch in made for i in batch) == list(range(len(lengths)))
    assert all(len(batch) == 1 or sum(lengths[i] for i in batch) <= budget for batch in made)
    assert all(len(batch) <= (most or len(lengths)) for batch in made)
    assert [batch.tolist() for batch in made] == [batch.tolist() for batch in again]


def test_token_budget_batches_are_full_and_shuffled_and_buckets_hold_like_lengths():
    """About the budget in every batch; another seed, another order; buckets narrow the lengths of a batch."""
    lengths = np.random.default_rng(0).integers(5, 60, 2000)
    plain = token_budget_batches(lengths, 1024, generator=np.random.default_rng(0))
    assert np.mean([lengths[batch].sum() for batch in plain]) > 0.95 * 1024
    other = token_budget_batches(lengths, 1024, generator=np.random.default_rng(1))
    assert plain[0].tolist() != other[0].tolist()
    sorted_in_runs = token_budget_batches(lengths, 1024, generator=np.random.default_rng(0), bucket=500)
    distinct = [
        np.mean([len(np.unique(lengths[batch])) for batch in made]) for made in (plain, sorted_in_runs)
    ]
    assert distinct[1] < distinct[0] / 2
    with pytest.raises(Usage, match="tokens_per_batch must be at least 1; got 0"):
        token_budget_batches(lengths, 0, generator=np.random.default_rng(0))


def test_in_order_batches_cover_the_rows():
    """0 to n-1, in pieces of the size."""
    assert [batch.tolist() for batch in in_order_batches(5, 2)] == [[0, 1], [2, 3], [4]]
    assert in_order_batches(0, 2) == []


def test_importing_and_loading_a_text_task_brings_in_no_torch_and_no_transformers(tmp_path):
    """The task is numpy and pyarrow."""
    path = write_parquet(tmp_path / "train.parquet", texts(20))
    code = (
        "import sys, numpy as np\nfrom sparsam.task import Task\n"
        "assert 'pyarrow' not in sys.modules\n"
        f"Task.load({str(path)!r}).train.take(np.arange(3))\n"
        "assert not {'torch', 'transformers', 'huggingface_hub'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


# Real data


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "problem", "metric", "sizes", "classes"),
    [
        ("sst2", "classification", "accuracy", (67349, 872, 1821), 2),
        ("stsb", "regression", "pearson_spearman", (5749, 1500, 1379), 0),
        ("mrpc", "classification", "f1", (3668, 408, 1725), 2),
        ("cola", "classification", "matthews", (8551, 1043, None), 2),
        ("imdb", "classification", "accuracy", (25000, 25000, None), 2),
        ("fashion_mnist", "classification", "accuracy", (60000, 10000, None), 10),
        ("cifar10", "classification", "accuracy", (50000, 10000, None), 10),
    ],
)
def test_real_data_sets_have_their_published_sizes(shared, name, problem, metric, sizes, classes):
    """Rows, problem, metric and classes of the stored data sets."""
    task = Task.load(shared / "data" / name)
    splits = tuple(split and len(split) for split in (task.train, task.validation, task.test))
    assert (task.problem, task.metric, splits, len(task.labels)) == (problem, metric, sizes, classes)
    assert any("test split" in note for note in task.notes) is (name in ("imdb", "fashion_mnist", "cifar10"))
    rows = task.train.take(np.arange(64))
    assert len(np.unique(rows.labels)) > 1
    if task.kind == "image":
        size = (28, 28, 1) if name == "fashion_mnist" else (32, 32, 3)
        assert {image.shape for image in rows.images} == {size}
    else:
        assert (rows.texts2 is not None) is (name in ("mrpc", "stsb"))


@pytest.mark.data
def test_stsb_and_sst2_labels_are_those_of_their_cards(shared):
    """Mean score 2.70 in STS-B's train; 444 positive of SST-2's 872 validation rows, a constant answer has MCC 0."""
    assert round(float(Task.load(shared / "data" / "stsb").train.labels.mean()), 2) == 2.70
    labels = Task.load(shared / "data" / "sst2").validation.labels
    assert int(labels.sum()) == 444
    assert metric_value("accuracy", np.ones(872), labels) == 444 / 872
    assert metric_value("matthews", np.ones(872), labels) == 0
