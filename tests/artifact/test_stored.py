"""Integers on disk: bit-equal after any number of saves and loads, closed to readers that do not know them, digests and all."""

import copy
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import Trainer, TrainingArguments

import sparsam
from sparsam import plugin
from sparsam.compress import weight_bytes
from sparsam.errors import Refused, SparsamError, Usage
from sparsam.models import plan_of
from sparsam.models.integers import integers_of, scales_of
from sparsam.models.stored import packed, to_store, unpacked
from sparsam.plan import Format, LayerPlan, Plan
from sparsam.tokens.ltp import token_plan

ROOT = Path(__file__).parent.parent.parent
FAMILIES = ("bert", "roberta", "xlm-roberta", "electra", "mpnet", "distilbert", "vit", "deit")


def made(name: str = "bert", bits: int = 8, words: int | None = 8, **more: Any) -> Any:
    return tiny_models.in_integers(tiny_models.build(name), name, bits, words, **more)


def logits(model: Any, name: str = "bert") -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(**tiny_models.inputs(name)).logits
    return found


def held(model: Any) -> dict[str, torch.Tensor]:
    """The integers of a model, and their scales."""
    found = {}
    for name, module in model.named_modules():
        if scales_of(module) is not None:
            found |= {name: integers_of(module), f"{name} scales": scales_of(module)}
    return found


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(x, other[name]) for name, x in one.items())


# ---- Round trips -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 4, 3])
@pytest.mark.parametrize("name", FAMILIES)
def test_two_generations_are_bit_equal(name: str, bits: int, tmp_path: Path) -> None:
    """Stock save and load, and ours, one after the other: logits, integers, scales and digests stay as they are."""
    first = made(name, bits, words=bits)
    wanted, integers = logits(first, name), held(first)
    first.save_pretrained(tmp_path / "a")
    second = type(first).from_pretrained(tmp_path / "a")
    assert torch.equal(logits(second, name), wanted) and same(held(second), integers)
    sparsam.save(second, tmp_path / "b")
    third = sparsam.load(tmp_path / "b").model
    assert torch.equal(logits(third, name), wanted) and same(held(third), integers)
    assert plan_of(third) == plan_of(first)
    third.save_pretrained(tmp_path / "c")
    records = [
        plugin.read_header(tmp_path / one / "model.safetensors").metadata[plugin.KEY]
        for one in ("a", "b", "c")
    ]
    assert records[0] == records[1] == records[2]
    for one in ("a", "b", "c"):
        assert plugin.check_file(tmp_path / one / "model.safetensors")


@pytest.mark.parametrize("name", ["electra", "vit"])
def test_their_form_in_files(name: str, tmp_path: Path) -> None:
    """int8 (o, 1, i) and float32 (o,) under the family's own names on disk; four bits and fewer two to a byte."""
    sparsam.save(made(name), tmp_path / "8")
    sparsam.save(made(name, 4, 3), tmp_path / "4")
    places = [plugin.read_header(tmp_path / bits / "model.safetensors").tensors for bits in ("8", "4")]
    for at, (dtype, width) in enumerate([("I8", 44), ("U8", 22)]):
        down = next(
            one
            for one in places[at]
            if one.endswith(("layer.0.output.dense.weight", "layers.0.mlp.fc2.weight"))
        )
        assert (places[at][down].dtype, places[at][down].shape) == (dtype, (32, 1, width))
        scale = places[at][down.removesuffix("weight") + "weight_scale"]
        assert (scale.dtype, scale.shape) == ("F32", (32,))
    words = [name for name in places[0] if "word_embeddings" in name]
    if name == "vit":
        assert not words
        assert "vit.encoder.layer.0.output.dense.weight" in places[0]  # not the modules' name
    else:
        assert {places[0][one].shape for one in words} == {(60, 1, 24), (60,)}


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("inputs", [0, 1, 6, 7])
def test_packing_and_back(bits: int, inputs: int) -> None:
    """Every integer of so many bits survives, with an odd number of inputs too."""
    top = 2 ** (bits - 1) - 1
    integers = torch.randint(-top, top + 1, (5, inputs), dtype=torch.int8)
    stored = packed(integers, bits)
    assert stored.shape == (5, 1, inputs if bits > 4 else (inputs + 1) // 2)
    assert torch.equal(unpacked(stored, bits, inputs), integers)


@pytest.mark.parametrize("name", ["bert", "vit"])
def test_cut_layers_and_tokens_too(name: str, tmp_path: Path) -> None:
    """A layer without heads, one without filters, a token rule: integers on what is left."""
    dense = tiny_models.build(name)
    sparsam.lift(dense)
    from sparsam.models.apply import cut

    cut(dense, (LayerPlan((), None), LayerPlan((0, 2), (1, 5, 9)), LayerPlan(None, ())))
    model = tiny_models.in_integers(dense, name, tokens=token_plan((0.7, 0.8, 0.9)))
    wanted = logits(model, name)
    model.save_pretrained(tmp_path / "a")
    again = type(model).from_pretrained(tmp_path / "a")
    assert torch.equal(logits(again, name), wanted)
    assert same(held(again), held(model))


def test_the_bare_model_loads(tmp_path: Path) -> None:
    """AutoModel on a classifier's folder, and a save of the bare model alone."""
    model = made()
    model.save_pretrained(tmp_path / "a")
    bare = transformers.AutoModel.from_pretrained(tmp_path / "a")
    inner = {f"bert.{name}": x for name, x in held(bare).items()}
    assert same(inner, held(model))
    bare.save_pretrained(tmp_path / "b")
    assert same(held(transformers.AutoModel.from_pretrained(tmp_path / "b")), held(bare))


def test_shards(tmp_path: Path) -> None:
    """Integers and scales in several files."""
    model = made()
    model.save_pretrained(tmp_path / "a", max_shard_size="20KB")
    files = sorted((tmp_path / "a").glob("model-*.safetensors"))
    assert len(files) > 2 and all(plugin.check_file(file) for file in files)
    again = type(model).from_pretrained(tmp_path / "a")
    assert torch.equal(logits(again), logits(model))
    assert sparsam.load(tmp_path / "a").plan == plan_of(model)


def test_bytes_are_those_in_files(tmp_path: Path) -> None:
    """What budgets count is the size of the file, but for its header."""
    for bits in (8, 4):
        model = made(bits=bits, words=bits)
        sparsam.save(model, tmp_path / str(bits))
        header = plugin.read_header(tmp_path / str(bits) / "model.safetensors")
        assert weight_bytes(model) == sum(place.end - place.start for place in header.tensors.values())
    assert weight_bytes(model) < weight_bytes(tiny_models.build("bert")) / 1.8


# ---- Fresh processes -------------------------------------------------------------------------------------------------


def run(script: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a script in a fresh process that finds this repository's sparsam."""
    return subprocess.run(
        [sys.executable, "-c", script],
        cwd=cwd, capture_output=True, text=True, timeout=120, check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


WITH = """
import sparsam, torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoModelForImageClassification
for name, auto in (("bert", AutoModelForSequenceClassification), ("vit", AutoModelForImageClassification)):
    batch = load_file(name + ".batch")
    with torch.no_grad():
        stock = auto.from_pretrained("{folder}/" + name).eval()(**batch).logits
        ours = sparsam.load("{folder}/" + name).model.eval()(**batch).logits
    save_file({{"stock": stock, "ours": ours}}, name + ".logits")
"""


def test_a_fresh_process_elsewhere_reads_them_where_nothing_can_be_written(tmp_path: Path) -> None:
    """Another working directory, a folder without write permission, nothing of ours called but the import."""
    place, here = tmp_path / "models", tmp_path / "here"
    place.mkdir()
    here.mkdir()
    wanted = {}
    for name in ("bert", "vit"):
        model = made(name)
        sparsam.save(model, place / name)
        wanted[name] = logits(model, name)
        save_file(tiny_models.inputs(name), here / f"{name}.batch")
    for path in [*place.rglob("*"), place]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        done = run(WITH.format(folder=place), here)
        assert done.returncode == 0, done.stderr
    finally:
        for path in [place, *place.rglob("*")]:
            path.chmod(0o755)
    for name, x in wanted.items():
        found = load_file(here / f"{name}.logits")
        assert torch.equal(found["stock"], x) and torch.equal(found["ours"], x)


WITHOUT = """
import sys
from transformers import AutoModelForSequenceClassification, AutoModelForImageClassification
for folder, auto in (("bert", AutoModelForSequenceClassification), ("words", AutoModelForSequenceClassification),
                     ("vit", AutoModelForImageClassification), ("four", AutoModelForSequenceClassification)):
    try:
        auto.from_pretrained(folder)
    except RuntimeError as error:
        print(folder, "closed", "size" in str(error) or "shape" in str(error).lower() or "mismatch" in str(error))
assert not any(name.startswith("sparsam") for name in sys.modules)
"""


def test_without_sparsam_integers_fail_closed(tmp_path: Path) -> None:
    """Stock transformers alone does not take integers for floats: their shape fits nothing."""
    made().save_pretrained(tmp_path / "bert")
    made("vit").save_pretrained(tmp_path / "vit")
    made(bits=4, words=4).save_pretrained(tmp_path / "four")
    from sparsam.models.integers import put
    from sparsam.quantization import quantize_weight

    model = sparsam.lift(tiny_models.build("bert"))
    words = model.get_input_embeddings()
    integers, grid = quantize_weight(words.weight)
    put(words, integers, grid.scale)
    sparsam.lift(model, replace(plan_of(model), embeddings=8)).save_pretrained(tmp_path / "words")
    done = run(WITHOUT, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{name} closed True" for name in ("bert", "words", "vit", "four")]


# ---- What users do ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> Path:
    place: Path = tmp_path_factory.mktemp("stored") / "bert"
    sparsam.save(made(), place)
    return place


@pytest.fixture
def model(folder: Path) -> Any:
    return transformers.AutoModelForSequenceClassification.from_pretrained(folder)


def code_of(call: Any) -> str:
    with pytest.raises(SparsamError) as caught:
        call()
    return caught.value.code


@pytest.mark.parametrize("loaded", [True, False])
def test_the_trainer_refuses(loaded: bool, model: Any, tmp_path: Path) -> None:
    """Loaded or lifted in this process: integers are not trained. A plan without any is, as ever."""
    given = model if loaded else made()
    arguments = TrainingArguments(str(tmp_path), report_to=[])
    with pytest.raises(ValueError, match="purely quantized"):
        Trainer(model=given, args=arguments)
    assert not given.hf_quantizer.is_trainable
    tokens = sparsam.lift(
        tiny_models.build("bert"), Plan("bert", (LayerPlan(),) * 3, token_plan((0.5, 0.5, 0.5)))
    )
    assert tokens.hf_quantizer.is_trainable and not tokens.is_quantized
    Trainer(model=tokens, args=arguments)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_another_precision_is_refused_on_loading(dtype: torch.dtype, folder: Path) -> None:
    """Asked for by name; ``auto`` and float32 are what the file says."""
    auto = transformers.AutoModelForSequenceClassification
    with pytest.raises(Refused, match="held in float32") as caught:
        auto.from_pretrained(folder, dtype=dtype)
    assert caught.value.code == "quantized"
    for fine in ("auto", torch.float32):
        assert auto.from_pretrained(folder, dtype=fine).dtype == torch.float32


def test_another_precision_is_refused_on_saving(model: Any, tmp_path: Path) -> None:
    """Scales are float32."""
    with pytest.raises(Usage, match="not saved as bfloat16") as caught:
        sparsam.save(model, tmp_path / "x", dtype="bfloat16")
    assert caught.value.code == "dtype" and not (tmp_path / "x").exists()


@pytest.mark.parametrize("way", ["stock", "ours", "given"])
def test_weights_off_their_grid_are_not_saved(way: str, model: Any, tmp_path: Path) -> None:
    """Changed after loading, or in a state dict that was given: no integers are made up for them."""
    weight = model.bert.encoder.layer[1].output.dense.weight
    state = {name: x.clone() for name, x in model.state_dict().items()}
    if way == "given":
        state["bert.encoder.layer.1.output.dense.weight"][3, 5] += 1e-6
    else:
        with torch.no_grad():
            weight[3, 5] += 1e-6
    calls = {
        "stock": lambda: model.save_pretrained(tmp_path / "x"),
        "ours": lambda: sparsam.save(model, tmp_path / "x"),
        "given": lambda: model.save_pretrained(tmp_path / "x", state_dict=state),
    }
    with pytest.raises(Refused, match="layer.1.output.dense is to be saved in integers") as caught:
        calls[way]()
    assert caught.value.code == "quantized"
    assert not (tmp_path / "x" / "model.safetensors").exists()


@pytest.mark.parametrize("name", ["bert", "vit"])
def test_a_given_state_dict_is_saved_in_integers(name: str, tmp_path: Path) -> None:
    """Other biases, the same integers: what was given is written, integers as integers."""
    model = made(name)
    given = {key: x + 0.5 if key.endswith("bias") else x for key, x in model.state_dict().items()}
    model.save_pretrained(tmp_path / "x", state_dict=given)
    again = sparsam.load(tmp_path / "x").model
    assert same(held(again), held(model))
    assert all(torch.equal(x, given[key]) for key, x in again.state_dict().items())


def test_a_state_dict_without_scales_takes_the_modules_own(model: Any, tmp_path: Path) -> None:
    """Scales that were left out stand beside the weights they belong to."""
    given = {key: x for key, x in model.state_dict().items() if not key.endswith("weight_scale")}
    model.save_pretrained(tmp_path / "x", state_dict=given)
    assert torch.equal(logits(sparsam.load(tmp_path / "x").model), logits(model))


def test_weights_that_are_not_here_are_refused(model: Any) -> None:
    """On the meta device there are no integers to read."""
    state = {key: x.to("meta") for key, x in model.state_dict().items()}
    assert code_of(lambda: to_store(model, state, plan_of(model))) == "quantized"


def test_integers_beyond_their_bits_are_refused(model: Any) -> None:
    """Eight-bit integers under a plan of four."""
    plan = plan_of(model)
    assert plan is not None
    four = replace(plan, layers=tuple(replace(left, formats={"up": Format(4)}) for left in plan.layers))
    state = {k: x for k, x in model.state_dict().items() if "intermediate" in k}
    with pytest.raises(Refused, match="4 bits hold -7 to 7") as caught:
        to_store(model, state, four)
    assert caught.value.code == "plan-mismatch"


def test_scales_that_no_plan_names_are_refused(model: Any) -> None:
    """A state dict with scales, a plan without formats for them."""
    assert code_of(lambda: to_store(model, model.state_dict(), Plan.dense("bert", 3))) == "plan-mismatch"


def test_an_adapter_is_saved_alone(model: Any) -> None:
    """With an adapter loaded transformers writes that alone; no state of ours takes its place."""
    model._hf_peft_config_loaded = True
    assert model.hf_quantizer.get_state_dict_and_metadata(model) == (None, {})


# ---- What may stand in a folder --------------------------------------------------------------------------------------


def rewrite(place: Path, change: Any) -> None:
    """Change a file's tensors and give it digests of what it holds then, as somebody who forges a folder would."""
    file = place / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    record = json.loads(plugin.read_header(file).metadata[plugin.KEY])
    record["tensors"] = {name: plugin.tensor_digest(x) for name, x in tensors.items()}
    save_file(tensors, file, metadata={"format": "pt", plugin.KEY: json.dumps(record)})


DOWN = "bert.encoder.layer.0.output.dense"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda t: t[f"{DOWN}.weight"].fill_(-128), "plan-mismatch"),
        (lambda t: t[f"{DOWN}.weight_scale"].fill_(0.0), "plan-mismatch"),
        (lambda t: t[f"{DOWN}.weight_scale"].fill_(float("nan")), "plan-mismatch"),
        (lambda t: t.update({f"{DOWN}.weight": t[f"{DOWN}.weight"].float()}), "plan-mismatch"),
    ],
    ids=["beyond the bits", "scale of 0", "scale NaN", "floats"],
)
def test_what_integers_cannot_be_is_refused(change: Any, code: str, folder: Path, tmp_path: Path) -> None:
    """Whole files with valid digests that hold what no save of ours writes."""
    place = Path(shutil.copytree(folder, tmp_path / "x"))
    rewrite(place, change)
    assert code_of(lambda: transformers.AutoModelForSequenceClassification.from_pretrained(place)) == code


@pytest.mark.parametrize("gone", [f"{DOWN}.weight", f"{DOWN}.weight_scale"])
def test_a_part_that_is_missing_is_refused(gone: str, folder: Path, tmp_path: Path) -> None:
    """Integers without scales, scales without integers."""
    place = Path(shutil.copytree(folder, tmp_path / "x"))
    rewrite(place, lambda tensors: tensors.pop(gone))
    (place / "MANIFEST.json").unlink()
    assert code_of(lambda: sparsam.load(place)) in (
        "weights-missing",
        "weights-mismatch",
        "model-unreadable",
        "plan-mismatch",
    )


def test_a_flipped_bit_is_named(folder: Path, tmp_path: Path) -> None:
    """The digest is that of the integers as they lie there."""
    place = Path(shutil.copytree(folder, tmp_path / "x"))
    file = place / "model.safetensors"
    at = plugin.read_header(file).tensors[f"{DOWN}.weight"].start
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(Refused, match=f"{DOWN}.weight") as caught:
        transformers.AutoModelForSequenceClassification.from_pretrained(place)
    assert caught.value.code == "digest"


def test_a_float_folder_under_a_plan_with_integers_is_refused(folder: Path, tmp_path: Path) -> None:
    """A config.json edited to promise integers that the file does not hold."""
    dense = tmp_path / "x"
    tiny_models.build("bert").save_pretrained(dense)
    config = json.loads((dense / "config.json").read_text())
    config["quantization_config"] = json.loads((folder / "config.json").read_text())["quantization_config"]
    (dense / "config.json").write_text(json.dumps(config))
    with pytest.raises((Refused, RuntimeError)):
        transformers.AutoModelForSequenceClassification.from_pretrained(dense)


def test_a_copy_is_as_good(model: Any, tmp_path: Path) -> None:
    """deepcopy keeps scales and plan."""
    other = copy.deepcopy(model)
    other.save_pretrained(tmp_path / "x")
    assert torch.equal(logits(sparsam.load(tmp_path / "x").model), logits(model))


# ---- In pieces -------------------------------------------------------------------------------------------------------


def in_pieces_of(bits: int, name: str = "bert") -> Any:
    """A model whose products are in pieces of so many bits."""
    from sparsam.models import dense_plan, stack_of
    from sparsam.models.integers import put
    from sparsam.plan import PRODUCTS
    from sparsam.quantization import quantize_pwlq

    model = sparsam.lift(tiny_models.build(name))
    plan = dense_plan(model)
    for block in stack_of(model).blocks:
        for role in ("q", "k", "v", "o", "up", "down"):
            found = quantize_pwlq(block.part(role).weight, bits, form="int8")
            put(block.part(role), found.integers(), found.scales)
    formats: Any = {product: Format(8, "token", 0.06, 90, pieces=bits) for product in PRODUCTS}
    return sparsam.lift(
        model, replace(plan, layers=tuple(replace(left, formats=formats) for left in plan.layers))
    )


@pytest.mark.parametrize("bits", range(2, 8))
@pytest.mark.parametrize("name", ["bert", "vit"])
def test_pieces_round_trip_in_fewer_bits(name: str, bits: int, tmp_path: Path) -> None:
    """Ours and stock, one after the other: integers, scales, digests and plan as before; b + 1 bits, and a byte an output."""
    first = in_pieces_of(bits, name)
    wanted, integers = logits(first, name), held(first)
    sparsam.save(first, tmp_path / "a")
    second = type(first).from_pretrained(tmp_path / "a")
    assert torch.equal(logits(second, name), wanted) and same(held(second), integers)
    assert plan_of(second) == plan_of(first)
    second.save_pretrained(tmp_path / "b")
    records = [
        plugin.read_header(tmp_path / one / "model.safetensors").metadata[plugin.KEY] for one in ("a", "b")
    ]
    assert records[0] == records[1]
    tensors = plugin.read_header(tmp_path / "a" / "model.safetensors").tensors
    down = next(
        one for one in tensors if one.endswith(("layer.0.output.dense.weight", "layers.0.mlp.fc2.weight"))
    )
    assert tensors[down].dtype == "U8" and tensors[down].shape == (32, 1, 1 + -(-44 * (bits + 1) // 8))


def test_pieces_fail_closed_without_sparsam(tmp_path: Path) -> None:
    """Stock transformers alone does not take packed codes for floats."""
    for name in ("bert", "words", "vit", "four"):
        in_pieces_of(4, "vit" if name == "vit" else "bert").save_pretrained(tmp_path / name)
    done = run(WITHOUT, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{name} closed True" for name in ("bert", "words", "vit", "four")]


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t[f"{DOWN}.weight"][:, :, 0].fill_(0),
        lambda t: t[f"{DOWN}.weight"][:, :, 0].fill_(200),
        lambda t: t[f"{DOWN}.weight"][:, :, 1:].copy_(t[f"{DOWN}.weight"][:, :, 1:] * 0 + 0b10000100),
    ],
    ids=["ratio of 0", "ratio beyond int8", "codes beyond their levels"],
)
def test_what_pieces_cannot_be_is_refused(change: Any, tmp_path: Path) -> None:
    """Whole files with valid digests that hold what no save of ours writes."""
    in_pieces_of(4).save_pretrained(tmp_path / "x")
    rewrite(tmp_path / "x", change)
    call = lambda: transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "x")  # noqa: E731
    assert code_of(call) == "pwlq-codes"


def test_integers_on_no_pieces_are_not_saved_as_such(model: Any, tmp_path: Path) -> None:
    """A plan that says pieces, over any integers of eight bits."""
    plan = plan_of(model)
    assert plan is not None
    layers = tuple(
        replace(left, formats={k: replace(form, pieces=4) for k, form in left.formats.items()})
        for left in plan.layers
    )
    assert code_of(lambda: to_store(model, model.state_dict(), replace(plan, layers=layers))) == "pwlq-levels"
