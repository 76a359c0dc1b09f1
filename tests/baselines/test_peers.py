"""Every peer answers like the plain model, on texts and on images; one that cannot run is absent with a reason."""

import copy
from pathlib import Path

import numpy as np
import pytest
import tiny_checkpoints
import torch

from sparsam.baselines import compiled, export, peers
from sparsam.baselines.feed import Feed, Part
from sparsam.baselines.laps import load
from sparsam.baselines.peers import PEERS
from sparsam.cli.bench import BASELINES
from sparsam.errors import Refused

TOLERANCE = {"fp32": 1e-4, "stock": 1e-4, "bf16": 0.1, "int8": 1.2}
"""Largest difference of a logit, and three times the mean one. The tiny models' logits go up to about 2, and their weights are
far larger than real ones, which int8 notices; how good its answers are is asserted of a real model in test_bench.py."""

#: What compiles for half a minute, or imports NNCF.
SLOW = ("compile-bf16", "openvino-int8")


def check(name: str, feed: Feed, exports: Path) -> None:
    """Both ways of asking give the plain model's logits within the peer's tolerance."""
    why = PEERS[name].why_absent()
    if why is not None:
        pytest.skip(f"{name} is absent: {why}")
    plain = PEERS["eager-fp32"].open(Feed(feed.stored, copy.deepcopy(feed.loaded)), exports, 1, 5)
    serve = PEERS[name].open(feed, exports, 1, 5)
    tolerance = TOLERANCE[name.rpartition("-")[2]]
    for rows in (np.arange(5), np.array([7, 3]), np.array([1])):
        wanted = plain(Part(feed, rows, False))
        for read in (False, True) if not PEERS[name].reads_itself else (True,):
            found = serve(Part(feed, rows, read))
            assert found.dtype == np.float32 and found.shape == wanted.shape
            assert np.abs(found - wanted).max() < tolerance, name
            assert len(rows) < 5 or np.abs(found - wanted).mean() < tolerance / 3, name


@pytest.mark.parametrize("name", [name for name in PEERS if name not in SLOW])
def test_texts_are_answered_like_the_plain_model(name: str, text_feed: Feed, exports: Path) -> None:
    """Logits of batches of several lengths and sizes, tokens given or made."""
    check(name, text_feed, exports)


@pytest.mark.parametrize("name", [name for name in PEERS if name not in SLOW])
def test_images_are_answered_like_the_plain_model(name: str, image_feed: Feed, exports: Path) -> None:
    """Logits of pictures, pixels given or made."""
    check(name, image_feed, exports)


@pytest.mark.slow  # inductor compiles for half a minute each; NNCF is imported
@pytest.mark.parametrize("kind", ["text", "image"])
@pytest.mark.parametrize("name", SLOW)
def test_slow_starters_answer_like_the_plain_model(
    name: str, kind: str, request: pytest.FixtureRequest, exports: Path
) -> None:
    """torch.compile, frozen; OpenVINO's int8."""
    check(name, request.getfixturevalue(f"{kind}_feed"), exports)


@pytest.mark.slow  # five families, each exported and quantized
@pytest.mark.parametrize("family", ["roberta", "xlm-roberta", "distilbert", "electra", "mpnet", "vit"])
@pytest.mark.parametrize("name", ["onnxruntime-fp32", "onnxruntime-int8", "openvino-fp32", "openvino-int8"])
def test_every_family_is_exported(name: str, family: str, tmp_path: Path, exports: Path) -> None:
    """ONNX Runtime and OpenVINO take each family of the table."""
    made = (
        tiny_checkpoints.image_checkpoints(tmp_path)
        if family == "vit"
        else tiny_checkpoints.text_checkpoints(tmp_path, family)
    )
    check(name, tiny_checkpoints.feed_for(made, tmp_path / "rows"), exports)


def test_a_compressed_checkpoint_runs_in_every_form(text_feed: Feed, of_texts, exports: Path) -> None:
    """Frozen in float32 and by its pipeline it gives the answers of its own packed encoder, rules and all."""
    feed = Feed(text_feed.stored, load(of_texts.half))
    batch = {name: torch.from_numpy(x) for name, x in Part(feed, np.arange(6), False).padded().items()}
    with torch.no_grad():
        wanted = feed.loaded.model(**batch).logits.numpy()
    dense = PEERS["eager-fp32"].open(text_feed, exports, 1, 6)(Part(feed, np.arange(6), False))
    assert np.abs(wanted - dense).max() > 0.01  # the rule does something
    for form in ("packed-fp32", "stock"):
        found = PEERS[form].open(Feed(feed.stored, load(of_texts.half)), exports, 1, 6)(
            Part(feed, np.arange(6), True)
        )
        np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each extra names its packages and the line that installs it; bfloat16 names the processor, compiling the compiler."""
    monkeypatch.setattr(export, "version_of", lambda name: None)
    assert PEERS["onnxruntime-int8"].why_absent() == "needs onnx and onnxruntime: pip install 'sparsam[onnx]'"
    assert "needs onnx and openvino and nncf: pip install 'sparsam[openvino]'" in str(
        PEERS["openvino-int8"].why_absent()
    )
    monkeypatch.setenv("CXX", "no-such-compiler -O1")
    assert "needs a C++ compiler (no-such-compiler -O1)" in str(compiled.why_absent())
    monkeypatch.setattr(peers, "native_bf16", lambda: False)
    for name in ("eager-bf16", "packed-bf16", "compile-bf16", "openvino-bf16"):
        assert "does not multiply bfloat16" in str(PEERS[name].why_absent())
    assert PEERS["eager-fp32"].why_absent() is None


def test_int8_wants_rows_to_calibrate_with(text_feed: Feed, exports: Path) -> None:
    """Without a train split OpenVINO's int8 is refused by name; nothing is calibrated on what is measured."""
    (text_feed.stored.folder / "calibration.npz").unlink()
    with pytest.raises(Refused, match="the task has no train split"):
        PEERS["openvino-int8"].exports(text_feed, exports)


def test_the_command_line_names_every_peer() -> None:
    """The list in --help is the table, in its order and its words."""
    assert list(BASELINES.items()) == [(name, peer.says) for name, peer in PEERS.items()]
