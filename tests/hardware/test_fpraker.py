"""FPRaker: terms, schedule and accumulator against big numbers, and what the sources count on."""

import warnings
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

from sparsam.errors import Refused
from sparsam.hardware import How, machines, simulate
from sparsam.hardware import fpraker as fp
from sparsam.hardware import fpraker_element as fe
from sparsam.hardware.fpraker_element import EVERY_TERM, Rules, blocks, fields, naf, run_passes, schedule
from sparsam.workload import Attention, Conv, Gemm, Tensor, Workload, bf16_bits, rounded

ALONE = Rules(rows=1, columns=1, exponent_share=1, chunk=0)
ORIGIN = np.zeros((1, 2), np.int64)


@pytest.fixture(scope="module")
def machine():
    return machines()["fpraker"]


def gaussian(rng, shape, zeros=0.0):
    """Bits of normal numbers, some zeroed."""
    bits = bf16_bits(rng.standard_normal(shape).astype(np.float32))
    bits[rng.random(shape) < zeros] = 0
    return bits


def hostile(rng, shape):
    """Bits of any finite numbers: subnormals, zeros of both signs, the largest and the smallest."""
    bits = rng.integers(0, 1 << 16, shape).astype(np.uint16)
    bits[(bits & 0x7F80) == 0x7F80] = 0x8000
    return bits


def near(rng, shape):
    """Numbers whose exponents differ by a few, so that sums cancel and terms fall on all sides of the last place."""
    return bf16_bits((rng.standard_normal(shape) * 2.0 ** rng.integers(-7, 8, shape)).astype(np.float32))


DRAWS = (gaussian, hostile, near)


def each_alone(a, b, rules):
    """One pass for each row of both operands, in tiles of one element."""
    which = np.repeat(np.arange(len(a))[:, None], 2, 1)
    return run_passes(blocks(a, 1), blocks(b, 1), which, replace(rules, rows=1, columns=1))


def value(done, index, rules):
    """A result of a pass as a fraction."""
    return int(done.s[index]) * Fraction(2) ** (int(done.e[index]) - rules.fraction_bits)


# Terms


def test_terms_sum_to_the_significand():
    """For all 256 codes: largest first, no two adjacent, at most five."""
    for code in range(256):
        terms = naf(code)
        positions = [position for position, _ in terms]
        assert sum(digit * 2**position for position, digit in terms) == code
        assert all(x - y >= 2 for x, y in pairwise(positions))
        assert len(terms) == fe.TERMS[code] <= 5
        assert positions == fe.POSITIONS[code, : len(terms)].tolist()
        assert [digit for _, digit in terms] == fe.DIGITS[code, : len(terms)].tolist()
        assert fe.MASKS[code] == sum(1 << (8 - position) for position in positions)


def test_histogram_of_terms():
    """Over the 128 significands with a hidden bit."""
    counts = [len(naf(code)) for code in range(128, 256)]
    assert {n: counts.count(n) for n in set(counts)} == {1: 1, 2: 13, 3: 50, 4: 56, 5: 8}
    assert np.mean(counts) == pytest.approx(3.445, abs=5e-4)
    assert np.mean([code.bit_count() for code in range(128, 256)]) == 4.5


def test_numbers_are_their_fields():
    """All 65,280 finite numbers, subnormals among them."""
    bits = np.arange(1 << 16).astype(np.uint16)
    bits = bits[(bits & 0x7F80) != 0x7F80]
    of = fields(bits)
    found = np.ldexp(of.significand.astype(np.float64), of.exponent.astype(np.int32) - 7)
    real = (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    assert (np.where(of.negative, -found, found) == real).all()
    assert ((of.significand >= 128) | (of.significand == 0)).all()


# The schedule of a set


def counted(a, b, rules, accumulator=None):
    """Cycles and terms of one set as the compiled schedule issues it, with each term's cycle."""
    of_a, of_b = fields(a), fields(b)
    live = (of_a.significand > 0) & (of_b.significand > 0)
    exponent = of_a.exponent.astype(np.int64) + of_b.exponent
    e_max = max([*exponent[live].tolist(), fe.NOTHING if accumulator is None else accumulator])
    fired = np.zeros((len(a), 5), np.int16)
    significand = np.where(live, of_a.significand, 0).astype(np.int64)
    cycles, kept = fe._issued(
        e_max - exponent, significand, rules.reach, rules.out_of_bounds, fired, fe.POSITIONS, fe.TERMS
    )
    return cycles, kept, fired


def test_the_compiled_schedule_is_the_plain_one():
    """Every term in the same cycle; one a lane and cycle, within the reach, in order; fired and left out are all there are."""
    rng = np.random.default_rng(1)
    for number in range(1500):
        draw = DRAWS[number % 3]
        a, b = draw(rng, 8), draw(rng, 8)
        a[rng.random(8) < rng.choice([0, 0.5, 0.9])] = 0
        rules = Rules(
            reach=int(rng.choice([0, 1, 3, 9, 999])),
            out_of_bounds=int(rng.choice([0, 6, 12, 30, EVERY_TERM])),
        )
        live = [i for i in range(8) if a[i] & 0x7FFF and b[i] & 0x7FFF]
        accumulator = int(rng.integers(-20, 20)) if number % 2 else None
        cycles, fired, e_max = schedule(a, b, rules, accumulator)
        found, kept, when = counted(a, b, rules, accumulator)
        assert (found, kept) == (cycles, len(fired))
        for i in range(8):
            mine = [(cycle, position, digit) for cycle, lane, position, digit in fired if lane == i]
            terms = naf(int(fields(a).significand[i])) if i in live else []
            assert [(position, digit) for _, position, digit in mine] == terms[: len(mine)]
            assert when[i, : len(mine)].tolist() == [cycle for cycle, _, _ in mine]
            assert (when[i, len(mine) :] == -1).all()
            d = e_max - int(fields(a).exponent[i]) - int(fields(b).exponent[i])
            assert all(d + 7 - position > rules.out_of_bounds for position, _ in terms[len(mine) :])
        for cycle in range(cycles):
            now = [(i, p) for c, i, p, _ in fired if c == cycle]
            shifts = [e_max - int(fields(a).exponent[i]) - int(fields(b).exponent[i]) + 7 - p for i, p in now]
            assert 1 <= len(now) == len({i for i, _ in now}) <= 8
            assert max(shifts) - min(shifts) <= rules.reach and max(shifts) <= rules.out_of_bounds


def test_a_set_is_bounded_by_its_terms():
    """The longest lane, all terms one after the other; with a wide shifter exactly the longest lane."""
    rng = np.random.default_rng(2)
    a, b = gaussian(rng, (10_000, 8), 0.4), near(rng, (10_000, 8))
    terms = np.where(fields(b).significand > 0, fe.TERMS[fields(a).significand], 0).astype(np.int64)
    free = replace(ALONE, out_of_bounds=EVERY_TERM)
    took = each_alone(a, b, free).element_cycles
    assert (took >= np.maximum(terms.max(1), 1)).all() and (took <= np.maximum(terms.sum(1), 1)).all()
    assert (each_alone(a, b, free).kept == terms.sum(1)).all()
    wide = each_alone(a, b, replace(free, reach=EVERY_TERM)).element_cycles
    assert (wide == np.maximum(terms.max(1), 1)).all()


def test_powers_of_two_take_one_cycle_and_zeros_the_least():
    """Equal exponents; a set of zeros is a cycle alone, two where an exponent block is shared."""
    ones, zeros = np.full((1, 8), 0x3F80, np.uint16), np.zeros((1, 8), np.uint16)
    assert schedule(ones[0], ones[0], ALONE)[0] == 1
    assert schedule(zeros[0], ones[0], ALONE)[0] == 0
    for a in (ones, zeros):
        for share in (1, 2):
            rules = replace(ALONE, exponent_share=share)
            assert run_passes(blocks(a, 1), blocks(ones, 1), ORIGIN, rules).cycles[0] == share


def test_fewer_terms_and_wider_shifters_never_take_longer():
    """Set by set: a lower limit, a longer reach, a lane zeroed that did not set e_max."""
    rng = np.random.default_rng(3)
    a, b = near(rng, (10_000, 8)), near(rng, (10_000, 8))
    before = None
    for limit in (EVERY_TERM, 20, 13, 12, 9, 6, 3, 0):
        took = each_alone(a, b, replace(ALONE, out_of_bounds=limit)).element_cycles
        assert before is None or (took <= before).all()
        before = took
    before = None
    for reach in (0, 1, 2, 3, 5, 8, EVERY_TERM):
        took = each_alone(a, b, replace(ALONE, reach=reach)).element_cycles
        assert before is None or (took <= before).all()
        before = took
    whole = each_alone(a, b, ALONE).element_cycles
    exponent = fields(a).exponent.astype(int) + fields(b).exponent
    lane = exponent.argmin(1)
    other = (exponent == exponent.max(1)[:, None]).sum(1) > 0
    other &= exponent.min(1) < exponent.max(1)
    a[np.arange(len(a)), lane] = 0
    fewer = each_alone(a, b, ALONE).element_cycles
    assert other.sum() > 9000 and (fewer[other] <= whole[other]).all()


# The accumulator


def rules_drawn(rng):
    """Any accumulator, shifter and tile."""
    return Rules(
        reach=int(rng.choice([0, 1, 3, 7, EVERY_TERM])),
        out_of_bounds=int(rng.choice([0, 6, 9, 12, 12, 13, 14, 20, EVERY_TERM])),
        fraction_bits=int(rng.choice([7, 9, 12, 12, 13, 16, 24])),
        chunk=int(rng.choice([0, 8, 16, 64])),
        rows=int(rng.integers(1, 5)), columns=int(rng.integers(1, 5)),
        exponent_share=int(rng.integers(1, 4)), buffer_depth=int(rng.integers(0, 4)),
    )  # fmt: skip


def bit_equal(rng, cases):
    """Tiles against the plain schedule and the big-number reference: every bit, every cycle, every term; how many sums."""
    done = 0
    while done < cases:
        rules, draw = rules_drawn(rng), DRAWS[int(rng.integers(3))]
        sets = int(rng.integers(1, 4))
        a, b = draw(rng, (rules.columns, 8 * sets)), draw(rng, (rules.rows, 8 * sets))
        a[rng.random(a.shape) < rng.choice([0, 0.5, 0.9])] = 0
        found = run_passes(blocks(a, rules.columns), blocks(b, rules.rows), ORIGIN, rules)
        took, kept = np.zeros((rules.columns, rules.rows, sets), int), 0
        for c in range(rules.columns):
            for r in range(rules.rows):
                expected = fe.dot_reference(a[c], b[r], rules)
                serial, took[c, r], fired = fe.dot_serial(a[c], b[r], rules)
                assert value(found, (0, c, r), rules) == expected == serial
                kept += fired
        assert found.kept[0] == kept and found.element_cycles[0] == np.maximum(took, 1).sum()
        column = np.maximum(took.max(1), rules.exponent_share)
        finish = np.zeros((rules.columns, sets), int)
        for t in range(sets):
            gate = finish[:, t - 1 - rules.buffer_depth].max() if t > rules.buffer_depth else 0
            finish[:, t] = np.maximum(finish[:, t - 1] if t else 0, gate) + column[:, t]
        assert found.cycles[0] == finish[:, -1].max() and found.column_cycles[0] == column.sum()
        done += rules.columns * rules.rows
    return done


def test_tiles_give_the_bits_of_the_big_number_reference():
    """And the cycles and terms of the plain schedule, for any rules."""
    assert bit_equal(np.random.default_rng(10), 600) >= 600


@pytest.mark.slow  # half a minute of fractions
def test_ten_thousand_sums_give_the_bits_of_the_big_number_reference():
    """The same at length."""
    assert bit_equal(np.random.default_rng(11), 10_000) >= 10_000


def test_without_rounding_the_schedule_is_the_exact_product():
    """Terms of any numbers, summed as fractions."""
    rng = np.random.default_rng(12)
    free = Rules(out_of_bounds=EVERY_TERM)
    for number in range(300):
        a, b = DRAWS[number % 3](rng, 8), DRAWS[number % 3](rng, 8)
        total = Fraction(0)
        for _, i, position, digit in schedule(a, b, free)[1]:
            term = Fraction(digit) * Fraction(2) ** (position - 7 + int(fields(a).exponent[i]))
            total += (-term if a[i] >> 15 else term) * fe.exact_value(int(b[i]))
        assert total == fe.dot_exact(a, b)


def test_replay_gives_the_integers_back():
    """10,000 and more sums of 8-bit integers, bit for bit, the most negative ones among them; every term once."""
    rng = np.random.default_rng(13)
    done = 0
    for number in range(40):
        m, n, k = rng.integers(1, 30, 3)
        a, b = (rng.integers(-128, 128, (rows, k)).astype(np.int8) for rows in (m, n))
        a[rng.random(a.shape) < number / 40] = 0
        product = next(Gemm("g", Tensor(a, "int8"), Tensor(b, "int8")).products(8))
        found, _ = fe.replay(product, Rules(reach=int(rng.choice([0, 3, 8]))))
        assert (found == a.astype(np.int64) @ b.astype(np.int64).T).all()
        done += m * n
    big = rng.integers(-128, 128, (100, 16)).astype(np.int8)
    found, _ = fe.replay(Gemm("g", Tensor(big, "int8"), Tensor(big[::-1].copy(), "int8")), Rules())
    assert (found == big.astype(np.int64) @ big[::-1].astype(np.int64).T).all()
    assert done + big.shape[0] ** 2 >= 10_000


def test_terms_out_of_bounds_change_no_bit_of_short_significands():
    """Exhaustively: two lanes of 4-bit significands, both signs, all distances, over accumulators of several exponents."""
    short = np.arange(8)
    a0, a1, b1, sign, distance, first = (
        x.ravel()
        for x in np.meshgrid(short, short, short, [0, 1], np.arange(17), [None, -3, 0, 2, 6], indexing="ij")
    )
    a, b = np.zeros((len(a0), 16), np.uint16), np.zeros((len(a0), 16), np.uint16)
    has = np.array([x is not None for x in first])
    height = np.array([127 + (x or 0) for x in first])
    a[:, 0] = np.where(has, height << 7 | 0x58, 0)  # the first set leaves 1.6875 2**first
    b[:, 0] = 127 << 7
    a[:, 8], b[:, 8] = 127 << 7 | a0 << 4, 127 << 7 | 0x50
    a[:, 9], b[:, 9] = sign << 15 | (127 - distance) << 7 | a1 << 4, 127 << 7 | b1 << 4
    for bits in (7, 9, 12):
        all_terms = each_alone(a, b, replace(ALONE, fraction_bits=bits, out_of_bounds=EVERY_TERM))
        cut = each_alone(a, b, replace(ALONE, fraction_bits=bits, out_of_bounds=bits))
        assert (cut.s == all_terms.s).all() and (cut.e == all_terms.e).all()
        assert (cut.kept <= all_terms.kept).all() and (cut.kept < all_terms.kept).any()
    fewer = each_alone(
        a, b, replace(ALONE, out_of_bounds=8)
    )  # a limit within the accumulator does change bits
    assert (fewer.s != all_terms.s).any()
    some = np.random.default_rng(0).choice(len(a), 60, replace=False)
    for i in some:
        assert value(cut, (i, 0, 0), ALONE) == fe.dot_reference(
            a[i], b[i], replace(ALONE, out_of_bounds=EVERY_TERM)
        )


def test_terms_out_of_bounds_change_no_bit_of_long_sums():
    """The default limit is the accumulator's width."""
    rng = np.random.default_rng(14)
    a, b = near(rng, (2000, 64)), near(rng, (2000, 64))
    cut, whole = (each_alone(a, b, replace(Rules(), out_of_bounds=limit)) for limit in (12, EVERY_TERM))
    assert (cut.s == whole.s).all() and (cut.e == whole.e).all()
    assert cut.kept.sum() < whole.kept.sum()


def test_serial_and_bit_parallel_elements_agree_where_nothing_is_cut_off():
    """Small integers fit; elsewhere they differ in the last places."""
    rng = np.random.default_rng(15)
    a, b = (bf16_bits(rng.integers(-7, 8, (50, 24)).astype(np.float32)) for _ in range(2))
    for x, y in zip(a, b, strict=True):
        assert fe.dot_parallel(x, y, Rules()) == fe.dot_reference(x, y, Rules()) == fe.dot_exact(x, y)
    a, b = gaussian(rng, (100, 64)), gaussian(rng, (100, 64))
    apart = 0
    for x, y in zip(a, b, strict=True):
        serial, parallel = fe.dot_reference(x, y, Rules()), fe.dot_parallel(x, y, Rules())
        apart += serial != parallel
        size = sum(abs(fe.exact_value(int(p)) * fe.exact_value(int(q))) for p, q in zip(x, y, strict=True))
        assert abs(serial - parallel) <= size / 2**12 * 8
    assert apart > 50


def test_results_are_within_the_accumulators_error_of_float32():
    """A set cuts off less than a last place for each of at most 40 terms, and rounds three times; the mean is far below."""
    rng = np.random.default_rng(16)
    a, b = gaussian(rng, (64, 512)), gaussian(rng, (64, 512))
    rules = Rules()
    which = np.stack(np.divmod(np.arange(64), 8), 1)
    found = run_passes(blocks(a, 8), blocks(b, 8), which, rules).values(12)
    found = found.reshape(8, 8, 8, 8).transpose(0, 2, 1, 3).reshape(64, 64)
    x, y = Tensor(a, "bf16").real(), Tensor(b, "bf16").real()
    size = np.abs(x).astype(np.float64) @ np.abs(y).T.astype(np.float64)
    off = np.abs(found - (x @ y.T)) / size
    assert off.max() <= 43 * 64 / 2**12
    assert off.max() < 2**-11 and off.mean() < 2**-13


def test_sums_beyond_the_integer_bits_are_counted_and_right():
    """Eight products of almost four, and itself, need six bits."""
    a = np.full((1, 16), 0x3FFF, np.uint16)
    done = each_alone(a, a, ALONE)
    assert done.outgrown[0] == 1  # the second set starts at the first one's exponent
    assert each_alone(a, a, replace(ALONE, chunk=8)).outgrown[0] == 2
    assert value(done, (0, 0, 0), ALONE) == fe.dot_reference(a[0], a[0], ALONE)
    assert each_alone(a, a, replace(ALONE, integer_bits=6)).outgrown[0] == 0


def test_plain_python_does_what_the_compiled_kernel_does():
    """Where numba is absent; without a warning of overflow."""
    if not hasattr(fe._passes, "py_func"):
        pytest.skip("numba is absent")
    rng = np.random.default_rng(17)
    for limit in (12, EVERY_TERM):
        rules = Rules(rows=2, columns=2, out_of_bounds=limit, chunk=8)
        a, b = near(rng, (2, 16)), hostile(rng, (2, 16))
        done = run_passes(blocks(a, 2), blocks(b, 2), ORIGIN, rules)
        with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
            warnings.simplefilter("error")
            for name in ("_passes", "_issued", "_sum"):
                patch.setattr(fe, name, getattr(fe, name).py_func)
            plain = run_passes(blocks(a, 2), blocks(b, 2), ORIGIN, rules)
        assert all((x == y).all() for x, y in zip(done, plain, strict=True))


# The statistics of Gaussian numbers

TABLE = {  # share of zeros: cycles with every term, out of bounds beyond 12 and beyond 6, terms a set
    0.0: (5.69, 4.46, 2.30, 27.5),
    0.3: (5.27, 4.30, 2.25, 19.2),
    0.5: (4.85, 4.13, 2.17, 13.8),
    0.7: (4.12, 3.66, 2.00, 8.2),
    0.9: (2.56, 2.38, 1.57, 2.7),
}


@pytest.mark.parametrize("zeros", TABLE)
def test_cycles_of_gaussian_sets(zeros):
    """One element, sums of 72 sets, e_max of the normalised accumulator: the table within 1 %."""
    rng = np.random.default_rng(20)
    a, b = gaussian(rng, (5000, 576), zeros), gaussian(rng, (5000, 576))
    share = {}
    for limit, expected in zip((EVERY_TERM, 12, 6), TABLE[zeros], strict=False):
        done = each_alone(a, b, replace(ALONE, out_of_bounds=limit))
        assert done.element_cycles.sum() / a.size * 8 == pytest.approx(expected, rel=0.01)
        share[limit] = done.kept.sum() / a.size * 8
    assert share[EVERY_TERM] == pytest.approx(TABLE[zeros][3], rel=0.02)
    beyond = [1 - share[limit] / share[EVERY_TERM] for limit in (12, 6)]
    if zeros in (0.0, 0.9):
        assert beyond == pytest.approx([0.14, 0.64] if zeros == 0 else [0.06, 0.50], abs=0.015)


# Tiles and the chip


def test_columns_wait_for_one_another_as_far_as_the_buffers_force_them():
    """None: every set takes its slowest column. Many: every column for itself."""
    rng = np.random.default_rng(30)
    a, b = gaussian(rng, (8, 256), 0.5), gaussian(rng, (8, 256))
    took = []
    for depth in (0, 1, 2, 64):
        done = run_passes(blocks(a, 8), blocks(b, 8), ORIGIN, Rules(buffer_depth=depth))
        took.append(int(done.cycles[0]))
    assert took == sorted(took, reverse=True) and took[0] > took[1]
    columns = [
        int(run_passes(blocks(a[c : c + 1], 1), blocks(b, 8), ORIGIN, Rules(columns=1)).cycles[0])
        for c in range(8)
    ]
    assert took[3] == max(columns) and done.column_cycles[0] == sum(columns)


def test_passes_go_to_the_tile_that_is_free_first():
    """In their order."""
    assert fp.deal(np.array([5.0, 1, 1, 1, 1]), 2) == 5
    assert fp.deal(np.array([1.0, 1, 1, 1, 5]), 2) == 7
    assert fp.deal(np.full(360, 7.0), 36) == 70


def simulated(layer, machine, **how):
    return simulate(Workload([layer], {}), machine, How(**how)).layers[0]


def conv(rng, channels=16, side=16, outputs=32, groups=1, zeros=0.5):
    x, w = gaussian(rng, (1, channels, side, side), zeros), gaussian(rng, (outputs, channels // groups, 3, 3))
    return Conv("conv", Tensor(x, "bf16"), Tensor(w, "bf16"), padding=(1, 1), groups=groups)


def test_ones_take_the_exponent_blocks_share():
    """A term a number: two cycles a set, 4.5 / 2 of the bit-parallel tiles on the same area."""
    ones = Tensor(np.full((36 * 8, 64), 0x3F80, np.uint16), "bf16")
    cost = simulated(Gemm("ones", ones, Tensor(ones.values[:64], "bf16")), machines()["fpraker"])
    assert cost.detail["tiles"] == 36 and cost.detail["bit-parallel tiles"] == 8
    assert cost.dense_cycles == 36 * 8 * 8 / 8 and cost.compute_cycles == 8 * 2 * 8
    assert cost.detail["cycles a set, tile"] == 2
    assert cost.detail["terms a set"] == 8 and cost.detail["terms out of bounds"] == 0
    assert cost.detail["core energy, bit-parallel over serial"] == pytest.approx(2.25 / 1.037, rel=1e-3)


def test_speedup_is_the_tiles_over_the_cycles_of_a_set(machine):
    """Where the passes divide evenly enough: 4.5 over the mean cycles of a set."""
    rng = np.random.default_rng(31)
    a, b = gaussian(rng, (36 * 8 * 2, 128)), gaussian(rng, (64, 128))
    cost = simulated(Gemm("g", Tensor(a, "bf16"), Tensor(b, "bf16")), machine)
    speedup = cost.dense_cycles / cost.compute_cycles
    assert speedup == pytest.approx(4.5 / cost.detail["cycles a set, tile"], rel=0.03)


def test_area_ratio_says_how_many_tiles(machine):
    """To the nearest."""
    assert fp.tiles_of(machine) == 36
    assert fp.tiles_of(machine.varied(tile_area_ratio=0.5)) == 16
    assert fp.tiles_of(machine.varied(dense_tiles=4)) == 18


@pytest.mark.parametrize("groups", [1, 4])
def test_a_sample_is_within_its_error(machine, groups):
    """Four standard errors of the exact cycles, the error asked for, and the same again for the same seed."""
    layer = conv(np.random.default_rng(32), side=56, groups=groups)
    few = machine.varied(dense_tiles=2, tile_area_ratio=0.5)
    exact = simulated(layer, few, mode="exact")
    assert exact.mode == "exact" and exact.error == 0
    drawn = simulated(layer, few, mode="sampled", error=0.01, seed=5)
    assert drawn.mode == "sampled" and 0 < drawn.error <= 0.01 * drawn.compute_cycles
    assert abs(drawn.compute_cycles - exact.compute_cycles) < 4 * drawn.error
    assert drawn.detail["terms a set"] == exact.detail["terms a set"]
    assert drawn.detail["terms out of bounds"] == pytest.approx(exact.detail["terms out of bounds"], abs=0.01)
    again = simulated(layer, few, mode="sampled", error=0.01, seed=5)
    other = simulated(layer, few, mode="sampled", error=0.01, seed=6)
    assert again == drawn and drawn.compute_cycles != other.compute_cycles


@pytest.mark.parametrize("tiles", [1, 16])
def test_standard_errors_are_what_samples_scatter_by(machine, tiles):
    """Over seeds: the mean is unbiased and the errors have the right size, the last passes' ends included."""
    layer = conv(np.random.default_rng(33), side=28)
    some = machine.varied(dense_tiles=tiles, tile_area_ratio=1.0)
    exact = simulated(layer, some, mode="exact").compute_cycles
    drawn = [simulated(layer, some, mode="sampled", error=0.1, seed=seed) for seed in range(40)]
    scores = [(one.compute_cycles - exact) / one.error for one in drawn]
    assert all(one.mode == "sampled" for one in drawn)
    assert 0.4 < np.sqrt(np.mean(np.square(scores))) < 1.6
    assert tiles > 1 or abs(np.mean(scores)) < 0.5


def test_a_sample_that_cannot_reach_its_error_is_simulated_whole(machine):
    """Ten passes a tile end too far apart for 1 %."""
    layer = conv(np.random.default_rng(33), side=28)
    whole, drawn = (simulated(layer, machine, mode=mode, error=0.002) for mode in ("exact", "sampled"))
    assert drawn == whole and drawn.mode == "exact"


def test_a_sample_of_everything_is_exact(machine):
    """Where there are fewer passes than are drawn first."""
    layer = conv(np.random.default_rng(34), side=8)
    assert simulated(layer, machine, mode="sampled") == simulated(layer, machine, mode="exact")


@pytest.mark.parametrize(
    "values", [{}, {"out_of_bounds": EVERY_TERM}, {"reach": 0}, {"out_of_bounds": 3}], ids=str
)
def test_bounds_hold_the_exact_cycles(machine, values):
    """With every term and with few."""
    layer = conv(np.random.default_rng(35))
    varied = machine.varied(**values)
    exact, bound = (simulated(layer, varied, mode=mode) for mode in ("exact", "bound"))
    assert bound.mode == "bound"
    assert bound.detail["cycles at least"] <= exact.compute_cycles <= bound.compute_cycles


def test_threads_do_not_change_the_result(machine):
    """Passes are for themselves."""
    numba = pytest.importorskip("numba")
    layer = conv(np.random.default_rng(36))
    before = numba.get_num_threads()
    found = []
    with pytest.MonkeyPatch.context() as patch:
        for count in (1, 3):
            patch.setattr(fe, "threads", lambda count=count: count)
            found.append(simulated(layer, machine, mode="exact"))
    assert found[0] == found[1] and numba.get_num_threads() == before


def test_checking_replays_integers_and_compares_bits(machine):
    """It passes for real layers, and a wrong kernel is caught by name."""
    rng = np.random.default_rng(37)
    a, b = (rounded(rng.standard_normal((20, 50)).astype(np.float32)) for _ in range(2))
    layer = Gemm("dense.3", a, b)
    assert simulated(layer, machine, check=True) == simulated(layer, machine)
    simulated(conv(rng, side=6), machine, check=True)
    with pytest.MonkeyPatch.context() as patch:
        real = fe._brought
        patch.setattr(fe, "_brought", lambda *args: real(*args) * 2)
        with pytest.raises(Refused, match=r"dense\.3: output") as refusal:
            simulated(layer, machine, check=True)
    assert refusal.value.code == "fpraker-schedule"


def test_wide_integers_are_rounded_and_cannot_be_replayed(machine):
    """8 bits are exact in bfloat16, 16 are not."""
    rng = np.random.default_rng(38)
    wide = Tensor(rng.integers(-30000, 30000, (9, 24)).astype(np.int16), "int16", 0.5)
    assert simulated(Gemm("w", wide, wide), machine, check=True).compute_cycles > 0
    with pytest.raises(Refused, match="int16"):
        fe.replay(Gemm("w", wide, wide), Rules())


def test_attention_counts_both_products_and_probabilities_in_memory(machine):
    """Of every sequence and head."""
    rng = np.random.default_rng(39)
    q, k, v = (Tensor(gaussian(rng, (20, 2, 16)), "bf16") for _ in range(3))
    layer = Attention("attention", q, k, v, np.array([12, 8]), 0.25)
    cost = simulated(layer, machine, check=True)
    assert cost.macs == layer.macs and cost.effectual == layer.effectual()
    squares = 2 * (12**2 + 8**2)
    assert cost.dense_dram_bytes == 2 * (3 * 20 * 2 * 16 + squares) + 2 * (squares + 20 * 2 * 16)
    assert cost.detail["p stored over raw"] < 1
    assert simulated(layer, machine, mode="sampled").compute_cycles > 0


def test_a_convolution_in_groups_stores_its_results_by_channel(machine):
    """Grouped along all channels, not by the one that a group has."""
    layer = conv(np.random.default_rng(39), channels=32, outputs=32, groups=32, side=6, zeros=0.0)
    found = simulated(layer, machine, check=True)
    assert 0.6 < found.detail["results stored over raw"] < 0.9
    assert found.macs == 36 * 32 * 9 and found.effectual == layer.effectual()


def test_an_empty_layer_is_left_out(machine):
    """With the reason."""
    empty = Tensor(np.zeros((0, 8), np.uint16), "bf16")
    cost = simulate(Workload([Gemm("none", empty, Tensor(np.zeros((4, 8), np.uint16), "bf16"))], {}), machine)
    assert cost.left_out == (("none", "it multiplies nothing"),)


def test_zeros_take_the_least(machine):
    """A layer of zeros multiplies, and has no term."""
    zero = Tensor(np.zeros((16, 64), np.uint16), "bf16")
    cost = simulated(Gemm("zero", zero, zero), machine, mode="exact")
    assert cost.compute_cycles == 2 * 8 and cost.detail["terms a set"] == 0 and cost.effectual == 0
    assert simulated(Gemm("zero", zero, zero), machine, mode="sampled").compute_cycles == 16


def test_limits_by_layer_are_for_that_layer(machine):
    """By pattern; the others keep the machine's."""
    own = machine.varied(out_of_bounds_by_layer={"block.*.up": 6})
    assert fe.rules_of(own, "block.3.up").out_of_bounds == 6
    assert fe.rules_of(own, "block.3.down").out_of_bounds == 12
    rng = np.random.default_rng(40)
    a = Tensor(gaussian(rng, (32, 64)), "bf16")
    fast, slow = (simulated(Gemm(name, a, a), own) for name in ("block.0.up", "head"))
    assert fast.compute_cycles < slow.compute_cycles
    assert fast.detail["terms out of bounds"] > slow.detail["terms out of bounds"] + 0.2


def test_profiled_limits_keep_the_results(machine):
    """A looser error allows a lower limit; none at all the accumulator's width at most."""
    rng = np.random.default_rng(41)
    layer = Gemm("g", Tensor(gaussian(rng, (64, 64)), "bf16"), Tensor(gaussian(rng, (64, 64)), "bf16"))
    limits = [fp.profiled_out_of_bounds(layer, machine, error) for error in (1e-9, 1e-2, 0.1)]
    assert 12 >= limits[0] > limits[1] > limits[2] > 0


# Which operand is serial, training, memory


def test_the_serial_operand_follows_the_role_or_the_terms(machine):
    """What flows by default; the sparser one where asked."""
    rng = np.random.default_rng(50)
    dense, sparse = Tensor(gaussian(rng, (32, 64)), "bf16"), Tensor(gaussian(rng, (32, 64), 0.8), "bf16")
    product = Gemm("g", dense, sparse)
    assert [fp.serial_operand(product, rule) for rule in fe.SERIAL] == ["a", "a", "b", "b"]
    own, other = (simulated(product, machine.varied(serial=rule)) for rule in ("role", "fewer"))
    assert other.compute_cycles < own.compute_cycles
    turned = simulated(Gemm("g", sparse, dense), machine)
    assert turned.compute_cycles == other.compute_cycles and turned.detail["serial operand"] == "a"


def test_training_has_three_products_with_the_gradient_serial(machine):
    """Their shapes, their numbers against finite differences of the loss, and roles that the machine runs."""
    rng = np.random.default_rng(51)
    a, b, g = (rng.integers(-4, 5, size).astype(np.int8) for size in ((6, 16), (5, 16), (6, 5)))
    forward, to_a, to_b = fp.training_products(
        Gemm("g", Tensor(a, "int8"), Tensor(b, "int8")), Tensor(g, "int8")
    )
    assert [one.role for one in (forward, to_a, to_b)] == ["forward", "grad_input", "grad_weight"]

    def loss(x, y):
        return int(((x.astype(np.int64) @ y.astype(np.int64).T) * g).sum())

    for i, j in ((0, 0), (3, 7), (4, 15)):
        up = a.copy(), b.copy()
        up[0][i, j] += 1
        up[1][i, j] += 1
        assert to_a.result()[i, j] == loss(up[0], b) - loss(a, b)
        assert to_b.result()[i, j] == loss(a, up[1]) - loss(a, b)
    for one in (forward, to_a, to_b):
        cost = simulated(one, machine, check=True)
        assert cost.role == one.role and cost.detail["serial operand"] == "a"
    with pytest.raises(Refused, match=r"\(6, 5\)"):
        fp.training_products(forward, Tensor(a, "int8"))


def test_memory_moves_what_is_stored(machine):
    """Raw, or as encoded; again where the buffer is too small."""
    rng = np.random.default_rng(52)
    x, w = gaussian(rng, (64, 256), 0.6), gaussian(rng, (32, 256))
    layer = Gemm("g", Tensor(x, "bf16"), Tensor(w, "bf16"))
    raw = simulated(layer, machine.varied(zeros="raw"))
    assert raw.dram_bytes == raw.dense_dram_bytes == 2 * (64 * 256 + 32 * 256 + 64 * 32)
    packed = simulated(layer, machine)
    results = bf16_bits(layer.a.real() @ layer.b.real().T)
    sizes = [min(fp.stored_bits(v, zeros=z) for z in ("stored", "bitmap")) for v in (x, w, results)]
    assert packed.dram_bytes == sum(sizes) / 8 < 0.8 * packed.dense_dram_bytes
    assert packed.detail["a stored over raw"] == sizes[0] / (16 * x.size)
    small = simulated(layer, machine.varied(zeros="raw", operand_buffer_kb=8))
    assert (
        small.dram_bytes
        == min(2 * 64 * 256 * 4 + 2 * 32 * 256, 2 * 64 * 256 + 2 * 32 * 256 * 8) + 2 * 64 * 32
    )
    assert small.compute_cycles == raw.compute_cycles == packed.compute_cycles


def test_events_are_the_terms_and_cycles_that_were_counted(machine):
    """A shift and an addition for each term and for each cycle of an element, at half of 32 bits."""
    cost = simulated(conv(np.random.default_rng(53)), machine, mode="exact")
    terms = cost.detail["terms a set"] * (1 - cost.detail["terms out of bounds"]) * 16 * 16 * 32 * 18
    cycles = cost.detail["cycles a set, element alone"] * 16 * 16 * 32 * 18
    assert cost.events["shift_32"] == pytest.approx((terms + cycles) / 2)
    assert cost.events["register_bit"] == pytest.approx(56 * cycles)
    assert cost.macs == 16 * 16 * 32 * 144


@pytest.mark.parametrize(
    "values",
    [
        {"lanes": 0}, {"lanes": 16}, {"rows": 0}, {"columns": -1}, {"reach": -1}, {"out_of_bounds": -1},
        {"out_of_bounds": 1001}, {"fraction_bits": 6}, {"fraction_bits": 25}, {"integer_bits": 0}, {"chunk": 12},
        {"chunk": -8}, {"exponent_share": 0}, {"buffer_depth": -1}, {"dense_tiles": 0}, {"tile_area_ratio": 0.0},
        {"tile_area_ratio": float("nan")}, {"tile_area_ratio": 100.0}, {"tile_power_ratio": -1.0}, {"serial": "c"},
        {"zeros": "none"}, {"group": 0}, {"operand_buffer_kb": 0}, {"clock_mhz": 0.0},
        {"out_of_bounds_by_layer": {"x": -1}}, {"out_of_bounds_by_layer": {"x": "6"}},
    ],
    ids=str,
)  # fmt: skip
def test_impossible_machines_are_refused(machine, values):
    """By the parameter's name and its value."""
    with pytest.raises(Refused, match=next(iter(values))) as refusal:
        fp.check(machine.varied(**values))
    assert refusal.value.code == "machine-parameter"


def test_every_parameter_says_where_it_is_from(machine):
    """What nobody has checked says so; nothing is taken for the paper's."""
    fp.check(machine)
    for one in machine.parameters.values():
        assert one.source.startswith(("from memory, not checked", "chosen by us", "Accelergy"))
