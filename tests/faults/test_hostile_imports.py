"""Documents made to harm: entities that grow, literals without an end, deep nesting, bytes changed at random."""

import json
import random
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sparsam.cli import main
from sparsam.errors import SparsamError
from sparsam.provenance import rdf
from sparsam.provenance.adapters import imported
from sparsam.provenance.constraints import reading
from sparsam.provenance.constraints.checking import check

pytest.importorskip("pyoxigraph")
PROV = "http://www.w3.org/ns/prov#"
KINDS = ("xml", "json", "turtle", "trig", "ntriples", "nquads", "jsonld")


@contextmanager
def modest(seconds: float = 10.0, megabytes: int = 400) -> Iterator[None]:
    """Within a time and an amount of further memory."""
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert time.monotonic() - began < seconds
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < megabytes


def billion_laughs() -> str:
    """Ten entities, each ten times the one before."""
    lines = ['<!ENTITY a0 "ha">', *(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 11))]
    return f'<!DOCTYPE d [{"".join(lines)}]><prov:document xmlns:prov="{PROV}">&a10;</prov:document>'


def document(inside: str) -> str:
    """PROV-XML."""
    return f'<prov:document xmlns:prov="{PROV}" xmlns:ex="http://x/">{inside}</prov:document>'


XML = {
    "billion laughs": billion_laughs(),
    "quadratic": f'<!DOCTYPE d [<!ENTITY a "{"x" * 100_000}">]>' + document("&a;" * 10_000),
    "a file": '<!DOCTYPE d [<!ENTITY a SYSTEM "file:///etc/passwd">]>'
    + document("<prov:entity prov:id='ex:&a;'/>"),
    "a parameter": '<!DOCTYPE d [<!ENTITY % a SYSTEM "http://127.0.0.1:1/x"> %a;]>' + document(""),
    "deep": document("<ex:a>" * 100_000 + "</ex:a>" * 100_000),
    "a long value": document(f"<prov:entity prov:id='ex:a'><ex:v>{'x' * (3 << 20)}</ex:v></prov:entity>"),
    "twice": document("<prov:used><prov:entity prov:ref='ex:a'/><prov:entity prov:ref='ex:b'/></prov:used>"),
    "other words": "<html><body/></html>",
    "cut off": document("<prov:entity prov:id='ex:a'/>")[:-5],
    "an unknown encoding": '<?xml version="1.0" encoding="x-nothing"?>' + document(""),
}


@pytest.mark.parametrize("name", XML)
def test_hostile_xml_is_refused(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In a sentence, at once, with nothing read from elsewhere."""
    file = tmp_path / "x.provx"
    file.write_text(XML[name])
    with modest():
        assert main(["provenance", "validate", str(file)]) == 3
    said = capsys.readouterr().err
    assert "cannot be read as PROV" in said and "root:" not in said and len(said) < 1500


JSON = {
    "deep lists": "[" * 1_000_000,
    "deep objects": '{"entity":' * 200_000,
    "deep in its place": '{"entity": {"a": {"x": ' + "[" * 50_000 + "]" * 50_000 + "}}}",
    "a long name": json.dumps({"used": {"u": {"prov:activity": "a" * (3 << 20)}}}),
    "a huge number": '{"used": {"u": {"prov:activity": 1' + "0" * 100_000 + "}}}",
    "a list for a document": "[{}]",
    "numbers for records": '{"entity": {"a": 3}}',
    "a prefix of numbers": '{"prefix": {"a": 3}, "entity": {"a:b": {}}}',
    "bundles of lists": '{"bundle": {"b": [1]}}',
    "halves of letters": '{"used": {"\\ud800": {"prov:entity": "x", "prov:activity": true}}}',
}


@pytest.mark.parametrize("name", JSON)
def test_hostile_json_is_refused(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """To check, and to import."""
    file = tmp_path / "x.json"
    file.write_text(JSON[name])
    for action in ("validate", "import"):
        with modest():
            code = main(["provenance", action, str(file), "--folder", str(tmp_path / ".sparsam")])
        said = capsys.readouterr().err
        assert code == 3 and said.count("Traceback") == 0 and len(said) < 1500, (action, said)


TURTLE = {
    "an endless literal": '@prefix p: <http://p/> . <a> p:b "' + "x" * (8 << 20),
    "a long literal": f'<http://a> <http://b> "{"x" * (4 << 20)}" .',
    "deep lists": "<http://a> <http://b> " + "(" * 20_000,
    "deep nodes": "<http://a> <http://b> " + "[ <http://c> " * 200_000,
    "nothing but names": "<prov:x> " * 400_000,
    "nothing but marks": "<provio:" + ";" * 1_000_000,
    "many lines": "<provio:a>\n" * 30_000,
    "halves without an end": ' 19:14:53" ;\n' * 200_000 + "<provio:x",
}


@pytest.mark.parametrize("name", TURTLE)
def test_hostile_turtle_ends(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """To check, and to import: an answer or a refusal, never a traceback or a crash, in time."""
    file = tmp_path / "x.ttl"
    file.write_text(TURTLE[name])
    for action in ("validate", "import"):
        with modest(20, 800):
            code = main(["provenance", action, str(file), "--folder", str(tmp_path / ".sparsam")])
        said = capsys.readouterr()
        assert code in (0, 3) and "Traceback" not in said.err and len(said.err) < 1500, (
            action,
            said.err[:500],
        )


SEEDS = {
    "xml": document(
        "<prov:entity prov:id='ex:a'/><prov:used prov:id='ex:u'><prov:activity prov:ref='ex:b'/>"
        "<prov:time>2020-01-01T00:00:00</prov:time></prov:used><prov:bundleContent prov:id='ex:c'><prov:agent prov:id='ex:g'/>"
        "</prov:bundleContent>"
    ),
    "json": '{"prefix": {"ex": "http://x/"}, "entity": {"ex:a": {"prov:type": [{"$": "prov:Plan", "type": "xsd:QName"}],'
    ' "ex:n": [1, 2.5, true, {"$": "x", "lang": "de"}]}}, "used": {"_:u": {"prov:activity": "ex:b", "prov:entity": "ex:a"}}}',
    "turtle": f'@prefix prov: <{PROV}> . <http://a> a prov:Entity ; prov:wasDerivedFrom _:b , <http://c> ; <http://d> "x"@de .',
    "prov-io": '<a--b>\n    <prov:type> <prov:Activity> ;\n    <provio:elapsed> "3" .\n'
    '"[\'x\', \'2022-01-01\']" <http://www.w3.org/ns/mls#> "x" .\n',
    "provlake": '[{"prov_obj": {"task": {"id": 1, "wf_execution": 2.5, "startTime": 3.0}, "dt": "t", "type": "Input", "values":'
    ' {"a": {"b": 1}}}, "dataflow_name": "f", "act_type": "task"}]\n',
    "prov-jsonld": '{"@context": [{"ex": "http://x/"}], "@graph": [{"@type": "Entity", "@id": "ex:a", "type": ["prov:Plan"],'
    ' "ex:n": [{"@value": "1", "@type": "xsd:integer"}]}, {"@type": "Usage", "activity": "ex:b", "entity": "ex:a"}]}',
}  # fmt: skip


@pytest.mark.parametrize("kind", SEEDS)
def test_bytes_changed_at_random_never_crash(kind: str) -> None:
    """Four hundred documents with some bytes changed, left out, doubled: each is read, or refused in a sentence."""
    drawn = random.Random(kind)
    seed, refused, read = SEEDS[kind].encode(), 0, 0
    for _ in range(400):
        content = bytearray(seed)
        for _ in range(drawn.choice([1, 1, 2, 5])):
            at = drawn.randrange(len(content))
            turn = drawn.random()
            if turn < 0.5:
                content[at] = drawn.choice(b'"<>{}[]:;,.\\ \n0a\xff\x00')
            elif turn < 0.75:
                del content[at : at + drawn.randrange(1, 9)]
            else:
                content[at:at] = content[at : at + drawn.randrange(1, 30)]
            content = content or bytearray(b" ")
        try:
            if kind in KINDS:
                check(reading.read(bytes(content), kind))
            if kind != "xml":
                rdf.write(imported.read(bytes(content), kind, "x").history, drawn.choice(rdf.FORMATS))
            read += 1
        except SparsamError:
            refused += 1
    assert read > 20 and refused > 20


def test_hostile_names_reach_no_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Escape sequences and markup in identifiers and values are shown, not obeyed."""
    evil = "\x1b[31m[red]x\u202e<script>"
    file = tmp_path / "x.json"
    file.write_text(json.dumps({"entity": {evil: {}}, "activity": {evil: {}}}))
    assert main(["provenance", "validate", str(file)]) == 3
    log = tmp_path / "lake.log"
    body = {"task": {"id": 1, "wf_execution": 2.5}, "dt": evil, "type": "Output", "values": {evil: 3}}
    log.write_text(json.dumps([{"prov_obj": body, "dataflow_name": evil, "act_type": "task"}]))
    folder = ["--folder", str(tmp_path / ".sparsam")]
    for arguments in (["provenance", "import", str(log)], ["runs"], ["best", "--metric", evil]):
        main([*arguments, *folder])
    said = capfd.readouterr()
    assert "\x1b[31m" not in said.out + said.err and "\u202e" not in said.out + said.err
    for to in ("turtle", "prov-json", "ro-crate", "prov-io"):
        assert main(["provenance", "export", "--to", to, "--out", str(tmp_path / to), *folder]) == 0


def test_no_document_is_larger_than_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not even read."""
    monkeypatch.setattr(reading, "LARGEST", 1000)
    file = tmp_path / "x.json"
    file.write_bytes(b" " * 1001)
    with pytest.raises(SparsamError, match="larger than 1,000"):
        reading.read_file(file)
    with pytest.raises(SparsamError, match="larger"):
        imported.keep(file, tmp_path / ".sparsam")
    assert not (tmp_path / ".sparsam").exists() and sys.getrecursionlimit() < 10_000
