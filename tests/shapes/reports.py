"""Reports for tests of what is shown."""

from sparsam.shapes.diagnose import explain_failure
from sparsam.shapes.verdict import (
    Failure,
    Finding,
    Operand,
    Path,
    Place,
    Report,
    Symbol,
    Unknown,
    Verdict,
)

HOSTILE = "a\x1b[31m\u202eb\u2066c\x07\x9b2J\u200bd\ue000\ud800e[red]f[/red]<script>"

LINE = "        context = context.view(batch, length, 512)"


def attention(
    line: int = 41, file: str = "train.py", function: str = "attention", source: str = LINE
) -> Finding:
    """The head forgotten in the context of an attention."""
    tensor = Operand("self", "tensor", ("B", "12", "T", "64"), "float32", "cpu")
    numbers = tuple(Operand("", "number", text=size) for size in ("B", "T", "512"))
    start = source.find("context.view") + 1 or 1
    chain = (
        Place(file, line + 47, 9, 30, "forward", "        return self.attention(x)"),
        Place(file, line, start, start + 12, function, source),
    )
    failure = Failure(
        "torch.Tensor.view",
        "RuntimeError",
        "shape '[B, T, 512]' is invalid for input of size 768*B*T",
        (tensor, *numbers),
        chain,
        "aten.view.default",
    )
    witness = {"B": 1, "T": 1}
    code, message, caret, fix = explain_failure(failure, witness)
    return Finding(code, message, failure, witness, True, ("N % B != 0",), "Eq(768*B*T, 512*B*T)", fix, caret)


def whole(*findings: Finding) -> Report:
    """A report with something of everything."""
    return Report(
        program="train.py",
        verdict=Verdict.ERROR if findings else Verdict.UNKNOWN,
        findings=findings,
        unknowns=(
            Unknown("loop", "The body changes a shape.", Place("train.py", 7, 1, 4, "run", "for x in y:")),
            Unknown("solver", "Gave up on N % B != 0."),
        ),
        paths=(
            Path(Verdict.ERROR, {"B": 1}, ("B < 2",), "error"),
            Path(Verdict.PROVED, {"B": 2}, ("B >= 2",)),
        ),
        symbols=(Symbol("B", 1, 512, meaning="batch_size of the command line"), Symbol("T", 1, None)),
        statistics={"seconds": 3.2, "solver_seconds": 0.4, "runs": 14, "peak_bytes": float("inf")},
    )


def hostile() -> Report:
    """A report in which every text from outside steers a terminal."""
    place = Place(f"/x/{HOSTILE}.py", 3, 2, 9, HOSTILE, f"\t{HOSTILE * 40}")
    failure = Failure(
        HOSTILE, HOSTILE, HOSTILE * 50, (Operand(HOSTILE, "other", text=HOSTILE),), (place,) * 30, HOSTILE
    )
    finding = Finding(
        "view-numel", HOSTILE, failure, {HOSTILE: HOSTILE}, False, (HOSTILE,) * 99, HOSTILE, HOSTILE, HOSTILE
    )
    return Report(
        HOSTILE,
        Verdict.ERROR,
        (finding,) * 60,
        tuple(Unknown(HOSTILE, f"{HOSTILE}{n}", place) for n in range(40)),
        (),
        tuple(Symbol(f"{HOSTILE}{n}", None, None, "size", HOSTILE, place) for n in range(40)),
        {"seconds": 1.0},
        HOSTILE,
    )
