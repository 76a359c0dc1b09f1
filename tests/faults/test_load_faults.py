"""Damaged and hostile folders: refused with a name, never loaded in part, and nothing in them is ever run."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from specimens import edit
from specimens import model as specimen
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    ViTConfig,
)

from sparsam import artifact
from sparsam.cli import main
from sparsam.compress import open_model
from sparsam.errors import InputOutput, Refused, SparsamError, Usage
from sparsam.models import unlift


def model() -> Any:
    """A tiny compressed BERT."""
    return specimen(0, labels=("no", "yes"))


@pytest.fixture(scope="module")
def good(tmp_path_factory: Any) -> Path:
    """An artefact."""
    return artifact.save(model(), tmp_path_factory.mktemp("load") / "good", facts={"seed": 1})


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    """A copy of it to damage."""
    return Path(shutil.copytree(good, tmp_path / "artefact"))


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    """An ordinary checkpoint to damage."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=20
    )
    BertForSequenceClassification(config).save_pretrained(tmp_path / "dense")
    return tmp_path / "dense"


def rewrite(file: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    """Edit a safetensors file by another tool, which drops our header."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


# ---- Artefacts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "sparsam.json"])
def test_a_changed_file_is_named(name: str, folder: Path) -> None:
    """One bit in any file: the manifest tells which, and how to mend it."""
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    for check in (artifact.verify, artifact.load):
        with pytest.raises(Refused, match=f"{name} is not what was saved.*Copy or download") as caught:
            check(folder)
        assert caught.value.code == "digest"


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "sparsam.json"])
def test_a_missing_or_short_file_is_named(name: str, folder: Path) -> None:
    """A file that is gone, or ends early, is named."""
    with open(folder / name, "r+b") as stream:
        stream.truncate(10)
    with pytest.raises(InputOutput, match=f"{name} has 10 bytes") as caught:
        artifact.load(folder)
    assert caught.value.code == "file-size"
    (folder / name).unlink()
    with pytest.raises(InputOutput, match=f"{name} is missing") as caught:
        artifact.load(folder)
    assert caught.value.code == "file-missing"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda m: m.update(schema=2), "artifact-version"),
        (lambda m: m.update(schema="1"), "manifest-invalid"),
        (lambda m: m.pop("files"), "manifest-invalid"),
        (lambda m: m.update(files={}), "manifest-invalid"),
        (lambda m: m["files"].update({"../../etc/passwd": m["files"]["config.json"]}), "manifest-invalid"),
        (lambda m: m["files"].update({"/etc/passwd": m["files"]["config.json"]}), "manifest-invalid"),
        (lambda m: m["files"].update({"..\\up": m["files"]["config.json"]}), "manifest-invalid"),
        (lambda m: m["files"].update({"a\0b": m["files"]["config.json"]}), "manifest-invalid"),
        (lambda m: m["files"]["config.json"].update(bytes="12"), "manifest-invalid"),
        (lambda m: m["files"]["config.json"].update(sha256="0" * 63), "manifest-invalid"),
        (lambda m: m["files"].update({"config.json": 3}), "manifest-invalid"),
    ],
)
def test_a_manifest_that_cannot_be_ours_is_refused(change: Any, code: str, folder: Path) -> None:
    """Newer schemas, paths out of the folder, wrong types."""
    edit(folder / artifact.MANIFEST, change)
    with pytest.raises(SparsamError) as caught:
        artifact.load(folder)
    assert caught.value.code == code
    assert artifact.MANIFEST in str(caught.value)


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b"[]", b"[" * 200_000, b"null"])
def test_json_that_cannot_be_read_is_named(text: bytes, folder: Path, dense: Path) -> None:
    """Empty, cut, binary or deep files end in an error that names them."""
    (folder / artifact.MANIFEST).write_bytes(text)
    with pytest.raises(InputOutput, match=artifact.MANIFEST) as caught:
        artifact.load(folder)
    assert caught.value.code == "json-invalid"
    (dense / "config.json").write_bytes(text)
    with pytest.raises(InputOutput, match=r"config\.json") as caught:
        artifact.load_dense(dense)
    assert caught.value.code == "json-invalid"


def test_extra_files_are_passed_over(folder: Path) -> None:
    """A note, a pickle and a module in the folder are not looked at."""
    (folder / "notes.md").write_text("mine")
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    (folder / "modeling_bert.py").write_text("raise SystemExit('ran')")
    artifact.load(folder)


DAMAGED_MANIFESTS = [
    (lambda file: edit(file, lambda m: m.update(schema=99)), "artifact-version", "Upgrade sparsam"),
    (lambda file: file.write_bytes(file.read_bytes()[:100]), "json-invalid", "is not JSON"),
    (lambda file: file.write_text("{}"), "manifest-invalid", "cannot be read as a manifest"),
    (lambda file: file.unlink() or file.symlink_to("nowhere"), "manifest-missing", "has no MANIFEST"),
]


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize(("damage", "code", "said"), DAMAGED_MANIFESTS)
def test_a_manifest_that_cannot_be_read_does_not_switch_checking_off(
    damage: Any, code: str, said: str, compressed: bool, folder: Path, tmp_path: Path
) -> None:
    """With an edited config beside it: each way of opening the folder refuses it, dense or compressed."""
    if not compressed:
        folder = artifact.save(unlift(model()), tmp_path / "dense")
    edit(folder / "config.json", lambda c: c.update(hidden_act="relu"))
    damage(folder / artifact.MANIFEST)
    assert artifact.is_artifact(folder)
    for opened in (
        artifact.load,
        artifact.load_dense,
        open_model,
        lambda place: open_model(place, fresh_head=True),
    ):
        with pytest.raises(SparsamError, match=said) as caught:
            opened(folder)
        assert caught.value.code == code


@pytest.mark.parametrize(
    ("damage", "code", "exit_code"),
    [(*DAMAGED_MANIFESTS[0][:2], 3), (*DAMAGED_MANIFESTS[1][:2], 5), (*DAMAGED_MANIFESTS[2][:2], 5)],
)
def test_the_command_refuses_what_it_cannot_check(
    damage: Any, code: str, exit_code: int, folder: Path, tmp_path: Path, capsys: Any
) -> None:
    """``sparsam evaluate`` ends with the error's exit code and names the manifest."""
    (tmp_path / "rows.csv").write_text("text,label\n" + "good,yes\nbad,no\n" * 20)
    damage(folder / artifact.MANIFEST)
    assert main(["evaluate", str(folder), "--task", str(tmp_path / "rows.csv"), "--json"]) == exit_code
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == code
    assert artifact.MANIFEST in error["message"]


def test_a_folder_whose_manifest_cannot_be_read_is_not_replaced(folder: Path) -> None:
    """What would be lost with it is not known, so it is left alone."""
    (folder / artifact.MANIFEST).write_text("{}")
    with pytest.raises(Refused, match=r"MANIFEST\.json cannot be read; it is left alone") as caught:
        artifact.save(model(), folder)
    assert caught.value.code == "not-an-artifact"


@pytest.mark.parametrize("compressed", [True, False])
def test_a_folder_that_another_tool_saved_over_says_so(compressed: bool, tmp_path: Path) -> None:
    """Stock ``save_pretrained`` leaves the old manifest: what happened is said, and both ways to mend it work."""
    folder = artifact.save(model() if compressed else unlift(model()), tmp_path / "a")
    trained = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        trained.classifier.bias.add_(1)
    trained.save_pretrained(folder)
    for opened in (artifact.load, artifact.load_dense, open_model):
        with pytest.raises(
            Refused, match=r"was saved over by another tool .*delete MANIFEST\.json"
        ) as caught:
            opened(folder)
        assert caught.value.code == "saved-over"
        assert "model.safetensors is whole" in str(caught.value)
    for name in (artifact.MANIFEST, artifact.FACTS):
        (folder / name).unlink()
    assert torch.equal(open_model(folder).model.classifier.bias.cpu(), trained.classifier.bias)
    artifact.save(trained, folder, overwrite=True)
    assert torch.equal(artifact.load(folder).model.classifier.bias, trained.classifier.bias)


def test_an_ordinary_checkpoint_is_no_artefact(dense: Path) -> None:
    """:func:`load` wants what sparsam saved, and says what to do."""
    with pytest.raises(Refused, match="was not saved by sparsam") as caught:
        artifact.load(dense)
    assert caught.value.code == "not-an-artifact"


def test_a_plan_cannot_be_taken_out(folder: Path) -> None:
    """Without its quantization_config a folder would load as the dense model; the weights' header knows better."""
    edit(folder / "config.json", lambda c: c.pop("quantization_config"))
    (folder / artifact.MANIFEST).unlink()
    with pytest.raises(Refused, match=r"the plan in config.json is not what was saved") as caught:
        artifact.load_dense(folder)
    assert caught.value.code == "digest"


def test_without_manifest_the_header_must_speak(folder: Path) -> None:
    """A folder with a plan whose weights were rewritten by another tool, without a manifest, has nothing to go by."""
    (folder / artifact.MANIFEST).unlink()
    rewrite(folder / "model.safetensors", lambda tensors: None)
    for opened in (artifact.load, artifact.load_dense, open_model):
        with pytest.raises(Refused, match="none of the digests that go with one") as caught:
            opened(folder)
        assert caught.value.code == "not-an-artifact"


# ---- Ordinary checkpoints --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        (lambda c: c.update(model_type="modernbert"), "family-refused", "rotary positions"),
        (lambda c: c.update(model_type="deberta-v2"), "family-refused", "disentangled attention"),
        (lambda c: c.update(model_type="gpt2"), "family-refused", "gpt2"),
        (lambda c: c.update(model_type="nonsense"), "family-unknown", "nonsense"),
        (lambda c: c.pop("model_type"), "family-unknown", "supported are bert"),
        (lambda c: c.update(is_decoder=True), "family-refused", "decoder"),
        (lambda c: c.update(auto_map={"AutoModel": "modeling.Mine"}), "remote-code", "auto_map"),
        (
            lambda c: c.update(_attn_implementation_internal="someone/kernel"),
            "remote-code",
            "_attn_implementation",
        ),
        (lambda c: c.update(attn_implementation=["someone/kernel"]), "remote-code", "attn_implementation"),
        (
            lambda c: c.update(quantization_config={"quant_method": "bitsandbytes"}),
            "quantized",
            "bitsandbytes",
        ),
        (lambda c: c.update(quantization_config=7), "quantized", "quantized"),
        (lambda c: c.update(hidden_size=32), "weights-mismatch", "do not fit"),
        (lambda c: c.update(hidden_size="wide"), "model-unreadable", "cannot be loaded"),
        (lambda c: c.update(num_hidden_layers=3), "weights-missing", "encoder.layer.2"),
        (
            lambda c: c.update(num_labels=7, id2label={str(i): str(i) for i in range(7)}),
            "weights-mismatch",
            "do not fit",
        ),
    ],
)
def test_a_config_that_does_not_fit_is_refused(change: Any, code: str, said: str, dense: Path) -> None:
    """Families, decoders, code, other quantizers, and sizes that are not the weights'."""
    edit(dense / "config.json", change)
    with pytest.raises(Refused, match=said) as caught:
        artifact.load_dense(dense)
    assert caught.value.code == code


TINY = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 20}


@pytest.mark.parametrize("labels", [None, ("no", "yes")])
@pytest.mark.parametrize(
    ("config", "field"),
    [
        (BertConfig(vocab_size=50, **TINY), "num_hidden_layers"),
        (DistilBertConfig(vocab_size=50, dim=16, n_layers=3, n_heads=2, hidden_dim=20), "n_layers"),
        (ViTConfig(image_size=16, patch_size=4, **TINY), "num_hidden_layers"),
    ],
    ids=["bert", "distilbert", "vit"],
)
def test_layers_left_over_are_named(config: Any, field: str, labels: Any, tmp_path: Path) -> None:
    """A config that claims fewer layers than the weights have is refused, bare or with a head."""
    AutoModel.from_config(config).save_pretrained(tmp_path)
    artifact.load_dense(tmp_path)
    edit(tmp_path / "config.json", lambda c: c.update({field: 2}))
    with pytest.raises(Refused, match=rf"{field} is 2 there; the weights have 3 layers") as caught:
        artifact.load_dense(tmp_path, labels=labels)
    assert caught.value.code == "weights-mismatch"
    assert re.match(r"(\w+\.)?(\w+\.)?layers?\.2\.\S+ and \d+ more: in the weights", str(caught.value))
    assert "Restore config.json" in str(caught.value)


def test_a_part_of_a_layer_left_over_is_named(dense: Path) -> None:
    """A weight that a layer has no place for would change the answers; it is not dropped in silence."""
    name = "bert.encoder.layer.1.crossattention.self.query.weight"
    rewrite(dense / "model.safetensors", lambda tensors: tensors.update({name: torch.ones(16, 16)}))
    with pytest.raises(Refused, match=f"{name}: in the weights") as caught:
        artifact.load_dense(dense)
    assert caught.value.code == "weights-mismatch"
    assert "num_hidden_layers" not in str(caught.value)


def test_a_head_left_over_is_noted(dense: Path) -> None:
    """The head of pretraining is of no use to a classifier: it is passed over, and named."""
    rewrite(
        dense / "model.safetensors", lambda tensors: tensors.update({"cls.predictions.bias": torch.ones(50)})
    )
    assert artifact.load_dense(dense).facts == {"unused_weights": ["cls.predictions.bias"]}


@pytest.mark.parametrize(
    ("name", "labels", "fails"),
    [
        ("bert.encoder.layer.1.attention.self.query.weight", None, True),
        ("bert.encoder.layer.1.attention.self.query.weight", ("no", "yes"), True),
        ("classifier.weight", None, True),
        ("classifier.weight", ("no", "yes"), False),
        ("bert.pooler.dense.weight", None, True),
        ("bert.pooler.dense.weight", ("no", "yes"), False),
    ],
)
def test_missing_weights_are_named(name: str, labels: Any, fails: bool, dense: Path) -> None:
    """Transformers would make them up at random. Only a fresh head, where one is asked for, may be new."""
    rewrite(dense / "model.safetensors", lambda tensors: tensors.pop(name))
    if not fails:
        assert name in artifact.load_dense(dense, kind="text", labels=labels).facts["new_weights"]
        return
    with pytest.raises(Refused, match=f"{name}: missing from the weights in") as caught:
        artifact.load_dense(dense, kind="text", labels=labels)
    assert caught.value.code == "weights-missing"


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_named(bad: float, dense: Path) -> None:
    """NaN in one weight of one tensor."""
    name = "bert.encoder.layer.0.output.dense.bias"
    rewrite(dense / "model.safetensors", lambda tensors: tensors[name].index_fill_(0, torch.tensor([3]), bad))
    with pytest.raises(Refused, match=f"the tensor {name} holds") as caught:
        artifact.load_dense(dense)
    assert caught.value.code == "non-finite"


@pytest.mark.parametrize("cut", [0, 5, 1000, -1])
def test_corrupt_weights_are_named(cut: int, dense: Path) -> None:
    """A file cut short anywhere."""
    file = dense / "model.safetensors"
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(InputOutput, match=r"model\.safetensors is not a whole safetensors file") as caught:
        artifact.load_dense(dense)
    assert caught.value.code == "safetensors-corrupt"


def test_pickled_weights_are_refused(dense: Path) -> None:
    """A folder with only pytorch_model.bin: the way to safetensors is said."""
    (dense / "model.safetensors").unlink()
    with pytest.raises(Refused, match="no weights") as caught:
        artifact.load_dense(dense)
    assert caught.value.code == "weights-missing"
    (dense / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n.")
    with pytest.raises(Refused, match=r"only pytorch_model\.bin.*save_pretrained") as caught:
        artifact.load_dense(dense)
    assert caught.value.code == "no-safetensors"


def test_an_index_may_not_leave_the_folder(dense: Path) -> None:
    """Shards are files of the folder, and there."""
    (dense / "model.safetensors").rename(dense / "model-00001-of-00001.safetensors")
    index = dense / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": {"x": "../secret.safetensors"}}))
    with pytest.raises(InputOutput, match="index of weights") as caught:
        artifact.load_dense(dense)
    assert caught.value.code == "json-invalid"
    index.write_text(json.dumps({"metadata": {}, "weight_map": {"x": "model-00002-of-00002.safetensors"}}))
    with pytest.raises(InputOutput, match=r"model-00002-of-00002\.safetensors is missing") as caught:
        artifact.load_dense(dense)
    assert caught.value.code == "file-missing"


def test_a_broken_tokenizer_is_named(dense: Path) -> None:
    """The model is whole, its tokenizer is not."""
    (dense / "tokenizer.json").write_text("{}")
    (dense / "tokenizer_config.json").write_text("{}")
    with pytest.raises(InputOutput, match="tokenizer or image processor") as caught:
        artifact.load_dense(dense)
    assert caught.value.code == "processor-unreadable"


def test_wrong_arguments_are_named(dense: Path) -> None:
    """Kinds and labels."""
    with pytest.raises(Usage, match="text or image") as caught:
        artifact.load_dense(dense, kind="sound")
    assert caught.value.code == "kind"
    with pytest.raises(Usage, match="one output") as caught:
        artifact.load_dense(dense, labels=("a", "b"), regression=True)
    assert caught.value.code == "labels"
