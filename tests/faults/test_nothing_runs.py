"""Nothing in a folder runs: no pickle, no code from files, no process, no connection, whatever stands in it."""

import json
import os
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mutations import of_text, of_weights
from specimens import edit
from transformers import AutoModelForSequenceClassification

from sparsam import artifact
from sparsam.errors import SparsamError


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    """A copy of an artefact to damage."""
    return Path(shutil.copytree(good, tmp_path / "artefact"))


_watching: list[str] | None = None


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    """Audit hook: what a load must never do. Modules of installed packages may still be imported."""
    if _watching is None:
        return
    if event in (
        "pickle.find_class",
        "socket.connect",
        "subprocess.Popen",
        "os.system",
        "os.exec",
        "os.posix_spawn",
        "os.fork",
        "marshal.load",
    ):
        _watching.append(f"{event} {arguments!r:.200}")
    elif event == "exec":
        file = getattr(arguments[0], "co_filename", "")
        installed = file.startswith(
            (
                sys.prefix,
                sys.base_prefix,
                os.path.dirname(os.__file__),
                "<frozen ",
                "<string>",
                "<attrs ",
                "<@beartype",
                str(Path(artifact.__file__).parent.parent),
            )
        )
        if not installed:
            _watching.append(f"exec {file}")
    elif (
        event == "open"
        and isinstance(arguments[0], str)
        and arguments[0].endswith((".bin", ".pt", ".pkl", ".evil.py"))
    ):
        _watching.append(f"open {arguments[0]}")


sys.addaudithook(_watch)

BOMB = b"\x80\x04\x95\x1f\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x04true\x94\x85\x94R\x94."


def _bombs(folder: Path) -> None:
    """Leave code and pickles in a folder, under every name that some loader would run."""
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "scheduler.pt", "tokenizer.pkl"):
        (folder / name).write_bytes(BOMB)
    for name in (
        "modeling_bert.py",
        "configuration_bert.py",
        "tokenization_bert.py",
        "sitecustomize.py",
        "handler.py",
    ):
        (folder / name).write_text("raise SystemExit('ran code from a folder')")


HOSTILE: list[tuple[str, Callable[[Path], Any]]] = [
    ("as it is", lambda folder: None),
    (
        "auto_map",
        lambda folder: edit(
            folder / "config.json",
            lambda c: c.update(
                auto_map={"AutoModelForSequenceClassification": "modeling_bert.BertForSequenceClassification"}
            ),
        ),
    ),
    (
        "architectures",
        lambda folder: edit(folder / "config.json", lambda c: c.update(architectures=["os.systemModel"])),
    ),
    (
        "kernel",
        lambda folder: edit(
            folder / "config.json", lambda c: c.update(_attn_implementation_internal="evil/kernel")
        ),
    ),
    (
        "rule",
        lambda folder: edit(
            folder / "config.json",
            lambda c: c["quantization_config"]["plan"]["tokens"].update(rule="os.system"),
        ),
    ),
    ("act", lambda folder: edit(folder / "config.json", lambda c: c.update(hidden_act="os.system"))),
    ("weights", lambda folder: shutil.move(folder / "model.safetensors", folder / "pytorch_model.bin")),
    ("pickle named safetensors", lambda folder: (folder / "model.safetensors").write_bytes(BOMB * 100)),
    (
        "tokenizer",
        lambda folder: (folder / "tokenizer_config.json").write_text(
            json.dumps(
                {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["tokenization_bert.Evil", None]}}
            )
        ),
    ),
    (
        "image processor",
        lambda folder: (folder / "preprocessor_config.json").write_text(
            json.dumps({"image_processor_type": "Evil", "auto_map": {"AutoImageProcessor": "handler.Evil"}})
        ),
    ),
    (
        "adapter",
        lambda folder: (folder / "adapter_config.json").write_text(
            json.dumps({"base_model_name_or_path": "evil/base", "peft_type": "LORA"})
        ),
    ),
]


def watched(load: Callable[[], Any]) -> list[str]:
    """What a load did that it must never do; errors of ours are passed over."""
    global _watching
    _watching = []
    try:
        load()
    except SparsamError:
        pass
    finally:
        seen, _watching = _watching, None
    return seen


@pytest.mark.parametrize("manifest", [True, False])
@pytest.mark.parametrize(("name", "change"), HOSTILE, ids=[name for name, _ in HOSTILE])
def test_nothing_in_a_folder_runs(
    name: str, change: Any, manifest: bool, folder: Path, reached_hosts: list[str]
) -> None:
    """Loading unpickles nothing, runs no code from files, starts no process, opens no connection; or it refuses."""
    global _watching
    change(folder)
    _bombs(folder)
    if not manifest:
        (folder / artifact.MANIFEST).unlink()
    for load in (artifact.load, artifact.load_dense, AutoModelForSequenceClassification.from_pretrained):
        stock = load == AutoModelForSequenceClassification.from_pretrained
        _watching = []
        try:
            load(folder)
        except SparsamError:
            pass
        except Exception:
            if not stock:
                raise
        finally:
            seen, _watching = _watching, None
        if stock and name in ("kernel", "weights", "adapter", "auto_map"):
            continue  # transformers' own affair, before our plug-in is asked
        assert not seen
    reached_hosts.clear()  # where transformers itself reached out, on its own path; the guard stopped it


@pytest.mark.parametrize("count", [50, pytest.param(1_000, marks=pytest.mark.faults)])
def test_nothing_runs_in_hostile_folders_changed_at_random(count: int, good: Path, tmp_path: Path) -> None:
    """Two hostile changes, then bytes or values changed in one more file; half of them without a manifest."""
    drawn = random.Random(count)
    sources = {
        name: (good / name).read_bytes() for name in ("config.json", "sparsam.json", "model.safetensors")
    }
    hidden = [name for name, _ in HOSTILE if name != "weights"]
    for number in range(count):
        folder = Path(shutil.copytree(good, tmp_path / str(number)))
        _bombs(folder)
        for name, change in drawn.sample(HOSTILE, 2):
            if name in hidden:
                change(folder)
        name = drawn.choice([*sources, "tokenizer_config.json", "adapter_config.json"])
        if (folder / name).is_file():
            text = (folder / name).read_bytes()
            if name != "model.safetensors":
                (folder / name).write_bytes(of_text(text, drawn))
            elif text == sources[name]:
                (folder / name).write_bytes(of_weights(text, drawn))
        if drawn.random() < 0.7:
            (folder / artifact.MANIFEST).unlink()
        load = drawn.choice((artifact.load, artifact.load_dense))
        assert not watched(lambda load=load, folder=folder: load(folder)), number
        shutil.rmtree(folder)
