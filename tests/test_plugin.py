"""Stock transformers on our folders: the plan and the digests go through ``from_pretrained`` and ``save_pretrained``."""

import copy
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    MPNetConfig,
    MPNetForSequenceClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
)

import sparsam
from sparsam import artifact, plugin
from sparsam.errors import InputOutput, Refused, Usage
from sparsam.models import is_lifted, lift, plan_of, resize, stack_of, unlift
from sparsam.plan import VERSION, LayerPlan, Plan, TokenPlan

ROOT = Path(__file__).parent.parent
AUTO = {
    "bert": AutoModelForSequenceClassification,
    "mpnet": AutoModelForSequenceClassification,
    "vit": AutoModelForImageClassification,
}
PLANS = ("tokens", "shapes", "both")


def model_of(family: str) -> Any:
    """A tiny model whose weights are large enough for attention to be uneven: width 32, 4 heads, 2 layers."""
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 44,
        "id2label": {0: "bad", 1: "fair", 2: "good"},
        "label2id": {"bad": 0, "fair": 1, "good": 2},
    }
    torch.manual_seed(0)
    if family == "vit":
        model: Any = ViTForImageClassification(ViTConfig(image_size=16, patch_size=4, **sizes))
    elif family == "mpnet":
        model = MPNetForSequenceClassification(
            MPNetConfig(vocab_size=100, max_position_embeddings=66, **sizes)
        )
    else:
        model = BertForSequenceClassification(BertConfig(vocab_size=100, max_position_embeddings=64, **sizes))
    return noisy(model)


def noisy(model: Any) -> Any:
    """The model with noise on every parameter, so that none is zero."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def plan_for(family: str, kind: str) -> Plan:
    """A plan that removes tokens, heads and filters, or both."""
    layers = (LayerPlan((0, 2), tuple(range(0, 44, 3))), LayerPlan((3,), None))
    tokens = TokenPlan("ltp", (0.8, 1.0))
    return Plan(
        family, layers if kind != "tokens" else (LayerPlan(),) * 2, tokens if kind != "shapes" else None
    )


def compressed(family: str = "bert", kind: str = "both") -> Any:
    """A model that runs by a plan; where shapes change its small layers hold values of their own."""
    model, plan = model_of(family), plan_for(family, kind)
    if plan.changes_shapes:
        resize(model, plan)
        noisy(model)
    return plugin.attach(lift(model, plan))


def batch_of(family: str) -> dict[str, torch.Tensor]:
    """Three inputs; texts of lengths 12, 7 and 3."""
    drawn = torch.Generator().manual_seed(1)
    if family == "vit":
        return {"pixel_values": torch.randn(3, 3, 16, 16, generator=drawn)}
    mask = (torch.arange(12) < torch.tensor([[12], [7], [3]])).long()
    return {"input_ids": torch.randint(5, 100, (3, 12), generator=drawn), "attention_mask": mask}


def logits_of(model: Any, family: str = "bert") -> torch.Tensor:
    """Logits of the three inputs."""
    with torch.no_grad():
        found: torch.Tensor = model(**batch_of(family)).logits
    return found


def edit(file: Path, change: Any) -> None:
    """Edit a JSON file."""
    whole = json.loads(file.read_text())
    change(whole)
    file.write_text(json.dumps(whole))


def flip(file: Path, name: str) -> None:
    """Flip one bit in a tensor's bytes."""
    place = plugin.read_header(file).tensors[name]
    with open(file, "r+b") as stream:
        stream.seek(place.start + 1)
        byte = stream.read(1)[0]
        stream.seek(place.start + 1)
        stream.write(bytes([byte ^ 1]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> Path:
    """A compressed BERT, written by stock ``save_pretrained``."""
    place: Path = tmp_path_factory.mktemp("plugin") / "bert"
    compressed().save_pretrained(place)
    return place


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(folder, tmp_path / "copy"))


@pytest.mark.parametrize("kind", PLANS)
@pytest.mark.parametrize("family", ["bert", "mpnet", "vit"])
def test_two_generations_through_stock_classes_are_bit_equal(family: str, kind: str, tmp_path: Path) -> None:
    """Stock save and load, twice, changes no bit of the logits, and nothing of config and weights."""
    first = compressed(family, kind)
    wanted = logits_of(first, family)
    model = first
    for generation in "ab":
        model.save_pretrained(tmp_path / generation)
        model = AUTO[family].from_pretrained(tmp_path / generation)
        assert is_lifted(model)
        assert plan_of(model) == plan_for(family, kind)
        assert torch.equal(logits_of(model, family), wanted)
    assert (tmp_path / "a/config.json").read_text() == (tmp_path / "b/config.json").read_text()
    headers = [plugin.read_header(tmp_path / g / "model.safetensors") for g in "ab"]
    assert headers[0] == headers[1]


def test_a_rule_removes_tokens_after_reload(folder: Path) -> None:
    """The reloaded model runs fewer tokens through its layers than came in."""
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    with stack_of(model).recording() as kept:
        logits_of(model)
    assert int(kept.ffn[-1].sum()) < 22


def test_the_bare_model_of_a_classifier_loads(folder: Path) -> None:
    """AutoModel on a classification folder: digests are those of the file, not of the class that reads it."""
    bare = AutoModel.from_pretrained(folder)
    assert plan_of(bare) == plan_for("bert", "both")
    with torch.no_grad():
        states = bare(**batch_of("bert")).last_hidden_state
        wanted = compressed().bert(**batch_of("bert")).last_hidden_state
    assert torch.equal(states, wanted)


@pytest.mark.parametrize("family", ["bert", "vit"])
def test_the_bare_model_is_saved_with_plan_and_digests(family: str, tmp_path: Path) -> None:
    """The encoder taken out of a classifier (to make embeddings, say), lifted here or loaded, is saved like any other."""
    model = compressed(family)
    model.save_pretrained(tmp_path / "whole")
    for name, made in (("lifted", model), ("loaded", AUTO[family].from_pretrained(tmp_path / "whole"))):
        made.base_model.save_pretrained(tmp_path / name)
        loaded = artifact.load(tmp_path / name)
        assert loaded.plan == plan_for(family, "both")
        with torch.no_grad():
            states = loaded.model(**batch_of(family)).last_hidden_state
            assert torch.equal(states, model.base_model(**batch_of(family)).last_hidden_state)


def test_tied_weights_have_their_digests(tmp_path: Path) -> None:
    """A masked language model, whose output layer is its embedding, saves and loads."""
    config = BertConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=44
    )
    model = plugin.attach(lift(BertForMaskedLM(config).eval(), plan_for("bert", "tokens")))
    model.save_pretrained(tmp_path)
    again = BertForMaskedLM.from_pretrained(tmp_path)
    assert torch.equal(logits_of(again), logits_of(model))


@pytest.mark.parametrize("original", [True, False])
def test_either_form_of_names_on_disk_is_verified(original: bool, tmp_path: Path) -> None:
    """ViT's names on disk differ from its modules'; both ways of saving carry digests that hold and that catch a change."""
    model = compressed("vit", "both")
    model.save_pretrained(tmp_path, save_original_format=original)
    assert torch.equal(
        logits_of(AutoModelForImageClassification.from_pretrained(tmp_path), "vit"), logits_of(model, "vit")
    )
    name = next(
        n
        for n in plugin.read_header(tmp_path / "model.safetensors").tensors
        if "layernorm_before.weight" in n
    )
    assert name.startswith("vit.encoder.layer." if original else "vit.layers.")
    flip(tmp_path / "model.safetensors", name)
    with pytest.raises(Refused, match=name) as caught:
        AutoModelForImageClassification.from_pretrained(tmp_path)
    assert caught.value.code == "digest"


def test_shards_are_verified(tmp_path: Path) -> None:
    """A model in several files loads, and a change in any of them is named."""
    model = compressed()
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    files = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(files) > 1
    assert torch.equal(
        logits_of(AutoModelForSequenceClassification.from_pretrained(tmp_path)), logits_of(model)
    )
    name = next(iter(plugin.read_header(files[-1]).tensors))
    flip(files[-1], name)
    with pytest.raises(Refused, match=f"the tensor {name} is not what was saved.*{files[-1].name}"):
        AutoModelForSequenceClassification.from_pretrained(tmp_path)


def test_an_edited_tensor_is_named(copied: Path) -> None:
    """One flipped bit: refused, with the tensor, the file and how to mend it."""
    flip(copied / "model.safetensors", "bert.encoder.layer.1.output.dense.weight")
    with pytest.raises(Refused) as caught:
        AutoModelForSequenceClassification.from_pretrained(copied)
    assert caught.value.code == "digest"
    assert "the tensor bert.encoder.layer.1.output.dense.weight" in str(caught.value)
    assert str(copied / "model.safetensors") in str(caught.value)
    assert "download it again" in str(caught.value)


def test_a_tensor_taken_out_is_named(copied: Path) -> None:
    """A weight that is gone would be made up at random by transformers; it is refused instead."""
    from safetensors.torch import load_file, save_file

    file = copied / "model.safetensors"
    metadata, tensors = plugin.read_header(file).metadata, load_file(file)
    del tensors["classifier.bias"]
    save_file(tensors, file, metadata=metadata)
    with pytest.raises(Refused, match=r"the tensor classifier.bias is missing") as caught:
        AutoModelForSequenceClassification.from_pretrained(copied)
    assert caught.value.code == "digest"


def test_an_edited_plan_is_refused(copied: Path) -> None:
    """Another threshold in config.json is another model."""
    edit(
        copied / "config.json", lambda c: c["quantization_config"]["plan"]["tokens"].update(values=[0.1, 0.2])
    )
    with pytest.raises(Refused, match=r"the plan in config.json is not what was saved") as caught:
        AutoModelForSequenceClassification.from_pretrained(copied)
    assert caught.value.code == "digest"


def test_without_its_entry_only_sparsam_refuses(tmp_path: Path) -> None:
    """Stock classes never ask us about a folder without quantization_config (SECURITY.md says so); our loaders refuse it."""
    compressed("bert", "tokens").save_pretrained(tmp_path)
    edit(tmp_path / "config.json", lambda c: c.pop("quantization_config"))
    assert not is_lifted(AutoModelForSequenceClassification.from_pretrained(tmp_path))
    for load, code in ((artifact.load, "not-an-artifact"), (artifact.load_dense, "digest")):
        with pytest.raises(
            Refused, match=r"was not saved by|the plan in config\.json is not what was saved"
        ) as caught:
            load(tmp_path)
        assert caught.value.code == code


def test_edited_labels_are_refused(copied: Path) -> None:
    """Swapped labels would turn every answer round."""
    edit(copied / "config.json", lambda c: c["id2label"].update({"0": "good", "2": "bad"}))
    with pytest.raises(Refused, match=r"id2label in config.json is not what was saved") as caught:
        AutoModelForSequenceClassification.from_pretrained(copied)
    assert caught.value.code == "digest"


@pytest.mark.skipif(
    tuple(int(part) for part in transformers.__version__.split(".")[:2]) < (5, 22),
    reason="seen on 5.19 and 5.21: with a quantization_config, the saved head's shape wins over the one asked for",
)
def test_other_labels_may_be_asked_for(folder: Path) -> None:
    """A caller who wants another head says so; the folder is as it was saved."""
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, id2label={i: f"L{i}" for i in range(5)}, ignore_mismatched_sizes=True
    )
    assert logits_of(model).shape == (3, 5)


def test_a_newer_plan_is_refused(copied: Path) -> None:
    """A newer schema asks for an upgrade."""
    edit(
        copied / "config.json",
        lambda c: c["quantization_config"]["plan"].update(version=VERSION + 1, gates=[]),
    )
    with pytest.raises(Refused, match="Upgrade sparsam") as caught:
        AutoModelForSequenceClassification.from_pretrained(copied)
    assert caught.value.code == "plan-version"


def test_a_newer_config_is_refused(copied: Path) -> None:
    """So does a key beside the plan that this release does not know; with a newer plan, the plan is what is named."""
    edit(copied / "config.json", lambda c: c["quantization_config"].update(formats="int4"))
    with pytest.raises(Refused, match="'formats'") as caught:
        AutoModelForSequenceClassification.from_pretrained(copied)
    assert caught.value.code == "plan-invalid"
    edit(copied / "config.json", lambda c: c["quantization_config"]["plan"].update(version=7))
    with pytest.raises(Refused) as caught:
        AutoModelForSequenceClassification.from_pretrained(copied)
    assert caught.value.code == "plan-version"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda p: p.update(family="roberta"), "plan-mismatch"),
        (lambda p: p["layers"].append({"heads": None, "filters": None}) or p.pop("tokens"), "plan-mismatch"),
        (lambda p: p["layers"][0].update(heads=[0, 4]), "plan-mismatch"),
        (lambda p: p["layers"][0].update(filters=[1000]), "plan-mismatch"),
        (lambda p: p["layers"][0].update(heads=[2, 0]), "plan-invalid"),
        (lambda p: p["layers"][0].update(heads=[True]), "plan-invalid"),
        (lambda p: p.update(layers="all"), "plan-invalid"),
    ],
)
def test_a_plan_that_cannot_be_the_models_is_refused(change: Any, code: str, copied: Path) -> None:
    """Another family, depth, head or filter than the model has is refused before weights are read."""
    edit(copied / "config.json", lambda c: change(c["quantization_config"]["plan"]))
    with pytest.raises(Refused) as caught:
        AutoModelForSequenceClassification.from_pretrained(copied)
    assert caught.value.code == code


def test_pickled_weights_are_refused(copied: Path) -> None:
    """Our plan beside a pickle: not loaded, whatever transformers would do."""
    (copied / "model.safetensors").unlink()
    torch.save(compressed().state_dict(), copied / "pytorch_model.bin")
    with pytest.raises(Refused) as caught:
        AutoModelForSequenceClassification.from_pretrained(copied)
    assert caught.value.code == "no-safetensors"


def test_config_survives_what_users_do_to_it(folder: Path, tmp_path: Path) -> None:
    """AutoConfig, to_dict, JSON, deep copies, edits and loading by a loaded config keep the plan."""
    wanted = plan_for("bert", "both").to_json()
    config = AutoConfig.from_pretrained(folder)
    assert config.to_dict()["quantization_config"] == {"quant_method": "sparsam", "plan": wanted}
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    for form in (model.config, copy.deepcopy(model.config), copy.deepcopy(model).config):
        assert form.to_dict()["quantization_config"]["plan"] == wanted
        assert json.loads(form.to_json_string())["quantization_config"]["plan"] == wanted
    again = AutoModelForSequenceClassification.from_pretrained(folder, config=model.config)
    assert torch.equal(logits_of(again), logits_of(model))
    model.config.quantization_config.plan["tokens"] = (
        None  # an edit of the config is not an edit of the model
    )
    model.save_pretrained(tmp_path)
    assert plan_of(AutoModelForSequenceClassification.from_pretrained(tmp_path)) == plan_for("bert", "both")


def test_a_new_plan_is_the_one_saved(folder: Path, tmp_path: Path) -> None:
    """What the model runs by is written, not what it came with; unlifting alone gives no plan away."""
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    new = Plan("bert", plan_of(model).layers, TokenPlan("ltp", (0.5, 0.6)))  # type: ignore[union-attr]
    lift(model, new)
    model.save_pretrained(tmp_path / "new")
    assert plan_of(AutoModelForSequenceClassification.from_pretrained(tmp_path / "new")) == new
    unlift(model).save_pretrained(tmp_path / "unlifted")
    assert plan_of(AutoModelForSequenceClassification.from_pretrained(tmp_path / "unlifted")) == new


def test_precision_can_be_changed(folder: Path) -> None:
    """Transformers forbids ``half`` and ``float`` on quantized models; ours holds plain floats."""
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    wanted = logits_of(model)
    assert not model.is_quantized
    assert not hasattr(model.config, "_is_quantized")
    assert model.half().dtype == torch.float16
    assert model.to(torch.bfloat16).float().dtype == torch.float32
    half = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    assert torch.allclose(logits_of(half).float(), wanted, atol=0.5)


def test_names_on_disk_can_be_loaded_into_a_lifted_model(tmp_path: Path) -> None:
    """The Trainer puts a file's tensors into the model by ``load_state_dict``; ViT's names on disk find their place."""
    from safetensors.torch import load_file

    source = compressed("vit")
    source.save_pretrained(tmp_path)
    model = AutoModelForImageClassification.from_pretrained(tmp_path)
    noisy(model)
    said = model.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=True)
    assert not said.missing_keys
    assert torch.equal(logits_of(model, "vit"), logits_of(source, "vit"))


@pytest.mark.parametrize("way", ["keyword", "position", "wrapped", "Trainer"])
@pytest.mark.parametrize("family", ["bert", "vit"])
def test_a_given_state_dict_is_what_is_saved(family: str, way: str, tmp_path: Path) -> None:
    """Averaged weights, or those gathered from many machines: they are written and digested, the model stays as it is."""
    model = compressed(family)
    before = logits_of(model, family)
    given = {name: x + 0.5 for name, x in model.state_dict().items()}
    wanted = dict(given)
    if way == "keyword":
        model.save_pretrained(tmp_path, state_dict=given)
    elif way == "position":
        model.save_pretrained(tmp_path, True, given)
    elif way == "Trainer":
        arguments = arguments_for(tmp_path / "out")
        Trainer(model=model, args=arguments, eval_dataset=Rows(family))._save(str(tmp_path), given)
    else:

        class Mine(type(model)):  # type: ignore[misc]
            def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
                super().save_pretrained(*args, **kwargs)

        model.__class__ = Mine
        model.save_pretrained(tmp_path, state_dict=given)
        model.__class__ = Mine.__bases__[0]
        edit(tmp_path / "config.json", lambda c: c.update(architectures=[type(model).__name__]))  # not Mine
    assert torch.equal(logits_of(model, family), before)
    loaded = sparsam.load(tmp_path).model
    assert plan_of(loaded) == plan_for(family, "both")
    for name, x in loaded.state_dict().items():
        assert torch.equal(x, wanted[name]), name
    tensors = plugin.read_header(tmp_path / "model.safetensors").tensors
    flip(tmp_path / "model.safetensors", next(name for name in tensors if name.startswith("classifier")))
    with pytest.raises(Refused, match="the tensor classifier") as caught:
        AUTO[family].from_pretrained(tmp_path)
    assert caught.value.code == "digest"


@pytest.mark.parametrize("by", ["save_pretrained", "Trainer"])
@pytest.mark.parametrize("family", ["bert", "mpnet", "vit"])
def test_a_plan_given_to_lift_is_saved_by_stock_tools(family: str, by: str, tmp_path: Path) -> None:
    """``sparsam.lift(model, plan)`` and a stock save: the folder reloads with the plan, bit-equal."""
    model = sparsam.lift(model_of(family), plan_for(family, "tokens"))
    if by == "Trainer":
        rows, arguments = Rows(family), arguments_for(tmp_path / "out")
        trainer = Trainer(model=model, args=arguments, train_dataset=rows, eval_dataset=rows)
        trainer.train()
        trainer.save_model(str(tmp_path / "a"))
    else:
        model.save_pretrained(tmp_path / "a")
    loaded = AUTO[family].from_pretrained(tmp_path / "a")
    assert plan_of(loaded) == plan_for(family, "tokens")
    assert torch.equal(logits_of(loaded, family), logits_of(model.eval(), family))
    assert sparsam.load(tmp_path / "a").plan == plan_for(family, "tokens")


def test_a_dense_plan_given_to_lift_is_an_ordinary_folder(folder: Path, tmp_path: Path) -> None:
    """Nothing is left out, so nothing is written: neither for a new model nor for one that had a plan before."""
    had = sparsam.lift(model_of("bert"), plan_for("bert", "tokens"))
    for name, model in (("new", model_of("bert")), ("had", had)):
        sparsam.lift(model, Plan.dense("bert", 2)).save_pretrained(tmp_path / name)
        assert "quantization_config" not in json.loads((tmp_path / name / "config.json").read_text())
        stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / name)
        assert not is_lifted(stock)
        assert torch.allclose(logits_of(stock), logits_of(model), atol=1e-5)


def test_a_model_that_others_quantized_is_not_lifted() -> None:
    """Its config would be overwritten with the plan, and what is saved could not be read by anybody."""
    model = model_of("bert")
    model.hf_quantizer = SimpleNamespace(quantization_config=SimpleNamespace(quant_method="bitsandbytes"))
    with pytest.raises(
        Refused, match=r"quantized \(bitsandbytes\).*Load the model it was made from"
    ) as caught:
        sparsam.lift(model, plan_for("bert", "tokens"))
    assert caught.value.code == "quantized"
    assert not is_lifted(model)


def test_attach_wants_a_lifted_model() -> None:
    """Without a plan there is nothing to attach."""
    with pytest.raises(Usage, match="lift") as caught:
        plugin.attach(model_of("bert"))
    assert caught.value.code == "not-lifted"


def test_registering_again_takes_the_place_of_the_first() -> None:
    """A reload is no error."""
    import importlib

    from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING

    before = AUTO_QUANTIZER_MAPPING["sparsam"]
    try:
        again = importlib.reload(plugin)
        vars(sparsam).pop("lift", None)  # to be asked for again, from the module as it is now
        assert AUTO_QUANTIZER_MAPPING["sparsam"] is again.SparsamQuantizer
        assert AUTO_QUANTIZER_MAPPING["sparsam"] is not before
    finally:
        assert AUTO_QUANTIZER_MAPPING["sparsam"].__module__ == "sparsam.plugin"


# ---- The Trainer -----------------------------------------------------------------------------------------------------


class Rows(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """Sixteen labelled inputs."""

    def __init__(self, family: str) -> None:
        drawn = torch.Generator().manual_seed(2)
        if family == "vit":
            self.inputs = {"pixel_values": torch.randn(16, 3, 16, 16, generator=drawn)}
        else:
            self.inputs = {
                "input_ids": torch.randint(5, 100, (16, 9), generator=drawn),
                "attention_mask": torch.ones(16, 9, dtype=torch.long),
            }
        self.labels = torch.randint(0, 3, (16,), generator=drawn)

    def __len__(self) -> int:
        return 16

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        return {name: x[i] for name, x in self.inputs.items()} | {"labels": self.labels[i]}


def arguments_for(out: Path, best: bool = False) -> TrainingArguments:
    """Four steps on the CPU, a checkpoint and an evaluation every two."""
    return TrainingArguments(
        output_dir=str(out),
        max_steps=4,
        per_device_train_batch_size=4,
        learning_rate=5e-2 if best else 1e-3,
        save_strategy="steps",
        save_steps=2,
        eval_strategy="steps",
        eval_steps=2,
        load_best_model_at_end=best,
        metric_for_best_model="eval_loss",
        report_to=[],
        use_cpu=True,
        seed=3,
        logging_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )


@pytest.mark.parametrize("family", ["bert", "vit"])
def test_trainer_trains_resumes_loads_its_best_and_saves(family: str, tmp_path: Path) -> None:
    """Resumed equals uninterrupted bit for bit; the best checkpoint comes back whole; what is saved reloads bit-equal."""
    compressed(family).save_pretrained(tmp_path / "start")

    def trainer(out: str, best: bool = False) -> Any:
        arguments = arguments_for(tmp_path / out, best)
        model = AUTO[family].from_pretrained(tmp_path / "start")
        return Trainer(model=model, args=arguments, train_dataset=Rows(family), eval_dataset=Rows(family))

    whole = trainer("whole")
    whole.train()
    assert not torch.equal(logits_of(whole.model.eval(), family), logits_of(compressed(family), family))
    resumed = trainer("resumed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole/checkpoint-2"))
    assert torch.equal(logits_of(resumed.model.eval(), family), logits_of(whole.model.eval(), family))

    best = trainer("best", best=True)
    best.train()
    chosen = AUTO[family].from_pretrained(best.state.best_model_checkpoint)
    assert torch.equal(logits_of(best.model.eval(), family), logits_of(chosen, family))

    best.save_model(str(tmp_path / "saved"))
    saved = AUTO[family].from_pretrained(tmp_path / "saved")
    assert plan_of(saved) == plan_for(family, "both")
    assert torch.equal(logits_of(saved, family), logits_of(best.model, family))
    assert plugin.KEY in plugin.read_header(tmp_path / "saved/model.safetensors").metadata


class Interrupt(TrainerCallback):
    """Stops the training as a user would, after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("family", ["bert", "vit"])
def test_an_interrupted_trainer_goes_on_to_its_best_model(family: str, tmp_path: Path) -> None:
    """Stopped after its checkpoint, resumed from its folder, best model, saved, reloaded: bit for bit as if never stopped."""
    compressed(family).save_pretrained(tmp_path / "start")
    rows = Rows(family)

    def trainer(out: str, *callbacks: Any) -> Any:
        return Trainer(
            model=AUTO[family].from_pretrained(tmp_path / "start"),
            args=arguments_for(tmp_path / out, best=True),
            train_dataset=rows,
            eval_dataset=rows,
            callbacks=list(callbacks),
        )

    whole = trainer("whole")
    whole.train()
    with pytest.raises(KeyboardInterrupt):
        trainer("stopped", Interrupt(3)).train()
    assert not (tmp_path / "stopped/checkpoint-4").exists()
    resumed = trainer("stopped")
    resumed.train(resume_from_checkpoint=True)
    assert Path(resumed.state.best_model_checkpoint).name == Path(whole.state.best_model_checkpoint).name
    resumed.save_model(str(tmp_path / "saved"))
    loaded = artifact.load(tmp_path / "saved")
    assert loaded.plan == plan_for(family, "both")
    for model in (resumed.model, loaded.model):
        for name, x in whole.model.state_dict().items():
            assert torch.equal(model.state_dict()[name], x), name
        assert torch.equal(logits_of(model.eval(), family), logits_of(whole.model.eval(), family))


# ---- With and without sparsam, in fresh processes --------------------------------------------------------------------


def run(script: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a fresh process that finds this repository's sparsam."""
    return subprocess.run(
        [sys.executable, "-c", script],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ
        | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        | environment,
    )


WITHOUT = """
import sys, torch
from transformers import AutoModelForSequenceClassification
assert not any(name.startswith("sparsam") for name in sys.modules)
model = AutoModelForSequenceClassification.from_pretrained("tokens")
batch = torch.load("batch.pt")
with torch.no_grad():
    torch.save(model(**batch).logits, "logits.pt")
try:
    AutoModelForSequenceClassification.from_pretrained("shapes")
except RuntimeError as error:
    print("closed:", str(error).splitlines()[0])
"""


def test_without_sparsam_shapes_fail_closed_and_tokens_load_dense(tmp_path: Path) -> None:
    """Cut shapes raise; a plan that only removes tokens gives the dense model's answers, and transformers warns."""
    dense = model_of("bert")
    wanted = logits_of(dense)
    for kind in ("tokens", "shapes"):
        compressed("bert", kind).save_pretrained(tmp_path / kind)
    torch.save(batch_of("bert"), tmp_path / "batch.pt")
    done = run(WITHOUT, tmp_path)
    assert "closed:" in done.stdout, done.stderr
    assert "Unknown quantization type, got sparsam" in done.stderr
    assert torch.equal(torch.load(tmp_path / "logits.pt"), wanted)


WITH = """
import {first}
import {second}
import torch
from transformers import AutoModelForSequenceClassification
model = AutoModelForSequenceClassification.from_pretrained(r"{folder}")
with torch.no_grad():
    torch.save(model(**torch.load("batch.pt")).logits, "logits.pt")
"""


@pytest.mark.slow
@pytest.mark.parametrize("order", [("sparsam", "transformers"), ("transformers", "sparsam")])
def test_a_fresh_process_elsewhere_gives_the_same_bits(
    order: tuple[str, str], folder: Path, tmp_path: Path
) -> None:
    """Slow: from another working directory, in either order of imports, with nothing of ours called."""
    torch.save(batch_of("bert"), tmp_path / "batch.pt")
    done = run(WITH.format(first=order[0], second=order[1], folder=folder), tmp_path)
    assert done.returncode == 0, done.stderr
    assert torch.equal(torch.load(tmp_path / "logits.pt"), logits_of(compressed()))


# ---- Headers of safetensors files ------------------------------------------------------------------------------------


def header_file(file: Path, header: Any, data: bytes = b"\0" * 8, length: int | None = None) -> Path:
    """A safetensors file from its parts."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return file


def one(**changes: Any) -> dict[str, Any]:
    """A header of one tensor of eight bytes."""
    return {"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes}


@pytest.mark.parametrize(
    ("header", "data", "length"),
    [
        (b"", b"", None),
        (b"{", b"", None),
        (b"[1]", b"", None),
        (b"\xff\xfe", b"", None),
        (b"[" * 100_000, b"", None),
        (one(), b"\0" * 8, 2**62),
        (one(), b"\0" * 8, 200_000_000),
        (one(), b"\0" * 7, None),
        (one(), b"\0" * 9, None),
        (one(shape=[3]), b"\0" * 8, None),
        (one(shape=[2**62, 2**62]), b"\0" * 8, None),
        (one(shape=[-2]), b"\0" * 8, None),
        (one(shape=[2.0]), b"\0" * 8, None),
        (one(shape=[True, 2]), b"\0" * 8, None),
        (one(dtype="<script>"), b"\0" * 8, None),
        (one(dtype=None), b"\0" * 8, None),
        (one(data_offsets=[8, 0]), b"\0" * 8, None),
        (one(data_offsets=[4, 12]), b"\0" * 16, None),
        (one() | {"y": one()["x"]}, b"\0" * 8, None),
        (one() | {"__metadata__": {"format": 3}}, b"\0" * 8, None),
        (
            b'{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
            b"\0" * 8,
            None,
        ),
    ],
)
def test_a_damaged_header_is_named(header: Any, data: bytes, length: int | None, tmp_path: Path) -> None:
    """Whatever is wrong with a file, its name and how to mend it are said; nothing is allocated for it first."""
    file = header_file(tmp_path / "model.safetensors", header, data, length)
    with pytest.raises(InputOutput, match=r"copy|Copy") as caught:
        plugin.read_header(file)
    assert caught.value.code == "safetensors-corrupt"
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.bool]
)
def test_digests_of_tensors_and_of_files_agree(dtype: torch.dtype, tmp_path: Path) -> None:
    """What is hashed in memory is what is hashed from disk: scalars, empty and transposed tensors too."""
    from safetensors.torch import save_file

    tensors = {
        "scalar": torch.ones(()).to(dtype),
        "empty": torch.ones(0, 3).to(dtype),
        "turned": torch.arange(6).reshape(2, 3).T.to(dtype),
    }
    save_file({name: x.contiguous() for name, x in tensors.items()}, tmp_path / "x.safetensors")
    found = plugin.file_digests(tmp_path / "x.safetensors", plugin.read_header(tmp_path / "x.safetensors"))
    assert found == {name: plugin.tensor_digest(x) for name, x in tensors.items()}


def test_a_digest_covers_dtype_and_shape() -> None:
    """The same bytes read as another type or shape are another tensor."""
    x = torch.arange(6, dtype=torch.int32).reshape(2, 3)
    digests = {plugin.tensor_digest(y) for y in (x, x.view(3, 2), x.view(torch.float32))}
    assert len(digests) == 3
