"""The graph on disk, and guarded questions to it in SPARQL.

The store lies in ``.sparsam/graph`` and follows the index of the logs; it holds nothing that they do not. Where documents were
imported it is made anew, in memory, whenever logs or documents have changed.
Questions run in a process of their own, on the store opened for reading alone, within limits of time and rows.
"""

import json
import multiprocessing
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsam.errors import Refused, Usage
from sparsam.provenance import rdf
from sparsam.provenance.adapters import imported
from sparsam.provenance.follow import MARK, follow
from sparsam.provenance.index import Recorded, alone, opened
from sparsam.provenance.ingest import locked
from sparsam.provenance.log import logs_in
from sparsam.provenance.runs import names_of_runs, recorded
from sparsam.provenance.terms import prefixes
from sparsam.provenance.tracking import runs_folder

FORBIDDEN = ("SERVICE", "LOAD", "FROM", "INSERT", "DELETE", "CLEAR", "CREATE", "DROP", "COPY", "MOVE", "ADD")
"""Words that reach out of the store, or change it."""
SECONDS, ROWS = 30.0, 10_000


# long texts, texts, names in brackets and comments, in the order in which they come
_NOT_WORDS = re.compile(
    r'"""(?:\\.|[^\\])*?"""'
    r"|\'\'\'(?:\\.|[^\\])*?\'\'\'"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|\'(?:\\.|[^\'\\\n])*\'"
    r"|<[^<>\"{}|^`\\\s]*>"
    r"|#[^\n]*",
    re.DOTALL,
)


@dataclass(frozen=True)
class Answer:
    """Rows of a question; ``more`` where there were more than the limit."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    more: bool = False


def built(folder: str | os.PathLike[str] | None = None) -> Path:
    """The store of all runs and all that was imported, brought up to date.

    Raises:
        Usage: ``extra-missing``.
        InputOutput: ``runs-missing``.
    """
    rdf.oxigraph()
    base = Path(folder if folder is not None else runs_folder())
    if imported.names(base):
        (base / "index").mkdir(exist_ok=True)
        with locked(_lock(base)):
            _made_anew(base)
        return base / "graph"
    with alone(base):
        pass  # what is not there is said before anything is made
    with locked(_lock(base)), alone(base), opened(base) as index:
        follow(index, base / "graph")
    return base / "graph"


def _lock(base: Path) -> Path:
    return base / "index" / "graph-lock"


def _made_anew(base: Path) -> None:
    """The whole store, where logs or imported documents are not those that it was made from."""
    place, state = base / "graph", _state(base)
    mark = place / MARK
    if mark.is_file() and json.loads(mark.read_text()) == state:
        return
    fresh = Path(tempfile.mkdtemp(prefix="graph-", dir=base))
    try:
        fill(rdf.oxigraph().Store(str(fresh)), recorded(base))
        (fresh / MARK).write_text(json.dumps(state))
        if place.exists():
            shutil.rmtree(place)
        os.replace(fresh, place)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _state(base: Path) -> list[list[Any]]:
    files = [file for run in names_of_runs(base) for file in logs_in(base / "runs" / run)]
    files += [x for x in imported.files(base) if x.exists()]
    return [[str(x.relative_to(base)), x.stat().st_size, x.stat().st_mtime_ns] for x in files]


def fill(store: Any, found: Recorded) -> None:
    """Put a history into a store of pyoxigraph's."""
    store.bulk_extend(rdf.quads(found))
    store.flush()


def check_question(text: str) -> None:
    """Refuse what a question may not do.

    Raises:
        Refused: ``query-forbidden`` with the word.
    """
    bare = _NOT_WORDS.sub(" ", text)
    if "\\u" in bare.lower():
        raise Refused(r"escapes like \u0041 may stand in texts alone.", code="query-forbidden")
    for word in re.findall(r"(?<![\w?$:])([A-Za-z]+)(?!\w)", bare):
        if word.upper() in FORBIDDEN:
            raise Refused(
                f"{word.upper()} is not allowed in a question: it reaches out of the store or changes it. Ask with SELECT, "
                "ASK, CONSTRUCT or DESCRIBE.",
                code="query-forbidden",
            )


def query(
    text: str, folder: str | os.PathLike[str] | None = None, *, seconds: float = SECONDS, rows: int = ROWS
) -> Answer:
    """Ask in SPARQL 1.1; prov:, io:, xsd: and rdfs: are declared unless the question does.

    Raises:
        Refused: ``query-forbidden``, ``query-invalid``, ``query-time``.
        Usage: ``query-limits``, ``extra-missing``.
        InputOutput: ``runs-missing``.
    """
    if not seconds > 0 or rows < 1:
        raise Usage(f"seconds is above 0 and rows at least 1; got {seconds} and {rows}.", code="query-limits")
    check_question(text)
    place = built(folder)
    with locked(_lock(place.parent), shared=True):
        columns, found = _asked(place, text, seconds, rows)
    return Answer(tuple(columns), tuple(tuple(x) for x in found[:rows]), len(found) > rows)


def _asked(place: Path, text: str, seconds: float, rows: int) -> Any:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_ask, args=(str(place), text, rows, sender), daemon=True)
    process.start()
    sender.close()
    try:
        if not receiver.poll(seconds):
            raise Refused(
                f"the question took longer than {seconds:g} s. Ask for less, or allow more.",
                code="query-time",
            )
        kind, value = receiver.recv()
    except EOFError as error:
        raise Refused(
            "the question's process ended without an answer, out of memory perhaps.", code="query-time"
        ) from error
    finally:
        process.kill()
        process.join()
        receiver.close()
    if kind == "error":
        raise Refused(f"this is no question that the store understands: {value}", code="query-invalid")
    return value


def _ask(place: str, text: str, rows: int, sender: Any) -> None:
    ox = rdf.oxigraph()
    try:
        sender.send(("answer", ask(ox.Store.read_only(place), text, rows)))
    except Exception as error:  # told to whoever asked
        sender.send(("error", f"{error}"))


def with_prefixes(text: str) -> str:
    """A question with our prefixes declared, those that it does not declare itself."""
    declared = {x.lower() for x in re.findall(r"(?i)\bPREFIX\s+(\w*):", text)}
    lines = [x for x in prefixes().splitlines() if x.split()[1].rstrip(":") not in declared]
    return "".join(line + "\n" for line in lines) + text


def ask(store: Any, text: str, rows: int) -> tuple[list[str], list[list[Any]]]:
    """Columns and at most ``rows`` + 1 rows, as text and numbers."""
    found = store.query(with_prefixes(text))
    if hasattr(found, "variables"):
        columns = [x.value for x in found.variables]
        lines = []
        for solution in found:
            lines.append([_plain(value) for value in solution])
            if len(lines) > rows:
                break
        return columns, lines
    if isinstance(found, bool) or type(found).__name__ == "QueryBoolean":
        return ["answer"], [[bool(found)]]
    lines = []
    for triple in found:
        lines.append([_plain(x) for x in (triple.subject, triple.predicate, triple.object)])
        if len(lines) > rows:
            break
    return ["subject", "predicate", "object"], lines


def _plain(value: Any) -> Any:
    if value is None:
        return None
    kind = getattr(getattr(value, "datatype", None), "value", "")
    return plain(getattr(value, "value", str(value)), kind)


def plain(text: str, datatype: str) -> Any:
    """A value of a literal, by the IRI of its type; its text where it has none, or is none of that type."""
    try:
        if datatype.endswith("#integer"):
            return int(text)
        if datatype.endswith(("#decimal", "#double")):
            return float(text)
    except ValueError:
        return text
    return text in ("true", "1") if datatype.endswith("#boolean") else text


LINEAGE = """SELECT DISTINCT ?source ?path WHERE {{
  <urn:sparsam:{id}> prov:wasDerivedFrom+ ?source .
  ?source io:path ?path .
}}"""
IMPACT = """SELECT DISTINCT ?made ?path WHERE {{
  ?made prov:wasDerivedFrom+ <urn:sparsam:{id}> .
  ?made io:path ?path .
}}"""
BEST = """SELECT ?run ?value WHERE {{
  ?program io:hasMetric ?metric ; io:run ?run .
  ?metric io:name "{metric}" ; prov:value ?value .
}} ORDER BY DESC(?value)"""
PROFILE = """SELECT ?path ?kind (SUM(?n) AS ?count) (SUM(?b) AS ?bytes) (SUM(?s) AS ?seconds) WHERE {{
  ?program io:run "{run}" .
  ?call prov:wasAssociatedWith ?program ; a ?kind ; io:count ?n .
  OPTIONAL {{ ?call io:bytes ?b }} OPTIONAL {{ ?call io:elapsed ?s }}
  ?object ?relation ?call ; io:path ?path .
  FILTER(?kind != prov:Activity)
}} GROUP BY ?path ?kind ORDER BY DESC(?seconds)"""
QUESTIONS = {"lineage": LINEAGE, "impact": IMPACT, "best": BEST, "io-profile": PROFILE}
"""The questions that are functions elsewhere, in SPARQL."""


def sparql_of(question: str, **values: str) -> str:
    """The text of a question, its values as they must stand in SPARQL.

    Raises:
        Usage: ``question-unknown``.
    """
    if question not in QUESTIONS:
        raise Usage(
            f"questions in SPARQL are {', '.join(QUESTIONS)}; got {question!r}.", code="question-unknown"
        )
    safe = {key: "".join(map(_escaped, value)) for key, value in values.items()}
    return QUESTIONS[question].format(**safe)


def _escaped(letter: str) -> str:
    return f"\\u{ord(letter):04X}" if letter in '"\\<>{}|^`' or ord(letter) < 32 else letter
