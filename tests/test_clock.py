"""Racing processes: who is faster, by how much, and what is said when a figure is no figure."""

import subprocess
import sys
import textwrap
import time

import pytest

from sparsam.clock import Race, Ratio, Timing, _cores_taken, race
from sparsam.errors import InputOutput, Usage


def contestant(body: str) -> list[str]:
    """A process that takes part with this body of ``make``."""
    code = "import time\nfrom sparsam.clock import take_part\ndef make():\n" + textwrap.indent(body, "    ")
    return [sys.executable, "-c", code + "\ntake_part(make)\n"]


def sleeper(seconds: float) -> list[str]:
    """Takes that long a round."""
    return contestant(f"return (lambda: time.sleep({seconds})), {{'format': 'none'}}")


def test_the_faster_one_is_found() -> None:
    """A ratio of about two, its facts, and as many rounds as asked for."""
    seen: list[tuple[int, int]] = []
    found = race(
        {"quick": sleeper(0.03), "slow": sleeper(0.06)}, rounds=3, warmups=1,
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert not found.absent and seen == [(1, 3), (2, 3), (3, 3)]
    assert len(found.timings["quick"].seconds) == 3
    assert found.timings["quick"].facts == {"format": "none"}
    ratio = found.ratio("quick", "slow")
    assert 1.4 < ratio.value < 2.6 and ratio.low <= ratio.value <= ratio.high
    assert found.ratio("slow", "slow").value == 1.0


def test_work_done_several_times_over_is_timed_as_once() -> None:
    """What gives back a number did it so often; anything else was once."""
    body = "def work():\n    time.sleep(0.05)\n    return {times}\nreturn work, {{}}"
    found = race(
        {"five": contestant(body.format(times=5)), "once": contestant(body.format(times=True))},
        rounds=3,
        warmups=0,
    )
    assert 4 < found.ratio("five", "once").value < 6


def test_what_cannot_start_is_named_and_the_others_run() -> None:
    """An extra that is missing, a process that dies, and one that says nothing in time are each absent with a reason."""
    found = race(
        {
            "there": sleeper(0.0),
            "missing": contestant("import no_such_package"),
            "dead": [sys.executable, "-c", "raise SystemExit(7)"],
            "mute": [sys.executable, "-c", "import time; time.sleep(60)"],
        },
        rounds=1,
        warmups=1,
        patience=5.0,
    )
    assert list(found.timings) == ["there"]
    assert "No module named 'no_such_package'" in found.absent["missing"]
    assert "exit code 7" in found.absent["dead"]
    assert "took too long" in found.absent["mute"]
    with pytest.raises(Usage, match=r"missing was not timed: .*no_such_package.* Timed: there"):
        found.ratio("there", "missing")


def test_one_that_fails_in_a_round_is_named() -> None:
    """Ready, warm, and then an error: no figure is made of the rest."""
    body = "times = iter([0, 0])\nreturn (lambda: next(times)), {}"
    with pytest.raises(InputOutput, match="weak: StopIteration"):
        race({"weak": contestant(body)}, rounds=3, warmups=1)


def test_what_a_library_prints_is_not_an_answer() -> None:
    """Lines on standard output, from Python or below it, do not reach the protocol."""
    body = "import os\nprint('hello')\nos.write(1, b'below\\n')\nreturn (lambda: print('again')), {}"
    assert len(race({"loud": contestant(body)}, rounds=2, warmups=1).timings["loud"].seconds) == 2


def test_ratios_are_of_the_same_round() -> None:
    """A machine twice as slow in one round changes no ratio; rounds that disagree are doubtful."""
    steady = Race({"a": Timing("a", (1.0, 2.0, 1.0), {}), "b": Timing("b", (3.0, 6.0, 3.0), {})}, {}, ())
    assert steady.ratio("a", "b") == Ratio("a", "b", 3.0, 3.0, 3.0)
    assert not steady.ratio("a", "b").doubtful
    uneven = Race({"a": Timing("a", (1.0, 1.0), {}), "b": Timing("b", (2.0, 3.5), {})}, {}, ())
    assert uneven.ratio("a", "b").doubtful


def test_a_busy_machine_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cores that others take while all wait are a warning with both numbers; a quiet machine, or one that is mute, is not."""
    for taken, said in ((1.26, True), (0.1, False), (None, False)):
        monkeypatch.setattr("sparsam.clock._cores_taken", lambda taken=taken: taken)
        warnings = race({"one": sleeper(0.0)}, rounds=1).warnings
        assert any("others take 1.3 of its" in text for text in warnings) == said


def test_what_others_take_is_counted() -> None:
    """A process that works all the time is seen."""
    quiet = _cores_taken(0.3)
    if quiet is None:
        pytest.skip("no /proc/stat")
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as worker:
        try:
            time.sleep(0.2)
            taken = _cores_taken(0.5)
        finally:
            worker.kill()
    assert taken is not None and taken > 0.2


def test_rounds_are_counted_from_one() -> None:
    """No rounds, no figure."""
    with pytest.raises(Usage, match="rounds must be at least 1; got 0"):
        race({}, rounds=0)
