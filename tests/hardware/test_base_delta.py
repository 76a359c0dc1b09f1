"""Exponents as a base and differences: exact both ways, and as large as the formula says."""

import numpy as np
import pytest

from sparsam.errors import Refused
from sparsam.hardware.base_delta import WIDTHS, decode, encode, stored_bits
from sparsam.workload import bf16_bits


def drawn(rng, shape, exponents):
    """Bits of bfloat16 with exponents out of a list."""
    signs, fractions = rng.integers(0, 2, shape), rng.integers(0, 128, shape)
    return (signs << 15 | rng.choice(exponents, shape) << 7 | fractions).astype(np.uint16)


@pytest.mark.parametrize("bitmap", [False, True])
@pytest.mark.parametrize(
    "exponents",
    [[127], [0, 255], [0, 1, 254, 255], [120, 127], [126, 127, 128], list(range(256)), [0, 127, 128]],
    ids=str,
)
def test_decoding_gives_every_bit_back(exponents, bitmap):
    """Whatever the exponents, ragged groups, zeros of both signs, NaN and infinity included."""
    rng = np.random.default_rng(3)
    for shape, axis in (((5, 70), -1), ((3, 33, 2, 2), 1), ((31,), 0), ((64, 3), 0)):
        values = drawn(rng, shape, exponents)
        values[rng.random(shape) < 0.3] = 0
        values[rng.random(shape) < 0.1] = 0x8000
        packed = encode(values, axis, bitmap=bitmap)
        assert (decode(packed) == values).all()
        assert packed.bits == stored_bits(values, axis, zeros="bitmap" if bitmap else "stored")
        assert len(packed.data) == -(-packed.bits // 8)


def test_ten_thousand_random_groups_come_back():
    """Of any values and any group length."""
    rng = np.random.default_rng(4)
    for group in (1, 2, 7, 32, 48):
        values = rng.integers(0, 1 << 16, (2500, group + 3)).astype(np.uint16)
        values[:800] = (values[:800] & 0x81FF) | 0x3E00  # close exponents
        values[rng.random(values.shape) < 0.4] = 0
        for bitmap in (False, True):
            assert (decode(encode(values, 1, group, bitmap=bitmap)) == values).all()


@pytest.mark.parametrize(
    ("distance", "width"), [(0, 0), (1, 2), (3, 3), (4, 4), (7, 4), (31, 6), (63, 7), (64, 8), (120, 8)]
)
def test_a_group_takes_what_the_formula_says(distance, width):
    """267 + 31 w bits for 32 values, 512 raw; w is the bits of the largest distance and a sign, up to 8."""
    values = np.full(32, 127 << 7, np.uint16)
    values[5] = (127 + distance) << 7
    assert width in WIDTHS
    assert stored_bits(values, zeros="stored") == encode(values).bits == 267 + 31 * width


def test_a_bitmap_costs_a_bit_a_value_and_saves_the_zeros():
    """g + 8 n + 11 + (n - 1) w bits for n of g values; g for none."""
    values = np.zeros(32, np.uint16)
    assert stored_bits(values, zeros="bitmap") == 32
    values[[3, 9, 20]] = [127 << 7, 128 << 7, 126 << 7]
    assert stored_bits(values, zeros="bitmap") == 32 + 8 * 3 + 11 + 2 * 2
    assert stored_bits(values, zeros="stored") == 267 + 31 * 8  # a zero's exponent is far from the others
    assert stored_bits(values, zeros="smaller") == 32 + 8 * 3 + 11 + 2 * 2


def test_gaussian_numbers_shrink_and_dense_ones_need_no_bitmap():
    """Exponents of one group lie within few bits of one another."""
    values = bf16_bits(np.random.default_rng(0).standard_normal((100, 256)).astype(np.float32))
    stored, bitmap, smaller = (stored_bits(values, zeros=x) for x in ("stored", "bitmap", "smaller"))
    assert 0.6 < stored / (16 * values.size) < 0.9
    assert smaller == stored < bitmap


def test_wrong_values_are_refused():
    """With what was given."""
    with pytest.raises(Refused, match="int16") as refusal:
        encode(np.zeros(4, np.int16))
    assert refusal.value.code == "base-delta-values"
    with pytest.raises(Refused, match="'ones'"):
        stored_bits(np.zeros(4, np.uint16), zeros="ones")


def test_a_cut_stream_is_refused():
    """Rather than read as other values."""
    from dataclasses import replace

    packed = encode(np.full((4, 40), 0x3F80, np.uint16))
    with pytest.raises(Refused, match="bits") as refusal:
        decode(replace(packed, bits=packed.bits - 8))
    assert refusal.value.code == "base-delta-stream"


def test_an_empty_tensor_takes_nothing():
    """And comes back with its shape."""
    packed = encode(np.zeros((0, 7), np.uint16))
    assert packed.bits == 0 and decode(packed).shape == (0, 7)
