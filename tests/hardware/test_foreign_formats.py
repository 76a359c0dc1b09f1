"""Files of other simulators: what is written is read back, and what is off is refused with file, line and layer."""

import re
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import yaml

from sparsam.errors import InputOutput, Refused, Usage
from sparsam.hardware.formats import (
    Access,
    accesses_of,
    check_chain,
    in_full,
    read_dnnsim,
    read_dram,
    read_gemms,
    read_topology,
    with_a_mask,
    write_dnnsim,
    write_dram,
    write_gemms,
    write_timeloop,
    write_topology,
)
from sparsam.workload import Attention, Conv, Gemm, Tensor, Workload, bf16_bits, rounded

DRAW = np.random.default_rng(20261129)
HEAD = "Layer name, IFMAP Height, IFMAP Width, Filter Height, Filter Width, Channels, Num Filter, Strides,\n"


def numbers(*shape: int, density: float = 0.5, format: str = "bf16") -> Tensor:
    """Random numbers, some zero; int8 reaches 127 so that the same scale is found again."""
    x = DRAW.standard_normal(shape).astype(np.float32) * (DRAW.random(shape) < density)
    if format == "int8":
        return rounded(x, per_row=False)
    return Tensor(bf16_bits(x), "bf16")


def mixed() -> Workload:
    """Layers of every kind, some of which some forms cannot hold."""
    q = numbers(5, 2, 4)
    return Workload(
        [
            Conv("stem", numbers(2, 3, 8, 9), numbers(4, 3, 3, 3), (2, 2), (1, 1)),
            Conv("deep", numbers(1, 4, 6, 6), numbers(4, 1, 3, 3), (1, 1), (0, 0), groups=4),
            Conv("wide", numbers(1, 4, 9, 9), numbers(2, 4, 3, 3), dilation=(2, 2)),
            Conv("line", numbers(1, 4, 1, 9), numbers(2, 4, 1, 3), (1, 2)),
            Conv("odd", numbers(1, 4, 9, 9), numbers(2, 4, 2, 2), (1, 2)),
            Gemm("fc, last", numbers(5, 16), numbers(7, 16)),
            Gemm("fc, last", numbers(5, 7), numbers(16, 7), "grad_input"),
            Attention("look", q, q, numbers(5, 2, 3), np.array([2, 3]), 0.5),
        ]
    )


# SCALE-Sim


def test_a_topology_becomes_convolutions_of_those_sizes(tmp_path):
    """Heading, empty lines, commas at the end; stride once or twice; a pattern of version 3."""
    file = tmp_path / "net.csv"
    file.write_text(
        HEAD
        + "Conv1, 230, 230, 7, 7, 3, 64, 2,\n\nConv 2,58,58,3,3,64,64,1\nlast,9,8,3,2,5,6,3,2,\nhalf,4,4,1,1,8,16,1,2:4,\n"
    )
    found = read_topology(file, flowing=0.4, staying=[0.5, 1, 0, 0.9], seed=3)
    assert [one.name for one in found] == ["Conv1", "Conv 2", "last", "half"]
    first, second, third, half = found
    assert (first.x.shape, first.weight.shape, first.stride, first.out) == (
        (1, 3, 230, 230), (64, 3, 7, 7), (2, 2), (112, 112),
    )  # fmt: skip
    assert first.x.density == pytest.approx(0.4, abs=0.01)
    assert first.weight.density == pytest.approx(0.5, abs=0.03)
    assert second.weight.density == 1
    assert third.stride == (3, 2)
    assert third.weight.density == 0
    (product,) = half.products()
    blocks = product.b.nonzero.reshape(16, 2, 4).sum(2)
    assert (blocks == 2).all()
    assert found.facts["drawn"] is True


def test_a_pattern_holds_along_k_whatever_the_kernel(tmp_path):
    """N of every M in the order of the sum, and at most N in what is left over."""
    file = tmp_path / "net.csv"
    file.write_text(HEAD + "a,5,5,3,3,5,4,1,1:4,\n")
    (product,) = read_topology(file)[0].products()
    keep = product.b.nonzero
    assert (keep[:, :44].reshape(4, 11, 4).sum(2) == 1).all()
    assert keep[:, 44:].sum() <= 4


def test_what_is_drawn_is_drawn_again(tmp_path):
    """By layer, whatever was asked for before, slices too; another seed draws others."""
    file = tmp_path / "net.csv"
    file.write_text(HEAD + "a,9,9,3,3,8,8,1,\nb,9,9,3,3,8,8,1,\na,9,9,3,3,8,8,1,\n")
    one, other = read_topology(file, flowing=0.5, seed=1), read_topology(file, flowing=0.5, seed=1)
    assert np.array_equal(one[2].x.values, list(other)[2].x.values)
    assert np.array_equal(one[1:][1].x.values, one[2].x.values)
    assert not np.array_equal(one[0].x.values, one[1].x.values)
    assert [x.name for x in one] == ["a", "b", "a#2"]
    assert not np.array_equal(read_topology(file, flowing=0.5, seed=2)[0].x.values, one[0].x.values)
    halves = read_topology(file, flowing={"b": 0.25}, format="bf16")
    assert halves[0].x.format == "bf16"
    assert halves[0].x.density == 1
    assert halves[1].x.density == pytest.approx(0.25, abs=0.06)


def test_densities_may_be_drawn(tmp_path):
    """One a layer, by the seed, those of weights apart from those of activations; the facts name them."""
    file = tmp_path / "net.csv"
    file.write_text("Layer,M,N,K,\n" + "".join(f"g{at},40,50,60,\n" for at in range(6)))
    found = read_gemms(file, flowing="random", staying="random", seed=5)
    for side, names in (("a", found.facts["flowing"]), ("b", found.facts["staying"])):
        assert len(set(names)) == 6
        assert all(0.1 <= share <= 1 for share in names)
        for layer, share in zip(found, names, strict=True):
            assert getattr(layer, side).density == pytest.approx(share, abs=0.04)
    assert found.facts["flowing"] != found.facts["staying"]
    assert read_gemms(file, flowing="random", seed=5).facts["flowing"] == found.facts["flowing"]
    assert read_gemms(file, flowing="random", seed=6).facts["flowing"] != found.facts["flowing"]


def test_a_topology_that_is_written_is_read_back(tmp_path):
    """Sizes of outputs, kernels and channels stay; what it cannot hold is named."""
    made = mixed()
    left = write_topology(made, tmp_path / "net.csv")
    assert left == {"wide": "its dilation is (2, 2)", "odd": "its strides are (1, 2)"}
    text = (tmp_path / "net.csv").read_text()
    assert text.startswith(HEAD)
    assert '"' not in text
    found = read_topology(tmp_path / "net.csv")
    by_name = {one.name: one for one in found}
    stem = by_name["stem"]
    assert (stem.out, stem.weight.shape, stem.stride) == (made[0].out, (4, 3, 3, 3), (2, 2))
    assert [name for name in by_name if name.startswith("deep")] == [f"deep[{at}]" for at in range(4)]
    assert by_name["line"].out == made[3].out
    fc = by_name["fc__last"]
    assert (fc.x.shape, fc.weight.shape, fc.out) == ((1, 16, 5, 1), (7, 16, 1, 1), (5, 1))
    assert "fc__last.grad_input" in by_name
    assert sum(name.startswith("look") for name in by_name) == 8


def test_rows_that_the_stride_leaves_over_are_not_written(tmp_path):
    """A reader that rounds outputs up would count them."""
    one = Conv("c", numbers(1, 2, 10, 10), numbers(2, 2, 3, 3), (4, 4))
    write_topology([one], tmp_path / "net.csv")
    assert (tmp_path / "net.csv").read_text().splitlines()[1] == "c, 7, 7, 3, 3, 2, 2, 4,"
    flat = Conv("c", numbers(1, 2, 4, 9), numbers(2, 2, 3, 3), (3, 2))
    write_topology([flat], tmp_path / "net.csv")
    assert read_topology(tmp_path / "net.csv")[0].out == flat.out == (1, 4)


def test_gemms_that_are_written_are_read_back(tmp_path):
    """Every product of every layer: sizes are those of the products themselves."""
    made = mixed()
    write_gemms(made, tmp_path / "gemm.csv")
    found = read_gemms(tmp_path / "gemm.csv", flowing=0.3)
    products = [one for layer in made for one in layer.products()]
    assert [one.size for one in found] == [one.size for one in products]
    assert [one.macs for one in found] == [one.macs for one in products]
    (tmp_path / "gemm.csv").write_text("Layer, M, N, K,\nG1, 8, 4, 16, 2:8,\n")
    one = read_gemms(tmp_path / "gemm.csv")[0]
    assert one.size == (8, 4, 16)
    assert (one.b.nonzero.reshape(4, 2, 8).sum(2) == 2).all()


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("a,5,5,3,3,2,\n", "net.csv:2: a has 5 sizes"),
        ("a,5,5,3,3,2,4,1,1,1\n", "net.csv:2: a has 9 sizes"),
        ("a,5,5,3,3,2,4,0\n", "net.csv:2: a has the size '0'"),
        ("a,5,5,3,3,2,4,-1\n", "net.csv:2: a has the size '-1'"),
        ("a,5,5,3,3,2,4,1.5\n", "net.csv:2: a has the size '1.5'"),
        ("a,5,5,3,3,2,nan,1\n", "net.csv:2: a has the size 'nan'"),
        ("a,5,5,3,3,inf,4,1\n", "net.csv:2: a has the size 'inf'"),
        ("a,5,5,3,3,99999999999,4,1\n", "net.csv:2: a has the size '99999999999'"),
        ("\na,2,5,3,3,2,4,1\n", "net.csv:3: a has filters of 3 x 3 on images of 2 x 5"),
        ("a,5,5,3,3,2,4,1,3:2\n", "net.csv:2: a pattern is N:M"),
        ("a,5,5,3,3,2,4,1,0:2\n", "net.csv:2: a pattern is N:M"),
        (",5,5,3,3,2,4,1\n", "net.csv:2: a layer without a name"),
        ("", "names no layer"),
    ],
)
def test_a_topology_that_is_off_is_refused_with_its_line(tmp_path, lines, said):
    """The layer, the value, and where it stands."""
    file = tmp_path / "net.csv"
    file.write_text(HEAD + lines)
    with pytest.raises(Refused) as told:
        read_topology(file)
    assert told.value.code == "format-invalid"
    assert said in str(told.value)


def test_files_of_the_other_kind_and_without_heading_are_refused(tmp_path):
    """Each says which function reads it."""
    file = tmp_path / "net.csv"
    file.write_text("Layer,M,N,K,\na,1,2,3,\n")
    with pytest.raises(Refused, match="is read by read_gemms"):
        read_topology(file)
    file.write_text(HEAD + "a,5,5,3,3,2,4,1\n")
    with pytest.raises(Refused, match="is read by read_topology"):
        read_gemms(file)
    file.write_text("a,1,2,3,\nb,1,2,3,\n")
    with pytest.raises(Refused, match="must be a heading"):
        read_gemms(file)
    file.write_bytes(b"\xff\xfe\x00")
    for place in (file, tmp_path / "none.csv", tmp_path):
        with pytest.raises(InputOutput) as told:
            read_topology(place)
        assert told.value.code == "format-file"


def test_densities_that_are_none_are_refused(tmp_path):
    """Beyond 0 to 1, NaN, too few, for layers that are not there; unknown formats."""
    file = tmp_path / "net.csv"
    file.write_text("Layer,M,N,K,\na,1,2,3,\n")
    for wrong in (1.1, -0.1, float("nan"), [0.5, 0.5], {"b": 0.5}, "half"):
        with pytest.raises(Usage) as told:
            read_gemms(file, flowing=wrong)
        assert told.value.code == "format-density"
    with pytest.raises(Usage, match="int8 or bf16"):
        read_gemms(file, format="fp8")


def test_layers_that_do_not_chain_are_refused_by_name(tmp_path):
    """Both layers and both numbers; only where a chain is asked for, as networks with branches are none."""
    file = tmp_path / "net.csv"
    file.write_text(HEAD + "one,5,5,3,3,2,4,1\ntwo,3,3,3,3,6,4,1\n")
    assert len(read_topology(file)) == 2
    with pytest.raises(Refused, match="two reads 6 channels; one, the layer before it, gives 4") as told:
        read_topology(file, chain=True)
    assert told.value.code == "workload-chain"
    file.write_text("Layer,M,N,K,\none,4,8,16,\ntwo,4,2,8,\nthree,4,2,3,\n")
    with pytest.raises(Refused, match="three reads 3 channels; two"):
        read_gemms(file, chain=True)
    good = [
        Conv("c", numbers(1, 2, 4, 4), numbers(3, 2, 3, 3)),
        Gemm("flat", numbers(1, 12), numbers(5, 12)),
        Gemm("last", numbers(1, 5), numbers(2, 5)),
    ]
    check_chain(good)
    with pytest.raises(Refused, match="last reads 5 channels; c"):
        check_chain([good[0], good[2]])


# DNNsim


@pytest.mark.parametrize("format", ["bf16", "int8"])
def test_dnnsim_folders_are_read_back(tmp_path, format):
    """Numbers, strides, paddings, groups; later calls are batches of one layer."""
    made = Workload(
        [
            Conv("stem", numbers(2, 4, 8, 9, format=format), numbers(4, 4, 3, 3, format=format), (2, 2), (1, 1)),
            Conv("deep", numbers(1, 4, 6, 6, format=format), numbers(4, 1, 3, 3, format=format), groups=4),
            Gemm("fc", numbers(5, 16, format=format), weight := numbers(7, 16, format=format)),
            Gemm("fc#2", numbers(3, 16, format=format), weight),
            Gemm("other#2", numbers(3, 16, format=format), numbers(2, 16, format=format)),
        ]
    )  # fmt: skip
    assert write_dnnsim(made, tmp_path / "net") == {}
    assert (tmp_path / "net" / "model.csv").read_text() == (
        "stem:conv:2:1\ndeep:conv:1:0\nfc:fc:1:0\nother:fc:1:0\n"
    )
    found = read_dnnsim(tmp_path / "net", format=format)
    assert [one.name for one in found] == ["stem", "deep", "fc", "fc#2", "other"]
    for one, other in zip(made, found, strict=True):
        assert one.settings() == other.settings()
        (x, weight), (x2, weight2) = one.tensors().values(), other.tensors().values()
        assert np.array_equal(x.values, x2.values)
        assert np.allclose(x.real(), x2.real(), rtol=1e-6)
        steps = float(np.max(np.asarray(weight2.scale))) if format == "int8" else 0
        assert np.abs(weight.real() - weight2.real()).max() <= 0.5001 * steps
    assert np.load(tmp_path / "net" / "act-stem-0.npy").dtype == np.float32


def test_what_dnnsim_cannot_hold_is_named(tmp_path):
    """Attention, gradients, dilation, strides that differ; two layers of one name keep their own weights."""
    left = write_dnnsim(mixed(), tmp_path / "net")
    assert set(left) == {"wide", "line", "odd", "fc, last (grad_input)", "look"}
    found = read_dnnsim(tmp_path / "net", format="bf16")
    assert [one.name for one in found] == ["stem", "deep", "fc__last"]
    with pytest.raises(Usage, match="holds files"):
        write_dnnsim(mixed(), tmp_path / "net")
    pair = [Gemm("a", numbers(1, 4), numbers(2, 4)), Gemm("a#2", numbers(1, 4), numbers(2, 4))]
    write_dnnsim(pair, tmp_path / "pair")
    again = read_dnnsim(tmp_path / "pair", format="bf16")
    assert all(np.array_equal(x.b.values, y.b.values) for x, y in zip(pair, again, strict=True))


def folder(place: Path, line: str, act: object = None, weight: object = None) -> Path:
    """A DNNsim folder of one layer called q7."""
    place.mkdir()
    (place / "model.csv").write_text(line)
    for name, x in (("act-q7-0", act), ("wgt-q7", weight)):
        if isinstance(x, bytes):
            (place / f"{name}.npy").write_bytes(x)
        elif x is not None:
            np.save(place / f"{name}.npy", x, allow_pickle=x.dtype == object)
    return place


@pytest.mark.parametrize(
    "line",
    ["q7", "q7:conv", "q7:conv:1", "q7:conv:0:0", "q7:conv:x:0", "q7:conv:1:-1", "q7:conv:1:0:2", "q7:rnn:1:0", "q7:pool:1:0",
     "../a:fc:1:0", "..:fc:1:0", ":fc:1:0", "", "\n\n"],
)  # fmt: skip
def test_lines_that_are_no_layer_are_refused(tmp_path, line):
    """With file and line; names that lead out of the folder too."""
    place = folder(tmp_path / "net", line, np.ones((1, 2), np.float32), np.ones((1, 2), np.float32))
    with pytest.raises(Refused, match=r"model\.csv") as told:
        read_dnnsim(place)
    assert told.value.code == "format-invalid"


ONES = np.ones((1, 2, 4, 4), np.float32)
KERNEL = np.ones((3, 2, 3, 3), np.float32)


@pytest.mark.parametrize(
    ("act", "weight", "code"),
    [
        (ONES, None, "format-file"),
        (ONES, b"", "format-file"),
        (ONES, b"\x93NUMPY", "format-file"),
        (ONES, b"no array at all", "format-file"),
        (ONES, np.array([[None]], object), "format-file"),
        (ONES, np.array([["text"]]), "format-invalid"),
        (ONES, np.ones(3, np.float32), "format-invalid"),
        (ONES[0], KERNEL, "workload-shape"),
        (ONES, KERNEL[0], "workload-shape"),
        (ONES[:, :1], KERNEL, "workload-shape"),
        (ONES, np.ones((3, 2, 5, 3), np.float32), "workload-shape"),
        (ONES * np.nan, KERNEL, "workload-not-finite"),
        (ONES, KERNEL * np.inf, "workload-not-finite"),
    ],
    ids=str,
)
def test_arrays_that_are_off_are_refused_by_layer(tmp_path, act, weight, code):
    """Missing, cut short, pickled, no numbers, too few axes, shapes that do not fit, numbers that are not finite."""
    place = folder(tmp_path / "net", "q7:conv:1:0\n", act, weight)
    read = read_dnnsim(place)
    with pytest.raises((InputOutput, Refused)) as told:
        read[0]
    assert told.value.code == code
    assert re.search(r"(^| )q7[: ]", str(told.value))


def test_dnnsim_layers_that_do_not_fit_are_refused_by_name(tmp_path):
    """Inside a layer of type fc; between layers where a chain is asked for; activations that are missing."""
    place = folder(tmp_path / "fc", "q7:fc:1:0\n", np.ones((1, 2), np.float32), np.ones((1, 3), np.float32))
    with pytest.raises(Refused, match="q7 reads 2 numbers"):
        read_dnnsim(place)[0]
    write_dnnsim(
        [Gemm("one", numbers(2, 4), numbers(3, 4)), Gemm("two", numbers(2, 5), numbers(3, 5))],
        tmp_path / "pair",
    )
    with pytest.raises(Refused, match="two reads 5 channels; one"):
        read_dnnsim(tmp_path / "pair", chain=True)
    place = folder(tmp_path / "none", "q7:fc:1:0\n")
    with pytest.raises(InputOutput, match="q7 has no act-q7-0.npy"):
        read_dnnsim(place)
    with pytest.raises(InputOutput, match=r"model\.csv cannot be read"):
        read_dnnsim(tmp_path / "nowhere")


def test_dnnsim_arrays_are_read_when_they_are_asked_for(tmp_path):
    """A missing array of one layer leaves the others alone."""
    made = [Gemm("a", numbers(1, 4), numbers(2, 4)), Gemm("b", numbers(1, 4), numbers(2, 4))]
    write_dnnsim(made, tmp_path / "net")
    (tmp_path / "net" / "wgt-b.npy").unlink()
    found = read_dnnsim(tmp_path / "net", format="bf16")
    assert found[0].name == "a"
    with pytest.raises(InputOutput, match=r"b has no .*wgt-b\.npy"):
        found[1]


# Timeloop


def size_of(axis: list, sizes: dict) -> int:
    """The size of an axis of a data space: the reach of a sum of products."""
    reach = 1
    for term in axis:
        step = 1 if len(term) == 1 else sizes[term[1]]
        reach += (sizes[term[0]] - 1) * step
    return reach


def test_timeloop_problems_have_the_layers_sizes_and_densities(tmp_path):
    """Products of dimensions are the layer's multiplications; data spaces have the operands' shapes."""
    made = mixed()
    files = write_timeloop(made, tmp_path / "problems")
    assert len(files) == 7 + 2 * 2
    assert len({file.name for file in files}) == len(files)
    problems = [yaml.safe_load(file.read_text())["problem"] for file in files]
    macs = [int(np.prod([one["instance"][axis] for axis in one["shape"]["dimensions"]])) for one in problems]
    assert macs[:7] == [layer.macs for layer in made[:7]]
    assert sum(macs[7:]) == made[7].macs
    for one, layer in zip(problems[:5], made, strict=False):
        spaces = {space["name"]: space for space in one["shape"]["data_spaces"]}
        sizes = one["instance"]
        assert sizes["densities"]["Inputs"]["density"] == pytest.approx(layer.x.density, abs=1e-6)
        assert sizes["densities"]["Weights"]["density"] == pytest.approx(layer.weight.density, abs=1e-6)
        shape = {
            name: [size_of(axis, sizes) for axis in space["projection"]] for name, space in spaces.items()
        }
        assert np.prod(shape["Weights"]) == layer.weight.values.size
        assert np.prod(shape["Outputs"]) == layer.x.shape[0] * layer.weight.shape[0] * np.prod(layer.out)
        rows, columns = shape["Inputs"][-2:]
        assert rows <= layer.x.shape[2] + 2 * layer.padding[0] < rows + layer.stride[0]
        assert columns <= layer.x.shape[3] + 2 * layer.padding[1] < columns + layer.stride[1]
        assert spaces["Outputs"]["read_write"] is True
    products = [x for x in made[7].products() if "[1," in x.name and x.name.endswith("context")]
    last = problems[-1]["instance"]
    assert (last["H"], last["M"], last["N"], last["K"]) == (2, 3, 3, 3)
    assert last["densities"]["Weights"]["density"] == pytest.approx(
        np.mean([x.b.density for x in products]), abs=1e-6
    )


# DRAM


def test_traffic_reads_each_operand_once_and_writes_each_result_once():
    """Bursts are those of the bytes, one after the other, and never the same twice."""
    made = mixed()
    found = list(accesses_of(made, burst=64, result_bits=16, bytes_per_cycle=16))
    assert len({one.address for one in found}) == len(found)
    assert [one.address for one in found] == [64 * at for at in range(len(found))]
    assert [one.cycle for one in found] == [4 * at for at in range(len(found))]
    reads = sum(-(-x.values.nbytes // 64) for layer in made for x in layer.tensors().values())
    assert sum(not one.write for one in found) == reads
    outs = [one.macs // (one.size[2] if isinstance(one, Gemm) else 1) for one in made[5:7]]
    written = sum(one.write for one in accesses_of([made[5]], result_bits=16))
    assert written == -(-outs[0] * 2 // 64)
    context = sum(one.write for one in accesses_of([made[7]], result_bits=8))
    assert context == -(-made[7].v.values.size // 64)


def test_a_mask_makes_sparse_operands_smaller():
    """Numbers that are not zero, and a bit for each; more than all of them where none is zero."""
    x = numbers(64, 64, density=0.1)
    assert with_a_mask(x) == 2 * int(x.nonzero.sum()) + 512
    assert in_full(x) == 8192
    full = Tensor(np.full((8, 8), 3, np.int8), "int8")
    assert with_a_mask(full) == 64 + 8
    layers = [Gemm("g", x, x)]
    fewer = sum(1 for _ in accesses_of(layers, stored=with_a_mask))
    assert fewer < sum(1 for _ in accesses_of(layers)) / 2


@pytest.mark.parametrize("form", ["ramulator", "dramsim3"])
def test_accesses_are_read_back(tmp_path, form):
    """Addresses and directions; cycles where the form has them."""
    made = [Access(0, False, 0), Access(0x1F40, True, 17), Access((1 << 40) + 64, False, 1 << 40)]
    assert write_dram(made, tmp_path / "t", form) == 3
    text = (tmp_path / "t").read_text().splitlines()
    assert text[1] == ("0x1F40 W" if form == "ramulator" else "0x1F40 WRITE 17")
    found = list(read_dram(tmp_path / "t"))
    assert [(x.address, x.write) for x in found] == [(x.address, x.write) for x in made]
    assert [x.cycle for x in found] == ([0, 0, 0] if form == "ramulator" else [x.cycle for x in made])
    (tmp_path / "t").write_text("# a trace\n\n0x40 LD\n0x80 ST\n")
    assert [x.write for x in read_dram(tmp_path / "t")] == [False, True]


@pytest.mark.parametrize(
    "line",
    [
        "40 R", "0x40", "0x40 X", "0x40 R -1", "0x R", "0x40 R 1 2", "0x40 READ nan", "0xFFFFFFFFFFFFFFFFF R",
    ],
)  # fmt: skip
def test_lines_that_are_no_access_are_refused(tmp_path, line):
    """With file and line; those before it are given."""
    (tmp_path / "t").write_text(f"0x0 R\n{line}\n")
    accesses = read_dram(tmp_path / "t")
    assert next(accesses).address == 0
    with pytest.raises(Refused, match=r"t:2: an access is") as told:
        next(accesses)
    assert told.value.code == "format-invalid"


def test_dram_settings_and_files_that_are_off_are_told(tmp_path):
    """Bursts that are no power of two, no rate, unknown forms, files that are not there or no text."""
    for wrong in ({"burst": 48}, {"burst": 0}, {"base": 3}, {"bytes_per_cycle": 0}, {"result_bits": 0}):
        with pytest.raises(Usage):
            next(accesses_of(mixed(), **wrong))
    with pytest.raises(Usage, match="ramulator, dramsim3"):
        write_dram([], tmp_path / "t", "gem5")
    with pytest.raises(InputOutput):
        next(read_dram(tmp_path / "none"))
    with pytest.raises(InputOutput):
        write_dram([], tmp_path / "no" / "folder")
    (tmp_path / "t").write_bytes(b"\xff\xff")
    with pytest.raises(Refused):
        next(read_dram(tmp_path / "t"))


def test_long_traces_are_never_in_memory():
    """Accesses come one by one: the first of billions are there at once."""
    big = Tensor(np.zeros((1, 1 << 16), np.int8), "int8")
    many = Workload([Gemm(f"g{at}", big, big) for at in range(1000)])
    assert len(list(islice(accesses_of(many), 10))) == 10


def test_the_module_imports_no_torch():
    """As everything of the simulators."""
    code = "import sys, sparsam.hardware.formats; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
