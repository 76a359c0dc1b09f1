"""The ids of programs and entities: made of what began them, so that they are the same wherever the logs are read."""

import hashlib

from sparsam.provenance.state import DIRECTORY, FOUND, OUTSIDE, WRITTEN
from sparsam.provenance.writer import Writer


def program_id(writer: Writer) -> str:
    """Stable, of a process."""
    return (
        "program-"
        + hashlib.sha256(
            f"{writer.host}\0{writer.pid}\0{writer.started}".encode(errors="replace")
        ).hexdigest()[:24]
    )


def entity_id(writer: Writer, number: int, form: int, kind: str, path: str, generation: int) -> str:
    """Stable, of the entity that a process's record of this number began; of an object with its file's generation."""
    what = {
        FOUND: f"found {path}",
        WRITTEN: f"written {path}",
        OUTSIDE: f"outside {path}",
        DIRECTORY: "directory",
    }
    text = f"{writer.host}\0{writer.pid}\0{writer.started}\0{number}\0{what.get(form, f'{kind} {path} {generation}')}"
    return "entity-" + hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:24]
