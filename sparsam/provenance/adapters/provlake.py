"""ProvLake's logs as histories: a workflow is a program, a task a scope in it, inputs are settings, outputs are results.

A line of a log is a list of messages in JSON (``act_type`` workflow, cycle or task; ``prov_obj``). Times are seconds.
"""

import hashlib
import json
from typing import Any

from sparsam.errors import Refused
from sparsam.provenance.graph import History, Program
from sparsam.provenance.log import Damage, Writer

LARGEST_LINE = 1 << 24
"""Bytes of a line."""


def looks_like(content: bytes) -> bool:
    """Whether the first line is a message of ProvLake's."""
    line = content.lstrip()[:65536].partition(b"\n")[0]
    return line[:1] in (b"[", b"{") and b'"prov_obj"' in line and b'"act_type"' in line


def read(content: bytes, name: str) -> History:
    """The history that a log tells of; lines that cannot be read are named.

    Args:
        content: the log.
        name: of the import; it becomes the run.

    Raises:
        Refused: ``document-invalid`` where no line can be read.
    """
    made = _Reader(name)
    offset = 0
    for number, line in enumerate(content.split(b"\n"), 1):
        if line.strip():
            made.line(line, number, offset)
        offset += len(line) + 1
    if not made.history.programs:
        raise Refused(f"{name} holds no message of ProvLake's.", code="document-invalid")
    return made.history


def _nanoseconds(value: Any) -> int:
    """Of seconds; 0 for anything that is no time."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 4e9:
        return 0
    return int(value * 1e6) * 1000


class _Reader:
    def __init__(self, name: str) -> None:
        self.name = name
        self.history = History()

    def line(self, line: bytes, number: int, offset: int) -> None:
        try:
            if len(line) > LARGEST_LINE:
                raise ValueError(f"{len(line)} bytes in a line")
            found = json.loads(line)
            for one in found if isinstance(found, list) else [found]:
                self.message(one)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            why = f"line {number}: no message of ProvLake's: {type(error).__name__}"
            self.history.damages = (*self.history.damages, Damage(self.name, offset, why, len(line)))

    def message(self, one: dict[str, Any]) -> None:
        body, kind, flow = one["prov_obj"], one["act_type"], str(one["dataflow_name"])
        inner = body.get("task") or body.get("cycle") or body
        program = self.program(flow, inner["wf_execution"])
        began, ended = _nanoseconds(inner.get("startTime")), _nanoseconds(inner.get("endTime"))
        if kind == "workflow":
            program.began = began or program.began
            program.ended = ended or program.ended
            if body.get("status") == "FINISHED":
                program.status = 0
        elif kind == "task":
            self.task(program, body, inner, ended or began)
        elif kind != "cycle":
            raise ValueError(f"act_type {kind!r}")
        else:
            self.values(program, f"{body.get('cycle_name', 'cycle')}", body, None, ended or began)

    def program(self, flow: str, execution: Any) -> Program:
        key = f"program-{hashlib.sha256(f'{self.name}|{flow}|{execution}'.encode()).hexdigest()[:24]}"
        if key not in self.history.programs:
            began = _nanoseconds(execution)
            self.history.programs[key] = Program(
                key, Writer("imported", 0, began), self.name, {"argv": [flow]}, began
            )
        return self.history.programs[key]

    def task(self, program: Program, body: dict[str, Any], inner: dict[str, Any], moment: int) -> None:
        scope = str(inner["id"])
        shown = str(body.get("dt", "task"))
        if inner.get("parent_cycle_name") is not None:
            shown += f", {inner['parent_cycle_name']} {inner.get('parent_cycle_iteration')}"
        program.scopes.setdefault(scope, (shown, None))
        self.values(program, str(body.get("dt", "task")), body, scope, moment)

    def values(
        self, program: Program, owner: str, body: dict[str, Any], scope: str | None, moment: int
    ) -> None:
        values = body.get("values")
        if values is None or body.get("type") not in ("Input", "Output"):
            return
        if body["type"] == "Input":
            for key, value in _flat(values, f"{owner} input"):
                self.setting(program, key, value)
        else:
            for key, value in _flat(values, f"{owner} output"):
                program.metrics.append((moment, key, value, scope))

    @staticmethod
    def setting(program: Program, key: str, value: Any) -> None:
        """Other values under the same name are kept beside the first."""
        if key not in program.configuration:
            program.configuration[key] = value
            return
        held = program.configuration[key]
        several = held if isinstance(held, list) else [held]
        if value not in several:
            program.configuration[key] = [*several, value]


def _flat(values: Any, owner: str) -> list[tuple[str, Any]]:
    """Leaves with names; groups (Hyperparameters, Preselection, …) give way to the names in them."""
    if not isinstance(values, dict):
        return [(owner, values)] if values not in ({}, [], "") else []
    made: list[tuple[str, Any]] = []
    front = list(values.items())
    while front:
        key, value = front.pop(0)
        if isinstance(value, dict):
            front = [*value.items(), *front]
        else:
            made.append((str(key), value))
    return made
