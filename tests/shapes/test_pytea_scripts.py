"""Programs and scripts that came with another checker get the verdict that the running framework gives.

They are read from a checkout of https://github.com/ropas/pytea outside this project: SPARSAM_PYTEA names one of its newest
commit (c536515), SPARSAM_PYTEA_UNIT one of commit 5543dcc, the last to have the short scripts.
"""

import os
import resource
import runpy
import time
import warnings
from pathlib import Path

import pytest
from published import PROGRAMS

from sparsam.shapes.check import Limits, check
from sparsam.shapes.verdict import Verdict

SECONDS = 10  # of CPU, for one check
BYTES = 1 << 30
RUNS = 0  # instead of a line: the script runs to its end

# The line where torch 2.13 raises. Two were written as faulty but run: convolution takes input without a batch, and any
# padding. Targets of a loss that are no integers are refused before their shapes are looked at.
SCRIPTS = {
    "fails/fail_conv2d_basic01": 19,
    "fails/fail_conv2d_dim01": RUNS,
    "fails/fail_conv2d_padding01": RUNS,
    "fails/fail_flatten_start_dim01": 16,
    "fails/fail_linear_basic01": 17,
    "fails/fail_log_softmax_basic01": 16,
    "fails/fail_max_pool2d_basic01": 16,
    "fails/fail_max_pool2d_dim01": 16,
    "fails/fail_max_pool2d_dim02": 16,
    "fails/fail_nll_loss_basic03": 17,
    "fails/fail_nll_loss_weight01": 18,
    "passes/pass_argmax_basic01": RUNS,
    "passes/pass_argmax_dim01": RUNS,
    "passes/pass_conv2d_basic01": RUNS,
    "passes/pass_dropout2d_basic01": RUNS,
    "passes/pass_dropout2d_basic02": RUNS,
    "passes/pass_flatten_end_dim01": RUNS,
    "passes/pass_linear_basic01": RUNS,
    "passes/pass_linear_dim01": RUNS,
    "passes/pass_log_softmax_basic01": RUNS,
    "passes/pass_log_softmax_basic02": RUNS,
    "passes/pass_log_softmax_basic03": RUNS,
    "passes/pass_max_pool2d_basic01": RUNS,
    "passes/pass_max_pool2d_ceil_mode01": RUNS,
    "passes/pass_max_pool2d_dilation01": RUNS,
    "passes/pass_max_pool2d_padding01": RUNS,
    "passes/pass_max_pool2d_stride01": RUNS,
    "passes/pass_max_pool2d_tuple01": RUNS,
    "passes/pass_nll_loss_basic01": 19,
    "passes/pass_nll_loss_basic02": 19,
}
WITH_INTEGERS = {  # the same with integer targets, as their authors meant them
    "fails/fail_nll_loss_basic03": 17,
    "fails/fail_nll_loss_weight01": 18,
    "passes/pass_nll_loss_basic01": RUNS,
    "passes/pass_nll_loss_basic02": RUNS,
}


def outside(variable: str, below: str) -> Path:
    """The folder in the checkout that the variable names; skips without it."""
    if variable not in os.environ:
        pytest.skip(f"{variable} names no checkout of ropas/pytea")
    folder = Path(os.environ[variable]) / "packages/pytea/pytest" / below
    if not folder.is_dir():
        pytest.skip(f"{variable} has no {folder}")
    return folder


def raised_at(script: Path) -> int:
    """The line where torch raises, `RUNS` if it does not."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            runpy.run_path(str(script), run_name="__main__")
    except Exception as error:
        lines, trace = [], error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_filename == str(script):
                lines.append(trace.tb_lineno)
            trace = trace.tb_next
        return lines[-1]
    return RUNS


def said(report) -> str:
    """The findings and what stayed unknown, for a failing test."""
    lines = [f"{f.code} {f.failure.place.file}:{f.failure.place.line}: {f.message}" for f in report.findings]
    return "\n".join([*lines, *(f"unknown {u.code}: {u.reason} at {u.place}" for u in report.unknowns)])


def assert_as_running(script: Path, line: int) -> None:
    """Torch and the checker both raise at this line, or neither does."""
    assert raised_at(script) == line
    start = time.process_time()
    report = check(str(script), sandboxed=False)
    assert time.process_time() - start < SECONDS
    if line == RUNS:
        assert report.verdict is Verdict.PROVED, said(report)
    else:
        assert report.verdict is Verdict.ERROR, said(report)
        assert [finding.failure.place.line for finding in report.findings] == [line], said(report)


@pytest.mark.parametrize("name", SCRIPTS)
def test_short_script_is_judged_as_torch_runs_it(name):
    """Where torch raises the checker reports an error at that line, and proves what runs, whatever the label says."""
    folder = outside("SPARSAM_PYTEA_UNIT", "unit_tests")
    assert_as_running(folder / f"{name}.py", SCRIPTS[name])


@pytest.mark.parametrize("name", WITH_INTEGERS)
def test_short_script_with_integer_targets_is_judged_as_torch_runs_it(name, tmp_path):
    """With the `.long()` restored that the scripts have in a comment only their shapes count."""
    folder = outside("SPARSAM_PYTEA_UNIT", "unit_tests")
    text = (folder / f"{name}.py").read_text()
    assert "#.long()" in text
    copy = tmp_path / "script.py"
    copy.write_text(text.replace("#.long()", ".long()"))
    assert_as_running(copy, WITH_INTEGERS[name])


def test_short_script_is_checked_in_little_memory():
    """A padding that takes torch gigabytes takes the checker, in a process of its own, no more than any other."""
    folder = outside("SPARSAM_PYTEA_UNIT", "unit_tests")
    report = check(str(folder / "fails/fail_conv2d_padding01.py"))
    assert report.verdict is Verdict.PROVED, said(report)
    assert report.statistics["peak_bytes"] < BYTES


@pytest.mark.slow  # up to ten seconds of CPU for each of nine
@pytest.mark.parametrize("name", PROGRAMS)
def test_published_program_is_judged_as_it_runs(name):
    """The error that torch raises is found at its line, a right program is proved, in 10 s of CPU and 1 GiB."""
    program, folder = PROGRAMS[name], outside("SPARSAM_PYTEA", "benchmarks") / name
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    report = check(program.script, program.arguments, folder=folder, limits=Limits())
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if not program.at:
        assert report.verdict is Verdict.PROVED, said(report)
    else:
        assert report.verdict is Verdict.ERROR, said(report)
        places = [f.failure.place for f in report.findings]
        assert [f"{Path(place.file).name}:{place.line}" for place in places] == program.at.split(), said(
            report
        )
        if program.below is not None:
            word, bound = program.below
            names = {symbol.name for symbol in report.symbols if word in symbol.meaning}
            assert any(report.findings[0].witness.get(one, bound) < bound for one in names), said(report)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < SECONDS
    assert report.statistics["peak_bytes"] < BYTES
