"""Any server of SPARQL 1.1 by its address: questions to it, guarded like those to the store, and our graph into it.

Questions go to the server's query address (Oxigraph: ``/query``, Fuseki: ``/DATASET/query``) by the SPARQL 1.1 Protocol, the
graph to its address of graphs (``/store``, ``/DATASET/data``) by the Graph Store HTTP Protocol. Names and passwords come from
the environment alone (``SPARSAM_SERVER_USER``, ``SPARSAM_SERVER_PASSWORD``): what stands in an address ends up in logs.
"""

import base64
import http.client
import ipaddress
import json
import os
import ssl
import time
from typing import Any
from urllib.parse import quote, urlsplit

from sparsam.errors import InputOutput, Refused, Usage
from sparsam.provenance import rdf
from sparsam.provenance.index import Recorded
from sparsam.provenance.store import ROWS, SECONDS, Answer, check_question, plain, with_prefixes

USER, PASSWORD = "SPARSAM_SERVER_USER", "SPARSAM_SERVER_PASSWORD"
LARGEST = 1 << 28
"""Bytes of an answer."""
ACCEPT = "application/sparql-results+json, application/n-triples;q=0.9"


def query(address: str, text: str, *, seconds: float = SECONDS, rows: int = ROWS) -> Answer:
    """Ask a server; prov:, io:, xsd: and rdfs: are declared unless the question does.

    Args:
        address: of its queries, http or https.
        text: the question, SPARQL 1.1.
        seconds: how long it may take, all in all.
        rows: how many rows are given at most.

    Raises:
        Refused: ``query-forbidden``, ``query-invalid``, ``query-time``, ``server-login``.
        Usage: ``query-limits``, ``server-address``.
        InputOutput: ``server-unreachable``, ``server-answer`` where it answers in no format of SPARQL.
    """
    if not 0 < seconds < 1e6 or rows < 1:
        raise Usage(f"seconds is above 0 and rows at least 1; got {seconds} and {rows}.", code="query-limits")
    check_question(text)
    body = with_prefixes(text).encode("utf-8", "backslashreplace")
    headers = {"Content-Type": "application/sparql-query", "Accept": ACCEPT}
    kind, content = _sent("POST", address, body, headers, seconds)
    if kind == "application/sparql-results+json" or (
        kind == "application/json" and content.lstrip()[:1] == b"{"
    ):
        return _table(content, rows, address)
    if kind in ("application/n-triples", "text/plain"):
        return _triples(content, rows, address)
    raise _strange(address, f"{kind or 'no type'}, which is no answer of SPARQL's", content)


def load(
    found: Recorded, address: str, *, graph: str | None = None, replace: bool = False, seconds: float = 600.0
) -> int:
    """Put the graph into a server; how many statements were sent.

    Args:
        found: the history.
        address: of its graphs.
        graph: which named graph; the default graph where it is None.
        replace: what was in that graph goes; else it is added to.
        seconds: how long it may take.

    Raises:
        Refused: ``server-refused``, ``server-login``, ``query-time``.
        Usage: ``server-address``, ``extra-missing``.
        InputOutput: ``server-unreachable``.
    """
    if graph is not None and (":" not in graph or any(x in '<>"{}|^`\\' or ord(x) <= 32 for x in graph)):
        raise Usage(f"a graph is named by an IRI; got {graph!r}.", code="server-address")
    body = rdf.write(found, "ntriples")
    joint = "&" if urlsplit(address).query else "?"
    where = f"{address}{joint}" + ("default" if graph is None else f"graph={quote(graph, safe='')}")
    headers = {"Content-Type": "application/n-triples"}
    _sent("PUT" if replace else "POST", where, body, headers, seconds, refused="server-refused")
    return body.count(b"\n")


def _sent(
    method: str,
    address: str,
    body: bytes,
    headers: dict[str, str],
    seconds: float,
    refused: str = "query-invalid",
) -> tuple[str, bytes]:
    """Type and content of the answer. Redirections are not followed."""
    parts, shown = _checked(address), _shown(address)
    headers = headers | _login(parts.scheme, parts.hostname or "") | {"User-Agent": "sparsam"}
    until = time.monotonic() + seconds
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=min(seconds, 3600))
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        content = _content(answer, connection, until, shown)
    except TimeoutError as error:
        raise Refused(
            f"{shown} took longer than {seconds:g} s. Ask for less, or allow more.", code="query-time"
        ) from error
    except ssl.SSLError as error:
        raise InputOutput(
            f"{shown} cannot be reached safely: {error.reason}.", code="server-unreachable"
        ) from error
    except (OSError, http.client.HTTPException) as error:
        why = getattr(error, "strerror", None) or type(error).__name__
        raise InputOutput(f"{shown} cannot be reached: {why}.", code="server-unreachable") from error
    finally:
        connection.close()
    if answer.status in (401, 403):
        raise Refused(
            f"{shown} wants to know who asks: set {USER} and {PASSWORD}, or ask for access.",
            code="server-login",
        )
    if 300 <= answer.status < 400:
        raise _strange(address, f"a redirection ({answer.status}); give the address that it leads to", b"")
    if answer.status >= 500:
        raise _strange(address, f"{answer.status} {answer.reason}", content)
    if answer.status >= 400:
        raise Refused(f"{shown} refuses: {answer.status} {_words(content)}", code=refused)
    return answer.headers.get_content_type() if answer.headers.get("Content-Type") else "", content


def _content(answer: Any, connection: Any, until: float, shown: str) -> bytes:
    """The bytes of an answer, in time and no more than :data:`LARGEST`."""
    made: list[bytes] = []
    size = 0
    while True:
        left = until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        if connection.sock is not None:
            connection.sock.settimeout(left)
        block = answer.read1(1 << 16)
        if not block:
            if answer.length:  # the connection ended before the answer
                raise http.client.IncompleteRead(b"", answer.length)
            return b"".join(made)
        size += len(block)
        if size > LARGEST:
            raise Refused(
                f"{shown} answers with more than {LARGEST:,} bytes. Ask for less.", code="query-time"
            )
        made.append(block)


def _checked(address: str) -> Any:
    try:
        parts = urlsplit(address)
        parts.port  # noqa: B018 - it may not be a number
    except ValueError as error:
        raise Usage(f"this is no address: {error}.", code="server-address") from error
    if "@" in parts.netloc:
        raise Usage(
            f"a name and a password do not belong into an address, for it is kept in logs. Set {USER} and {PASSWORD}.",
            code="server-address",
        )
    if parts.scheme not in ("http", "https") or not parts.hostname or any(ord(x) <= 32 for x in address):
        raise Usage(
            f"a server is http://HOST:PORT/PATH or https://…; got {_shown(address)!r}.", code="server-address"
        )
    return parts


def _shown(address: str) -> str:
    """An address as it may be told: what could be a secret is left out."""
    head = address.partition("?")[0]
    scheme, mark, rest = head.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{mark}{host.rpartition('@')[2]}{slash}{path}"


def _login(scheme: str, host: str) -> dict[str, str]:
    user, password = os.environ.get(USER), os.environ.get(PASSWORD, "")
    if not user:
        return {}
    if scheme != "https" and not _loopback(host):
        raise Refused(
            f"a password is not sent over http to {host}, where others could read it. Use https.",
            code="server-login",
        )
    token = base64.b64encode(f"{user}:{password}".encode("utf-8", "surrogateescape")).decode()
    return {"Authorization": f"Basic {token}"}


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _words(content: bytes) -> str:
    """The beginning of what a server says, in one line."""
    return " ".join(content[:400].decode("utf-8", "replace").split())


def _strange(address: str, what: str, content: bytes) -> InputOutput:
    said = _words(content)
    return InputOutput(
        f"{_shown(address)} answers with {what}{f': {said}' if said else ''}. Is this the address of its queries?",
        code="server-answer",
    )


def _table(content: bytes, rows: int, address: str) -> Answer:
    try:
        found = json.loads(content)
        if "boolean" in found:
            return Answer(("answer",), ((bool(found["boolean"]),),))
        columns = tuple(str(x) for x in found["head"]["vars"])
        bindings = found["results"]["bindings"]
        made = tuple(tuple(_read(one.get(x)) for x in columns) for one in bindings[:rows])
        return Answer(columns, made, len(bindings) > rows)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _strange(address, f"broken JSON ({type(error).__name__})", content) from error


def _read(term: dict[str, Any] | None) -> Any:
    return None if term is None else plain(str(term["value"]), str(term.get("datatype", "")))


def _triples(content: bytes, rows: int, address: str) -> Answer:
    ox = rdf.oxigraph()
    lines: list[tuple[Any, ...]] = []
    try:
        for one in ox.parse(content, format=ox.RdfFormat.N_TRIPLES):
            terms = (one.subject, one.predicate, one.object)
            lines.append(
                tuple(plain(x.value, getattr(getattr(x, "datatype", None), "value", "")) for x in terms)
            )
            if len(lines) > rows:
                break
    except (SyntaxError, ValueError, AttributeError) as error:
        raise _strange(address, "broken N-Triples", content) from error
    return Answer(("subject", "predicate", "object"), tuple(lines[:rows]), len(lines) > rows)
