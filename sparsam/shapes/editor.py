"""Findings in an editor: a server of the Language Server Protocol (3.17) on standard input and output.

When a program is opened or saved, `sparsam check` runs on it, in a process of its own with the command's limits; what it
says comes back as diagnostics at their lines, with the calls that lead there. A change of the program ends a check that is
under way. Which function of which file is checked with which arguments stands in the editor's settings; a file that no
setting names is checked as a script.
"""

import asyncio
import dataclasses
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsam import __version__
from sparsam.errors import Refused
from sparsam.shapes import source
from sparsam.shapes.arguments import parse_arguments
from sparsam.shapes.show import diagnostics_page, from_document
from sparsam.shapes.verdict import Finding, Place, Report, Unknown

try:
    import pygls.uris
    from lsprotocol import types
    from pygls.lsp.server import LanguageServer
except ImportError as missing:
    raise Refused("this needs pygls: pip install 'sparsam[editor]'", code="extra-missing") from missing

NAME = "sparsam"
SLACK = 60.0  # seconds for the start and the end of a check, beside its limit
QUIET = frozenset({"no-tensor-code", "empty", "syntax"})  # refusals that an editor's user need not hear of


@dataclasses.dataclass(frozen=True)
class Target:
    """What is checked.

    Args:
        target: Script, or file.py:function, as the command takes it.
        arguments: For it, as `--arg` takes them.
    """

    target: str
    arguments: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Settings:
    """What an editor may set.

    Args:
        checks: What is checked when one of its files is opened or saved.
        seconds: Time for one check.
        unknown: Whether what stays unknown is shown.
        options: More options of the command.
    """

    checks: tuple[Target, ...] = ()
    seconds: float = 60.0
    unknown: bool = True
    options: tuple[str, ...] = ()

    def changed(self, given: Any) -> "Settings":
        """With what an editor says.

        Raises:
            Refused: "settings", if it says something else; "argument", as `parse_arguments`.
        """
        if given is None:
            return self
        known = {"checks", "seconds", "unknown"}
        if not isinstance(given, Mapping) or not given.keys() <= known:
            raise Refused(
                f"the settings are {str(given)[:100]!r}; there are {', '.join(sorted(known))}",
                code="settings",
            )
        seconds, unknown = given.get("seconds", self.seconds), given.get("unknown", self.unknown)
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds >= 1:
            raise Refused(f"seconds is {seconds!r}; give a number, 1 or more", code="settings")
        if not isinstance(unknown, bool):
            raise Refused(f"unknown is {unknown!r}; give true or false", code="settings")
        checks = tuple(map(_target, given["checks"])) if "checks" in given else self.checks
        return dataclasses.replace(self, checks=checks, seconds=float(seconds), unknown=unknown)


def _target(given: Any) -> Target:
    words = given.get("arguments", []) if isinstance(given, Mapping) else None
    if words is None or not isinstance(given.get("target"), str) or not isinstance(words, list | tuple):
        raise Refused(
            f'a check is {str(given)[:100]!r}; write {{"target": "model.py:Net", "arguments": ["x=N×3×H×W"]}}',
            code="settings",
        )
    parse_arguments(map(str, words))
    return Target(given["target"], tuple(map(str, words)))


@dataclasses.dataclass
class _Job:
    """A check under way.

    Args:
        files: Of the program that is checked.
        task: That waits for it.
    """

    files: frozenset[Path]
    task: asyncio.Task[None]


class Session:
    """One editor's checks.

    Args:
        server: That speaks with it.
        settings: Before it has said anything.
        pages: Where the page of diagnostics lies.
    """

    def __init__(self, server: LanguageServer, settings: Settings, pages: Path) -> None:
        self.server = server
        self.settings = settings
        self.page = pages / "diagnostics.md"
        self.page.write_text(diagnostics_page(), encoding="utf-8")
        self._jobs: dict[Target, _Job] = {}
        self._shown: dict[Target, dict[str, list[types.Diagnostic]]] = {}
        self._one = asyncio.Semaphore(1)  # a check takes a core and half a gigabyte

    @property
    def root(self) -> Path:
        """The folder that targets are looked for in."""
        return Path(self.server.workspace.root_path or ".").absolute()

    def configure(self, given: Any) -> None:
        """Takes the editor's settings; says so where they cannot be taken."""
        try:
            self.settings = self.settings.changed(given)
        except Refused as error:
            self._say(str(error), types.MessageType.Error)

    def check(self, file: Path) -> None:
        """Begins the checks of all programs that the file belongs to."""
        for target, files in self._programs(file).items():
            self._end(target)
            self._jobs[target] = _Job(files, asyncio.get_running_loop().create_task(self._run(target)))

    def changed(self, file: Path) -> None:
        """Ends the checks under way of all programs that the file belongs to."""
        for target, job in list(self._jobs.items()):
            if file in job.files:
                self._end(target)

    def closed(self, file: Path) -> None:
        """Forgets a file that no setting names."""
        target = Target(str(file))
        self._end(target)
        self._show(target, {})

    def _end(self, target: Target) -> None:
        job = self._jobs.pop(target, None)
        if job is not None:
            job.task.cancel()

    def _programs(self, file: Path) -> dict[Target, frozenset[Path]]:
        found = {}
        for target in self.settings.checks:
            try:
                files = source.read(target.target, folder=self.root).files
            except Refused:  # said when it is checked
                files = (self.root / target.target.partition(":")[0],)
            if file in map(_resolved, files):
                found[target] = frozenset(map(_resolved, files))
        return found or {Target(str(file)): frozenset({file})}

    async def _run(self, target: Target) -> None:
        try:
            async with self._one:
                document = await self._asked(target)
            if "error" in document:
                self._show(target, self._refused(target, document["error"]))
                return
            report = from_document(document)
        except (OSError, Refused) as error:
            self._say(str(error), types.MessageType.Error)
            return
        self._say(f"{target.target}: {report.verdict}", types.MessageType.Info)
        self._show(target, self._diagnostics(target, report))

    async def _asked(self, target: Target) -> dict[str, Any]:
        """What the command says of a target."""
        words = [word for argument in target.arguments for word in ("--arg", argument)]
        command = ["-m", "sparsam", "check", "--json", "--seconds", str(self.settings.seconds)]
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *command,
            *self.settings.options,
            *words,
            "--",
            target.target,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=self.root,
        )
        try:
            out, err = await asyncio.wait_for(process.communicate(), self.settings.seconds + SLACK)
        except TimeoutError:
            return _error("time", f"the check was not done after {self.settings.seconds + SLACK:.0f} s")
        finally:
            if process.returncode is None:
                process.kill()  # the process that it checks in ends with it
                await process.wait()
        try:
            found = json_of(out)
        except ValueError:
            return _error("crash", f"the check ended without a report: {err.decode(errors='replace')[-500:]}")
        return found

    def _show(self, target: Target, found: dict[str, list[types.Diagnostic]]) -> None:
        """Publishes what a target's check found, beside that of others in the same files."""
        before = self._shown.pop(target, {})
        if found:
            self._shown[target] = found
        for uri in before.keys() | found.keys():
            every = [d for shown in self._shown.values() for d in shown.get(uri, ())]
            self.server.text_document_publish_diagnostics(types.PublishDiagnosticsParams(uri, every))

    def _say(self, text: str, kind: types.MessageType) -> None:
        if kind is types.MessageType.Info:
            self.server.window_log_message(types.LogMessageParams(kind, text))
        else:
            self.server.window_show_message(types.ShowMessageParams(kind, f"{NAME}: {text}"))

    # -- what is shown --------------------------------------------------------------------------------------------------

    def _diagnostics(self, target: Target, report: Report) -> dict[str, list[types.Diagnostic]]:
        found: dict[str, list[types.Diagnostic]] = {}
        main = self._file(target)
        for finding in report.findings:
            found.setdefault(self._uri(finding.failure.place), []).append(self._finding(finding))
        for unknown in report.unknowns if self.settings.unknown else ():
            place = unknown.place or Place(str(main), 1)
            found.setdefault(self._uri(place), []).append(self._unknown(unknown, place))
        found.setdefault(main.as_uri(), [])  # an empty list takes away what was shown
        return found

    def _refused(self, target: Target, error: Mapping[str, str]) -> dict[str, list[types.Diagnostic]]:
        place = Place(str(self._file(target)), 1)
        if error["code"] in QUIET:
            return {self._uri(place): []}
        shown = types.Diagnostic(
            self._range(place),
            error["message"],
            severity=types.DiagnosticSeverity.Information,
            code=error["code"],
            source=NAME,
        )
        return {self._uri(place): [shown]}

    def _finding(self, finding: Finding) -> types.Diagnostic:
        sizes = ", ".join(f"{name} = {value}" for name, value in finding.witness.items())
        parts = [
            finding.message,
            finding.caret,
            f"for {sizes}" if sizes else "",
            finding.fix and f"fix: {finding.fix}",
        ]
        return types.Diagnostic(
            self._range(finding.failure.place),
            "\n".join(part for part in parts if part),
            severity=types.DiagnosticSeverity.Error,
            code=finding.code,
            code_description=types.CodeDescription(f"{self.page.as_uri()}#{finding.code}"),
            source=NAME,
            related_information=[self._call(place) for place in finding.failure.chain[:-1]],
        )  # fmt: skip

    def _unknown(self, unknown: Unknown, place: Place) -> types.Diagnostic:
        return types.Diagnostic(
            self._range(place),
            f"unknown: {unknown.reason}",
            severity=types.DiagnosticSeverity.Information,
            code=unknown.code,
            code_description=types.CodeDescription(f"{self.page.as_uri()}#unknown-{unknown.code}"),
            source=NAME,
        )

    def _call(self, place: Place) -> types.DiagnosticRelatedInformation:
        return types.DiagnosticRelatedInformation(
            types.Location(self._uri(place), self._range(place)), f"called by {place.function or '<module>'}"
        )

    def _range(self, place: Place) -> types.Range:
        """Of a place, in the units that were agreed on with the editor."""
        units = self.server.workspace.position_codec.client_num_units
        line, text = place.line - 1, place.source
        start = units(text[: place.column - 1]) if text else place.column - 1
        end = place.end_column - 1 if place.end_column > place.column else len(text)
        return types.Range(
            types.Position(line, start), types.Position(line, max(units(text[:end]) if text else end, start))
        )

    def _file(self, target: Target) -> Path:
        """Of the program that is checked."""
        whole = self.root / target.target
        return whole if whole.exists() else self.root / target.target.rpartition(":")[0]

    def _uri(self, place: Place) -> str:
        return (self.root / place.file).as_uri()


def json_of(text: bytes) -> dict[str, Any]:
    """The one object that the command prints.

    Raises:
        ValueError: If that is not what it is.
    """
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("no object")
    return found


def _error(code: str, message: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": message}}


def _resolved(path: Path) -> Path:
    return Path(path).resolve()


def _path_of(uri: str) -> Path | None:
    """The file that an address names, if it is a Python file."""
    path = pygls.uris.to_fs_path(uri) if uri.startswith("file:") else None
    return _resolved(Path(path)) if path is not None and path.endswith(".py") else None


def server(settings: Settings, pages: Path) -> LanguageServer:
    """The server; `start_io` lets it speak.

    Args:
        settings: Before the editor has said anything.
        pages: A folder for the page of diagnostics.
    """
    made = LanguageServer(NAME, __version__)
    session = Session(made, settings, pages)

    wishes: list[Any] = []

    def initialize(params: types.InitializeParams) -> None:
        wishes.append(params.initialization_options)

    def initialized(params: types.InitializedParams) -> None:
        session.configure(wishes.pop())  # not before, for until then nothing may be said aloud

    def configure(params: types.DidChangeConfigurationParams) -> None:
        given = params.settings
        session.configure(given.get(NAME) if isinstance(given, Mapping) else None)

    def on(event: str, act: Callable[[Path], None]) -> None:
        async def told(params: Any) -> None:
            path = _path_of(params.text_document.uri)
            if path is not None:
                act(path)

        made.feature(event)(told)

    made.feature(types.INITIALIZE)(initialize)
    made.feature(types.INITIALIZED)(initialized)
    made.feature(types.WORKSPACE_DID_CHANGE_CONFIGURATION)(configure)
    on(types.TEXT_DOCUMENT_DID_OPEN, session.check)
    on(types.TEXT_DOCUMENT_DID_SAVE, session.check)
    on(types.TEXT_DOCUMENT_DID_CHANGE, session.changed)
    on(types.TEXT_DOCUMENT_DID_CLOSE, session.closed)
    return made


def serve(options: Sequence[str] = (), *, seconds: float = 60.0) -> None:
    """Serves an editor until it says goodbye.

    Args:
        options: Of the command, for each check.
        seconds: Time for one check, unless the editor sets another.
    """
    with tempfile.TemporaryDirectory(prefix="sparsam-") as pages:
        server(Settings(seconds=seconds, options=tuple(options)), Path(pages)).start_io()
