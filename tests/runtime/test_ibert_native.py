"""The integer-only encoder in machine code: the reference's integers, whatever the layout, the batch or the threads."""

from dataclasses import replace
from typing import Any

import pytest
import tiny_models
import torch

from sparsam.errors import Usage
from sparsam.models import lift
from sparsam.models.apply import cut
from sparsam.models.integer_only import parts_of
from sparsam.plan import LayerPlan
from sparsam.quantization import MinMax
from sparsam.quantization.integer_only import IBert, IntegerEncoder, integers
from sparsam.quantization.rounded_encoder import Sequences, found_scales
from sparsam.runtime.encoder import layout
from sparsam.runtime.ibert import NativeIntegers, machine, octave

pytestmark = pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
LAYOUTS = {
    "of this processor": (),
    "four bytes a group": ("-DSPARSAM_GROUP=4",),
    "four bytes a group, narrow": ("-DSPARSAM_GROUP=4", "-DSPARSAM_LANES=8"),
    "pairs, wide": ("-DSPARSAM_GROUP=2", "-DSPARSAM_LANES=16"),
    "pairs, narrow": ("-DSPARSAM_GROUP=2", "-DSPARSAM_LANES=8"),
}
METHODS = {
    "ours": IBert(),
    "the paper's widths": IBert("polynomial", 8, 8),
}
PRUNED = (
    LayerPlan(heads=(1, 3), filters=tuple(range(0, 44, 2))),
    LayerPlan(heads=(), filters=None),
    LayerPlan(heads=(0,), filters=()),
)


@pytest.fixture
def compiled() -> None:
    """Skips where this machine cannot compile."""
    if machine() is None:
        pytest.skip("no C compiler, or SPARSAM_NATIVE=0")


def sequences(lengths: list[int], seed: int = 0) -> Sequences:
    """Random token ids, packed, with types."""
    made = torch.Generator().manual_seed(seed)
    t = sum(lengths)
    places = torch.cat([torch.arange(n) for n in lengths])
    ids, kinds = (torch.randint(low, high, (t,), generator=made) for low, high in ((2, 60), (0, 2)))
    return Sequences(ids, places, kinds, torch.tensor(lengths))


def made(method: IBert = METHODS["ours"], left: Any = None, **changes: Any) -> IntegerEncoder:
    """A tiny encoder in integers."""
    model = lift(tiny_models.build("bert", **changes))
    if left is not None:
        cut(model, left)
    parts = parts_of(model)
    seen = [sequences([12, 7, 1, 5, 9], seed) for seed in range(1, 5)]
    return integers(parts, found_scales(parts, seen, method, MinMax()), method)


def run(encoder: Any, tokens: Sequences, **more: Any) -> torch.Tensor:
    found = encoder.run(tokens.ids, tokens.positions, tokens.kinds, tokens.lengths, **more)
    return found.int()


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("flags", LAYOUTS.values(), ids=LAYOUTS)
def test_every_layout_gives_the_references_integers(flags: tuple[str, ...]) -> None:
    """Bit for bit, for all tokens and for first ones alone, with tables and polynomials, pruned down to nothing or not."""
    code = machine(*flags)
    assert code is not None
    assert layout(code)[0] == (2 if "-DSPARSAM_GROUP=2" in flags else 4 if flags else layout(code)[0])
    for method in METHODS.values():
        for left in (None, PRUNED):
            encoder = made(method, left)
            native = NativeIntegers(encoder, code)
            for number, lengths in enumerate(([12, 3, 1, 33, 6, 7, 64, 65, 130], [1], [5, 5])):
                tokens = sequences(lengths, 40 + number)
                for alone in (False, True):
                    assert torch.equal(run(native, tokens, alone=alone), run(encoder, tokens, alone=alone))


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": 66, "num_attention_heads": 1, "intermediate_size": 130},
        {"hidden_size": 40, "num_attention_heads": 8, "intermediate_size": 7},
        {"hidden_size": 6, "num_attention_heads": 2, "intermediate_size": 1},
        {"hidden_size": 256, "num_attention_heads": 2, "intermediate_size": 70, "num_hidden_layers": 1},
    ],
    ids=["66", "40", "6", "256"],
)
def test_widths_that_fill_no_vector_are_exact(changes: dict[str, int]) -> None:
    """Heads of 66, 5, 3 and 128 numbers; widths and filters that are no multiple of anything."""
    encoder = made(**changes)
    tokens = sequences([9, 70, 2], 3)
    for flags in (), ("-DSPARSAM_GROUP=2", "-DSPARSAM_LANES=8"):
        assert torch.equal(run(NativeIntegers(encoder, machine(*flags)), tokens), run(encoder, tokens))


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize(("name", "first"), [("roberta", 2), ("distilbert", 0)])
def test_other_families_give_the_references_integers(name: str, first: int) -> None:
    """Positions that begin later, and a model without token types."""
    parts = parts_of(lift(tiny_models.build(name)))
    seen, tokens = (
        replace(one, positions=one.positions + first, kinds=None)
        for one in (sequences([12, 7, 9]), sequences([3, 20], 5))
    )
    method = METHODS["ours"]
    encoder = integers(parts, found_scales(parts, [seen], method, MinMax()), method)
    assert torch.equal(run(NativeIntegers(encoder), tokens), run(encoder, tokens))


@pytest.mark.usefixtures("compiled")
def test_threads_and_batch_change_no_integer() -> None:
    """One thread or two, in company or by itself, a room that was used before: the same integers."""
    encoder, lengths = made(), [12, 3, 1, 30] * 8
    native, tokens = NativeIntegers(encoder), sequences(lengths, 7)
    whole = run(native, tokens)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert torch.equal(run(native, tokens), whole)
        assert torch.equal(run(native, tokens, alone=True), whole[tokens.lengths.cumsum(0) - tokens.lengths])
    finally:
        torch.set_num_threads(threads)
    parts = [x.split(lengths) for x in (tokens.ids, tokens.positions, tokens.kinds)]
    for row, part in enumerate(whole.split(lengths)):
        one = Sequences(*(x[row] for x in parts), torch.tensor([lengths[row]]))
        assert torch.equal(run(native, one), part)
    assert torch.equal(run(native, tokens), whole)


def test_reference_runs_where_nothing_can_be_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a compiler the same integers come from the reference."""
    monkeypatch.setattr("sparsam.runtime.ibert.machine", lambda *flags: None)
    encoder, tokens = made(), sequences([4, 9])
    assert torch.equal(run(NativeIntegers(encoder), tokens), run(encoder, tokens))


@pytest.mark.usefixtures("compiled")
def test_what_lies_outside_the_tables_is_refused() -> None:
    """Machine code never reads beyond a table: ids, types and positions are looked at first; nothing in gives nothing out."""
    native = NativeIntegers(made())
    good = sequences([3])
    bad = torch.tensor([5, 60, 2])
    with pytest.raises(Usage, match="a token id lies in 0 to 59; got 2 to 60"):
        native.run(bad, good.positions, None, good.lengths)
    with pytest.raises(Usage, match="a position lies in 0 to 513; got -1 to 1"):
        native.run(good.ids, good.positions - 1, None, good.lengths)
    with pytest.raises(Usage, match="a token type lies in 0 to 1; got 5"):
        native.run(good.ids, good.positions, torch.full((3,), 5), good.lengths)
    with pytest.raises(Usage, match="each sequence has one at least"):
        native.run(good.ids, good.positions, None, torch.tensor([3, 0]))
    empty = torch.zeros(0, dtype=torch.long)
    assert native.run(empty, empty, None, empty).shape == (0, 32)


def test_octaves_are_counted_exactly() -> None:
    """A product and a shift divide by ln 2's steps for every logit there is."""
    for ln2 in (2, 3, 177, 709, 710):
        assert octave(ln2, 30 * ln2) > 0
