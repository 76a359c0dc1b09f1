"""Saving and loading whole folders: nothing changes on the way, and what is not whole is not loaded."""

import ctypes
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    PreTrainedTokenizerFast,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    pipeline,
)

from sparsam import artifact, plugin
from sparsam.errors import InputOutput, Refused, Usage
from sparsam.models import is_lifted, lift, plan_of, resize
from sparsam.plan import LayerPlan, Plan, TokenPlan

ROOT = Path(__file__).parent.parent
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 44,
    "id2label": {0: "bad", 1: "fair", 2: "good"},
    "label2id": {"bad": 0, "fair": 1, "good": 2},
}
TEXTS = ["w1 w2 w3 w4 w5 w6", "w7 w9", "w50 w40 w30 w20", "w11 w12 w13 w14 w15 w16 w17 w18"]


def noisy(model: Any) -> Any:
    """The model with noise on every parameter, so that none is zero."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def bert() -> Any:
    """A tiny BERT classifier."""
    torch.manual_seed(0)
    return noisy(
        BertForSequenceClassification(BertConfig(vocab_size=100, max_position_embeddings=64, **SIZES))
    )


def vit() -> Any:
    """A tiny ViT classifier."""
    torch.manual_seed(0)
    return noisy(ViTForImageClassification(ViTConfig(image_size=16, patch_size=4, **SIZES)))


def compressed(family: str = "bert", kind: str = "both") -> Any:
    """A model that runs by a plan: tokens, shapes or both."""
    layers = (LayerPlan((0, 2), tuple(range(0, 44, 3))), LayerPlan((), (1, 5)))
    tokens = TokenPlan("ltp", (0.8, 1.0))
    plan = Plan(
        family, layers if kind != "tokens" else (LayerPlan(),) * 2, tokens if kind != "shapes" else None
    )
    model = bert() if family == "bert" else vit()
    if plan.changes_shapes:
        resize(model, plan)
        noisy(model)
    return lift(model, plan)


def tokenizer() -> Any:
    """A tokenizer that knows w0 to w94."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(95))]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=64,
    )


def image_processor() -> Any:
    """For images of 16 by 16."""
    return ViTImageProcessor(size={"height": 16, "width": 16}, image_mean=[0.5] * 3, image_std=[0.5] * 3)


def processor_of(family: str) -> Any:
    """The processor that goes with a model."""
    return tokenizer() if family == "bert" else image_processor()


def logits_of(model: Any) -> torch.Tensor:
    """Logits of three fixed inputs; texts of lengths 12, 7 and 3."""
    drawn = torch.Generator().manual_seed(1)
    if model.main_input_name == "pixel_values":
        batch = {"pixel_values": torch.randn(3, 3, 16, 16, generator=drawn)}
    else:
        mask = (torch.arange(12) < torch.tensor([[12], [7], [3]])).long()
        batch = {"input_ids": torch.randint(5, 100, (3, 12), generator=drawn), "attention_mask": mask}
    with torch.no_grad():
        found: torch.Tensor = model(**batch).logits
    return found


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> Path:
    """A compressed BERT as an artefact."""
    return artifact.save(
        compressed(),
        tmp_path_factory.mktemp("artifact") / "bert",
        processor=tokenizer(),
        facts={"seed": 7, "source": "tiny"},
    )


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(folder, tmp_path / "copy"))


@pytest.mark.parametrize("kind", ["tokens", "shapes", "both"])
@pytest.mark.parametrize("family", ["bert", "vit"])
def test_two_generations_are_bit_equal(family: str, kind: str, tmp_path: Path) -> None:
    """Save and load, twice: the same logits, the same plan, and the same bytes in every file."""
    model = compressed(family, kind)
    wanted, plan = logits_of(model), plan_of(model)
    processor = processor_of(family)
    for generation in "ab":
        artifact.save(model, tmp_path / generation, processor=processor, facts={"seed": 1})
        loaded = artifact.load(tmp_path / generation)
        model, processor = loaded.model, loaded.processor
        assert loaded.plan == plan
        assert loaded.facts == {"seed": 1}
        assert torch.equal(logits_of(model), wanted)
    first, second = bytes_of(tmp_path / "a"), bytes_of(tmp_path / "b")
    changed = {name for name in first | second if first.get(name) != second.get(name)}
    assert changed <= {"MANIFEST.json", "tokenizer_config.json", "preprocessor_config.json"}, changed


def test_two_runs_write_the_same_bytes(tmp_path: Path) -> None:
    """The same model saved twice gives equal folders, byte by byte."""
    for name in "ab":
        artifact.save(compressed(), tmp_path / name, processor=tokenizer())
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b")


def test_saving_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    """Neither config nor quantizer of the caller's model is touched."""
    model = compressed()
    before = model.config.to_dict()
    artifact.save(model, tmp_path / "a", dtype="bfloat16")
    assert model.config.to_dict() == before
    assert "hf_quantizer" not in vars(model)
    assert model.dtype == torch.float32


def test_stock_classes_load_what_was_saved(folder: Path) -> None:
    """``from_pretrained`` gives the model that :func:`load` gives."""
    stock = AutoModelForSequenceClassification.from_pretrained(folder)
    assert torch.equal(logits_of(stock), logits_of(artifact.load(folder).model))


@pytest.mark.parametrize("family", ["bert", "vit"])
def test_pipelines_give_the_models_labels(family: str, tmp_path: Path) -> None:
    """``pipeline(...)`` on the folder answers with the labels of the loaded model."""
    place = artifact.save(compressed(family), tmp_path / "a", processor=processor_of(family))
    loaded = artifact.load(place)
    if family == "bert":
        inputs: Any = TEXTS
        batch = loaded.processor(TEXTS, padding=True, return_tensors="pt")
        said = pipeline("text-classification", str(place))(TEXTS)
    else:
        drawn = np.random.default_rng(0)
        inputs = [Image.fromarray(drawn.integers(0, 256, (16, 16, 3), dtype=np.uint8)) for _ in range(4)]
        batch = loaded.processor(inputs, return_tensors="pt")
        said = [answers[0] for answers in pipeline("image-classification", str(place))(inputs)]
    keys = {"input_ids", "attention_mask", "pixel_values"}
    with torch.no_grad():
        logits = loaded.model(**{k: v for k, v in batch.items() if k in keys}).logits
    assert [answer["label"] for answer in said] == [SIZES["id2label"][int(i)] for i in logits.argmax(1)]  # type: ignore[index]


FRESH = """
import sparsam, sys, torch
try:
    open(r"{folder}/config.json", "a")
    sys.exit("writable")
except OSError:
    pass
from transformers import AutoModelForSequenceClassification, pipeline
loaded = sparsam.load(r"{folder}")
stock = AutoModelForSequenceClassification.from_pretrained(r"{folder}")
said = pipeline("text-classification", r"{folder}")({texts})
batch = torch.load("batch.pt")
with torch.no_grad():
    torch.save((loaded.model(**batch).logits, stock(**batch).logits, [s["label"] for s in said]), "said.pt")
"""


def without_override() -> None:
    """In a child before it starts: even root keeps to the modes of files (PR_CAPBSET_DROP, CAP_DAC_OVERRIDE)."""
    if os.geteuid() == 0:
        ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)


def test_a_fresh_process_in_another_folder_gives_the_same_bits(folder: Path, tmp_path: Path) -> None:
    """A new process elsewhere, the folder read-only: the same logits three ways, and nothing written into the folder."""
    place = Path(shutil.copytree(folder, tmp_path / "locked/ro"))
    before = {p: p.stat().st_mtime_ns for p in place.parent.rglob("*")}
    for path in (place.parent, *place.parent.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    drawn = torch.Generator().manual_seed(1)
    batch = {"input_ids": torch.randint(5, 100, (3, 12), generator=drawn)}
    torch.save(batch, tmp_path / "batch.pt")
    done = subprocess.run(
        [sys.executable, "-c", FRESH.format(folder=place, texts=TEXTS)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        preexec_fn=without_override,
    )
    if done.stderr.endswith("writable\n"):
        pytest.skip("modes do not bind this user, so no folder is read-only here")
    assert done.returncode == 0, done.stderr
    loaded, stock, labels = torch.load(tmp_path / "said.pt")
    with torch.no_grad():
        here = artifact.load(folder).model(**batch).logits
    assert torch.equal(loaded, here)
    assert torch.equal(stock, here)
    assert labels == [answer["label"] for answer in pipeline("text-classification", str(folder))(TEXTS)]
    assert {p: p.stat().st_mtime_ns for p in place.parent.rglob("*")} == before
    for path in (place.parent, place):
        path.chmod(0o755)


def test_the_loaded_model_trains(folder: Path) -> None:
    """Gradients reach the small layers."""
    model = artifact.load(folder).model.train()
    model(input_ids=torch.randint(5, 100, (2, 9)), labels=torch.tensor([0, 1])).loss.backward()
    assert model.bert.encoder.layer[0].intermediate.dense.weight.grad.abs().sum() > 0


# ---- What stands in the folder ---------------------------------------------------------------------------------------


def test_the_folder_is_an_ordinary_checkpoint_with_a_plan(folder: Path) -> None:
    """Config of the original architecture, weights under its own names, digests, facts, and a manifest of all files."""
    names = set(bytes_of(folder))
    assert {"config.json", "model.safetensors", "tokenizer.json", "sparsam.json", "MANIFEST.json"} <= names
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert config["model_type"] == "bert"
    assert config["quantization_config"] == {
        "quant_method": "sparsam",
        "plan": plan_of(compressed()).to_json(),
    }  # type: ignore[union-attr]
    header = plugin.read_header(folder / "model.safetensors")
    assert header.metadata["format"] == "pt"
    record = json.loads(header.metadata["sparsam"])
    assert set(record["tensors"]) == set(header.tensors)
    assert "bert.encoder.layer.0.attention.self.query.weight" in header.tensors
    facts = json.loads((folder / "sparsam.json").read_text())
    assert facts["facts"] == {"seed": 7, "source": "tiny"}
    assert {"sparsam", "torch", "transformers", "safetensors"} <= set(facts["versions"])
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    assert set(manifest["files"]) == names - {"MANIFEST.json"}
    artifact.verify(folder)
    assert artifact.is_artifact(folder)


@pytest.mark.parametrize("lifted", [False, True])
def test_a_dense_model_is_an_ordinary_folder(lifted: bool, tmp_path: Path) -> None:
    """Without anything left out there is no plan in the config, so that any transformers loads it without a warning."""
    model = bert()
    wanted = logits_of(model)
    artifact.save(lift(model) if lifted else model, tmp_path / "a")
    assert "quantization_config" not in json.loads((tmp_path / "a/config.json").read_text())
    for loaded in (artifact.load(tmp_path / "a"), artifact.load_dense(tmp_path / "a", kind="text")):
        assert loaded.plan is None
        assert loaded.processor is None
        assert torch.equal(logits_of(loaded.model), wanted)
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "a")
    assert not is_lifted(stock)


def test_a_plan_may_be_taken_off_again(folder: Path, tmp_path: Path) -> None:
    """A compressed model that gets the dense plan back is saved without the plan it came with."""
    place = artifact.save(compressed(kind="tokens"), tmp_path / "a")
    model = lift(artifact.load(place).model, Plan.dense("bert", 2))
    artifact.save(model, tmp_path / "b")
    assert artifact.load(tmp_path / "b").plan is None


@pytest.mark.parametrize(
    ("have", "asked", "saved"),
    [
        (torch.float32, "float32", torch.float32),
        (torch.float32, "bfloat16", torch.bfloat16),
        (torch.bfloat16, "float32", torch.float32),
        (torch.float16, "float32", torch.float32),
    ],
)
def test_precision_on_disk_is_chosen(
    have: torch.dtype, asked: str, saved: torch.dtype, tmp_path: Path
) -> None:
    """Float32 unless bfloat16 is asked for; float16 is never inherited. Config and file agree."""
    artifact.save(compressed().to(have), tmp_path / "a", dtype=asked)
    assert json.loads((tmp_path / "a/config.json").read_text())["dtype"] == str(saved).removeprefix("torch.")
    model = artifact.load(tmp_path / "a").model
    assert {p.dtype for p in model.parameters()} == {saved}
    artifact.save(model, tmp_path / "b", dtype=asked)
    assert bytes_of(tmp_path / "a")["model.safetensors"] == bytes_of(tmp_path / "b")["model.safetensors"]
    assert {p.dtype for p in artifact.load_dense(tmp_path / "a").model.parameters()} == {torch.float32}


def test_other_precisions_are_refused(tmp_path: Path) -> None:
    """Float16 on disk is no choice."""
    with pytest.raises(Usage, match="float32, bfloat16") as caught:
        artifact.save(compressed(), tmp_path / "a", dtype="float16")
    assert caught.value.code == "dtype"


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_files_have_the_modes_the_umask_wants(umask: int, mode: int, tmp_path: Path) -> None:
    """All of them, also the weights, which safetensors keeps private."""
    before = os.umask(umask)
    try:
        artifact.save(compressed(), tmp_path / "a", processor=tokenizer())
    finally:
        os.umask(before)
    assert {p.stat().st_mode & 0o777 for p in (tmp_path / "a").rglob("*")} == {mode}
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o777 & ~umask


def test_a_model_with_a_language_head_is_saved_and_loaded(tmp_path: Path) -> None:
    """Other heads than classifiers come back as what they were."""
    torch.manual_seed(0)
    model = lift(
        BertForMaskedLM(BertConfig(vocab_size=100, **SIZES)).eval(),
        Plan("bert", (LayerPlan(),) * 2, TokenPlan("ltp", (0.8, None))),
    )
    artifact.save(model, tmp_path / "a")
    loaded = artifact.load(tmp_path / "a").model
    assert type(loaded) is BertForMaskedLM
    assert torch.equal(logits_of(loaded), logits_of(model))


@pytest.mark.parametrize("facts", [{"loss": float("nan")}, {"model": object()}, {"loss": float("inf")}])
def test_facts_must_be_json(facts: Any, tmp_path: Path) -> None:
    """NaN and objects have no place in a JSON file; nothing is written."""
    with pytest.raises(Usage, match="facts must be JSON") as caught:
        artifact.save(compressed(), tmp_path / "a", facts=facts)
    assert caught.value.code == "facts"
    assert not list(tmp_path.iterdir())


def test_a_folder_that_transformers_wrote_from_ours_loads(folder: Path, tmp_path: Path) -> None:
    """Saved by ``save_pretrained`` there is no manifest; the digests in the header stand in for it."""
    model = artifact.load(folder).model
    model.save_pretrained(tmp_path)
    loaded = artifact.load(tmp_path)
    assert loaded.plan == plan_of(model)
    assert loaded.facts == {}
    assert torch.equal(logits_of(loaded.model), logits_of(model))


# ---- What was there before -------------------------------------------------------------------------------------------


def test_an_artefact_is_replaced(tmp_path: Path) -> None:
    """The new folder stands where the old one was; nothing is left beside it."""
    artifact.save(compressed(), tmp_path / "a", processor=tokenizer())
    artifact.save(compressed("vit"), tmp_path / "a", processor=image_processor())
    assert artifact.load(tmp_path / "a").plan.family == "vit"  # type: ignore[union-attr]
    assert not (tmp_path / "a/tokenizer.json").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    """Also one whose parents do not exist."""
    (tmp_path / "a").mkdir()
    artifact.save(compressed(), tmp_path / "a")
    artifact.save(compressed(), tmp_path / "b/c/d")
    assert artifact.is_artifact(tmp_path / "a")
    assert artifact.is_artifact(tmp_path / "b/c/d")


def test_a_link_is_followed(tmp_path: Path) -> None:
    """A link to a folder stays a link; its goal is replaced."""
    artifact.save(compressed(), tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    artifact.save(compressed(kind="tokens"), tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert artifact.load(tmp_path / "real").plan == plan_of(compressed(kind="tokens"))


def test_what_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    """A folder with other files is refused, untouched; with ``overwrite`` it is replaced."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a/thesis.tex").write_text("years of work")
    with pytest.raises(Refused, match="was not written by sparsam") as caught:
        artifact.save(compressed(), tmp_path / "a")
    assert caught.value.code == "not-an-artifact"
    assert bytes_of(tmp_path / "a") == {"thesis.tex": b"years of work"}
    with pytest.raises(Refused, match="is a file") as caught:
        artifact.save(compressed(), tmp_path / "a/thesis.tex", overwrite=True)
    assert caught.value.code == "not-an-artifact"
    artifact.save(compressed(), tmp_path / "a", overwrite=True)
    assert artifact.is_artifact(tmp_path / "a")


def test_notes_in_an_artefact_are_not_lost(copied: Path) -> None:
    """A file that somebody put into an artefact is named before it would go with the rest."""
    (copied / "notes.md").write_text("what I found")
    with pytest.raises(Refused, match=r"notes\.md") as caught:
        artifact.save(compressed(), copied)
    assert caught.value.code == "extra-files"
    artifact.load(copied)
    assert (copied / "notes.md").read_text() == "what I found"


def test_without_exchange_the_old_folder_is_renamed_aside(tmp_path: Path, monkeypatch: Any) -> None:
    """On a system without RENAME_EXCHANGE the outcome is the same."""
    artifact.save(compressed(), tmp_path / "a")
    monkeypatch.setattr("sparsam.artifact.staging.exchange", lambda one, other: False)
    artifact.save(compressed(kind="tokens"), tmp_path / "a")
    assert artifact.load(tmp_path / "a").plan == plan_of(compressed(kind="tokens"))
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


# ---- Ordinary checkpoints --------------------------------------------------------------------------------------------


def test_a_fresh_head_has_the_tasks_labels(tmp_path: Path) -> None:
    """A bare encoder gets a classification head; what is new is named, the encoder is the checkpoint's."""
    torch.manual_seed(0)
    bare = BertModel(
        BertConfig(
            vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=44
        ),
        add_pooling_layer=False,
    )
    bare.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    loaded = artifact.load_dense(tmp_path, kind="text", labels=("no", "yes", "maybe"))
    assert loaded.model.config.id2label == {0: "no", 1: "yes", 2: "maybe"}
    assert loaded.model.config.label2id == {"no": 0, "yes": 1, "maybe": 2}
    assert loaded.facts["new_weights"] == [
        "bert.pooler.dense.bias",
        "bert.pooler.dense.weight",
        "classifier.bias",
        "classifier.weight",
    ]
    assert torch.equal(
        loaded.model.bert.embeddings.word_embeddings.weight, bare.embeddings.word_embeddings.weight
    )
    assert loaded.processor("w1 w2")["input_ids"] == [6, 7]


def test_a_head_of_another_size_is_replaced(tmp_path: Path) -> None:
    """Three classes on disk, five wanted: a fresh head; three wanted: the one on disk."""
    model = bert()
    model.save_pretrained(tmp_path)
    assert artifact.load_dense(tmp_path, kind="text", labels=list("abcde")).model.classifier.weight.shape == (
        5,
        32,
    )
    kept = artifact.load_dense(tmp_path, kind="text", labels=list("abc"))
    assert torch.equal(kept.model.classifier.weight, model.classifier.weight)
    assert kept.facts == {}


def test_a_regression_has_one_output(tmp_path: Path) -> None:
    """Labels are empty, the head gives one number."""
    bert().save_pretrained(tmp_path)
    config = artifact.load_dense(tmp_path, kind="text", labels=(), regression=True).model.config
    assert (config.num_labels, config.problem_type) == (1, "regression")


def test_an_image_model_gets_an_image_head(tmp_path: Path) -> None:
    """The kind of the task decides."""
    vit().save_pretrained(tmp_path)
    image_processor().save_pretrained(tmp_path)
    loaded = artifact.load_dense(tmp_path, kind="image", labels=("cat", "dog"))
    assert type(loaded.model) is ViTForImageClassification
    assert loaded.processor.size["height"] == 16
    assert not is_lifted(AutoModelForImageClassification.from_pretrained(tmp_path))


def test_a_checkpoint_with_a_plan_keeps_it(folder: Path) -> None:
    """What was compressed before can be worked on: the plan comes along, with a fresh head too."""
    wanted = plan_of(compressed())
    assert artifact.load_dense(folder, kind="text").plan == wanted
    assert artifact.load_dense(folder, kind="text", labels=("a", "b")).plan == wanted


@pytest.mark.parametrize("source", [".", "/no/such/folder", "no/such/model", "../up", "a\0b"])
def test_a_missing_model_is_named(source: str, tmp_path: Path, monkeypatch: Any) -> None:
    """Neither folder nor hub id: said, with what was looked for."""
    monkeypatch.chdir(tmp_path)
    for load in (artifact.load, artifact.load_dense):
        with pytest.raises((InputOutput, Usage)) as caught:
            load(source)
        assert caught.value.code in ("model-missing", "file-missing", "path")
    assert not artifact.is_artifact(source)
