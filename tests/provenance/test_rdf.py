"""The graph as PROV-O and PROV-JSON, the store, and guarded questions to it."""

import json
import os
import random
import sys
from pathlib import Path
from typing import Any

import pytest
from test_history import Told, Truth

from sparsam.cli import main
from sparsam.errors import Refused, Usage
from sparsam.provenance import questions, rdf, store
from sparsam.provenance.graph import History
from sparsam.provenance.runs import recorded
from sparsam.provenance.terms import IO, PREFIXES, PROV
from sparsam.provenance.tracked import track

ox = pytest.importorskip("pyoxigraph")
rdflib = pytest.importorskip("rdflib")


def example(seed: int = 0) -> History:
    """A small history with everything in it."""
    told = Told()
    told(
        1,
        "process",
        run="r",
        argv=["python", "a.py"],
        cwd="/",
        user="jo doe",
        rank="3",
        code={"commit": "abc", "changed": False},
    )
    told(1, "config", name="rate", value=0.1)
    told(1, "config", name="layers", value=[1, 2])
    told(1, "metric", name="accuracy", value=0.9, scope=None)
    told(1, "type", name="Machine Learning")
    told(2, "process", run="r", parent=["here", 1, 1], forked=False, argv=["x"])
    truth = Truth(told, random.Random(seed))
    for number in range(3):
        told.read(0, f"/raw{number}")
        truth.at[f"/raw{number}"] = truth.node(set())
    for pid in range(1, 8):
        truth.step(pid)
    path = '/odd "name\n<>.h5'
    handle = told.open(1, path, "rw", created=True)
    told(1, "object", handle=handle, object="dataset", name="/x", call="write", bytes=8)
    told(1, "fsync", handle=handle)
    told.close(1, handle, size=8)
    told(
        1,
        "account",
        path=path,
        configuration={"method": "m", "seed": 1, "m.x": [1]},
        metrics={"accuracy": 0.5},
    )
    told(1, "calibration", path=path, name="c", rows=4, split="train", sha256="0" * 64, sources=["/raw0"])
    for what, value, rows in (("mask", "0-2", "c"), ("threshold", 0.25, None), ("bit-width", 8, "c")):
        told(1, "decision", path=path, what=what, name=what, value=value, calibration=rows)
    told.open(2, "/open", "w", created=True)
    told(1, "end", status=0)
    return told.history()


@pytest.mark.parametrize("to", ["turtle", "ntriples", "jsonld"])
def test_written_and_read_it_is_the_same_graph(to: str) -> None:
    """By another library, for each format; and by ours."""
    found = example()
    made = rdf.write(found, to)
    formats = {"turtle": "turtle", "ntriples": "nt", "jsonld": "json-ld"}
    graph = rdflib.Graph().parse(data=made, format=formats[to])
    assert len(graph) == len(set(map(str, rdf.quads(found))))
    plain = rdflib.Graph().parse(data=rdf.write(found, "ntriples"), format="nt")
    assert set(graph) == set(plain)  # no blank nodes
    kinds = {
        "turtle": ox.RdfFormat.TURTLE,
        "ntriples": ox.RdfFormat.N_TRIPLES,
        "jsonld": ox.RdfFormat.JSON_LD,
    }
    assert {str(x.triple) for x in ox.parse(made, format=kinds[to])} == {
        str(x.triple) for x in rdf.quads(found)
    }


def test_every_word_is_declared() -> None:
    """Classes and properties in the ontology, types by rdf:type, times with a zone: real PROV-O."""
    ontology = rdflib.Graph().parse(rdf.ONTOLOGY)
    declared = {str(x) for x in ontology.subjects() if str(x).startswith(IO)}
    graph = rdflib.Graph().parse(data=rdf.write(example(), "turtle"), format="turtle")
    words = {str(x) for triple in graph for x in triple[1:] if isinstance(x, rdflib.URIRef)}
    words = {x for x in words if x.startswith(IO)}
    assert words and words <= declared
    supers = set(ontology.objects(None, rdflib.RDFS.subClassOf)) | set(
        ontology.objects(None, rdflib.RDFS.subPropertyOf)
    )
    assert {str(x) for x in supers if str(x).startswith(PROV)} >= {
        PROV + "Entity",
        PROV + "Activity",
        PROV + "SoftwareAgent",
    }
    times = list(graph.objects(None, rdflib.URIRef(PROV + "startedAtTime")))
    assert times and all(x.datatype == rdflib.XSD.dateTime and x.toPython().tzinfo is not None for x in times)
    assert not [x for triple in graph for x in triple if str(x).startswith("prov:")]


def test_the_graph_keeps_its_shapes() -> None:
    """Each property shape of shapes.ttl, checked by hand on random graphs: counts, types, classes."""
    shapes = rdflib.Graph().parse(rdf.SHAPES)
    sh = rdflib.Namespace("http://www.w3.org/ns/shacl#")
    checked = 0
    for seed in range(5):
        graph = rdflib.Graph().parse(data=rdf.write(example(seed), "turtle"), format="turtle")
        for shape, target in shapes.subject_objects(sh.targetClass):
            for node in graph.subjects(rdflib.RDF.type, target):
                for facts in shapes.objects(shape, sh.property):
                    values = list(graph.objects(node, shapes.value(facts, sh.path)))
                    assert len(values) >= int(shapes.value(facts, sh.minCount) or 0), (
                        node,
                        shapes.value(facts, sh.path),
                    )
                    assert len(values) <= int(shapes.value(facts, sh.maxCount) or 10**9)
                    for value in values:
                        checked += 1
                        if kind := shapes.value(facts, sh.datatype):
                            assert value.datatype == kind or (
                                value.datatype is None and kind == rdflib.XSD.string
                            )
                        if kind := shapes.value(facts, sh["class"]):
                            known = set(graph.objects(value, rdflib.RDF.type))
                            sub = rdf_subclasses(kind)
                            assert known & sub, (value, kind)
    assert checked > 500


def rdf_subclasses(kind: Any) -> set[Any]:
    """A class and those below it."""
    ontology = rdflib.Graph().parse(rdf.ONTOLOGY)
    return set(ontology.transitive_subjects(rdflib.RDFS.subClassOf, kind))


def test_prov_json_holds_the_same() -> None:
    """As many relations of each kind as statements, between nodes that are there; values with their types."""
    found = example()
    made = rdf.prov_json(found)
    assert json.loads(json.dumps(made)) == made
    count = dict.fromkeys(
        ("wasDerivedFrom", "wasGeneratedBy", "used", "wasAssociatedWith", "wasRevisionOf"), 0
    )
    for _, predicate, _ in rdf.triples(found):
        if predicate.removeprefix(PROV) in count:
            count[predicate.removeprefix(PROV)] += 1
    revisions = count.pop("wasRevisionOf")
    count["wasDerivedFrom"] += revisions
    assert {name: len(made[name]) for name in count} == count
    nodes = {**made["entity"], **made["activity"], **made["agent"]}
    for relation in ("wasDerivedFrom", "wasGeneratedBy", "used", "wasInfluencedBy", "wasAssociatedWith"):
        for one in made[relation].values():
            ends = [value for key, value in one.items() if key not in ("prov:type", "prov:time")]
            assert len(ends) == 2 and all(x in nodes for x in ends)


@pytest.mark.parametrize("seed", range(5))
def test_questions_in_sparql_are_the_functions(seed: int) -> None:
    """Lineage and impact of every file, by SPARQL on the store and by ours."""
    found = example(seed)
    made = ox.Store()
    store.fill(made, found)
    for one in found.entities.values():
        for question, ours in (("lineage", found.lineage), ("impact", found.impact)):
            _, rows = store.ask(made, store.sparql_of(question, id=one.id), 10_000)
            assert {x[0] for x in rows} == {f"urn:sparsam:{x}" for x in ours(one.id)}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two tracked runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(x for x in sys.path if x))
    (tmp_path / "in").write_text("x")
    for at in (1, 2):
        code = (
            "import sparsam.provenance as p\n"
            f"open('out{at}', 'w').write(open('in').read())\np.record_metric('accuracy', 0.{at})"
        )
        assert track([sys.executable, "-c", code], run=f"run{at}").status == 0
    return tmp_path


def test_the_store_follows_the_logs(place: Path) -> None:
    """Made once, made again when there is more, and asked within limits."""
    text = "SELECT ?path WHERE { ?f a io:File ; io:path ?path } ORDER BY ?path"
    found = store.query(text)
    assert [Path(row[0]).name for row in found.rows] == ["in", "out1", "out2"] and not found.more
    made = (place / ".sparsam" / "graph" / "made-from.json").stat().st_mtime_ns
    assert store.query(text, rows=2).more
    assert (place / ".sparsam" / "graph" / "made-from.json").stat().st_mtime_ns == made
    track([sys.executable, "-c", "open('more', 'w').write('x')"], run="run3")
    assert len(store.query(text).rows) == 4
    best = store.query(store.sparql_of("best", metric="accuracy")).rows
    assert [row[0] for row in best] == [x.name for x in questions.best(recorded(), "accuracy")]
    rows = store.query(store.sparql_of("io-profile", run="run1")).rows
    ours = {(x.path, x.call): x.bytes for x in questions.io_profile(recorded(), "run1")}
    theirs = {(row[0], row[1].removeprefix(IO).lower()): row[3] or 0 for row in rows}
    assert theirs == ours
    assert store.query("ASK { ?x a io:File }").rows == ((True,),)


@pytest.mark.parametrize(
    "text",
    [
        "SELECT * WHERE { SERVICE <http://example.org/> { ?a ?b ?c } }", "LOAD <file:///etc/passwd>",
        "SELECT * FROM <file:///etc/passwd> WHERE { ?a ?b ?c }", "select * from named <x:y> where { ?a ?b ?c }",
        "INSERT DATA { <x:a> <x:b> <x:c> }", "DELETE WHERE { ?a ?b ?c }", "# harmless\nSELECT * WHERE{service<x:y>{?a ?b ?c}}",
        "# '''\nSELECT * { SERVICE <x:y> { ?a ?b ?c } } # '''", "PREFIX : <x:y> SELECT * { SERVICE:p { ?a ?b ?c } }",
        "SELECT * { \\u0053ERVICE <x:y> { ?a ?b ?c } }",
    ],
)  # fmt: skip
def test_what_reaches_out_is_refused(text: str) -> None:
    """Before anything is opened."""
    with pytest.raises(Refused) as error:
        store.query(text, "/no/such/folder")
    assert error.value.code == "query-forbidden"


def test_words_in_texts_and_names_are_no_commands() -> None:
    """A path that says LOAD, a variable called from, a comment."""
    for text in (
        'SELECT ?from WHERE { ?from io:path "LOAD FROM SERVICE" } # LOAD', "SELECT * WHERE { ?x <x:from> ?load }",
        "SELECT * WHERE { ?x io:from 'it''s' }", 'SELECT * { ?x io:path """DROP " ALL""" }',
    ):  # fmt: skip
        store.check_question(text)


def test_long_and_wrong_questions(place: Path) -> None:
    """A question that would not end is ended; one that is none is explained."""
    endless = "SELECT (COUNT(*) AS ?n) WHERE { " + " ".join(f"?a{x} ?b{x} ?c{x} ." for x in range(8)) + " }"
    with pytest.raises(Refused) as error:
        store.query(endless, seconds=2.0)
    assert error.value.code == "query-time"
    with pytest.raises(Refused) as error:
        store.query("SELECT WHERE")
    assert error.value.code == "query-invalid"
    with pytest.raises(Usage):
        store.query("ASK {}", rows=0)


def test_values_cannot_break_out_of_a_question() -> None:
    """Quotes, brackets and line breaks of a value stay in it."""
    made = store.sparql_of("best", metric='x" } SERVICE <http://e> { "\n')
    store.check_question(made)
    store.ask(ox.Store(), made, 10)


def test_query_and_export_as_commands(place: Path, capfdbinary: Any) -> None:
    """JSON and words; every format on standard output and in a file."""
    assert main(["query", "SELECT (COUNT(?f) AS ?n) WHERE { ?f a io:File }", "--json"]) == 0
    assert json.loads(capfdbinary.readouterr().out)["rows"] == [[3]]
    assert main(["query", "SELECT ?path WHERE { ?f a io:File ; io:path ?path }"]) == 0
    assert b"out1" in capfdbinary.readouterr().out
    assert main(["query", "--show", f"lineage={place / 'out1'}"]) == 0
    assert b"wasDerivedFrom+" in capfdbinary.readouterr().out
    assert main(["query"]) == 2 and main(["query", "LOAD <x:y>"]) == 3
    capfdbinary.readouterr()
    for to in rdf.FORMATS:
        assert main(["provenance", "export", "--to", to]) == 0
        said = capfdbinary.readouterr().out
        assert main(["provenance", "export", "--to", to, "--out", "file"]) == 0
        assert said == (place / "file").read_bytes() + b"\n"
    assert (
        main(["provenance", "export", "--to", "xml"]) == 2
        and main(["provenance", "import", "--to", "turtle"]) == 2
    )
    assert all(f"PREFIX {name}:" in store.prefixes() for name in PREFIXES)
