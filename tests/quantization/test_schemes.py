"""The table of schemes: one law for every row, names that are off by a letter, bits and groups out of range."""

import pytest
import torch

from sparsam.errors import Usage
from sparsam.quantization import Hessian, quantize_weight
from sparsam.quantization.schemes import SCHEMES, Scheme, scheme_named, spans

EVERY = [(scheme, bits) for scheme in SCHEMES.values() if not scheme.encoder for bits in scheme.bits]


def hessian_of(inputs: int) -> torch.Tensor:
    seen = Hessian(inputs)
    seen.add(torch.randn(200, inputs) @ (torch.randn(inputs, inputs) / inputs**0.5 + torch.eye(inputs)))
    return seen.matrix()


@pytest.mark.parametrize(("scheme", "bits"), EVERY, ids=lambda x: getattr(x, "name", x))
def test_law_of_a_scheme(scheme: Scheme, bits: int) -> None:
    """Its shape, few values an output, its bits a weight, integers exactly where it says so and the same numbers."""
    weight = torch.randn(6, 96) * torch.logspace(-1, 1, 6)[:, None]
    hessian = hessian_of(96) if scheme.calibrated else None
    for asked in (None, 32) if scheme.groups else (None,):
        group = scheme.check(bits, asked)
        made = scheme.make(weight, bits, group, hessian)
        assert made.values.shape == weight.shape and made.values.dtype is torch.float32
        assert bool(torch.isfinite(made.values).all())
        pieces = (
            made.values.reshape(6, -1)
            if group is None
            else made.values[:, : 96 // group * group].reshape(-1, group)
        )
        assert all(len(piece.unique()) <= 2 ** (bits + scheme.extra_bits) for piece in pieces)
        codes = 6 * 96 * (bits + scheme.extra_bits) / 8
        assert codes <= made.packed_bytes <= codes + 4 * 6 * (max(2**bits, 6) + 1) + 4 * 2**bits
        assert (made.integers is not None) == scheme.in_integers(bits, group)
        if made.integers is not None:
            q, scale, width = made.integers
            assert q.dtype is torch.int8 and int(q.abs().max()) <= 2 ** (width - 1) - 1 and 2 <= width <= 8
            assert torch.equal(q.float() * scale[:, None], made.values)
        assert (made.pieces is not None) == (scheme.name == "pwlq")
        if made.rival is not None:
            own, uniform = made.rival
            assert own == pytest.approx(float((made.values - weight).double().square().sum()), rel=1e-4)
            assert own > 0 and (bits < 4 or own < 1.1 * uniform)
        if bits >= 4:
            error = float((made.values - weight).square().sum() / weight.square().sum())
            assert error < 0.04


@pytest.mark.parametrize("group", [32, 64, 128])
def test_groups_at_four_bits(group: int) -> None:
    """Weight-only groups: nearer than one scale an output, the smaller the nearer, 4 + 32 / group bits a weight."""
    weight = torch.distributions.StudentT(4.0).sample((16, 256))
    made = SCHEMES["groups"].make(weight, 4, group, None)
    assert made.packed_bytes == 16 * 256 * 4 // 8 + 4 * 16 * 256 // group and made.integers is None
    q, grid = quantize_weight(weight, 4)
    whole = float((q * grid.scale[:, None] - weight).square().sum())
    assert float((made.values - weight).square().sum()) < 0.9 * whole


def test_a_name_that_is_off_by_a_letter() -> None:
    """The nearest one is offered, and all are named; one that is like none is offered none."""
    with pytest.raises(
        Usage, match=r"no scheme 'gtpq'. Did you mean gptq\? There are uniform, groups"
    ) as caught:
        scheme_named("gtpq")
    assert caught.value.code == "scheme-unknown"
    with pytest.raises(Usage, match=r"no scheme 'zzz'. There are uniform"):
        scheme_named("zzz")
    assert scheme_named("adaround") is SCHEMES["adaround"]


def test_bits_and_groups_out_of_range() -> None:
    """Each is refused with what would do."""
    with pytest.raises(Usage, match=r"uniform takes 2 to 8 bits; got 9") as caught:
        SCHEMES["uniform"].check(9, None)
    assert caught.value.code == "scheme-bits"
    with pytest.raises(Usage, match=r"additive-powers takes 3, 4, 5 or 7 bits; got 6"):
        SCHEMES["additive-powers"].check(6, None)
    with pytest.raises(
        Usage, match=r"uniform has one scale an output, not one for 64 inputs.*groups"
    ) as caught:
        SCHEMES["uniform"].check(4, 64)
    assert caught.value.code == "scheme-group"
    with pytest.raises(Usage, match="at least 2 inputs; got 1"):
        SCHEMES["groups"].check(4, 1)
    assert (SCHEMES["groups"].check(4, None), SCHEMES["gptq"].check(4, None)) == (64, None)
    assert [spans(bits) for bits in ((2,), (3, 4), (2, 3, 4), (3, 5))] == ["2", "3 or 4", "2 to 4", "3 or 5"]


def test_every_row_says_what_it_is() -> None:
    """A paper with its year, a purpose, and whether it runs in integers; as JSON without its function."""
    for name, scheme in SCHEMES.items():
        row = scheme.to_json()
        assert row["name"] == name and "make" not in row
        assert any(year in scheme.paper for year in ("19", "20")) and scheme.good_for
        assert scheme.runs.startswith(("int8", "simulated", "integers alone"))
    assert SCHEMES["power-of-two"].runs == "int8 at 2 to 4 bits, simulated beyond"
