"""``sparsam quantize`` on tiny models: every scheme to the folder and back, what it says of itself, and every refusal."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import tiny_checkpoints
import torch
from tiny_checkpoints import Checkpoints

import sparsam
from sparsam.cli import main
from sparsam.compress import Quantized, open_model, quantize_model
from sparsam.compress.calibration import products_of
from sparsam.compress.quantize_run import Asked, QuantizeRun
from sparsam.errors import Refused, SparsamError, Usage
from sparsam.models import plan_of, stack_of
from sparsam.models.integers import integers_of
from sparsam.plan import PRODUCTS
from sparsam.quantization import output_loss
from sparsam.quantization.schemes import SCHEMES
from sparsam.task import Task


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    return tiny_checkpoints.text_checkpoints(tmp_path_factory.mktemp("texts"), rows=160)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    return tiny_checkpoints.image_checkpoints(tmp_path_factory.mktemp("images"), rows=24)


def made_of(made: Checkpoints, out: Path, scheme: str, bits: int, **asked: Any) -> Quantized:
    return quantize_model(str(made.dense), str(made.task), out=out, scheme=scheme, bits=bits, **asked)


def weights_of(source: Any) -> dict[str, torch.Tensor]:
    """Every product's weights, by layer and role."""
    model = open_model(str(source)).model
    return {
        f"{index} {role}": module.weight.detach()
        for index, _, modules in products_of(stack_of(model))
        for role, module in modules.items()
    }


def code_of(call: Any, kind: type[SparsamError] = Refused) -> str:
    with pytest.raises(kind) as caught:
        call()
    return caught.value.code


def only_json(captured: str) -> dict[str, Any]:
    assert captured.count("\n") == 1, captured
    found: dict[str, Any] = json.loads(captured)
    return found


# ---- To the folder and back ------------------------------------------------------------------------------------------


def test_an_encoder_in_integers_alone(
    texts: Checkpoints, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command says so, names what stays in floats, and its score is that of the integers after reload."""
    call = [
        "quantize",
        str(texts.dense),
        "--task",
        str(texts.task),
        "--scheme",
        "ibert",
        "--bits",
        "8",
        "--json",
    ]
    assert main([*call, "--out", str(tmp_path / "x"), "--samples", "64"]) == 0
    said = only_json(capsys.readouterr().out)
    assert said["runs"] == "integers alone" and said["samples"] == 64 and said["inputs"] == "tensor"
    assert said["said"].startswith("Runs in integers alone here") and "classifier" in said["said"]
    assert set(said["in_floats"]) == {"bert.pooler.dense", "classifier"}
    assert said["saved_bytes"] == said["packed_bytes"] < 0.5 * said["dense"]["bytes"]
    loaded = sparsam.load(tmp_path / "x")
    assert loaded.plan.integer_only is not None
    task = Task.load(str(texts.task))
    assert task.validation is not None
    rows = task.validation.take(np.arange(len(task.validation)))
    own = loaded.predict(rows.texts).argmax(1)
    names = [loaded.model.config.id2label[int(one)] for one in own]
    right = np.mean([task.labels[int(label)] == name for label, name in zip(rows.labels, names, strict=True)])
    assert said["quantized"]["value"] == pytest.approx(right)
    for more in (["--inputs", "token"], ["--correct"]):
        assert main([*call, "--out", str(tmp_path / "y"), *more]) == 2
        assert "[scheme-inputs]" in capsys.readouterr().err


@pytest.mark.parametrize("name", [name for name, scheme in SCHEMES.items() if not scheme.encoder])
def test_every_scheme_to_the_folder_and_back(name: str, texts: Checkpoints, tmp_path: Path) -> None:
    """The reloaded weights are the scheme's own; integers have a plan, the rest is an ordinary folder."""
    bits = 4
    scheme = SCHEMES[name]
    found = made_of(texts, tmp_path / "small", name, bits)
    whole = scheme.in_integers(bits, scheme.group)
    plan, stored = plan_of(found.model), safetensors.torch.load_file(tmp_path / "small" / "model.safetensors")
    kinds = {
        x.dtype
        for key, x in stored.items()
        if key.endswith("weight") and "layer.0" in key and "Norm" not in key
    }
    if whole:
        assert plan is not None and all(set(left.formats) == set(PRODUCTS) for left in plan.layers)
        assert kinds <= {torch.uint8, torch.int8} and "Runs in integers here: 12 products" in found.said
        assert found.saved_bytes < found.dense_bytes
    else:
        config = json.loads((tmp_path / "small" / "config.json").read_text())
        assert "quantization_config" not in config and kinds == {torch.float32}
        assert "Simulated: 12 products" in found.said and "nothing is faster" in found.said
        assert found.saved_bytes == found.dense_bytes and found.packed_bytes < found.saved_bytes
        assert f"{found.packed_bytes / 1e6:.2f} MB if packed to 4 bits" in found.size
    dense = weights_of(texts.dense)
    for key, weight in weights_of(tmp_path / "small").items():
        if scheme.calibrated:
            assert 0 < float((weight - dense[key]).square().sum() / dense[key].square().sum()) < 0.1
        else:
            assert torch.equal(weight, scheme.make(dense[key], bits, scheme.group, None).values)
    facts = json.loads((tmp_path / "small" / "sparsam.json").read_text())["facts"]["quantization"]
    assert (facts["scheme"], facts["bits"]) == (name, bits)
    assert facts["runs"] == ("int8" if whole else "simulated") and facts["packed_bytes"] == found.packed_bytes
    assert facts["samples"] == found.samples == (160 if scheme.calibrated or whole else 0)
    assert found.errors is not None
    assert [stage.name for stage in found.errors.stages] == [
        "embeddings",
        "layer 1",
        "layer 2",
        "layer 3",
        "head",
    ]
    assert all(stage.own.sqnr is not None and stage.own.sqnr > 5 for stage in found.errors.stages[1:4])
    assert (
        (found.rival is not None)
        == name.startswith("pwlq")
        == ("At equal storage" in str(found.beside_uniform))
    )
    if found.rival is not None:
        assert found.rival > 1 and found.to_json()["uniform_at_equal_storage"] == found.rival
    record = json.loads((tmp_path / "small" / "evaluation.json").read_text())
    assert found.said in json.dumps(record, ensure_ascii=False)


@pytest.mark.parametrize("inputs", ["token", "tensor"])
@pytest.mark.parametrize(
    ("name", "bits"), [("gptq", 3), ("adaround", 8), ("power-of-two", 4), ("additive-powers", 5)]
)
def test_integers_run_in_the_int8_runtime(
    name: str, bits: int, inputs: str, texts: Checkpoints, tmp_path: Path
) -> None:
    """Frozen, the answers are those of the reloaded model, whose inputs are rounded; the products are the int8 ones."""
    found = made_of(texts, tmp_path / "small", name, bits, inputs=inputs)
    plan = plan_of(found.model)
    assert plan is not None and {form.input for left in plan.layers for form in left.formats.values()} == {
        inputs
    }
    given = ["1 2 3", "4 5 6 7 8 9"]
    batch = found.processor(given, padding=True, return_tensors="pt")
    with torch.no_grad():
        wanted = found.model.eval()(**batch).logits
    served = torch.as_tensor(sparsam.load(tmp_path / "small").predict(given))
    torch.testing.assert_close(served, wanted, rtol=1e-3, atol=1e-3)
    for _, _, modules in products_of(stack_of(found.model)):
        for module in modules.values():
            q = integers_of(module)
            assert int(q.abs().max()) <= 127
            if name == "power-of-two":
                assert set(q.abs().unique().tolist()) <= {0, 1, 2, 4, 8, 16, 32, 64}


@pytest.mark.parametrize("family", ["roberta", "distilbert", "mpnet"])
def test_other_families(family: str, tmp_path: Path) -> None:
    """Hessians of the modules they have, in their order."""
    made = tiny_checkpoints.text_checkpoints(tmp_path, family, rows=48)
    found = made_of(made, tmp_path / "small", "gptq", 4)
    assert found.products == 12 and found.difference.value >= -15


def test_images(images: Checkpoints, tmp_path: Path) -> None:
    """A ViT, too; it has no embeddings of words."""
    found = made_of(images, tmp_path / "small", "gptq", 4, rows=10)
    assert found.errors is not None and found.errors.rows == 10
    with pytest.raises(Refused, match="reads no words") as caught:
        made_of(images, tmp_path / "other", "uniform", 8, embeddings="8")
    assert caught.value.code == "embeddings-missing" and not (tmp_path / "other").exists()


def test_weights_alone(texts: Checkpoints, tmp_path: Path) -> None:
    """--inputs none multiplies in floating point: simulated, with the very weights that run in integers otherwise."""
    simulated = made_of(texts, tmp_path / "floats", "uniform", 4, inputs="none")
    whole = made_of(texts, tmp_path / "integers", "uniform", 4)
    assert "Simulated" in simulated.said and "Runs in integers" in whole.said
    one, other = weights_of(tmp_path / "floats"), weights_of(tmp_path / "integers")
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert simulated.samples == 0 and whole.samples == 160
    assert simulated.packed_bytes <= whole.packed_bytes == whole.saved_bytes < simulated.saved_bytes


def test_sizes_by_hand(texts: Checkpoints, tmp_path: Path) -> None:
    """Packed: the dense model's bytes, less four a weight of the products, plus its bits, plus four a scale."""
    shapes = [weight.shape for weight in weights_of(texts.dense).values()]
    numbers, outputs = sum(o * i for o, i in shapes), sum(o for o, _ in shapes)
    three = made_of(texts, tmp_path / "three", "uniform", 3)
    rest = three.dense_bytes - 4 * numbers
    assert three.packed_bytes == rest + sum(-(-o * i * 3 // 8) for o, i in shapes) + 4 * outputs
    assert three.saved_bytes == rest + sum(o * ((i + 1) // 2) for o, i in shapes) + 4 * outputs
    small = made_of(texts, tmp_path / "words", "uniform", 3, embeddings="8")
    words, width = 60, 32
    assert three.saved_bytes - small.saved_bytes == words * width * 4 - words * (width + 4)
    assert three.packed_bytes - small.packed_bytes == words * width * 4 - words * (width + 4)


def test_each_layer_makes_up_for_those_before_it(texts: Checkpoints) -> None:
    """Hessians are of what the rounded layers in front give: GPTQ on them loses less, product by product, than rounding."""
    task = Task.load(str(texts.task))
    dense = weights_of(texts.dense)
    runs = {}
    for name in ("gptq", "adaround"):
        runs[name] = QuantizeRun(open_model(str(texts.dense), task), task, Asked(SCHEMES[name], 3))
        kept = {}
        original = runs[name]._hessians

        def hessians(layer: int, original: Any = original, kept: Any = kept) -> Any:
            kept[layer] = original(layer)
            return kept[layer]

        runs[name]._hessians = hessians  # type: ignore[method-assign]
        runs[name].apply()
        assert set(kept) == {0, 1, 2}
        first = kept[1]["up"].count
        assert (
            first == kept[1]["q"].count and kept[2]["q"].count == 160 < kept[2]["k"].count
        )  # class tokens alone
        for index, _, modules in products_of(stack_of(runs[name].model)):
            for role, module in modules.items():
                own = dense[f"{index} {role}"]
                hessian = kept[index]["k" if role == "v" else role].matrix()
                nearest = SCHEMES["uniform"].make(own, 3, None, None).values
                ours, theirs = (float(output_loss(own, x, hessian).sum()) for x in (module.weight, nearest))
                assert ours < theirs, (name, index, role)


def test_corrected_biases_keep_the_mean(texts: Checkpoints, tmp_path: Path) -> None:
    """--correct moves biases; the last layer's mean output is nearer to the dense model's."""
    plain = made_of(texts, tmp_path / "plain", "uniform", 2, inputs="none")
    corrected = made_of(texts, tmp_path / "corrected", "uniform", 2, inputs="none", correct=True)
    assert corrected.samples == 160
    rows = [" ".join(str((7 * at + step) % 40) for step in range(9)) for at in range(40)]
    means = []
    for model in (open_model(str(texts.dense)).model, plain.model, corrected.model):
        batch = plain.processor(rows, padding=True, return_tensors="pt")
        with torch.no_grad():
            means.append(model.eval()(**batch).logits.mean(0))
    assert float((means[2] - means[0]).norm()) < float((means[1] - means[0]).norm())


def test_a_regression_is_quantized_without_a_comparison_of_layers(
    tmp_path: Path, tiny: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its answers are numbers: both are measured, and it is said why no layer is."""
    tiny_checkpoints.save(
        tiny.build("bert", num_labels=1), tiny_checkpoints.words(), tmp_path / "dense", tmp_path / "half"
    )
    for split in ("train", "validation"):
        lines = [f"{text},{at / 7:.3f}" for at, text in enumerate(tiny_checkpoints.texts(12))]
        (tmp_path / "task").mkdir(exist_ok=True)
        (tmp_path / "task" / f"{split}.csv").write_text("\n".join(["text,label", *lines]))
    given = [
        "quantize",
        str(tmp_path / "dense"),
        "--task",
        str(tmp_path / "task"),
        "--scheme",
        "gptq",
        "--bits",
        "8",
    ]
    assert main([*given, "--out", str(tmp_path / "a")]) == 0
    shown = capsys.readouterr().out
    assert "Layers are not compared" in shown and "Runs in integers here" in shown and "layer 1" not in shown


def test_a_loaded_model_is_copied(texts: Checkpoints, tmp_path: Path) -> None:
    """Its owner's weights stay as they are."""
    opened = open_model(str(texts.dense))
    before = {name: x.clone() for name, x in opened.model.state_dict().items()}
    quantize_model(
        opened.model,
        str(texts.task),
        out=tmp_path / "a",
        scheme="uniform",
        bits=2,
        processor=opened.processor,
    )
    assert all(torch.equal(x, before[name]) for name, x in opened.model.state_dict().items())


# ---- The command -----------------------------------------------------------------------------------------------------


def command(
    made: Checkpoints, out: Path, *more: str, model: Path | None = None, task: Path | None = None
) -> list[str]:
    return ["quantize", str(model or made.dense), "--task", str(task or made.task), "--out", str(out), *more]


@pytest.mark.parametrize(("scheme", "runs"), [("uniform", "int8"), ("normal-float", "simulated")])
def test_the_command_says_what_runs_how(
    scheme: str,
    runs: str,
    texts: Checkpoints,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A table of errors by layer, the two evaluations, and in plain words whether it runs in integers here; as JSON, too."""
    monkeypatch.setenv("COLUMNS", "200")
    assert main(command(texts, tmp_path / "a", "--scheme", scheme, "--bits", "4")) == 0
    shown = capsys.readouterr().out
    assert all(f"layer {at}" in shown for at in (1, 2, 3)) and "answers that agree" in shown
    assert ("Runs in integers here" if runs == "int8" else "Simulated: 12 products") in shown
    assert ("Calibrated on 160 rows" in shown) == (runs == "int8")
    assert "MB of weights as saved" in shown and "of 160 answers are the dense model's" in shown
    assert main(command(texts, tmp_path / "a", "--scheme", scheme, "--bits", "4", "--json")) == 0
    facts = only_json(capsys.readouterr().out)
    assert (facts["runs"], facts["scheme"], facts["bits"]) == (runs, scheme, 4)
    assert len(facts["errors"]["stages"]) == 5 and facts["packed_bytes"] <= facts["saved_bytes"]


def test_the_list_of_schemes(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Names, papers and purposes, with --json as one object; neither model nor task is needed."""
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["quantize", "--list"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in SCHEMES) and "arXiv:2210.17323" in shown and "simulated" in shown
    assert main(["quantize", "--list", "--json"]) == 0
    found = only_json(capsys.readouterr().out)["schemes"]
    assert [row["name"] for row in found] == list(SCHEMES)
    assert all(row["paper"] and row["good_for"] and row["runs"] for row in found)


@pytest.mark.parametrize(
    ("more", "code", "text"),
    [
        (["--scheme", "gtpq", "--bits", "4"], "scheme-unknown", "Did you mean gptq?"),
        (["--scheme", "uniform", "--bits", "9"], "scheme-bits", "uniform takes 2 to 8 bits; got 9"),
        (["--scheme", "uniform", "--bits", "1"], "scheme-bits", "got 1"),
        (["--scheme", "additive-powers", "--bits", "6"], "scheme-bits", "takes 3, 4, 5 or 7 bits; got 6"),
        (["--scheme", "uniform", "--bits", "4", "--group", "64"], "scheme-group", "one scale an output"),
        (["--scheme", "groups", "--bits", "4", "--group", "1"], "scheme-group", "at least 2 inputs"),
        (
            ["--scheme", "groups", "--bits", "4", "--inputs", "token"],
            "scheme-inputs",
            "simulated, weights alone",
        ),
        (["--scheme", "power-of-two", "--bits", "5", "--inputs", "tensor"], "scheme-inputs", "simulated"),
        (
            ["--scheme", "normal-float", "--bits", "4", "--embeddings", "8"],
            "scheme-embeddings",
            "in floating point",
        ),
        (["--scheme", "uniform"], "usage", "--bits is missing"),
        (["--bits", "4"], "usage", "--scheme is missing"),
    ],
)
def test_wrong_usage_is_refused_before_any_work(
    more: list[str],
    code: str,
    text: str,
    texts: Checkpoints,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Exit code 2, what was given and what would do, and no folder."""
    assert main([*command(texts, tmp_path / "a", *more), "--json"]) == 2
    error = only_json(capsys.readouterr().out)["error"]
    assert error["code"] == code and text in error["message"]
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("scheme", "more", "why"),
    [
        ("gptq", ["--inputs", "none"], "gptq reads inputs"),
        ("uniform", [], "products in integers have calibrated grids"),
        ("groups", ["--correct"], "biases are corrected"),
    ],
)
def test_calibration_without_rows_is_refused(
    scheme: str,
    more: list[str],
    why: str,
    texts: Checkpoints,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A task without a training split: refused by name, where rows are read; the others need none."""
    (tmp_path / "task").mkdir()
    shutil.copy(texts.task / "validation.csv", tmp_path / "task" / "validation.csv")
    given = command(texts, tmp_path / "a", "--scheme", scheme, "--bits", "4", task=tmp_path / "task")
    assert main([*given, *more, "--json"]) == 3
    error = only_json(capsys.readouterr().out)["error"]
    assert error["code"] == "calibration-rows" and why in error["message"]
    assert not (tmp_path / "a").exists()
    assert (
        main(
            [
                *command(texts, tmp_path / "a", "--scheme", "groups", "--bits", "4", task=tmp_path / "task"),
                "--json",
            ]
        )
        == 0
    )
    assert only_json(capsys.readouterr().out)["samples"] == 0


def test_what_cannot_be_quantized_is_refused(
    texts: Checkpoints, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Weights that are not finite or are integers, a model that removes tokens, more rows than there are, foreign folders."""

    def refusal(out: Path, *more: str, model: Path | None = None) -> tuple[str, str]:
        given = more or ("--scheme", "uniform", "--bits", "4")
        assert main([*command(texts, out, *given, model=model), "--json"]) in (2, 3)
        error = only_json(capsys.readouterr().out)["error"]
        return error["code"], error["message"]

    broken = tmp_path / "broken"
    model = open_model(str(texts.dense)).model
    shutil.copytree(texts.dense, broken)
    for name in ("MANIFEST.json", "sparsam.json"):
        (broken / name).unlink()
    state = safetensors.torch.load_file(broken / "model.safetensors")
    key = next(name for name in state if name.endswith("query.weight"))
    state[key][0, 0] = float("nan")
    safetensors.torch.save_file(state, broken / "model.safetensors", {"format": "pt"})
    assert refusal(tmp_path / "a", model=broken)[0] == "non-finite"
    assert refusal(tmp_path / "a", model=texts.half)[0] == "quantize-tokens"
    assert main([*command(texts, tmp_path / "q", "--scheme", "uniform", "--bits", "4"), "--json"]) == 0
    capsys.readouterr()
    code, text = refusal(tmp_path / "a", model=tmp_path / "q")
    assert code == "quantized" and "quantizing it again" in text
    code, text = refusal(tmp_path / "a", "--scheme", "gptq", "--bits", "4", "--samples", "1000")
    assert code == "too-few-rows" and "the training split has 160" in text
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    code, text = refusal(tmp_path / "mine")
    assert code == "not-an-artifact" and "left alone" in text
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"
    assert refusal(texts.dense)[0] == "out-is-model"
    assert not (tmp_path / "a").exists()
    assert model is not None


def test_settings_that_are_none() -> None:
    """In Python, too."""
    uniform = SCHEMES["uniform"]
    for wrong in ({"inputs": "row"}, {"range": "widest"}, {"embeddings": "4"}, {"samples": 0}):
        assert code_of(lambda wrong=wrong: Asked(uniform, 8, **wrong), Usage) == "scheme-settings"
