"""Exported folders: what stands in them, predict.py by itself, refusals, a benchmark with one, and real sentences."""

import json
import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_checkpoints
import torch
from tiny_checkpoints import Checkpoints

import sparsam
from sparsam.artifact import exporting, load_export, verify
from sparsam.baselines.dense import base_of, checkpoint
from sparsam.baselines.eager import open_eager
from sparsam.baselines.feed import Feed, Part
from sparsam.baselines.laps import load
from sparsam.baselines.peers import EXPORTED
from sparsam.baselines.rows import Stored
from sparsam.cli import main
from sparsam.errors import Refused, SparsamError, Usage
from sparsam.models import lift
from sparsam.plan import LayerPlan, Plan
from sparsam.runtime.freeze import freeze, native_bf16
from sparsam.task import Task
from sparsam.tokens.ltp import ONLY_PROTECTED, token_plan

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

TEXT_FILES = {
    "MANIFEST.json", "config.json", "model.onnx", "predict.py", "sparsam.json", "tokenizer.json", "tokenizer_config.json",
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    """A BERT, dense and with a plan, and its task; the latter exported to ``onnx`` beside it."""
    found = tiny_checkpoints.text_checkpoints(tmp_path_factory.mktemp("texts"))
    sparsam.export(found.half, found.half.parent / "onnx")
    return found


def said(folder: Path, *arguments: str, python: str = sys.executable) -> list[list[str]]:
    """What predict.py prints, in an empty environment from another folder."""
    done = subprocess.run(
        [python, "-P", str(folder / "predict.py"), *arguments], capture_output=True, text=True, cwd="/",
        env={"PATH": os.environ["PATH"], "ORT_DISABLE_TELEMETRY": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [line.split("\t") for line in done.stdout.splitlines()]


def logits_of(folder: Path, texts: list[str]) -> Any:
    """The checkpoint's own answers, one by one."""
    loaded = sparsam.load(folder)
    with torch.no_grad():
        return [
            loaded.model(**loaded.processor(text, return_tensors="pt")).logits[0].numpy() for text in texts
        ]


def test_a_folder_by_itself(made: Checkpoints) -> None:
    """Its files, its manifest, no plan in its configuration; ten lines that answer like the checkpoint."""
    folder = made.half.parent / "onnx"
    assert {path.name for path in folder.iterdir()} == TEXT_FILES
    verify(folder)
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    facts = json.loads((folder / "sparsam.json").read_text())["facts"]
    assert facts["export"] == {
        "to": "onnx", "file": "model.onnx", "inputs": ["input_ids", "attention_mask", "token_type_ids"], "precision": "f32",
    }  # fmt: skip
    assert Plan.from_json(facts["plan"]) == sparsam.load(made.half).plan
    text = (folder / "predict.py").read_text()
    assert len(text.splitlines()) <= 10 and "torch" not in text and "sparsam" not in text
    texts = tiny_checkpoints.texts(5, seed=3)
    rows = said(folder, *texts)
    for (label, logits, given), text, wanted in zip(rows, texts, logits_of(made.half, texts), strict=True):
        assert given == text and label == tiny_checkpoints.NAMES[int(np.argmax(wanted))]
        np.testing.assert_allclose(json.loads(logits), wanted, atol=1e-4)


def test_what_is_refused_leaves_what_was_there(made: Checkpoints, tmp_path: Path, monkeypatch: Any) -> None:
    """A foreign folder, an unknown runtime, a graph that answers otherwise: by name, and nothing is written."""
    with pytest.raises(Usage, match="to is one of onnx, openvino; got 'tflite'") as error:
        sparsam.export(made.half, tmp_path / "out", to="tflite")
    assert error.value.code == "export-to"
    with pytest.raises(Usage, match="precision is one of f32 for onnx; got 'bf16'") as error:
        sparsam.export(made.half, tmp_path / "out", precision="bf16")
    assert error.value.code == "export-precision"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(Refused, match="holds files and was not written by sparsam"):
        sparsam.export(made.half, tmp_path / "mine")

    def wrong(file: Path, threads: int, precision: str) -> Any:
        return lambda given: np.zeros((6, 3), np.float32)

    runtime = exporting.RUNTIMES["onnx"]
    fields = vars(runtime) | {"open": wrong, "write": lambda model, file, inputs: file.write_bytes(b"graph")}
    monkeypatch.setitem(exporting.RUNTIMES, "onnx", exporting.Runtime(**fields))
    with pytest.raises(Refused, match="does not answer like the model: logits differ by") as error:
        sparsam.export(made.half, tmp_path / "out")
    assert error.value.code == "export-differs"
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert main(["export", str(made.half), "--to", "onnx", "--out", str(made.half)]) == Usage.exit_code
    with pytest.raises(Refused, match="is no folder that sparsam export wrote") as error:
        load_export(made.half)
    assert error.value.code == "not-an-export"


def test_openvino_in_bfloat16(made: Checkpoints, tmp_path: Path) -> None:
    """predict.py and whoever opens the folder ask for it; answers are near float32's, and where there is bf16 not equal."""
    pytest.importorskip("openvino")
    call = [
        "export",
        str(made.dense),
        "--to",
        "openvino",
        "--out",
        str(tmp_path / "x"),
        "--precision",
        "bf16",
    ]
    assert main(call) == 0
    assert '"INFERENCE_PRECISION_HINT": "bf16"' in (tmp_path / "x" / "predict.py").read_text()
    loaded = load_export(tmp_path / "x")
    assert loaded.model.precision == "bf16"
    texts = tiny_checkpoints.texts(6, seed=3)
    given = {name: np.asarray(x) for name, x in loaded.processor(texts, padding=True).items()}
    rounded = loaded.model.open(1)(given)
    exact = exporting.RUNTIMES["openvino"].open(loaded.model.file, 1, "f32")(given)
    np.testing.assert_allclose(rounded, exact, atol=0.1)
    np.testing.assert_allclose(exact, np.array(logits_of(made.dense, texts)), atol=1e-4)
    assert native_bf16() != np.array_equal(rounded, exact)


def test_a_damaged_graph_is_noticed(made: Checkpoints, tmp_path: Path) -> None:
    """Every file is checked against the manifest when the folder is opened."""
    import shutil

    shutil.copytree(made.half.parent / "onnx", tmp_path / "bad")
    whole = bytearray((tmp_path / "bad" / "model.onnx").read_bytes())
    whole[len(whole) // 2] ^= 1
    (tmp_path / "bad" / "model.onnx").write_bytes(whole)
    with pytest.raises(SparsamError, match="is not what was saved"):
        load_export(tmp_path / "bad")


def test_an_export_is_a_contestant(made: Checkpoints, tmp_path: Path) -> None:
    """It leads to the dense checkpoint, runs under its runtime's name, and answers like its checkpoint."""
    folder, task = made.half.parent / "onnx", Task.load(str(made.task))
    one = checkpoint(folder, task)
    assert one.exported == "onnx" and one.outputs == checkpoint(made.half, task).outputs
    assert base_of([one, checkpoint(made.half, task)], None, task).folder == made.dense
    feed = tiny_checkpoints.feed_for(made, tmp_path / "rows")
    rows = np.arange(6)
    of_export = Feed(Stored(tmp_path / "rows"), load(folder))
    of_export.check_reading()
    wanted = open_eager(Feed(feed.stored, load(made.half)), torch.float32)(Part(feed, rows, False))
    serve = EXPORTED["onnx"].open(of_export, tmp_path, 1, 6)
    for read in (False, True):
        np.testing.assert_allclose(serve(Part(of_export, rows, read)), wanted, atol=1e-4)


@pytest.mark.long
@pytest.mark.slow  # starts a process for each contestant
def test_an_export_is_raced(made: Checkpoints) -> None:
    """Beside its checkpoint and a baseline, in both orders."""
    folder = made.half.parent / "onnx"
    found = sparsam.bench([made.half, folder], str(made.task), baselines=["packed-fp32"], rounds=1, batch=5)
    rows = [row for row in found.rows if row.model == f"{folder}, onnxruntime"]
    assert {row.order for row in rows} == {"arrival", "sorted"} and found.dense == str(made.dense)
    assert {row.baseline for row in rows} == {"eager-fp32", "packed-fp32"}


@pytest.mark.slow  # exports twice
@pytest.mark.parametrize("to", ["onnx", "openvino"])
def test_pictures_too(to: str, tmp_path: Path, capsys: Any) -> None:
    """predict.py resizes and normalises as the image processor does; the command says what it wrote."""
    pytest.importorskip("onnxruntime" if to == "onnx" else "openvino")
    images = tiny_checkpoints.image_checkpoints(tmp_path)
    out = tmp_path / "out"
    assert main(["export", str(images.half), "--to", to, "--out", str(out), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["to"] == to and facts["folder"] == str(out) and facts["difference"] < 1e-4
    files = sorted((images.task / "validation").rglob("*.png"))[:3]
    loaded = sparsam.load(images.half)
    exact = freeze(loaded.model, processor=loaded.processor, dtype="float32")  # as graphs are
    from PIL import Image

    wanted = exact.predict([np.asarray(Image.open(file).convert("RGB")) for file in files])
    for (_, logits, _), own in zip(said(out, *map(str, files)), wanted, strict=True):
        np.testing.assert_allclose(json.loads(logits), own, atol=1e-3)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python with onnxruntime, openvino, tokenizers and numpy alone; without torch and transformers."""
    place = tmp_path_factory.mktemp("bare") / "venv"
    venv.create(place, with_pip=True)
    python = str(place / "bin" / "python")
    wanted = ["onnxruntime", "openvino", "tokenizers", "numpy"]
    done = subprocess.run(
        [python, "-m", "pip", "install", "-q", *wanted], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(
            f"pip cannot install {', '.join(wanted)} here: {done.stderr.strip().splitlines()[-1][:200]}"
        )
    gone = subprocess.run([python, "-c", "import torch"], capture_output=True, check=False)
    assert gone.returncode != 0
    return python


@pytest.mark.data
@pytest.mark.slow  # makes an environment and exports a real model twice
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("to", ["onnx", "openvino"])
def test_200_sentences_without_torch(shared: Path, tmp_path: Path, bare: str, to: str) -> None:
    """A token-pruned MiniLM in a bare Python: logits to 1e-4 where the same tokens stay, which is 99.9 % of them."""
    from sparsam.artifact import load_dense

    found = load_dense(shared / "models" / "minilm-sst2")
    rule = token_plan((0.2, 0.4, 0.5, 0.6, 0.7, ONLY_PROTECTED), relative_to="others")
    lift(found.model, Plan("bert", (LayerPlan(),) * 6, rule))
    sparsam.save(found.model, tmp_path / "small", processor=found.processor)
    made = sparsam.export(tmp_path / "small", tmp_path / "out", to=to)
    task = Task.load(str(shared / "data" / "sst2"))
    assert task.validation is not None
    texts = task.validation.take(np.arange(200)).texts
    assert texts is not None and made.bytes < 1.02 * 4 * sum(p.numel() for p in found.model.parameters())
    own = np.array(logits_of(tmp_path / "small", texts))
    theirs = np.array([json.loads(logits) for _, logits, _ in said(tmp_path / "out", *texts, python=bare)])
    apart = np.abs(own - theirs).max(1)
    assert (own.argmax(1) == theirs.argmax(1)).mean() >= 0.99
    assert (apart <= 1e-4).mean() >= 0.99
    if to == "onnx":
        _same_tokens(found, tmp_path / "out" / "model.onnx", texts, apart)


@pytest.mark.data
@pytest.mark.slow  # exports a real model twice
@pytest.mark.parametrize("half", [pytest.param(False, marks=pytest.mark.long), True])
def test_labels_in_bfloat16(shared: Path, tmp_path: Path, half: bool) -> None:
    """OpenVINO in bfloat16, dense and with tokens removed: 99 % of float32's labels on SST-2, half a point of its accuracy."""
    pytest.importorskip("openvino")
    from sparsam.artifact import load_dense

    found = load_dense(shared / "models" / "minilm-sst2")
    if half:
        rule = token_plan((0.2, 0.4, 0.5, 0.6, 0.7, ONLY_PROTECTED), relative_to="others")
        lift(found.model, Plan("bert", (LayerPlan(),) * 6, rule))
    sparsam.save(found.model, tmp_path / "x", processor=found.processor)
    task = Task.load(str(shared / "data" / "sst2"))
    assert task.validation is not None
    rows = task.validation.take(np.arange(len(task.validation)))
    assert rows.texts is not None
    answers = {}
    for precision in ("f32", "bf16"):
        sparsam.export(tmp_path / "x", tmp_path / precision, to="openvino", precision=precision)
        model = load_export(tmp_path / precision).model
        run, logits = model.open(1), []
        for start in range(0, len(rows.texts), 32):
            batch = found.processor(rows.texts[start : start + 32], padding=True, return_tensors="np")
            logits.append(run({name: batch[name].astype(np.int64) for name in model.inputs}))
        answers[precision] = np.concatenate(logits).argmax(1)
    assert (answers["f32"] == answers["bf16"]).mean() >= 0.99
    right = {precision: (labels == rows.labels).mean() for precision, labels in answers.items()}
    assert abs(right["f32"] - right["bf16"]) <= 0.005


def _same_tokens(found: Any, file: Path, texts: list[str], apart: Any) -> None:
    """Keep sets, read from the graph's ``NonZero`` nodes, against the lifted model's; padded in batches of 25."""
    sys.path.insert(0, str(Path(__file__).parent / "runtime"))
    from test_onnx import kept_by, kept_in, watched

    session, names = watched(file, ("NonZero",))
    same = alive = 0
    for start in range(0, len(texts), 25):
        batch = found.processor(texts[start : start + 25], padding=True, return_tensors="pt")
        graph = kept_in(session, names, {name: x.numpy() for name, x in batch.items()})
        for theirs, model in zip(graph[1:], kept_by(found.model, batch), strict=False):
            alive += len(model)
            same += len(np.intersect1d(theirs, model)) - len(np.setdiff1d(theirs, model))
            other = np.union1d(np.setdiff1d(theirs, model), np.setdiff1d(model, theirs))
            rows = np.setdiff1d(
                np.arange(len(texts[start : start + 25])), other // batch["input_ids"].shape[1]
            )
        assert (apart[start + rows] <= 1e-4).all()
    assert same / alive >= 0.999
