"""`sparsam check --lsp`: the real process, spoken to as an editor does."""

import json
import queue
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sparsam.cli.main import main

WAIT = 120  # seconds for a check on a busy machine
FAULTY = """\
import torch
from torch import nn


def width():
    return 65


def build():
    return nn.Linear(64, 3)


def score(x):
    # ä𝄞: two characters, three units
    return build()(x)


score(torch.zeros(2, width()))
"""


class Editor:
    """A client that sends what it is told to, and keeps what it is sent."""

    def __init__(self, folder: Path, settings=None) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sparsam", "check", "--lsp", "--seconds", "50"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=folder,
        )
        self.received: queue.Queue = queue.Queue()
        self.count = 0
        threading.Thread(target=self._read, daemon=True).start()
        self.hello = self.ask(
            "initialize",
            {
                "processId": None,
                "rootUri": folder.as_uri(),
                "capabilities": {},
                "initializationOptions": settings,
            },
        )
        self.tell("initialized", {})

    def _read(self) -> None:
        while True:
            length = 0
            while (line := self.process.stdout.readline().strip()) != b"":
                name, _, value = line.partition(b":")
                length = int(value) if name == b"Content-Length" else length
            if not length:
                return
            self.received.put(json.loads(self.process.stdout.read(length)))

    def _send(self, message) -> None:
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        self.process.stdin.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        self.process.stdin.flush()

    def tell(self, method: str, params) -> None:
        """Sends a notification."""
        self._send({"method": method, "params": params})

    def ask(self, method: str, params=None):
        """Sends a request and waits for its result."""
        self.count += 1
        self._send({"id": self.count, "method": method, "params": params})
        return self.until(lambda message: message.get("id") == self.count)["result"]

    def until(self, wanted, seconds: float = WAIT):
        """The next message of a kind; those before it are dropped."""
        end = time.monotonic() + seconds
        while True:
            message = self.received.get(timeout=max(end - time.monotonic(), 0.1))
            if wanted(message):
                return message

    def diagnostics(self, file: Path):
        """The next ones of a file."""
        said = self.until(
            lambda m: (
                m.get("method") == "textDocument/publishDiagnostics" and m["params"]["uri"] == file.as_uri()
            )
        )
        return said["params"]["diagnostics"]

    def open(self, file: Path) -> None:
        """Opens a file."""
        document = {"uri": file.as_uri(), "languageId": "python", "version": 1, "text": file.read_text()}
        self.tell("textDocument/didOpen", {"textDocument": document})

    def save(self, file: Path, text: str) -> None:
        """Writes a file, and says so."""
        file.write_text(text)
        self.tell("textDocument/didSave", {"textDocument": {"uri": file.as_uri()}})

    def end(self) -> int:
        """Says goodbye; the exit code."""
        self.ask("shutdown")
        self.tell("exit", None)
        return self.process.wait(20)


@pytest.fixture
def editor(tmp_path):
    """Begins a session in an empty folder."""
    pytest.importorskip("pygls")
    begun = []

    def begin(settings=None) -> Editor:
        begun.append(Editor(tmp_path.resolve(), settings))
        return begun[-1]

    yield begin
    for one in begun:
        one.process.kill()
        one.process.wait()
        one.process.stdin.close()
        one.process.stdout.close()


def test_finding_comes_when_a_file_is_opened_and_goes_when_it_is_mended(editor, tmp_path):
    """Code, line, sizes, the calls that lead there, and a link to a page that has the code's heading."""
    session = editor()
    file = session.folder / "train.py"
    file.write_text(FAULTY)
    session.open(file)
    (shown,) = session.diagnostics(file)
    assert (shown["code"], shown["source"], shown["severity"]) == ("linear-width", "sparsam", 1)
    assert "got 65, expected 64" in shown["message"]
    line = FAULTY.splitlines()[shown["range"]["start"]["line"]]
    assert line[shown["range"]["start"]["character"] : shown["range"]["end"]["character"]] == "build()(x)"
    (call,) = shown["relatedInformation"]
    assert call["location"]["uri"] == file.as_uri()
    assert FAULTY.splitlines()[call["location"]["range"]["start"]["line"]].startswith("score(")
    page, _, heading = shown["codeDescription"]["href"].removeprefix("file://").partition("#")
    assert f"### {heading}\n" in Path(page).read_text()
    session.save(file, FAULTY.replace("65", "64"))
    assert session.diagnostics(file) == []
    assert session.end() == 0
    assert not Path(page).exists()


@pytest.mark.slow  # three more checks
def test_settings_say_what_is_checked(editor):
    """A function with arguments, checked when a module that it imports is saved; the columns are those of the editor."""
    settings = {"checks": [{"target": "model.py:score", "arguments": ["x=B×T×W", "W=60..70"]}], "seconds": 50}
    session = editor(settings)
    part, model = session.folder / "part.py", session.folder / "model.py"
    part.write_text("from torch import nn\n\n\ndef build():\n    return nn.Linear(64, 3)\n")
    model.write_text("import part\n\n\ndef score(x):\n    return 'ä𝄞', part.build()(x)\n")
    session.open(part)
    (shown,) = session.diagnostics(model)
    start = len("    return 'ä𝄞', ".encode("utf-16-le")) // 2
    assert shown["range"]["start"] == {"line": 4, "character": start}
    session.save(part, part.read_text().replace("nn.Linear(64, 3)", "nn.LazyLinear(3)"))
    assert session.diagnostics(model) == []


@pytest.mark.slow  # two more checks
def test_change_ends_a_check_and_the_next_save_begins_one(editor):
    """A check that would take minutes does not hold up the one after it."""
    session = editor()
    file = session.folder / "train.py"
    file.write_text("import torch\n\ntotal = sum(i % 7 for i in range(10**10))\n")
    session.open(file)
    time.sleep(8)
    began = time.monotonic()
    session.tell(
        "textDocument/didChange",
        {"textDocument": {"uri": file.as_uri(), "version": 2}, "contentChanges": [{"text": FAULTY}]},
    )
    session.save(file, FAULTY)
    (shown,) = session.diagnostics(file)
    assert shown["code"] == "linear-width"
    assert time.monotonic() - began < 45  # the limit of the first is 50


@pytest.mark.slow  # one more check
def test_what_is_refused_stands_at_the_head_of_the_file(editor):
    """A script that wants arguments says which; settings that are none are said aloud."""
    session = editor({"colour": "red"})
    said = session.until(lambda message: message.get("method") == "window/showMessage")
    assert "colour" in said["params"]["message"] and "checks" in said["params"]["message"]
    file = session.folder / "train.py"
    file.write_text(
        "import argparse, torch\np = argparse.ArgumentParser()\np.add_argument('--data', required=True)\np.parse_args()\n"
    )
    session.open(file)
    (shown,) = session.diagnostics(file)
    assert shown["code"] == "needs-arguments" and shown["severity"] == 3
    assert shown["range"]["start"]["line"] == 0


def test_without_the_package_the_command_says_how_to_get_it(monkeypatch, capsys):
    """Exit code 3 and the line to install it with."""
    monkeypatch.setitem(sys.modules, "pygls", None)
    monkeypatch.delitem(sys.modules, "sparsam.shapes.editor", raising=False)
    assert main(["check", "--lsp"]) == 3
    assert "pip install 'sparsam[editor]'" in capsys.readouterr().err


def test_targets_stand_in_the_settings(capsys):
    """With `--lsp` none are taken on the command line."""
    assert main(["check", "train.py", "--lsp"]) == 2
    assert "settings" in capsys.readouterr().err
