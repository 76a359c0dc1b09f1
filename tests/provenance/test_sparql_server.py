"""A server of SPARQL 1.1 by its address: a real one on this machine, and those that misbehave."""

import contextlib
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from test_rdf import example

from sparsam.cli import main
from sparsam.errors import InputOutput, Refused, SparsamError, Usage
from sparsam.provenance import rdf, server, store
from sparsam.provenance.adapters import imported

ox = pytest.importorskip("pyoxigraph")
FILES = "SELECT ?path ?size WHERE { ?file a io:File ; io:path ?path OPTIONAL { ?file io:size ?size } } ORDER BY ?path ?size"


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def oxigraph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An Oxigraph server process; its address."""
    beside = Path(sys.executable).parent / "oxigraph"
    program = os.environ.get("SPARSAM_OXIGRAPH") or (
        str(beside) if beside.exists() else shutil.which("oxigraph")
    )
    if not program:
        pytest.skip("no Oxigraph server: pip install oxigraph, or set SPARSAM_OXIGRAPH to the program")
    address = f"127.0.0.1:{free_port()}"
    place = tmp_path_factory.mktemp("oxigraph")
    process = subprocess.Popen(
        [program, "serve", "--location", str(place), "--bind", address],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        for _ in range(200):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://{address}/", timeout=1):
                break
            time.sleep(0.05)
        yield f"http://{address}"
    finally:
        process.kill()
        process.wait()


def test_our_graph_in_a_real_server(oxigraph: str) -> None:
    """Loaded, asked: the same rows as from our own store; replaced, it is not there twice; a graph of its own."""
    found = example(2)
    own = ox.Store()
    store.fill(own, found)
    count = server.load(found, f"{oxigraph}/store", replace=True)
    assert count == len(own)
    server.load(found, f"{oxigraph}/store", replace=True)
    columns, rows = store.ask(own, FILES, 1000)
    answer = server.query(f"{oxigraph}/query", FILES)
    assert list(answer.columns) == columns and [list(x) for x in answer.rows] == rows and len(rows) > 5
    assert server.query(f"{oxigraph}/query", "SELECT (COUNT(*) AS ?n) WHERE { ?s ?p ?o }").rows == (
        (len(own),),
    )
    for one in found.entities:
        question = store.sparql_of("lineage", id=one)
        assert set(server.query(f"{oxigraph}/query", question).rows) == set(
            map(tuple, store.ask(own, question, 1000)[1])
        )
    server.load(example(1), f"{oxigraph}/store", graph="urn:team:runs")
    inside = server.query(
        f"{oxigraph}/query", "SELECT (COUNT(*) AS ?n) WHERE { GRAPH <urn:team:runs> { ?s ?p ?o } }"
    )
    assert inside.rows[0][0] > 100


def test_each_form_of_question(oxigraph: str) -> None:
    """ASK, CONSTRUCT, DESCRIBE; values with their types; limits of rows."""
    server.load(example(2), f"{oxigraph}/store", replace=True)
    address = f"{oxigraph}/query"
    assert server.query(address, "ASK { ?x a io:File }").rows == ((True,),)
    assert server.query(address, "ASK { ?x a io:Nothing }").rows == ((False,),)
    made = server.query(address, "CONSTRUCT { ?x io:size ?n } WHERE { ?x io:size ?n }", rows=2)
    assert made.columns == ("subject", "predicate", "object") and len(made.rows) == 2 and made.more
    assert all(isinstance(x[2], int) for x in made.rows)
    assert len(server.query(address, "DESCRIBE ?x WHERE { ?x a io:User }").rows) == 3
    some = server.query(address, "SELECT ?x WHERE { ?x a io:File }", rows=2)
    assert len(some.rows) == 2 and some.more
    values = server.query(address, "SELECT (1.5 AS ?d) (true AS ?t) ('a' AS ?a) ?none WHERE {}")
    assert values.rows == ((1.5, True, "a", None),)


def test_questions_are_guarded(oxigraph: str) -> None:
    """What reaches out or changes never leaves; the server's own words come back; time is limited."""
    address = f"{oxigraph}/query"
    for text in (
        "INSERT DATA { <a:> <b:> <c:> }",
        "SELECT * WHERE { SERVICE <http://x> { ?s ?p ?o } }",
        "LOAD <file:///etc/passwd>",
    ):
        with pytest.raises(Refused) as caught:
            server.query("http://127.0.0.1:1/never", text)
        assert caught.value.code == "query-forbidden"
    with pytest.raises(Refused) as caught:
        server.query(address, "SELECT WHERE")
    assert caught.value.code == "query-invalid" and "400" in str(caught.value)
    server.load(example(0), f"{oxigraph}/store")
    product = "SELECT (COUNT(*) AS ?n) WHERE { ?a ?b ?c . ?d ?e ?f . ?g ?h ?i . ?j ?k ?l }"
    began = time.monotonic()
    with pytest.raises(Refused) as caught:
        server.query(address, product, seconds=0.5)
    assert caught.value.code == "query-time" and time.monotonic() - began < 5


def test_by_the_commands(oxigraph: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """sparsam provenance load, sparsam query --server."""
    (tmp_path / "x.ttl").write_bytes(rdf.write(example(2), "turtle"))
    imported.keep(tmp_path / "x.ttl", tmp_path / ".sparsam")
    folder = ["--folder", str(tmp_path / ".sparsam")]
    assert main(["provenance", "load", "--server", f"{oxigraph}/store", "--replace", "--json", *folder]) == 0
    assert json.loads(capsys.readouterr().out)["statements"] > 100
    assert main(["query", FILES, "--server", f"{oxigraph}/query", "--json"]) == 0
    there = json.loads(capsys.readouterr().out)
    assert main(["query", FILES, "--json", *folder]) == 0
    assert there == json.loads(capsys.readouterr().out) and len(there["rows"]) > 5
    assert main(["provenance", "load", "--server", f"{oxigraph}/query", *folder]) in (
        3,
        5,
    )  # no address of graphs


# servers that misbehave


class Answering(BaseHTTPRequestHandler):
    """Says what its server was told to say; remembers what was asked."""

    server: "Liar"

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        self.server.seen.append((self.path, dict(self.headers), self.rfile.read(length)))
        with contextlib.suppress(OSError):
            self.server.says(self)

    do_PUT = do_POST

    def log_message(self, *rest: Any) -> None:
        """Nothing."""


class Liar(ThreadingHTTPServer):
    """With a function for an answer."""

    says: Any
    seen: list[tuple[str, dict[str, str], bytes]]
    daemon_threads = True


@pytest.fixture
def liar() -> Iterator[Liar]:
    """A server on this machine."""
    made = Liar(("127.0.0.1", 0), Answering)
    made.seen = []
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()


def plain(status: int, kind: str | None, content: bytes, **headers: str) -> Any:
    """An answer."""

    def say(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        if kind is not None:
            handler.send_header("Content-Type", kind)
        for key, value in headers.items():
            handler.send_header(key, value)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    return say


def drip(handler: BaseHTTPRequestHandler) -> None:
    """A byte now and then, for ever."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/sparql-results+json")
    handler.end_headers()
    for _ in range(200):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.05)


def cut(handler: BaseHTTPRequestHandler) -> None:
    """Less than was promised."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/sparql-results+json")
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"head"')
    handler.wfile.flush()
    handler.connection.shutdown(socket.SHUT_RDWR)


RESULTS = "application/sparql-results+json"
LIES = {
    "html": (
        plain(200, "text/html; charset=utf-8", b"<html><script>alert(1)</script>login</html>"),
        "server-answer",
    ),
    "no type": (plain(200, None, b"{}"), "server-answer"),
    "redirection": (plain(302, "text/html", b"", Location="http://127.0.0.1:9/other"), "server-answer"),
    "fault": (plain(503, "text/plain", b"overloaded \x1b[31m"), "server-answer"),
    "login": (plain(401, "text/plain", b""), "server-login"),
    "refusal": (plain(400, "text/plain", b"syntax"), "query-invalid"),
    "broken": (plain(200, RESULTS, b'{"head": {"vars": ["x"]}, "results": '), "server-answer"),
    "no rows": (plain(200, RESULTS, b'{"head": {"vars": ["x"]}, "results": 3}'), "server-answer"),
    "a list": (plain(200, RESULTS, b"[1, 2]"), "server-answer"),
    "deep": (plain(200, RESULTS, b"[" * 200_000), "server-answer"),
    "odd rows": (
        plain(200, RESULTS, b'{"head": {"vars": ["x"]}, "results": {"bindings": [{"x": 3}]}}'),
        "server-answer",
    ),
    "bad triples": (plain(200, "application/n-triples", b"<a> <b> ."), "server-answer"),
    "slow": (drip, "query-time"),
    "cut": (cut, "server-unreachable"),
    "silent": (lambda handler: time.sleep(3), "query-time"),
}


@pytest.mark.parametrize("lie", LIES)
def test_odd_answers_are_told(liar: Liar, lie: str) -> None:
    """Each in a sentence, with a code, in time."""
    liar.says, code = LIES[lie]
    began = time.monotonic()
    with pytest.raises(SparsamError) as caught:
        server.query(f"http://127.0.0.1:{liar.server_port}/q", "ASK {}", seconds=0.5)
    assert caught.value.code == code and time.monotonic() - began < 3
    assert len(str(caught.value)) < 900


def test_too_much_is_not_taken(liar: Liar, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer without an end stops at the limit."""
    monkeypatch.setattr(server, "LARGEST", 100_000)
    liar.says = plain(200, RESULTS, b" " * 200_000)
    with pytest.raises(Refused, match="100,000 bytes"):
        server.query(f"http://127.0.0.1:{liar.server_port}/q", "ASK {}")


def test_nobody_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A refused connection: exit code 5."""
    assert main(["query", "ASK {}", "--server", f"http://127.0.0.1:{free_port()}/query"]) == 5
    assert "cannot be reached" in capsys.readouterr().err
    with pytest.raises(InputOutput, match="cannot be reached"):
        server.load(example(), f"http://127.0.0.1:{free_port()}/store")


@pytest.mark.parametrize(
    "address",
    [
        "ftp://x/",
        "file:///etc/passwd",
        "localhost:7878",
        "http://",
        "http://x:port/",
        "http://a b/",
        "http://[::1/",
    ],
)
def test_what_is_no_address_is_refused(address: str) -> None:
    """With a sentence."""
    with pytest.raises(Usage):
        server.query(address, "ASK {}")
    with pytest.raises(Usage):
        server.load(example(), "http://127.0.0.1:1/store", graph="no iri")


def test_secrets_are_sent_and_never_told(
    liar: Liar,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """From the environment alone; not in messages, logs or the command's records; not over http to another machine."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv(server.USER, "ann")
    monkeypatch.setenv(server.PASSWORD, "s3cr3t:ü")
    liar.says = plain(200, RESULTS, b'{"head": {}, "boolean": true}')
    assert server.query(f"http://127.0.0.1:{liar.server_port}/q", "ASK {}").rows == ((True,),)
    assert liar.seen[0][1]["Authorization"] == "Basic YW5uOnMzY3IzdDrDvA=="
    said = []
    for says, address in (
        (plain(401, None, b""), f"http://127.0.0.1:{liar.server_port}/q?token=s3cr3t"),
        (plain(200, "text/html", b"x"), f"http://127.0.0.1:{liar.server_port}/q?token=s3cr3t"),
        (None, "http://ann:s3cr3t@127.0.0.1/q"),
        (None, "http://192.0.2.1/q"),
        (None, "gopher://ann:s3cr3t@host/q?s3cr3t"),
    ):
        liar.says = says
        with pytest.raises(SparsamError) as caught:
            server.query(address, "ASK {}", seconds=2)
        said.append(str(caught.value))
    assert "over http" in said[3] and "do not belong" in said[2]
    assert not any("s3cr3t" in x for x in (*said, caplog.text, *capfd.readouterr()))
    main(["query", "ASK {}", "--server", "http://ann:s3cr3t@127.0.0.1/q"])
    assert "s3cr3t" not in "".join(capfd.readouterr())
