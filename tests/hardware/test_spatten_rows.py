"""SpAtten's rows: bytes, channels, the pipeline, the authors' behaviour model and workload tables."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from sparsam.errors import InputOutput, Refused
from sparsam.hardware.machine import machine_of
from sparsam.hardware.spatten_pipeline import (
    SCORE_DEPTH,
    VALUE_DEPTH,
    Engine,
    behaviour_cycles,
    run_rows,
    stages_apart,
)
from sparsam.hardware.spatten_rows import COLUMNS, Rows, channel_load, read_rows, vector_bytes

FULL = Engine.of(machine_of("spatten"))
EIGHTH = Engine.of(machine_of("spatten-eighth"))

KEYS = (921, 716, 204, 204, 204, 204, 102, 102, 102, 102, 102, 102)
VALUES = (184, 143, 40, 40, 40, 40, 20, 20, 20, 20, 20, 20)
UNSURE = (124, 172, 12, 1, 1, 1, 1, 1, 3, 1, 1, 5)


def gpt2_small():
    """Rows with the sizes of the authors' GPT-2 small run: 32 tokens, 12 layers, 12 heads; who was unsure is made up."""
    step, layer, head = (
        x.ravel() for x in np.meshgrid(np.arange(32), np.arange(12), np.arange(12), indexing="ij")
    )
    keys = np.where(step == 0, 993, np.array(KEYS)[layer])
    values = np.where(step == 0, 204, np.array(VALUES)[layer])
    unsure = np.zeros(len(step), np.int64)
    for number, many in enumerate(UNSURE):
        at = np.flatnonzero(layer == number)
        unsure[at[:many] if number >= 2 else at[-many:]] = 1  # the long rows of the first token where few are
    return Rows.of(
        iteration=step, layer=layer, head=head, width=64, context=993 + step, keys=keys, values=values, key_bits=6,
        value_bits=6, low_bits=4, refetch=unsure,
    )  # fmt: skip


def bert_layer(n=128):
    """A layer of BERT-base, nothing pruned, 8 bits."""
    return Rows.of(head=np.arange(12), width=64, keys=n, values=n, key_bits=8, value_bits=8, queries=n)


def random_rows(rng, many, queries=1):
    """Rows of any kind."""
    keys = rng.integers(1, 400, many)
    return Rows.of(
        layer=np.arange(many) // 7, head=np.arange(many), width=rng.choice([32, 64, 128], many), keys=keys,
        values=rng.integers(1, keys + 1), key_bits=rng.choice([4, 6, 8, 12], many), low_bits=4,
        value_bits=rng.choice([4, 6, 8], many), refetch=rng.integers(0, 2, many), queries=queries, other=64,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("width", "bits", "expected"),
    [
        (64, 4, 32),
        (64, 6, 48),
        (64, 8, 64),
        (64, 12, 96),
        (64, 32, 256),
        (32, 4, 32),
        (32, 6, 32),
        (80, 4, 64),
        (64, 0, 0),
    ],
)
def test_vector_takes_whole_transactions(width, bits, expected):
    """At 6 bits half of a line of two heads; 12 bits are planes of 8 and 4."""
    assert vector_bytes(width, bits) == expected


def test_channels_share_every_transaction():
    """Loads sum to the bytes; the fullest channel is at least the mean, at most all."""
    rng = np.random.default_rng(1)
    for _ in range(1000):
        ids = np.sort(rng.choice(1000, int(rng.integers(1, 300)), replace=False))
        vector, channels = int(rng.choice([32, 64, 96])), int(rng.choice([1, 2, 16]))
        load = channel_load(ids, vector, channels, 32 * int(rng.integers(0, 50)))
        assert load.sum() * 32 == len(ids) * vector
        assert len(load) == channels
        assert load.max() * channels >= load.sum()


def test_channel_is_address_bits_5_to_8():
    """Vectors of 64 bytes: 0 lies on channels 0 and 1, 8 begins again there."""
    assert channel_load(np.array([0, 8]), 64, 16).tolist() == [2, 2] + [0] * 14
    assert channel_load(np.array([1]), 32, 16, 32).tolist() == [0, 0, 1] + [0] * 13
    with pytest.raises(Refused, match="multiples of 32"):
        channel_load(np.array([1]), 48, 16)


def test_bytes_of_the_gpt2_small_statistics():
    """278.5 keys, 55.4 values, 6 bits, 7.0 % unsure rows: 28.9 times below float32, 10.8 below dense 12 bits."""
    rows = gpt2_small()
    assert len(rows) == 4608
    assert rows.context.mean() == 1008.5
    assert rows.keys.mean() == pytest.approx(278.5, abs=0.05)
    assert rows.values.mean() == pytest.approx(55.4, abs=0.05)
    assert rows.refetch.mean() == pytest.approx(0.070, abs=0.0002)
    assert rows.dense_bytes(32) / rows.kv_bytes == pytest.approx(28.9, abs=0.1)
    assert rows.dense_bytes(12) / rows.kv_bytes == pytest.approx(10.8, abs=0.05)
    by_hand = int(((rows.keys + rows.values) * 48 + rows.refetch * rows.keys * 32).sum())
    assert rows.kv_bytes == by_hand


def test_bert_layer_in_the_behaviour_model():
    """384 memory, 24,576 filling, 119 draining: 25,079 cycles, 2006 operations a cycle of 2048."""
    rows = bert_layer()
    found = behaviour_cycles(rows, FULL)
    assert found == {"dram": 384, "fill": 24_576, "drain": 119, "select": 0, "all": 25_079}
    assert 2 * rows.macs / found["all"] == pytest.approx(2006, abs=1)


def test_behaviour_model_adds_its_selection():
    """A head that selects pays filling, passes at 4 comparators, draining; 12 bits count as 8 there."""
    plain = behaviour_cycles(bert_layer(), FULL)
    rows = replace(
        bert_layer(), tokens_from=np.full(12, 128), tokens_to=np.full(12, 64), key_bits=np.full(12, 12)
    )
    found = behaviour_cycles(rows, FULL, seed=1)
    assert found["dram"] == plain["dram"]
    assert found["all"] == plain["all"] + found["select"]
    means = [behaviour_cycles(rows, FULL, seed=seed)["select"] / 12 for seed in range(200)]
    # 16 + 16 - 8 to fill and drain, |sequence| / 4 + 4 a pass: a little below ceil + 4
    assert 16 + 8 + 70 < np.mean(means) < 16 + 8 + 150


def test_dense_gpt2_row_waits_for_memory():
    """1008 keys of 12 bits: 189 + 189 cycles of memory beside 126 of each unit."""
    rows = Rows.of(width=64, keys=np.full(50, 1008), values=1008, key_bits=12, value_bits=12)
    found = run_rows(rows, FULL)
    assert found.busy == {"fetch": 50 * 378, "scores": 50 * 126, "select": 0, "values": 50 * 126}
    assert found.interval == found.busy["fetch"]
    assert found.cycles / 50 == pytest.approx(378, rel=0.01)


def test_bert_layer_is_near_the_roof_of_computing():
    """The pipeline hides memory: both units are busy over 99 % of the time."""
    found = run_rows(bert_layer(), FULL)
    assert found.busy["scores"] / found.cycles > 0.99
    assert found.cycles < behaviour_cycles(bert_layer(), FULL)["all"]


def test_one_row_by_hand():
    """Keys arrive, last ones scored, selection, values arrive, last ones summed."""
    rows = Rows.of(width=64, keys=[128], values=32, key_bits=8, value_bits=8)
    found = run_rows(rows, FULL, select=np.array([50]))
    keys = 30 + 128 * 64 / 512 + 1  # latency, streaming, the last eight
    values = keys + SCORE_DEPTH + 50 + 30 + 32 * 64 / 512 + 1
    assert found.cycles == values + VALUE_DEPTH


def test_unsure_row_by_hand():
    """The row is decided, its low planes come, it is scored again while they do."""
    sure = Rows.of(width=64, keys=[128], values=128, key_bits=8, value_bits=8, low_bits=4)
    unsure = replace(sure, refetch=np.array([1]))
    more = run_rows(unsure, FULL).cycles - run_rows(sure, FULL).cycles
    assert more == SCORE_DEPTH + 30 + max(16, 128 * 32 / 512)
    assert run_rows(unsure, FULL).bytes["low"] == 128 * 32
    assert run_rows(unsure, FULL).second == 16


def plain_pipeline(rows, engine, select):
    """The recurrence once more, one query after the other, in words."""
    found, decided, in_buffer = [], {}, []
    fetcher = scorer = selector = summer = 0.0
    rate, query = 32 * engine.channels * engine.efficiency, 0
    moved = rows.bytes
    for row in range(len(rows)):
        par = engine.multipliers // int(rows.width[row])
        lines = -(-int(rows.keys[row]) // par)
        while sum(size for _, size in in_buffer) + lines > engine.lines:
            gone, _ = in_buffer.pop(0)
            fetcher = max(fetcher, decided[gone])
        in_buffer.append((row, lines))
        score = max(lines, -(-int(rows.keys[row]) // engine.softmax_lanes))
        low = moved["low"][row] / rate
        for first in range(int(rows.queries[row])):
            once = 1.0 if first == 0 else 0.0
            asked = fetcher
            keys = asked + rows.other[row] / rate + engine.latency + once * moved["keys"][row] / rate
            fetcher += (
                rows.other[row] + once * (moved["keys"][row] + moved["low"][row] + moved["values"][row])
            ) / rate
            scorer = max(max(scorer, asked + engine.latency) + score, keys + 1)
            if rows.refetch[row]:
                scorer += SCORE_DEPTH + engine.latency + max(score, low)
            selector = max(selector, scorer + SCORE_DEPTH) + select[query]
            query += 1
            begin = selector + engine.latency if rows.late[row] else selector
            there = (begin if rows.late[row] else keys) + once * moved["values"][row] / rate
            summer = max(max(summer, begin) + -(-int(rows.values[row]) // par), there + 1)
        decided[row] = scorer
        found.append(summer + VALUE_DEPTH)
    return np.array(found)


def test_kernel_is_the_recurrence():
    """Random rows, several queries a record, a buffer that fills: every record's end, bit for bit."""
    rng = np.random.default_rng(2)
    for _ in range(150):
        rows = random_rows(rng, int(rng.integers(1, 40)), int(rng.integers(1, 5)))
        lines = int((-(-rows.keys // (512 // rows.width))).max())
        engine = replace(FULL, lines=lines + int(rng.integers(0, 60)), channels=int(rng.choice([1, 4, 16])))
        select = rng.integers(0, 200, int(rows.queries.sum()))
        assert np.array_equal(
            run_rows(rows, engine, select=select).ends, plain_pipeline(rows, engine, select)
        )


def test_stages_one_after_the_other_give_the_same():
    """10,000 rows: where the buffer never fills, running maxima stage by stage."""
    rng = np.random.default_rng(3)
    engine = replace(FULL, lines=1 << 30)
    for _ in range(100):
        rows = random_rows(rng, 100)
        select = rng.integers(0, 200, 100)
        run = run_rows(rows, engine, select=select)
        assert np.allclose(run.ends, stages_apart(rows, engine, select), rtol=1e-12)
        assert run.cycles >= run.interval


def test_same_cycles_where_numba_is_absent():
    """Plain Python gives the compiled pipeline's numbers."""
    program = (
        "import sys; sys.modules['numba'] = None\n"
        "import numpy as np\n"
        "from sparsam.hardware.machine import machine_of\n"
        "from sparsam.hardware.spatten_pipeline import Engine, run_rows\n"
        "from sparsam.hardware.spatten_rows import Rows\n"
        "n = np.arange(20, 60)\n"
        "rows = Rows.of(layer=n // 9, width=64, keys=n, values=n // 2, key_bits=8, value_bits=6, low_bits=4, refetch=n % 2)\n"
        "print(run_rows(rows, Engine.of(machine_of('spatten')), select='drawn', by_layer=True).ends.tolist())\n"
    )
    plain = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    n = np.arange(20, 60)
    rows = Rows.of(
        layer=n // 9, width=64, keys=n, values=n // 2, key_bits=8, value_bits=6, low_bits=4, refetch=n % 2
    )
    assert plain.strip() == str(run_rows(rows, FULL, select="drawn", by_layer=True).ends.tolist())


def test_less_work_never_takes_longer():
    """5,000 changes: fewer keys, values, bits, refetches, heads; more channels, comparators, lines, multipliers."""
    rng = np.random.default_rng(4)
    for _ in range(500):
        rows = random_rows(rng, 12)
        rows = replace(rows, values=np.minimum(rows.values, (rows.keys + 1) // 2))
        rows = replace(rows, values_fetched=rows.values, late=np.ones_like(rows.late))
        select = rng.integers(0, 100, 12)
        engine = replace(FULL, lines=200, channels=4)
        base = run_rows(rows, engine, select=select)
        fewer = rng.integers(0, 2, 12)
        keys = np.maximum(rows.keys - fewer * rng.integers(0, 50, 12), 2 * rows.values)
        keys = np.minimum(keys, rows.keys)
        values = np.maximum(rows.values - fewer * rng.integers(0, 50, 12), 1)
        changes = [
            (
                replace(rows, keys=np.maximum(keys, rows.values), keys_fetched=np.maximum(keys, rows.values)),
                engine,
                select,
            ),
            (replace(rows, values=values, values_fetched=values), engine, select),
            (replace(rows, key_bits=np.full(12, 4), value_bits=np.full(12, 4)), engine, select),
            (replace(rows, refetch=rows.refetch * fewer), engine, select),
            (rows[np.arange(12) != 5], engine, np.delete(select, 5)),
            (rows, replace(engine, channels=8), select),
            (rows, replace(engine, lines=300), select),
            (rows, replace(engine, multipliers=1024, lines=200), select),
            (rows, replace(engine, softmax_lanes=16), select),
            (rows, engine, select // 2),
        ]
        for some, other, chosen in changes:
            assert run_rows(some, other, select=chosen).cycles <= base.cycles
        for some, _, _ in changes[:5]:
            assert some.kv_bytes <= rows.kv_bytes


def test_higher_threshold_takes_more():
    """More unsure rows: more bytes, more cycles."""
    rows = gpt2_small()
    taken = [run_rows(replace(rows, refetch=np.full(len(rows), on)), FULL) for on in (0, 1)]
    assert taken[0].cycles < taken[1].cycles
    assert taken[0].bytes["low"] == 0 < taken[1].bytes["low"]


def test_comparators_beyond_sixteen_gain_little():
    """On the pruned GPT-2 rows: 12 % on the full machine, under 1 % on the eighth; with one comparator both are slower."""
    rows = gpt2_small()
    for engine, most, least in ((FULL, 1.13, 7), (EIGHTH, 1.01, 1.2)):
        taken = {many: run_rows(rows, replace(engine, comparators=many)).cycles for many in (1, 16, 32, 64)}
        assert 1 <= taken[16] / taken[64] < most
        assert taken[1] / taken[16] > least


def test_units_never_do_more_than_they_can():
    """Multiplications over cycles of each unit stay below its multipliers."""
    rng = np.random.default_rng(5)
    for _ in range(200):
        rows = random_rows(rng, 20)
        found = run_rows(rows, FULL)
        scored = int(((1 + rows.refetch) * rows.keys * rows.width).sum())
        assert scored <= 512 * found.busy["scores"] <= 512 * found.cycles
        assert int((rows.values * rows.width).sum()) <= 512 * found.busy["values"]
        assert sum(found.bytes.values()) <= 512 * found.cycles
        assert found.macs == scored + int((rows.values * rows.width).sum())


def test_layers_wait_for_each_other_when_told():
    """With layers apart the pipeline drains between them; the cascade's selection lies in between."""
    rows = gpt2_small()
    apart, together = run_rows(rows, FULL, by_layer=True), run_rows(rows, FULL)
    assert apart.cycles > together.cycles
    chosen = replace(
        rows, tokens_from=np.where(rows.head == 11, rows.keys, 0), tokens_to=np.where(rows.head == 11, 50, 0)
    )
    assert run_rows(chosen, FULL, by_layer=True).cycles > apart.cycles


def test_two_heads_of_a_line_are_selected_once():
    """At 6 bits every second row has no selection of its own."""
    rows = gpt2_small()
    assert rows.second_of_pair.sum() == len(rows) // 2
    apart = replace(rows, value_bits=np.full(len(rows), 8))
    assert not apart.second_of_pair.any()
    assert run_rows(apart, FULL).busy["select"] == pytest.approx(2 * run_rows(rows, FULL).busy["select"])


def test_drawn_selections_have_the_mean():
    """Over 4,608 rows, drawing pivots and the mean of them differ by little, and a seed repeats."""
    rows = gpt2_small()
    drawn = [run_rows(rows, FULL, select="drawn", seed=seed).busy["select"] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0] == pytest.approx(run_rows(rows, FULL).busy["select"], rel=0.02)


def test_very_long_rows_draw_their_selection():
    """Beyond 4096 keys there is no table of means; drawing works."""
    rows, engine = (
        Rows.of(width=64, keys=[5000], values=90, key_bits=8, value_bits=8),
        replace(FULL, lines=1000),
    )
    with pytest.raises(Refused, match="draw pivots"):
        run_rows(rows, engine)
    assert 5000 / 16 < run_rows(rows, engine, select="drawn").busy["select"] < 5000


def test_row_beyond_the_buffer_is_refused():
    """2049 keys of width 64 do not fit in 256 lines of 8."""
    with pytest.raises(Refused, match="2049 keys of width 64 take 257 lines"):
        run_rows(Rows.of(width=64, keys=[2049], values=2049, key_bits=8, value_bits=8), FULL)
    with pytest.raises(Refused, match="width 1000 does not fit"):
        run_rows(Rows.of(width=1000, keys=[4], values=4, key_bits=8, value_bits=8), FULL)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"keys": [4], "values": 5}, "5 values for 4 keys"),
        ({"keys": [0], "values": 0}, "keys is 0"),
        ({"keys": [4, 4], "values": [1, 2, 3]}, "different lengths"),
        ({"keys": [4], "values": 1, "hue": 3}, "no column hue"),
        ({"keys": [4], "values": 1, "refetch": -1}, "refetch is -1"),
    ],
)
def test_impossible_rows_are_refused(columns, said):
    """More values than keys, no key, unequal columns, unknown columns, negative counts."""
    with pytest.raises(Refused, match=said):
        Rows.of(**({"width": 64, "key_bits": 8, "value_bits": 8} | columns))


def table(tmp_path, lines, columns=COLUMNS):
    """A workload table on disk."""
    file = tmp_path / "rows.csv"
    file.write_text("\n".join([",".join(columns), *lines]) + "\n", encoding="utf-8")
    return file


def test_workload_table_is_read(tmp_path):
    """The columns mean what the authors' bench takes them for; a last line with a name alone is passed over."""
    file = table(
        tmp_path,
        [
            "0,0,0,64.0,993,921,6,16,0.05,True,4,204,6,True,False,False,-1",
            "0,0,1,64.0,993,921,6,16,0.05,False,4,204,6,True,False,True,716",
            "0,1,0,64.0,993,993,-1,-1,-1,False,-1,993,-1,True,False,True,921",
            "configs/some.yml" + "," * 16,
        ],
    )
    rows = read_rows(file)
    assert rows.keys.tolist() == [921, 921, 993]
    assert rows.refetch.tolist() == [1, 0, 0]
    assert rows.low_bits.tolist() == [4, 0, 0]
    assert rows.key_bits.tolist() == [6, 6, 12]
    assert rows.tokens_from.tolist() == [0, 921, 993]
    assert rows.tokens_to.tolist() == [0, 716, 921]
    assert rows.bytes["keys"].tolist() == [921 * 48, 921 * 48, 993 * 96]
    bench = read_rows(file, as_bench=True)
    assert bench.keys.tolist() == [928, 928, 1000]
    assert bench.values.tolist() == [208, 208, 1000]
    assert bench.refetch.tolist() == [1, 0, 1]
    assert bench.key_bits.tolist() == [6, 6, 8]
    assert bench.value_bits.tolist() == [6, 6, 8]
    assert run_rows(bench, FULL).cycles > 0


@pytest.mark.parametrize(
    ("lines", "columns", "said"),
    [
        (["0,0,0,64,9,x,6,16,-1,False,-1,4,6,True,False,False,-1"], COLUMNS, "row 1: key_fetch_num is 'x'"),
        (["0,0,0,64,9,nan,6,16,-1,False,-1,4,6,True,False,False,-1"], COLUMNS, "key_fetch_num is 'nan'"),
        (["0,0,0,64,9,5.5,6,16,-1,False,-1,4,6,True,False,False,-1"], COLUMNS, "key_fetch_num is '5.5'"),
        (["0,0"], COLUMNS, "quant_key_bit is ''"),
        (["0"], COLUMNS, "has no row"),
        ([], COLUMNS, "has no row"),
        (["1"], COLUMNS[:4], "has no column sentence_length_L"),
        (["0,0,0,64,9,0,6,16,-1,False,-1,0,6,True,False,False,-1"], COLUMNS, "keys is 0"),
    ],
)
def test_bad_workload_table_is_refused(tmp_path, lines, columns, said):
    """Cells that are no numbers, short lines, missing columns, no rows."""
    with pytest.raises(Refused, match=said):
        read_rows(table(tmp_path, lines, columns))


def test_missing_workload_table_is_named(tmp_path):
    """The file's name is in the error."""
    with pytest.raises(InputOutput, match="nowhere"):
        read_rows(tmp_path / "nowhere.csv")
