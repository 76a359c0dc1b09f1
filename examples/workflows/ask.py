"""Run the four workflows tracked, and ask the papers' questions, each by one call.

python ask.py                 # all; writes what was asked and answered into *.out beside this file
python ask.py h5bench DIR     # one, in a folder of yours
"""

import contextlib
import io
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

from sparsam.cli import main as sparsam

HERE = Path(__file__).resolve().parent
NAMES = re.compile(r"^( (?:host|user) +)\S.*")
"""Whose machine it was is left out of the answers here."""
WORKFLOWS: dict[str, tuple[list[tuple[str, ...]], list[tuple[str, tuple[str, ...]]]]] = {
    "acoustic_sensing": (
        [("pipeline",)],
        [
            ("Which raw recording was this product made from, and how?", ("lineage", "products/recording1-spectrum.h5")),
            ("What has to be made again when a recording turns out to be bad?", ("impact", "raw/recording1.bin")),
            (
                "Which programs touched the attribute 'sampling rate', and in which way?",
                (
                    "query",
                    'SELECT ?file ?call ?command WHERE { ?a io:path "/acquisition/das@sampling rate" ; io:within ?f ; ?r ?c .'
                    " ?f io:path ?file . ?c a ?call ; prov:wasAssociatedWith ?p . ?p io:command ?command ."
                    ' FILTER(?call IN (io:Create, io:Read, io:Write) && STRENDS(?file, "1.h5")) } ORDER BY ?command ?call',
                ),
            ),
        ],
    ),
    "hyperparameters": (
        [
            ("narrow", "--hidden", "4", "--rate", "0.1", "--batch", "32", "--out", "narrow.npz"),
            ("wide", "--hidden", "64", "--rate", "0.1", "--batch", "32", "--out", "wide.npz"),
            ("hasty", "--hidden", "64", "--rate", "3.0", "--batch", "8", "--out", "hasty.npz"),
        ],
        [
            ("Which hyper-parameters and preselection gave the best accuracy?", ("best", "--metric", "accuracy")),
            ("How accurate were the versions with batches of 32?", ("best", "--metric", "accuracy", "--where", "batch=32")),
            ("In what do two versions differ?", ("diff", "narrow", "hasty")),
        ],
    ),
    "h5bench": (
        [("write", "write"), ("overwrite", "overwrite"), ("append", "append")],
        [
            ("Which calls take the time, and on what?", ("io-profile", "append")),
            ("Was what was read written once, or twice?", ("lineage", "overwrite-sum.txt")),
        ],
    ),
    "checkpoints": (
        [
            ("first", "--steps", "6", "--out", "first.pt"),
            ("second", "--steps", "9", "--out", "second.pt", "--resume", "checkpoints/step6.pt"),
        ],
        [
            ("From which checkpoint and data was the model trained on?", ("lineage", "second.pt")),
            ("Are checkpoints and data as they were, so that I can go on?", ("verify", "checkpoints", "corpus.json")),
            ("How was the model made, and could that be done again?", ("reproduce", "second.pt")),
        ],
    ),
}  # fmt: skip
"""Workflow: its runs (name, arguments), and the questions with the command that answers each."""


def run(name: str, folder: Path) -> None:
    """All runs of a workflow, tracked, in a folder, into which its script is put."""
    shutil.copy(HERE / f"{name}.py", folder)
    for label, *arguments in WORKFLOWS[name][0]:
        command = ["python", f"{name}.py", *arguments]
        with contextlib.chdir(folder):
            code = sparsam(["track", "--run", label, "--exclude", "*.py", "--", *command])
        if code:
            raise SystemExit(f"{name} {label} ended with {code}")


def asked(name: str, folder: Path) -> str:
    """The questions, each with its command and the answer."""
    said = []
    for question, command in WORKFLOWS[name][1]:
        out = io.StringIO()
        with contextlib.chdir(folder), contextlib.redirect_stdout(out):
            sparsam(list(command))
        words = " ".join(f"'{x}'" if re.search(r"[^\w./=-]", x) else x for x in command)
        lines = [NAMES.sub(r"\1…", x.rstrip()) for x in out.getvalue().splitlines()]
        said.append(f"{question}\n$ sparsam {words}\n" + "\n".join(x for x in lines if x) + "\n")
    return "\n".join(said)


def main() -> None:
    """As the module says."""
    os.environ.setdefault("COLUMNS", "160")
    for name in sys.argv[1:2] or WORKFLOWS:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(sys.argv[2] if len(sys.argv) > 2 else place)
            folder.mkdir(parents=True, exist_ok=True)
            run(name, folder)
            text = asked(name, folder)
        (HERE / f"{name}.out").write_text(text)
        print(f"{name}\n\n{text}")


if __name__ == "__main__":
    main()
