"""What goes out comes back: graphs are isomorphic after export and import, in each format."""

import contextlib
import json
import math
from pathlib import Path

import pytest
from test_history import Told
from test_rdf import example

from sparsam.cli import main
from sparsam.errors import Refused
from sparsam.provenance import prov_json, rdf
from sparsam.provenance.adapters import documents, imported
from sparsam.provenance.constraints import check
from sparsam.provenance.constraints.reading import read
from sparsam.provenance.graph import History
from sparsam.provenance.rdf import Iri, Typed
from sparsam.provenance.runs import recorded
from sparsam.provenance.terms import IO, PROV, RDF_TYPE, XSD

pytest.importorskip("pyoxigraph")
rdflib = pytest.importorskip("rdflib")
compare = pytest.importorskip("rdflib.compare")

FORMATS = {
    "turtle": "turtle",
    "ntriples": "ntriples",
    "jsonld": "jsonld",
    "prov-json": "json",
    "prov-jsonld": "prov-jsonld",
}


def graph(found: History) -> object:
    """Of rdflib's."""
    return rdflib.Graph().parse(data=rdf.write(found, "ntriples"), format="nt")


def hostile() -> History:
    """Values that are hard to write down."""
    told = Told()
    name = 'a "b"\\ \n\t{$} :x <y> \u202e \U0001f600 &amp; ]]>'
    told(1, "process", run=name, argv=[name, ""], cwd="/" + name, user=name)
    for number, value in enumerate(
        (math.inf, -math.inf, math.nan, 1e-300, 0.1, 1.0, 10**17, -5, True, name, "", "\x00\x1b", "\ud800")
    ):
        told(1, "metric", name=f"m{number}", value=value, scope=None)
    told(1, "config", name=name, value={"a": [1, {"b": None}]})
    handle = told.open(1, "/" + name, "w", created=True)
    told.close(1, handle, size=3)
    told(1, "end", status=0)
    return told.history()


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("seed", [0, 1, 2, -1])
def test_an_export_comes_back_isomorphic(to: str, seed: int) -> None:
    """Random histories and hostile values: the same graph, statement for statement."""
    found = hostile() if seed < 0 else example(seed)
    again = History(foreign=documents.statements(rdf.write(found, to), FORMATS[to], "x"))
    ours, theirs = graph(found), graph(again)
    assert compare.isomorphic(ours, theirs)
    assert set(ours) == set(theirs) and len(ours) > 20  # type: ignore[call-overload,arg-type]


@pytest.mark.parametrize("to", FORMATS)
def test_a_foreign_graph_comes_back_isomorphic(to: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes of no class, several times, times of no class, languages, unknown types, blank nodes, relations to literals."""
    monkeypatch.setattr(rdflib, "NORMALIZE_LITERALS", False)
    day = rdf.when(10**18)
    foreign: list[rdf.Triple] = [
        ("http://x/a", PROV + "wasDerivedFrom", Iri("http://x/b")), ("http://x/a", PROV + "wasDerivedFrom", "text"),
        ("http://x/e", RDF_TYPE, Iri(PROV + "Entity")), ("http://x/e", PROV + "generatedAtTime", day),
        ("http://x/e", PROV + "generatedAtTime", rdf.when(2 * 10**18)), ("http://x/e", PROV + "wasGeneratedBy", Iri("http://x/r")),
        ("http://x/e", PROV + "wasGeneratedBy", Iri("http://x/s")), ("http://x/r", RDF_TYPE, Iri(PROV + "Activity")),
        ("http://x/r", PROV + "startedAtTime", day), ("http://x/r", PROV + "startedAtTime", rdf.when(5)),
        ("http://x/r", PROV + "endedAtTime", Typed("soon", XSD + "dateTime")), ("http://x/r", RDF_TYPE, Iri(PROV + "Entity")),
        ("http://x/n", PROV + "startedAtTime", day), ("_:b1", "http://y#p", Iri("_:b2")),
        ("_:b2", "http://y#p", Typed("x", language="de")), ("http://x/e", "http://y#q", Typed("01", XSD + "integer")),
        ("http://x/e", "http://y#q", 1), ("http://x/e", "urn:z", True),
        ("http://x/e", PROV + "qualifiedUsage", Iri("_:b1")), ("http://x/g", RDF_TYPE, Iri(PROV + "SoftwareAgent")),
        ("http://x/c", PROV + "hadMember", Iri("http://x/e")), ("http://x/e", IO + "wasReadBy", Iri("http://x/r")),
        ("http://x/e", PROV + "hadPrimarySource", Iri("http://x/a")), ("prov:odd", "prov:wasMemberOf", Iri("provio:Thing")),
        ("http://x/e", PROV + "generatedAtTime", Typed("2020-01-01T00:00:00", XSD + "dateTime")),
    ]  # fmt: skip
    found = History(foreign=foreign)
    again = History(foreign=documents.statements(rdf.write(found, to), FORMATS[to], "x"))
    assert len(graph(found)) == len(foreign)  # type: ignore[arg-type]
    assert compare.isomorphic(graph(found), graph(again))


def test_records_of_others_keep_what_they_say() -> None:
    """Times, roles, plans, identifiers and ends that are missing become PROV-O's qualified form, and come back."""
    text = {
        "prefix": {"ex": "http://x/"},
        "used": {"ex:u": {"prov:activity": "ex:a", "prov:entity": "ex:e", "prov:time": "2020-01-01T00:00:00Z"}},
        "wasAssociatedWith": {"_:s": {"prov:activity": "ex:a", "prov:agent": "ex:g", "prov:plan": "ex:p", "prov:role": "boss"}},
        "wasStartedBy": {"_:t": {"prov:activity": "ex:a", "prov:starter": "ex:b"}},
        "wasAttributedTo": {"_:r": {"prov:agent": "ex:g"}},
        "mentionOf": {"_:m": {"prov:specificEntity": "ex:e", "prov:generalEntity": "ex:f", "prov:bundle": "ex:b"}},
        "bundle": {
            name: {"wasAssociatedWith": {"_:s": {"prov:activity": f"ex:{name}", "prov:plan": "ex:q"}}} for name in ("b1", "b2")
        },
    }  # fmt: skip
    found = documents.statements(json.dumps(text).encode(), "json", "x")
    made = rdflib.Graph().parse(data=rdf.write(History(foreign=found), "turtle"), format="turtle")
    head = f"PREFIX p: <{PROV}> PREFIX x: <http://x/> ASK "
    for pattern in (
        "x:a p:used x:e ; p:qualifiedUsage x:u . x:u a p:Usage ; p:entity x:e ; p:atTime ?t",
        "x:a p:qualifiedAssociation [ p:agent x:g ; p:hadPlan x:p ; p:role 'boss' ]",
        "x:a p:qualifiedStart [ p:hadActivity x:b ]",
        "?somebody p:wasAttributedTo x:g FILTER(isBlank(?somebody))",
        "x:e p:mentionOf x:f ; p:asInBundle x:b",
        "x:b1 p:qualifiedAssociation ?one . x:b2 p:qualifiedAssociation ?two FILTER(?one != ?two)",
    ):
        assert made.query(f"{head} {{ {pattern} }}").askAnswer, pattern
    again = documents.statements(rdf.write(History(foreign=found), "prov-json"), "json", "x")
    assert compare.isomorphic(graph(History(foreign=found)), graph(History(foreign=again)))
    for odd in (
        {"entity": {"http://x/%zz<": {"prov:type": "a:b c"}}},
        {"entity": {"a": {"b": {"$": "x", "lang": "?!"}}}},
    ):
        with contextlib.suppress(Refused):
            rdf.write(History(foreign=documents.statements(json.dumps(odd).encode(), "json", "x")), "turtle")


def test_json_is_json_of_the_standard() -> None:
    """No NaN, no halves of letters; names have declared prefixes; and it is valid PROV."""
    for to in ("prov-json", "prov-jsonld"):
        content = rdf.write(hostile(), to)

        def never(text: str) -> None:
            raise AssertionError(text)

        found = json.loads(content, parse_constant=never)
        content.decode("utf-8", "strict")
        if to == "prov-json":
            prefixes = set(found["prefix"]) | {"_"}
            for part in found:
                if part != "prefix":
                    assert all(key.partition(":")[0] in prefixes for key in found[part])
            assert check(read(content, "json")).valid


def test_prov_jsonld_has_its_shape() -> None:
    """A context that is the submission's, an object a statement, types by name, values as objects."""
    found = json.loads(rdf.write(example(), "prov-jsonld"))
    assert found["@context"][-1] == prov_json.CONTEXT
    kinds = {x["@type"] for x in found["@graph"]}
    assert kinds == {"Entity", "Activity", "Agent", "Derivation", "Generation", "Usage", "Association", "Attribution",
                     "Delegation", "Communication", "Influence"}  # fmt: skip
    one = next(x for x in found["@graph"] if x["@type"] == "Generation")
    assert set(one) == {"@type", "entity", "activity", "time"}
    entity = next(x for x in found["@graph"] if x["@type"] == "Entity" and "io:generation" in x)
    assert all(isinstance(x, str) for x in entity["type"]) and isinstance(entity["io:generation"][0], dict)


def test_through_the_commands(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """Exported here, imported there, exported there: the same bytes, sorted."""
    here, there = tmp_path / "here" / ".sparsam", tmp_path / "there" / ".sparsam"
    here.parent.mkdir()
    imported.keep(_file(tmp_path / "a.ttl", rdf.write(example(1), "turtle")), here)
    for to, name in (("turtle", "b.ttl"), ("prov-json", "b.json"), ("prov-jsonld", "b.jsonld")):
        out = str(tmp_path / name)
        assert main(["provenance", "export", "--to", to, "--out", out, "--folder", str(here)]) == 0
        folder = there.with_name(f".sparsam-{to}")
        assert main(["provenance", "import", out, "--folder", str(folder)]) == 0
        want, got = (rdf.write(recorded(x), "ntriples").splitlines() for x in (here, folder))
        assert sorted(want) == sorted(got) and len(want) > 100


def _file(file: Path, content: bytes) -> Path:
    file.write_bytes(content)
    return file
