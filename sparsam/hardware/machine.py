"""Machines as data: one TOML file each, every number with its unit and source.

A file reads

    design = "tensordash"
    about = "…"
    paper = "…"

    [lanes]
    value = 16
    unit = "multipliers"
    source = "default of the authors' simulator"

``source`` starts with "from memory" where nobody has checked the paper yet; such a number is a default and never printed as the
paper's result.
"""

import math
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sparsam.errors import InputOutput, Refused, Usage

FOLDER = Path(__file__).parent / "machines"
HEAD = ("design", "about", "paper")


@dataclass(frozen=True)
class Parameter:
    """A number of a machine, with its unit and where it is from."""

    value: Any
    unit: str
    source: str


@dataclass(frozen=True)
class Machine:
    """What could run a workload.

    Args:
        name: of the file.
        design: the module in :mod:`sparsam.hardware` that simulates it.
        about: one line.
        paper: authors, title, place, year, link; empty where there is none.
        parameters: by name.
    """

    name: str
    design: str
    about: str
    paper: str
    parameters: Mapping[str, Parameter]

    def __getitem__(self, name: str) -> Any:
        """The value of a parameter. Raises Refused ``machine-parameter`` where the machine has none of that name."""
        if name not in self.parameters:
            raise Refused(
                f"machine {self.name} has no parameter {name!r}; it has {', '.join(self.parameters)}.",
                code="machine-parameter",
            )
        return self.parameters[name].value

    def get(self, name: str, default: Any = None) -> Any:
        """The value of a parameter, or ``default``."""
        return self.parameters[name].value if name in self.parameters else default

    def varied(self, **values: Any) -> "Machine":
        """The same machine with other values; a value must be of the kind it replaces.

        Raises:
            Usage: ``machine-parameter``.
        """
        found = dict(self.parameters)
        for name, value in values.items():
            if name not in found:
                raise Usage(
                    f"machine {self.name} has no parameter {name!r}; it has {', '.join(found)}.",
                    code="machine-parameter",
                )
            old = found[name].value
            if isinstance(old, float) and isinstance(value, int) and not isinstance(value, bool):
                value = float(value)
            if type(value) is not type(old):
                raise Usage(
                    f"{name} of machine {self.name} is {old!r}; {value!r} is of another kind.",
                    code="machine-parameter",
                )
            found[name] = replace(found[name], value=value, source="given")
        changed = ",".join(f"{name}={value}" for name, value in values.items())
        return replace(self, name=f"{self.name}[{changed}]" if changed else self.name, parameters=found)

    def whole(self, name: str, least: int = 1, most: int = 1 << 40, *, power_of_two: bool = False) -> int:
        """A parameter that must be a whole number within bounds.

        Raises:
            Refused: ``machine-parameter`` with the value and what is possible.
        """
        value = self[name]
        wrong = not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most
        if wrong or (power_of_two and value & (value - 1)):
            kind = "a power of two" if power_of_two else "a whole number"
            raise Refused(
                f"{name} of machine {self.name} is {value!r}; it must be {kind} from {least} to {most}.",
                code="machine-parameter",
            )
        return int(value)

    def number(self, name: str, above: float = 0.0) -> float:
        """A parameter that must be a finite number above a bound.

        Raises:
            Refused: ``machine-parameter``.
        """
        value = self[name]
        if (
            not isinstance(value, int | float)
            or isinstance(value, bool)
            or not math.isfinite(value)
            or value <= above
        ):
            raise Refused(
                f"{name} of machine {self.name} is {value!r}; it must be a finite number above {above:g}.",
                code="machine-parameter",
            )
        return float(value)


def machines() -> dict[str, Machine]:
    """The machines that come with sparsam, by name."""
    return {file.stem: read_machine(file) for file in sorted(FOLDER.glob("*.toml"))}


def machine_of(name: str | os.PathLike[str]) -> Machine:
    """A machine by its name, or from a TOML file.

    Raises:
        Usage: ``machine-unknown``.
        InputOutput, Refused: as :func:`read_machine`.
    """
    file = Path(name)
    if file.suffix == ".toml":
        return read_machine(file)
    if file.name == str(name) and (FOLDER / f"{name}.toml").is_file():
        return read_machine(FOLDER / f"{name}.toml")
    raise Usage(
        f"no machine is called {str(name)!r}; there are {', '.join(sorted(x.stem for x in FOLDER.glob('*.toml')))}. "
        "A machine of your own is a file that ends in .toml.",
        code="machine-unknown",
    )


def read_machine(file: str | os.PathLike[str]) -> Machine:
    """A machine from a TOML file.

    Raises:
        InputOutput: ``machine-file`` for a file that cannot be read or is no TOML.
        Refused: ``machine-invalid`` for one without its head, or with a number without unit and source.
    """
    place = Path(file)
    try:
        read = tomllib.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputOutput(f"machine {place} cannot be read: {error}", code="machine-file") from error
    head = {name: read.pop(name, None) for name in HEAD}
    if missing := [name for name, value in head.items() if not isinstance(value, str)]:
        raise Refused(f"machine {place} lacks {', '.join(missing)} (text).", code="machine-invalid")
    found = {}
    for name, facts in read.items():
        if not isinstance(facts, dict) or set(facts) != {"value", "unit", "source"}:
            raise Refused(
                f"{name} in machine {place} needs value, unit and source, and nothing else; got {facts!r}.",
                code="machine-invalid",
            )
        if not all(isinstance(facts[key], str) and facts[key].strip() for key in ("unit", "source")):
            raise Refused(
                f"unit and source of {name} in machine {place} are texts that say something; got {facts!r}.",
                code="machine-invalid",
            )
        found[name] = Parameter(facts["value"], facts["unit"], facts["source"])
    return Machine(place.stem, head["design"], head["about"], head["paper"], found)
