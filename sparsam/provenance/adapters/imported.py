"""Documents that were imported: kept as they are in ``.sparsam/imported/NAME``, read whenever the graph is made."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from sparsam.errors import InputOutput, Refused, Usage
from sparsam.provenance.adapters import provlake
from sparsam.provenance.constraints.reading import SUFFIXES, content_of
from sparsam.provenance.graph import History
from sparsam.provenance.log import Damage
from sparsam.provenance.tracking import runs_folder

KINDS = ("prov-io", "provlake", "turtle", "trig", "ntriples", "nquads", "jsonld", "json", "prov-jsonld")
"""What can be imported."""
DOCUMENT, FACTS = "document", "facts.json"
"""In the folder of an import: the bytes, and what they are."""


@dataclass(frozen=True)
class Imported:
    """A document.

    Args:
        name: of the import, made of the file's name.
        kind: one of :data:`KINDS`.
        history: what it tells.
        joined: blocks of PROV-IO's whose halves lay apart and were put together.
    """

    name: str
    kind: str
    history: History
    joined: int = 0


def _place(folder: str | os.PathLike[str] | None) -> Path:
    return Path(folder if folder is not None else runs_folder()) / "imported"


def kind_of(file: str | os.PathLike[str], content: bytes) -> str:
    """What a document is, by its content and the ending of its name.

    Raises:
        Usage: ``document-kind``.
    """
    if provlake.looks_like(content):
        return "provlake"
    suffix = SUFFIXES.get(Path(file).suffix.lower(), "")
    if suffix in ("turtle", "ntriples") and (
        b"<prov:" in content or b"<provio:" in content or b"/ns/mls#" in content
    ):
        return "prov-io" if b"urn:sparsam:provenance#" not in content else suffix
    if suffix in ("json", "jsonld"):
        return "prov-jsonld" if b"prov-jsonld" in content[:65536] or _compact(content) else suffix
    if suffix in KINDS:
        return suffix
    raise Usage(
        f"{file} is nothing that is imported here. There are PROV-IO's Turtle (.ttl), ProvLake's logs, and PROV in "
        f"Turtle, TriG, N-Triples, N-Quads, JSON-LD, PROV-JSON or PROV-JSONLD; say which with --kind: {', '.join(KINDS)}.",
        code="document-kind",
    )


def _compact(content: bytes) -> bool:
    head = content[:65536]
    return b'"@graph"' in head and (b'"@type": "Entity"' in head or b'"@type":"Entity"' in head)


def read(content: bytes, kind: str, name: str) -> Imported:
    """A document as a history.

    Raises:
        Refused: ``document-invalid``.
        Usage: ``document-kind``, ``extra-missing``.
    """
    if kind not in KINDS:
        raise Usage(f"kind is one of {', '.join(KINDS)}; got {kind!r}.", code="document-kind")
    if kind == "provlake":
        return Imported(name, kind, provlake.read(content, name))
    if kind == "prov-io":
        from sparsam.provenance.adapters import provio, turtle

        found = turtle.recovered(content, name)
        return Imported(name, kind, provio.read(found, name), found.joined)
    from sparsam.provenance.adapters import documents

    return Imported(name, kind, documents.read(documents.statements(content, kind, name), name))


def keep(
    file: str | os.PathLike[str], folder: str | os.PathLike[str] | None = None, kind: str | None = None
) -> Imported:
    """Import a document: it is read first, and kept if it can be. The same bytes under the same name count once.

    Raises:
        InputOutput: ``document-unreadable``, ``import-folder``.
        Refused: ``document-invalid``, ``document-size``, ``import-name`` where another document of that name was imported.
        Usage: ``document-kind``, ``extra-missing``.
    """
    content = content_of(Path(file))
    chosen = kind or kind_of(file, content)
    name = (
        "".join(x if x.isalnum() or x in "-._" else "_" for x in Path(file).name).lstrip(".")[:100]
        or "document"
    )
    found = read(content, chosen, name)
    place = _place(folder) / name
    digest = hashlib.sha256(content).hexdigest()
    try:
        if (place / FACTS).exists() and json.loads((place / FACTS).read_text()).get("sha256") != digest:
            raise Refused(
                f"another document called {name} was imported already. Rename the file, or remove {place}.",
                code="import-name",
            )
        place.mkdir(parents=True, exist_ok=True)
        _put(place / DOCUMENT, content)
        _put(
            place / FACTS, json.dumps({"kind": chosen, "sha256": digest, "bytes": len(content)}).encode()
        )  # last: what has no facts is not there
    except (OSError, ValueError) as error:
        if isinstance(error, Refused):
            raise
        raise InputOutput(f"{place} cannot keep {name}: {error}", code="import-folder") from error
    return found


def _put(place: Path, content: bytes) -> None:
    """All of it, or nothing."""
    fresh = place.with_name(f".{place.name}-{os.getpid()}")
    try:
        fresh.write_bytes(content)
        os.replace(fresh, place)
    finally:
        fresh.unlink(missing_ok=True)


def names(folder: str | os.PathLike[str] | None = None) -> list[str]:
    """What was imported, by name."""
    place = _place(folder)
    return sorted(x.parent.name for x in place.glob(f"*/{FACTS}")) if place.is_dir() else []


def files(folder: str | os.PathLike[str] | None = None) -> list[Path]:
    """The files that imports lie in."""
    place = _place(folder)
    return [place / x / part for x in names(folder) for part in (FACTS, DOCUMENT)]


def one(name: str, folder: str | os.PathLike[str] | None = None) -> Imported:
    """A document by its name.

    Raises:
        InputOutput: ``import-missing``, ``import-damaged`` where its bytes are not those that were imported.
    """
    place = _place(folder) / name
    if name not in names(folder):
        raise InputOutput(
            f"nothing called {name!r} was imported; there are {', '.join(names(folder)) or 'none'}.",
            code="import-missing",
        )
    try:
        facts = json.loads((place / FACTS).read_text())
        content = (place / DOCUMENT).read_bytes()
        if hashlib.sha256(content).hexdigest() != facts["sha256"]:
            raise ValueError("its bytes are not those that were imported")
        return read(content, str(facts["kind"]), name)
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, Usage):
            raise
        raise InputOutput(f"{place} cannot be read: {error}", code="import-damaged") from error


def join(found: History, folder: str | os.PathLike[str] | None = None) -> None:
    """Add all that was imported to a history; what cannot be read is a damage."""
    for name in names(folder):
        try:
            found.join(one(name, folder).history)
        except InputOutput as error:
            found.damages = (*found.damages, Damage(str(_place(folder) / name), 0, str(error), 0))
