"""The command line: what stands on standard output, exit codes, hostile names.

``python tests/test_cli.py`` writes docs/cli.md.
"""

import contextlib
import csv
import io
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest

from sparsam.cli import main
from sparsam.cli.methods import METHODS, MethodName
from sparsam.cli.show import Progress, plain
from sparsam.cost import Cost
from sparsam.errors import Usage

COMMANDS = (
    "finetune",
    "compress",
    "quantize",
    "pareto",
    "evaluate",
    "debug",
    "bench",
    "export",
    "inspect",
    "trace",
    "simulate",
    "machines",
    "explore",
    "report",
    "check",
    "demo",
    "track",
    "lineage",
    "impact",
    "verify",
    "reproduce",
    "runs",
    "best",
    "diff",
    "io-profile",
    "query",
    "provenance",
)
PAGE = Path(__file__).parent.parent / "docs" / "cli.md"
HOSTILE = "[red]x\x1b[31m\u202e<script>alert(1)</script>[/red]:smile:"


def cli_page() -> str:
    """docs/cli.md as it has to be: every ``--help``, 100 columns wide."""
    parts = [
        "# Commands\n\nWritten by `python tests/test_cli.py` from the real `--help`; a test compares.\n\n"
        "Standard output holds the answer, or with `--json` exactly one JSON object; progress and notes go to standard "
        'error. A command that fails prints `{"error": {"code": …, "message": …}}` there, beside whatever facts it '
        "has.\n"
    ]
    width = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "100"
    try:
        for command in ((), *((name,) for name in COMMANDS)):
            shown = io.StringIO()
            with contextlib.redirect_stdout(shown):
                main([*command, "--help"])
            title = " ".join(("sparsam", *command))
            lines = [line.rstrip() for line in shown.getvalue().strip().splitlines()]
            parts.append(f"\n## {title}\n\n```text\n" + "\n".join(lines) + "\n```\n")
    finally:
        os.environ.pop("COLUMNS")
        if width is not None:
            os.environ["COLUMNS"] = width
    return "".join(parts)


def road():
    """The module sparsam.compress (the name in the package is the function)."""
    import sparsam.compress  # noqa: F401

    return sys.modules["sparsam.compress"]


def only_json(captured: str) -> dict:
    """The one object on standard output; fails on anything else there."""
    assert captured.count("\n") == 1, captured
    assert "\x1b" not in captured
    return json.loads(captured, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


@pytest.fixture(scope="module")
def reviews(tmp_path_factory) -> Path:
    """A task of 200 rows of made-up words: one of three telling words says the class."""
    path = tmp_path_factory.mktemp("data") / "reviews.csv"
    draw = random.Random(0)
    with open(path, "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label"])
        for row in range(200):
            text = [draw.choice(WORDS[6:]) for _ in range(draw.randint(2, 18))]
            text.insert(draw.randrange(len(text)), draw.choice(WORDS[3:6] if row % 2 else WORDS[:3]))
            rows.writerow([" ".join(text), ("up", "down")[row % 2]])
    return path


WORDS = ["good", "great", "fine", "bad", "awful", "poor", "film", "plot", "actor", "the", "a", "was", "very"]


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Path:
    """A BERT of width 32 with 2 layers and 16 positions, and its tokenizer of whole words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("models") / "bert"
    vocabulary = {word: at for at, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        model_max_length=16,
    )  # fmt: skip
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=16,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


@pytest.fixture
def decoder(tmp_path) -> Path:
    """A folder with the configuration of a decoder."""
    (tmp_path / "gpt").mkdir()
    (tmp_path / "gpt" / "config.json").write_text(
        json.dumps({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]})
    )
    return tmp_path / "gpt"


def made(folder: Path, *, met: bool = True):
    """What compress gives back, with figures of our own."""
    from sparsam.compress import Compressed, Evaluation
    from sparsam.cost import Budget
    from sparsam.measure import Measurement
    from sparsam.plan import Plan

    def evaluation(right: int, macs: int, kept: float) -> Evaluation:
        metric = Measurement("accuracy", right / 100, 0.8, 0.95, 100, "fraction", {"right": right})
        shares = ({"attention": 1.0, "ffn": kept}, {"attention": kept, "ffn": kept / 2})
        nothing = np.zeros(100, np.int64)
        return Evaluation(
            "validation", metric, Cost(ffn=macs, samples=100), Cost(ffn=100_000_000, samples=100), shares, 7, 1.0,
            nothing, nothing,
        )  # fmt: skip

    difference = Measurement(
        "difference in accuracy",
        -2.0,
        -4.5,
        0.5,
        100,
        "points",
        {"lost": 3, "won": 1, "changed": 5, "p": 0.625},
    )
    missed = () if met else ("The reloaded model takes 0.600x of the dense MACs; 0.5x was asked for.",)
    return Compressed(
        None, None, Plan.dense("bert", 2), folder, evaluation(90, 100_000_000, 1.0), evaluation(88, 60_000_000, 0.8),
        difference, missed, Budget(macs=0.5), (), {}, 4_000_000, 3_000_000,
    )  # fmt: skip


@pytest.fixture
def stand_in(monkeypatch):
    """compress and the task are stand-ins; what compress was given is in the list."""
    calls = []

    def compress(model, task, **given):
        calls.append({"model": model, **given})
        print("a library prints to standard output")  # noqa: T201
        for step in (1, 2):
            given["progress"]("soft", step, 2, {"loss": 0.5})
        return made(given["out"], met="missed" not in str(given["out"]))

    def load_task(show, *args, **given):
        for note in task.notes:
            show.note(note)
        return task

    task = SimpleNamespace(name="sst2", notes=("validation is test",), train=[1, 2])
    monkeypatch.setattr(road(), "compress", compress)
    monkeypatch.setattr("sparsam.cli.compress.load_task", load_task)
    return calls


# --- help ------------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    """120 columns, whatever the terminal, test runner or CI says."""
    monkeypatch.setenv("COLUMNS", "120")


def test_help_starts_fast_and_without_heavy_modules():
    """--help needs neither torch nor transformers nor numpy, and less than half a second of processor time."""
    code = (
        "import sys, time; from sparsam.cli import main; main(['compress', '--help']);"
        "heavy = {'torch', 'transformers', 'numpy', 'pandas', 'sklearn'} & set(sys.modules);"
        "print(time.process_time(), *heavy, file=sys.stderr)"
    )
    times = []
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        seconds, *heavy = done.stderr.split()
        assert heavy == []
        times.append(float(seconds))
    assert min(times) < 0.5, times


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_examples_and_json(command, capsys):
    """--help ends with 0, shows an example of the command itself, and offers --json."""
    assert main([command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "Examples:" in shown
    assert f"sparsam {command}" in shown.split("Examples:")[1]
    assert "--json" in shown


def test_every_metric_is_named_in_help(capsys):
    """The help of --metric lists the metrics there are."""
    from sparsam.task import METRICS

    main(["evaluate", "--help"])
    shown = capsys.readouterr().out
    assert [metric for metric in METRICS if metric not in shown] == []


def test_every_method_can_be_chosen():
    """The table of methods, the choices of --method and the controls there are agree, and each one builds."""
    from sparsam.tokens.control import NAMES

    assert tuple(METHODS) == get_args(MethodName)
    learned = {"ltp", "ftpp", "ltp+ftpp"}
    assert {*learned, "int8", *(f"{name}+int8" for name in learned), *NAMES} == set(METHODS)
    assert {name: len(build()) for name, build in METHODS.items()} == {
        name: 1 + name.count("+") + ("ltp+ftpp" in name) for name in METHODS
    }
    first, second, again = METHODS["ltp+ftpp"](multiple=8, epochs=6.0, distill=0.5)
    assert (second.multiple, first.soft_epochs, first.hard_epochs) == (8, 2.0, 4.0)
    assert (again.soft_epochs, again.hard_epochs, again.distill, first.distill) == (0.0, 2.0, 0.5, 0.5)
    assert METHODS["ltp+ftpp"](recover_epochs=3.0)[2].hard_epochs == 3.0
    with pytest.raises(
        Usage, match=r"--method ftpp does not know --soft, --epochs; it takes --distill, --samples"
    ):
        METHODS["ftpp"](soft="mask", epochs=1.0)


def test_cli_page_is_not_stale():
    """docs/cli.md is the real --help; write it again with: python tests/test_cli.py."""
    assert PAGE.read_text(encoding="utf-8") == cli_page(), "stale: run python tests/test_cli.py"


def test_version_is_the_package_version(capsys):
    """--version prints name and version alone."""
    import sparsam

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"sparsam {sparsam.__version__}\n"


def test_python_dash_m_runs_the_same_command():
    """``python -m sparsam`` without a command shows the help and ends with 2."""
    done = subprocess.run([sys.executable, "-m", "sparsam"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "")
    assert done.stdout.startswith("Usage: sparsam")


# --- usage and errors ------------------------------------------------------------------------------------------------

COMPRESS = ("compress", "model", "--task", "task", "--out", "out")


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["compress"], "usage", "Missing argument 'MODEL'"),
        ([*COMPRESS, "--bogus"], "usage", "No such option: --bogus"),
        (["explode"], "usage", "No such command 'explode'"),
        ([*COMPRESS, "--method", "magic"], "usage", "magic"),
        ([*COMPRESS, "--lr", "0"], "usage", "must be above 0; got 0"),
        ([*COMPRESS, "--epochs", "nan"], "usage", "must be above 0; got nan"),
        ([*COMPRESS, "--distill", "2"], "usage", "is a share from 0 to 1; got 2"),
        ([*COMPRESS, "--weight", "-1"], "usage", "must be 0 or more; got -1"),
        (
            [*COMPRESS, "--seed", "99999999999999999999"],
            "usage",
            "should be less than or equal to 4294967295",
        ),
        ([*COMPRESS, "--split-seed", "4294967296"], "usage", "should be less than or equal to 4294967295"),
        ([*COMPRESS, "--budget", "speed=2x"], "budget-key", "expected e.g. macs=0.5x,accuracy=-1"),
        ([*COMPRESS, "--budget", "macs=2x"], "budget-range", "macs must lie in (0x, 1x]"),
        (
            [*COMPRESS, "--method", "top-k", "--soft-epochs", "1"],
            "method-option",
            "does not know --soft-epochs",
        ),
        (
            [*COMPRESS, "--epochs", "1", "--hard-epochs", "1"],
            "epochs-twice",
            "cannot stand beside --hard-epochs",
        ),
    ],
)
def test_wrong_usage_ends_with_2_and_one_json_error(arguments, code, text, capsys, tmp_path, monkeypatch):
    """Every usage error: exit code 2, on standard error a line that names it, with --json one object too."""
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    plainly = capsys.readouterr()
    assert plainly.out == ""
    assert text in plainly.err
    assert "Traceback" not in plainly.err
    assert main([*arguments, "--json"]) == 2
    error = only_json(capsys.readouterr().out)["error"]
    assert error["code"] == code
    assert text in error["message"]


def test_missing_folder_ends_with_5(capsys, reviews, tmp_path):
    """A model that is nowhere is an input error, before and after the task was read."""
    absent = str(tmp_path / "absent")
    for arguments in (["inspect", absent], ["evaluate", absent, "--task", str(reviews)]):
        assert main([*arguments, "--json"]) == 5
        error = only_json(capsys.readouterr().out)["error"]
        assert error["code"] in ("config-missing", "model-missing")
        assert absent in error["message"]


def test_missing_task_ends_with_5_or_2(capsys, bert, tmp_path):
    """A task that is nowhere is named."""
    assert main(["evaluate", str(bert), "--task", str(tmp_path / "absent.csv"), "--json"]) in (2, 5)
    assert "absent.csv" in only_json(capsys.readouterr().out)["error"]["message"]


def test_decoder_is_refused_by_name(capsys, decoder, reviews, tmp_path):
    """A decoder ends with 3 and the reason, in inspect and in compress; inspect still gives its findings."""
    assert main(["inspect", str(decoder), "--json"]) == 3
    facts = only_json(capsys.readouterr().out)
    assert (facts["supported"], facts["error"]["code"]) == (False, "model-unsupported")
    assert "gpt2" in facts["findings"][0]["reason"]
    assert main(["inspect", str(decoder)]) == 3
    assert "gpt2" in capsys.readouterr().err
    out = str(tmp_path / "out")
    assert (
        main(
            [
                "compress",
                str(decoder),
                "--task",
                str(reviews),
                "--budget",
                "macs=0.5x",
                "--out",
                out,
                "--json",
            ]
        )
        == 3
    )
    assert "gpt2" in only_json(capsys.readouterr().out)["error"]["message"]
    assert not Path(out).exists()


def test_model_type_nobody_knows_is_refused(capsys, tmp_path):
    """A model_type that transformers does not know is a finding, no fault."""
    (tmp_path / "config.json").write_text('{"model_type": "perceptron-9000"}')
    assert main(["inspect", str(tmp_path), "--json"]) == 3
    assert "perceptron-9000" in only_json(capsys.readouterr().out)["error"]["message"]


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"model_type": 7}', '{"model_type": "bert", "hidden_size": "wide"}']
)
def test_broken_configuration_is_no_fault_of_ours(text, capsys, tmp_path):
    """A config.json that is none ends with 3 or 5, never with a traceback."""
    (tmp_path / "config.json").write_text(text)
    assert main(["inspect", str(tmp_path), "--json"]) in (3, 5)
    assert only_json(capsys.readouterr().out)["error"]["code"] != "fault"


def test_absent_label_column_ends_with_2(capsys, bert, reviews):
    """--label with a column that is not there lists the columns there are."""
    assert main(["evaluate", str(bert), "--task", str(reviews), "--label", "stars", "--json"]) == 2
    error = only_json(capsys.readouterr().out)["error"]
    assert error["code"] == "label-column"
    assert "text, label" in error["message"]


def test_place_that_cannot_be_written_is_found_before_training(capsys, stand_in, tmp_path):
    """--out that is a file, holds foreign files, or is the model itself ends at once."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    (tmp_path / "model").mkdir()
    model = str(tmp_path / "model")
    for out, code, exit_code in (
        ("file", "out-not-folder", 5),
        ("full", "not-an-artifact", 3),
        ("model", "out-is-model", 2),
    ):
        arguments = [
            "compress",
            model,
            "--task",
            "t",
            "--budget",
            "macs=0.5x",
            "--out",
            str(tmp_path / out),
            "--json",
        ]
        assert main(arguments) == exit_code
        assert only_json(capsys.readouterr().out)["error"]["code"] == code
    assert stand_in == []
    assert (tmp_path / "full" / "thesis.tex").read_text() == "mine"


def test_unknown_fault_is_one_line_and_points_to_debug(capsys, monkeypatch, stand_in, tmp_path):
    """Faults of our own: exit code 1, one line and a hint; --debug shows the traceback."""

    def broken(*args, **given):
        raise ZeroDivisionError("a fault\x1b[31m of ours")

    monkeypatch.setattr(road(), "compress", broken)
    arguments = ["compress", "m", "--task", "t", "--budget", "macs=0.5x", "--out", str(tmp_path / "o")]
    assert main(arguments) == 1
    shown = capsys.readouterr()
    assert (
        "error [fault]: ZeroDivisionError: a fault[31m of ours\nrun with --debug for the traceback\n"
        in shown.err
    )
    assert "Traceback" not in shown.err
    assert main([*arguments, "--debug", "--json"]) == 1
    shown = capsys.readouterr()
    assert "Traceback" in shown.err
    assert only_json(shown.out)["error"]["code"] == "fault"


def test_full_disk_is_an_output_error(capsys, monkeypatch, stand_in, tmp_path):
    """An error of the operating system that nobody caught ends with 5."""

    def full(*args, **given):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(road(), "compress", full)
    assert (
        main(
            ["compress", "m", "--task", "t", "--budget", "macs=0.5x", "--out", str(tmp_path / "o"), "--json"]
        )
        == 5
    )
    assert "No space left" in only_json(capsys.readouterr().out)["error"]["message"]


@pytest.mark.parametrize("saved", [True, False])
def test_interrupt_says_how_to_go_on(saved, capsys, monkeypatch, stand_in, tmp_path):
    """Ctrl-C ends with 130 and tells truly whether there is a checkpoint to go on from."""
    out = tmp_path / "o"

    def stopped(*args, **given):
        if saved:
            (tmp_path / "o.work" / "0" / "soft").mkdir(parents=True)
            (tmp_path / "o.work" / "0" / "soft" / "checkpoint-0.safetensors").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(road(), "compress", stopped)
    assert main(["compress", "m", "--task", "t", "--budget", "macs=0.5x", "--out", str(out), "--json"]) == 130
    error = only_json(capsys.readouterr().out)["error"]
    assert error["code"] == "interrupted"
    wanted = (
        f"Run the same command again to go on from the checkpoint in {out}.work"
        if saved
        else "No checkpoint was written"
    )
    assert wanted in error["message"]


# --- answers ---------------------------------------------------------------------------------------------------------


def test_missed_budget_ends_with_4_and_shows_what_was_reached(capsys, stand_in, tmp_path):
    """A missed budget prints the table, or the whole object with an error in it, and ends with 4."""
    arguments = ["compress", "m", "--task", "t", "--budget", "macs=0.5x", "--out", str(tmp_path / "missed")]
    assert main(arguments) == 4
    shown = capsys.readouterr()
    assert "0.600x" in shown.out
    assert "error [budget-missed]: the budget is missed. The reloaded model takes 0.600x" in shown.err
    assert main([*arguments, "--json"]) == 4
    facts = only_json(capsys.readouterr().out)
    assert facts["compressed"]["macs_ratio"] == 0.6
    assert facts["error"]["code"] == "budget-missed"


def test_table_shows_both_models_and_their_difference(capsys, stand_in, tmp_path):
    """Dense and compressed with interval, MACs, tokens and size; then the paired difference with flips and p."""
    assert main(["compress", "m", "--task", "t", "--budget", "macs=0.6x", "--out", str(tmp_path / "o")]) == 0
    shown = capsys.readouterr().out
    dense = next(line for line in shown.splitlines() if line.lstrip().startswith("dense"))
    small = next(line for line in shown.splitlines() if line.lstrip().startswith("compressed"))
    assert dense.split() == [
        "dense",
        "90.00",
        "%",
        "(80.00–95.00)",
        "1.000x",
        "1",
        "M",
        "100",
        "50",
        "4.00",
        "MB",
    ]
    assert small.split() == [
        "compressed",
        "88.00",
        "%",
        "(80.00–95.00)",
        "0.600x",
        "600",
        "k",
        "80",
        "40",
        "3.00",
        "MB",
    ]
    assert (
        "Paired difference: -2.00 points (95 % interval -4.50 to +0.50) over 100 rows; 3 lost, 1 won, 5 answers changed, "
        "p = 0.625." in " ".join(shown.split())
    )


def test_json_is_alone_on_standard_output(capsys, stand_in, tmp_path):
    """Prints of libraries, progress and notes go to standard error; notes stand in the object too, cut texts once."""
    assert (
        main(
            ["compress", "m", "--task", "t", "--budget", "macs=0.6x", "--out", str(tmp_path / "o"), "--json"]
        )
        == 0
    )
    shown = capsys.readouterr()
    facts = only_json(shown.out)
    assert facts["notes"][0] == "validation is test"
    assert sum("7 of 100 texts of validation are longer" in note for note in facts["notes"]) == 1
    assert "a library prints to standard output" in shown.err
    assert "soft 2/2 (100 %), loss 0.5" in shown.err
    assert "note: validation is test" in shown.err


def test_options_reach_the_method(stand_in, tmp_path):
    """Each option sets the field of its name; --epochs is shared as the stages are by default."""
    base = ["compress", "m", "--task", "t", "--budget", "macs=0.6x,accuracy=-1", "--out", str(tmp_path / "o")]
    main([*base, "--epochs", "6", "--weight", "0.1", "--soft", "scale", "--hard-lr", "1e-3", "--seed", "3",
          "--batch-tokens", "64", "--precision", "fp32", "--teacher", "dense", "--no-truncate"])  # fmt: skip
    given = stand_in[0]
    method, settings = given["methods"][0], given["settings"]
    assert (method.soft_epochs, method.hard_epochs, method.weight, method.soft, method.hard_lr) == (
        2,
        4,
        0.1,
        "scale",
        1e-3,
    )
    assert (settings.seed, settings.batch_tokens, settings.precision) == (3, 64, "fp32")
    assert (given["budget"].macs, given["budget"].accuracy, given["teacher"]) == (0.6, -1, "dense")
    assert (given["truncate"], given["strict"]) == (False, False)
    main([*base, "--method", "top-k", "--epochs", "6"])
    assert (stand_in[1]["methods"][0].rule, stand_in[1]["methods"][0].hard_epochs) == ("top-k", 6)


def test_demo_is_wired(capsys, monkeypatch, tmp_path):
    """The demo gets its folder, shows its progress, and answers like compress."""

    def run_demo(out, progress, say):
        say("a line")
        progress("finetune", 1, 1, {})
        return made(out / "compressed")

    checked, reported = [], []
    stand_in = SimpleNamespace(
        run_demo=run_demo,
        race_demo=lambda out, progress: raced(),
        report_demo=lambda out, bench: reported.extend(bench) or out / "report.html",
        check_demo=checked.append,
    )
    monkeypatch.setitem(sys.modules, "sparsam.demo", stand_in)
    assert main(["demo", "--out", str(tmp_path), "--json"]) == 0
    assert checked == [tmp_path]
    shown = capsys.readouterr()
    answer = only_json(shown.out)
    assert (answer["folder"], answer["report"]) == (
        str(tmp_path / "compressed"),
        str(tmp_path / "report.html"),
    )
    assert answer["speed"] == reported[0] == json.loads(json.dumps(raced().to_json()))
    assert "the machine is busy" in answer["notes"]
    assert "a line\nfinetune 1/1 (100 %)\n" in shown.err
    assert main(["demo", "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert f"Report: {tmp_path / 'report.html'}\n" in shown
    assert (
        "Speed of small, bf16, reloaded, 2 threads, 8 rows in arrival order, batches of 4:\n"
        "  3.00x eager-fp32 (2.00–4.00) ? pixels given, 1.50x eager-fp32 (1.40–1.60) with the image processor\n"
        in shown
    )
    assert "Speed of small, fp32" not in shown


def raced():
    """A race of two forms of a model against one baseline."""
    from sparsam.bench import Benchmark, BenchRow

    def row(model, ratio, low, high, reads, speed):
        return BenchRow(
            model, "eager-fp32", ratio, "arrival", 4, reads, low, high, high / low, high / low > 1.5, speed, 100.0, None, None,
            0.5, 0.0, (-1.0, 1.0), 8, {},
        )  # fmt: skip

    rows = (
        row("small, fp32", 2.0, 1.9, 2.1, False, 200.0),
        row("small, bf16", 1.5, 1.4, 1.6, True, 150.0),
        row("small, bf16", 3.0, 2.0, 4.0, False, 300.0),
    )
    return Benchmark(
        "digits",
        "image",
        "validation",
        "accuracy",
        "dense",
        rows,
        {},
        ("the machine is busy",),
        {"threads": 2},
    )


# --- progress --------------------------------------------------------------------------------------------------------


def test_progress_lines_are_few_and_tell_the_time_left():
    """Without a terminal: the first step, then a line every 15 seconds, then the last step; a new stage starts anew."""
    from rich.console import Console

    now = [0.0]
    file = io.StringIO()
    progress = Progress(Console(file=file, width=200), clock=lambda: now[0])
    for step in range(1, 101):
        now[0] += 1.0
        progress("soft", step, 100, {"loss": 0.25, "task": 1.0, "macs": 0.5})
    progress("evaluate", 5, 5, {})
    progress("evaluate", 5, 5, {})
    lines = file.getvalue().splitlines()
    assert lines[0] == "soft 1/100 (1 %), loss 0.25, macs 0.5"
    assert lines[1] == "soft 16/100 (16 %), 84 s left, loss 0.25, macs 0.5"
    assert lines[-3:] == [
        "soft 100/100 (100 %), loss 0.25, macs 0.5",
        "evaluate 5/5 (100 %)",
        "evaluate 5/5 (100 %)",
    ]
    assert len(lines) == 10


def test_progress_on_a_terminal_shows_bars():
    """On a terminal: one bar a stage, with count and time left, names as text."""
    from rich.console import Console

    file = io.StringIO()
    progress = Progress(Console(file=file, width=120, force_terminal=True, markup=False))
    for step in (1, 2):
        progress("[red]soft", step, 2, {"loss": 0.25})
    progress("hard", 1, 2, {})
    progress.close()
    shown = file.getvalue()
    assert "[red]soft" in shown
    assert "2/2" in shown
    assert "hard" in shown


@pytest.mark.parametrize(
    ("change", "code", "text"),
    [
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "quantized", "quantized (bitsandbytes)"),
        ({"auto_map": {"AutoModel": "x.Y"}}, "remote-code", "names code to run (auto_map)"),
        (
            {"position_embedding_type": "relative_key"},
            "family-refused",
            "position_embedding_type 'relative_key'",
        ),
        ({"is_decoder": True}, "family-refused", "is a decoder"),
        (
            {"architectures": ["BertForTokenClassification"]},
            "head-kind",
            "BertForTokenClassification is refused",
        ),
    ],
)
def test_inspect_refuses_what_every_command_refuses(change, code, text, capsys, bert, reviews, tmp_path):
    """What opening a model refuses, inspect calls unsupported with the same reason, in every layer; and shows it."""
    folder = tmp_path / "model"
    shutil.copytree(bert, folder)
    config = json.loads((folder / "config.json").read_text()) | change
    (folder / "config.json").write_text(json.dumps(config))
    assert main(["inspect", str(folder), "--json"]) == 3
    facts = only_json(capsys.readouterr().out)
    assert facts["supported"] is False
    assert text in facts["error"]["message"]
    assert [text in layer["reason"] for layer in facts["layers"]] == [True, True]
    assert main(["inspect", str(folder)]) == 3
    assert "as above" in capsys.readouterr().out
    assert main(["evaluate", str(folder), "--task", str(reviews), "--json"]) == 3
    assert only_json(capsys.readouterr().out)["error"]["code"] == code


def test_inspect_sees_an_edited_plan(capsys, bert, tmp_path):
    """The digest in the weights' header tells, without reading the weights."""
    from transformers import AutoModelForSequenceClassification

    import sparsam
    from sparsam.plan import LayerPlan, Plan, TokenPlan

    model = AutoModelForSequenceClassification.from_pretrained(bert)
    sparsam.lift(model, Plan("bert", (LayerPlan(),) * 2, TokenPlan("ltp", (0.5, 1.0))))
    sparsam.save(model, tmp_path / "small")
    assert main(["inspect", str(tmp_path / "small"), "--json"]) == 0
    capsys.readouterr()
    config = json.loads((tmp_path / "small" / "config.json").read_text())
    config["quantization_config"]["plan"]["tokens"]["values"][0] = 0.25
    (tmp_path / "small" / "config.json").write_text(json.dumps(config))
    assert main(["inspect", str(tmp_path / "small"), "--json"]) == 3
    facts = only_json(capsys.readouterr().out)
    assert "the plan in config.json is not what was saved" in facts["error"]["message"]
    assert facts["supported"] is False


# --- hostile names ---------------------------------------------------------------------------------------------------


def test_plain_takes_out_what_steers_a_terminal():
    """Control characters, changes of direction and broken surrogates go; everything else stays, markup too."""
    assert plain(HOSTILE) == "[red]x[31m<script>alert(1)</script>[/red]:smile:"
    assert plain("a\nb\tc\u2028d\x7f\x9b\udc80é😀") == "a b c d?é😀"


def test_hostile_model_name_is_shown_as_text(capsys, tmp_path):
    """Brackets and tags in a folder's name come out as they are, escape sequences do not come out at all."""
    folder = tmp_path / HOSTILE.replace("/", "_")
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": f"{HOSTILE}"}))
    assert main(["inspect", str(folder)]) == 3
    shown = capsys.readouterr()
    together = "".join((shown.out + shown.err).split())
    assert "\x1b" not in together
    assert "\u202e" not in together
    assert "[red]x[31m<script>alert(1)</script>[/red]:smile:" in together
    assert main(["inspect", str(folder), "--json"]) == 3
    assert only_json(capsys.readouterr().out)["model_type"] == HOSTILE


def test_hostile_label_is_shown_as_text(capsys, bert, tmp_path):
    """A label that steers terminals is named in an error as text."""
    for split, labels in (
        ("train", [HOSTILE, "fine"]),
        ("validation", ["fine", "[bold]other\x1b]0;title\x07"]),
    ):
        with open(tmp_path / f"{split}.csv", "w", newline="") as file:
            csv.writer(file).writerows(
                [["text", "label"], *([f"good {i}", label] for i, label in enumerate(labels * 5))]
            )
    assert main(["evaluate", str(bert), "--task", str(tmp_path)]) == 3
    shown = capsys.readouterr().err
    assert "error [label-unknown]" in shown
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert "[bold]other" in shown


def test_hostile_names_reach_tables_as_text(capsys, monkeypatch, tmp_path):
    """Model names in the table of evaluate are text."""
    found = made(tmp_path).compressed
    task = SimpleNamespace(name=HOSTILE, metric="accuracy", notes=(), train=[])
    monkeypatch.setattr("sparsam.cli.evaluate.load_task", lambda *a, **k: task)
    monkeypatch.setattr(road(), "open_model", lambda *a, **k: SimpleNamespace(model=None, notes=()))
    monkeypatch.setattr(road(), "evaluate", lambda *a, **k: found)
    monkeypatch.setattr(road(), "weight_bytes", lambda model: 1)
    assert main(["evaluate", HOSTILE, "--task", "t", "--baseline", "[green]b"]) == 0
    shown = capsys.readouterr()
    assert "\x1b" not in shown.out + shown.err
    assert "[green]b" in shown.out
    assert "[red]x[31m" in shown.out


# --- the whole road --------------------------------------------------------------------------------------------------


def test_finetune_compress_evaluate_inspect_end_to_end(capsys, bert, reviews, tmp_path):
    """A tiny BERT is fine-tuned, compressed, compared and inspected by the real functions."""
    dense, small, task = str(tmp_path / "dense"), str(tmp_path / "small"), ["--task", str(reviews)]

    assert main(["finetune", str(bert), *task, "--out", dense, "--dry-run", "--json"]) == 0
    planned = only_json(capsys.readouterr().out)
    assert (planned["dry_run"], planned["train_rows"], planned["stages"][0]["stage"]) == (
        True,
        180,
        "finetune",
    )
    assert not Path(dense).exists()

    training = ["--epochs", "5", "--lr", "3e-3", "--batch-tokens", "128", "--precision", "fp32"]
    assert main(["finetune", str(bert), *task, "--out", dense, *training, "--json"]) == 0
    tuned = only_json(capsys.readouterr().out)
    assert tuned["model"]["value"] > 0.8
    assert tuned["training"]["steps"] > 50

    chosen = ["--budget", "macs=0.8x", "--out", small, "--batch-tokens", "128", "--precision", "fp32"]
    assert main(["compress", dense, *task, *chosen, "--dry-run", "--json"]) == 0
    planned = only_json(capsys.readouterr().out)
    assert [stage["stage"] for stage in planned["stages"]] == ["teacher", "soft", "hard", "steering"]
    assert not Path(small).exists()

    exit_code = main(["compress", dense, *task, *chosen, "--json"])
    facts = only_json(capsys.readouterr().out)
    assert exit_code == (0 if facts["budget"]["met"] else 4)
    assert facts["compressed"]["macs_ratio"] < 0.85
    assert facts["dense"]["value"] == tuned["model"]["value"]
    assert not Path(f"{small}.work").exists()

    assert main(["evaluate", small, *task, "--baseline", dense, "--json"]) == 0
    shown = capsys.readouterr()
    found = only_json(shown.out)
    assert found["model"]["macs"] == facts["compressed"]["macs"]
    assert found["difference"] == facts["difference"]
    assert shown.err.count("longer than the model can read") == 1
    kept = json.loads((Path(small) / "evaluation.json").read_text())["evaluation"]
    assert kept["difference"] == facts["difference"]
    assert main(["evaluate", small, *task, "--record", "--json"]) == 0
    assert f"kept in {small}/evaluation.json" in capsys.readouterr().err
    alone = json.loads((Path(small) / "evaluation.json").read_text())["evaluation"]
    assert (alone["model"]["value"], "dense" in alone) == (kept["model"]["value"], False)
    assert main(["evaluate", str(bert), *task, "--record", "--json"]) == 2
    assert "has no MANIFEST.json" in only_json(capsys.readouterr().out)["error"]["message"]
    assert main(["evaluate", small, *task, "--no-truncate", "--json"]) == 3
    assert only_json(capsys.readouterr().out)["error"]["code"] == "text-too-long"

    assert main(["inspect", small, "--json"]) == 0
    assert only_json(capsys.readouterr().out)["plan"] == facts["plan"]
    assert main(["inspect", small]) == 0
    assert "class token only" in capsys.readouterr().out


def test_evaluation_holds_out_the_rows_that_training_did(capsys, bert, reviews, tmp_path):
    """--seed leaves the split alone; another --split-seed than the model's is refused by evaluate, and says which it was."""
    dense, task = str(tmp_path / "dense"), ["--task", str(reviews)]
    quick = ["--epochs", "0.1", "--seed", "7", "--split-seed", "2", "--out", dense, "--json"]
    assert main(["finetune", str(bert), *task, *quick]) == 0
    tuned = only_json(capsys.readouterr().out)["model"]
    facts = json.loads((Path(dense) / "sparsam.json").read_text())["facts"]
    assert (facts["seed"], facts["split_seed"], len(facts["held_out"])) == (7, 2, 64)
    assert main(["evaluate", dense, *task, "--json"]) == 3
    error = only_json(capsys.readouterr().out)["error"]
    assert error["code"] == "held-out"
    assert "Give --split-seed 2" in error["message"]
    assert main(["evaluate", dense, *task, "--split-seed", "2", "--json"]) == 0
    assert only_json(capsys.readouterr().out)["model"]["value"] == tuned["value"]
    assert main(["finetune", dense, *task, "--out", str(tmp_path / "again"), "--json"]) == 3
    assert only_json(capsys.readouterr().out)["error"]["code"] == "held-out"


def test_the_teacher_reaches_the_dry_run(capsys, bert, reviews, tmp_path):
    """--dry-run looks at the teacher as the run does: one that is nowhere ends with 5."""
    out = ["--budget", "macs=0.5x", "--out", str(tmp_path / "out"), "--dry-run", "--json"]
    absent = str(tmp_path / "absent")
    assert main(["compress", str(bert), "--task", str(reviews), "--teacher", absent, *out]) == 5
    assert absent in only_json(capsys.readouterr().out)["error"]["message"]


def test_usage_error_of_the_library_is_a_usage_error_of_the_shell(capsys, monkeypatch, stand_in, tmp_path):
    """Errors keep their code and exit code on the way out."""

    def refuse(*args, **given):
        raise Usage("give --teacher.", code="teacher-missing")

    monkeypatch.setattr(road(), "compress", refuse)
    assert main(["compress", "m", "--task", "t", "--budget", "macs=0.5x", "--out", str(tmp_path / "o")]) == 2
    assert "error [teacher-missing]: give --teacher." in capsys.readouterr().err


if __name__ == "__main__":
    PAGE.write_text(cli_page(), encoding="utf-8")
