"""Commands that write artefacts record how they did, as ``sparsam track`` records a program.

Records go where ``sparsam lineage`` looks for them: into ``.sparsam`` of the nearest folder upwards that has one, else of the
current one. ``--no-provenance`` and ``SPARSAM_PROVENANCE=0`` leave that out; so does a run in which no file was written. What
goes wrong in recording is said on standard error and does not change what the command does.
"""

import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from sparsam.cli.show import plain
from sparsam.cli.working import Interrupted
from sparsam.errors import SparsamError

if TYPE_CHECKING:
    from sparsam.provenance.graph import Entity, History
    from sparsam.provenance.tracking import Tracker

VARIABLE = "SPARSAM_PROVENANCE"
OFF = ("0", "no", "off", "false")
NoProvenance = Annotated[
    bool, typer.Option("--no-provenance", help="Keep no record in .sparsam of how this was made.")
]
_NOT_SETTINGS = ("as_json", "debug", "no_provenance")
_VERSIONS = ("sparsam", "torch", "transformers", "safetensors", "tokenizers", "numpy", "accelerate")
_PACKAGE = Path(__file__).resolve().parent.parent
WEIGHTS, FACTS, CONFIGURATION, EVALUATION = (
    "model.safetensors",
    "sparsam.json",
    "config.json",
    "evaluation.json",
)


class Recorded(TyperCommand):
    """A command whose work is recorded, once its options are understood."""

    def invoke(self, ctx: Any) -> Any:
        """As any command, with a recording around it."""
        record = Recording.begun(str(self.name), ctx.params)
        if record is None:
            return super().invoke(ctx)
        status: Any = 1
        try:
            status = super().invoke(ctx)
            return status
        except BaseException as error:
            stopped = isinstance(error, Interrupted | KeyboardInterrupt)
            status = error.exit_code if isinstance(error, SparsamError) else 130 if stopped else 1
            raise
        finally:
            record.end(int(status or 0))


class Recording:
    """From a command's beginning to its end.

    Args:
        tracker: of this process.
        own: whether the tracking began with the command; else the whole process is tracked.
        fresh: whether the folder of records was made for it.
    """

    def __init__(self, tracker: "Tracker", own: bool, fresh: bool) -> None:
        self.tracker, self.own, self.fresh = tracker, own, fresh

    @staticmethod
    def begun(command: str, settings: Mapping[str, Any]) -> "Recording | None":
        """A recording, unless it is switched off or cannot be kept."""
        if settings.get("no_provenance") or settings.get("dry_run"):
            return None
        if os.environ.get(VARIABLE, "").strip().lower() in OFF:
            return None
        try:
            return _begin(command, settings)
        except Exception as error:
            _say(f"not recorded: {error}")
            return None

    def end(self, status: int) -> None:
        """Write down what the command made and decided; never raises."""
        try:
            self._end(status)
        except KeyboardInterrupt:
            _say("interrupted while the record was written; the command itself was done.")
        except Exception as error:
            _say(f"not recorded in full: {type(error).__name__}: {error}")
        finally:
            if self.own:
                _stop()

    def _end(self, status: int) -> None:
        from sparsam.provenance.capture import files, start
        from sparsam.provenance.graph import history
        from sparsam.provenance.log import read_all
        from sparsam.provenance.tracked import hash_files

        tracker = self.tracker
        if self.own:
            start.close_all(tracker)
            files.uninstall()  # what is read from here on is not the command's
        tracker.log.flush()
        found = history(read_all(tracker.log.folder))
        made = _made(found)
        if not made:
            if self.own:
                self._discard()
            if tracker.log.lost:
                _say(f"not recorded: {tracker.log.lost} records could not be written")
            return
        if self.own:
            _tell_of_children(tracker, found, made)
            hash_files(tracker.log, found, "all")
        tracker.log.flush()
        found = history(read_all(tracker.log.folder))
        _tell(tracker, found, [found.entities[one.id] for one in made])
        if self.own:
            tracker.ended(status)
            tracker.log.close()
        if tracker.log.lost:
            _say(f"{tracker.log.lost} records of how this was made could not be written")
        elif self.fresh:
            folder = os.path.dirname(os.path.dirname(tracker.log.folder))
            _say(
                f"how this was made is kept in {folder}: sparsam lineage FILE, sparsam reproduce FILE (--no-provenance leaves "
                "it out)"
            )

    def _discard(self) -> None:
        """No file was written: there is nothing to tell of."""
        folder = Path(self.tracker.log.folder)
        self.tracker.log.close()
        shutil.rmtree(folder, ignore_errors=True)
        if self.fresh:
            base = folder.parent.parent
            try:
                folder.parent.rmdir()
                (base / ".gitignore").unlink(missing_ok=True)
                base.rmdir()
            except OSError:  # somebody else writes there by now
                return


def _begin(command: str, settings: Mapping[str, Any]) -> Recording:
    from sparsam.provenance.capture import files, start
    from sparsam.provenance.tracked import code_state, machine
    from sparsam.provenance.tracking import SYSTEM, Selection, runs_folder

    told = {
        key: _plain(value)
        for key, value in settings.items()
        if value is not None and key not in _NOT_SETTINGS
    }
    tracker, own, fresh = files.current(), False, False
    if tracker is None:
        base = runs_folder()
        own, fresh = True, not os.path.isdir(base)
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "sparsam"
        chosen = Selection(exclude=(*SYSTEM, f"{_PACKAGE}/*", f"{cache}/*", "*/torchinductor_*"))
        facts = {
            "argv": ["sparsam", command, *_words(command)], "machine": machine(), "code": _code(code_state),
            "versions": _versions(),
        }  # fmt: skip
        tracker = start.install(base, selection=chosen, facts=facts)
        if fresh:
            _leave_to_git_alone(Path(base))
    tracker.record_type(f"sparsam {command}")
    tracker.record_config(told)
    return Recording(tracker, own, fresh)


def _words(command: str) -> list[str]:
    """What stood behind the command's name on the command line."""
    words = _arguments()
    return words[words.index(command) + 1 :] if command in words else words


_given: list[Sequence[str]] = []


def _arguments() -> list[str]:
    return list(_given[-1] if _given else sys.argv[1:])


def remember(arguments: Sequence[str]) -> None:
    """The words of this command line, which need not be those that the process was started with."""
    _given[:] = [arguments]


def _stop() -> None:
    """Leave no hook and no variable behind, whatever went wrong."""
    from sparsam.provenance.capture import start

    try:
        start.uninstall()
    except Exception as error:
        _say(f"not recorded in full: {error}")


def _leave_to_git_alone(base: Path) -> None:
    try:
        (base / ".gitignore").write_text("*\n")
    except OSError:
        return


def _code(state: Any) -> dict[str, Any]:
    """The commit of sparsam's own repository, where it runs from one."""
    found: dict[str, Any] = state(str(_PACKAGE))
    root = found.get("root")
    return found if root and Path(root, "sparsam").resolve() == _PACKAGE else {}


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    from sparsam import __version__

    found = {"sparsam": __version__}
    for name in _VERSIONS[1:]:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value if isinstance(value, bool | int | float | str) else str(value)


def _made(found: "History") -> list["Entity"]:
    """Files that this run wrote and that are there."""
    written = (found.entities[name] for name in found.current.values())
    return [x for x in written if x.by is not None and x.kind == "file" and os.path.exists(x.names[-1])]


def _tell_of_children(tracker: "Tracker", found: "History", made: Sequence["Entity"]) -> None:
    """What processes that this one started have read is in what it wrote, for they answered to it."""
    from sparsam.provenance.graph import program_id

    own = program_id(tracker.log.writer)
    reads = {
        x.entity
        for x in found.calls.values()
        if x.kind == "read" and not _shares_memory(found, x.program, own)
    }
    sources = sorted({found.entities[x].names[-1] for x in reads if found.entities[x].by is None})
    for one in made if sources else ():
        if one.by == own:
            tracker.record_derived(one.names[-1], sources)


def _shares_memory(found: "History", program: str, own: str) -> bool:
    while program != own:
        one = found.programs[program]
        if not one.forked or one.parent not in found.programs:
            return False
        program = str(one.parent)
    return True


# what was decided


def _tell(tracker: "Tracker", found: "History", made: Sequence["Entity"]) -> None:
    """The accounts of the checkpoints among the files, and the results."""
    from sparsam.provenance.decisions import record_account, record_calibration, record_decision

    by_hash = {one.sha256: one.names[-1] for one in found.entities.values() if one.sha256 is not None}
    paths = {x.names[-1] for x in made}
    records = [Path(x) for x in paths if os.path.basename(x) == EVALUATION]
    folders = sorted({Path(x).parent for x in paths if os.path.basename(x) == FACTS})
    for folder in folders:
        facts = _object(folder / FACTS).get("facts")
        facts = facts if isinstance(facts, dict) else {}
        exported = facts.get("export") if isinstance(facts.get("export"), dict) else {}
        target = folder / str((exported or {}).get("file", WEIGHTS))
        if str(target) not in paths:
            continue
        plan = facts.get("plan") or _object(folder / CONFIGURATION).get("quantization_config", {}).get("plan")
        record_account(target, dict(_settings(facts)), _results(folder / EVALUATION), tracker=tracker)
        data = [by_hash[x.get("sha256")] for x in facts.get("data", ()) if x.get("sha256") in by_hash]
        rows = {str(one["method"]): one for one in facts.get("calibration", ())}
        for name, one in rows.items():
            record_calibration(
                target, name, int(one["rows"]), split=str(one["of"]), sha256=str(one["sha256"]), sources=data, tracker=tracker
            )  # fmt: skip
        decided = list(decisions_of(plan)) if isinstance(plan, dict) else []
        scheme = facts.get("quantization")
        if isinstance(scheme, dict) and "bits" in scheme and not any(x[0] == "bit-width" for x in decided):
            decided.append(("bit-width", "products", scheme["bits"]))  # weights that floats stand for
        for kind, name, value in decided:
            record_decision(target, kind, name, value, calibration=_taken_on(kind, rows), tracker=tracker)
    if len(records) == 1:  # of several, none is the command's
        for name, value in _results(records[0]).items():
            tracker.record_metric(name, value)


def _object(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _settings(facts: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What a checkpoint says of its making, one name a setting."""
    methods = [x for x in facts.get("methods", ()) if isinstance(x, dict)]
    scheme = facts.get("quantization") if isinstance(facts.get("quantization"), dict) else None
    named = [str(x.get("method")) for x in methods] + ([str(scheme.get("scheme"))] if scheme else [])
    if named:
        yield "method", " + ".join(named)
    for key, name in (
        ("source", "dense model"), ("source_sha256", "dense weights"), ("task", "task"), ("seed", "seed"),
        ("split_seed", "split seed"), ("held_out", "held out rows"),
    ):  # fmt: skip
        if facts.get(key) is not None:
            yield name, facts[key]
    data = {str(x.get("file")): x.get("sha256") for x in facts.get("data", ()) if isinstance(x, dict)}
    if data:
        yield "data", json.dumps(data)
    if facts.get("budget"):
        yield "budget", json.dumps(facts["budget"])
    named_so: dict[str, int] = {}
    for one in [*methods, *([{"method": scheme["scheme"]} | scheme] if scheme else [])]:
        name = str(one["method"])
        named_so[name] = again = named_so.get(name, 0) + 1
        for key, value in one.items():
            if key not in ("method", "scheme", "paper", "title") and value is not None:
                own = value if isinstance(value, bool | int | float | str) else json.dumps(value)
                yield f"{name}{f' {again}' if again > 1 else ''}.{key}", own


def _results(file: Path) -> dict[str, Any]:
    """Figures of an evaluation record."""
    found = _object(file).get("evaluation")
    model = found.get("model") if isinstance(found, dict) else None
    if not isinstance(found, dict) or not isinstance(model, dict):
        return {}
    made = {str(model.get("what", "metric")): model.get("value")}
    made |= {key.replace("_", " "): model.get(key) for key in ("macs_ratio", "macs_per_sample", "bytes")}
    difference = found.get("difference")
    if isinstance(difference, dict):
        made["difference to dense"] = difference.get("value")
    return {key: value for key, value in made.items() if isinstance(value, int | float)}


def decisions_of(plan: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Kind, name and value of each decision in a plan's JSON."""
    if plan.get("embeddings") is not None:
        yield "bit-width", "embeddings", plan["embeddings"]
    for number, layer in enumerate(plan.get("layers", ())):
        for kind in ("heads", "filters"):
            if layer.get(kind) is not None:
                yield "mask", f"layer {number} {kind}", layer[kind]
        for product, form in layer.get("formats", {}).items():
            yield (
                "bit-width",
                f"layer {number} {product}",
                form["bits"] if form.get("pieces") is None else form["pieces"],
            )
    tokens = plan.get("tokens")
    if isinstance(tokens, dict):
        for number, value in enumerate(tokens.get("values", ())):
            if value is not None:
                yield "threshold", f"layer {number} tokens, {tokens.get('rule')}", value


def _taken_on(kind: str, rows: Mapping[str, Any]) -> str | None:
    """Which of a checkpoint's calibrations a kind of decision comes from; None where an earlier command took it."""
    tokens, structure = ("LTP", "Control"), ("FTPP",)
    names = {"threshold": tokens, "mask": structure}.get(kind)
    found = [x for x in rows if (x in names if names else x not in (*tokens, *structure))]
    return found[0] if found else None


def _say(text: str) -> None:
    print(f"note: {plain(text)}", file=sys.stderr)
