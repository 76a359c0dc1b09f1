"""Documents of other systems: read, kept, asked like our own records; PROV-IO's questions on an export of ours."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
from test_rdf import example
from test_torn_traces import traces

from sparsam import provenance
from sparsam.cli import main
from sparsam.errors import InputOutput, Refused, Usage
from sparsam.provenance import questions, rdf, store
from sparsam.provenance.adapters import imported, provio, provlake, turtle
from sparsam.provenance.graph import History
from sparsam.provenance.runs import recorded
from sparsam.provenance.terms import IO, PROV

ox = pytest.importorskip("pyoxigraph")
rdflib = pytest.importorskip("rdflib")
compare = pytest.importorskip("rdflib.compare")

SAMPLE = """@prefix rdf: <http://www.w3.org/1999/02/22-rdf-syntax-ns#> .

<ann>
    <prov:ofType> <prov:Agent> ;
    <prov:wasMemberOf> <provio:User> .
<MPI_rank_3>
    <prov:actedOnBehalfOf> <ann> ;
    <prov:ofType> <prov:Agent> ;
    <prov:wasMemberOf> <provio:Thread> .
<convert.exe--a1>
    <prov:actedOnBehalfOf> <MPI_rank_3> ;
    <prov:ofType> <prov:Agent> ;
    <prov:wasMemberOf> <provio:Program> .
<H5Dwrite--b1>
    <prov:startedAtTime> "10/13/2021 19:9:28" ;
    <prov:ofType> <prov:Activity> ;
    <prov:wasMemberOf> <provio:IOAPI:Write> ;
    <provio:elapsed> "2500000" ;
    <prov:wasAssociatedWith> <convert.exe--a1> .
</step/x>
    <prov:ofType> <prov:Entity> ;
    <prov:wasAttributedTo> <convert.exe--a1> ;
    <prov:wasWrittenBy> <H5Dwrite--b1> ;
    <prov:wasDerivedFrom> </raw> ;
    <prov:wasMemberOf> <provio:DataObject:Dataset> .
</raw>
    <prov:ofType> <prov:Entity> ;
    <prov:wasMemberOf> <provio:DataObject:File> .
"""
SETTINGS = """@prefix ns1: <https://www.w3.org/ns/mls#> .

"['batch_size', '2022-01-20 18:37:21.640456']" ns1:Name "batch_size" ;
    ns1:Quality "0.75" ;
    ns1:Type "Hyperparameters" ;
    ns1:Value "25" ;
    ns1:Version "v6" .

"['branch', '2022-01-20 18:37:21.640456']" ns1:Name "branch" ;
    ns1:Quality "0.75" ;
    ns1:Type "Jets", "Muons" ;
    ns1:Value "jet_",
        "mu_" ;
    ns1:Version "v6" .

"['batch_size', '2022-01-20 19:00:00.000000']" ns1:Name "batch_size" ;
    ns1:Quality "0.80" ;
    ns1:Value "5" ;
    ns1:Version "v7" .
"""


def lake(*messages: dict[str, object]) -> bytes:
    """A log of ProvLake's."""
    return b"".join(json.dumps([x]).encode() + b"\n" for x in messages)


def message(kind: str, body: dict[str, object]) -> dict[str, object]:
    """One message of a flow."""
    return {"prov_obj": body, "dataflow_name": "flow", "act_type": kind}


START = 1643081927.5
LAKE = lake(
    message("workflow", {"wf_execution": START, "startTime": START, "status": "RUNNING"}),
    message(
        "task",
        {
            "task": {"id": 1.5, "wf_execution": START, "startTime": START + 1, "parent_cycle_name": "epoch",
                     "parent_cycle_iteration": 1},
            "dt": "training", "type": "Input",
            "values": {"Version": "v6", "Hyperparameters": {"rate": "0.001", "batch_size": "25"}},
        },
    ),
    message("task", {"task": {"id": 1.5, "wf_execution": START, "endTime": START + 2}, "dt": "training", "type": "Output",
                     "values": {"Accuracy": 0.91}}),
    message("task", {"task": {"id": 2.5, "wf_execution": START, "startTime": START + 3}, "dt": "training", "type": "Input",
                     "values": "dataset_1"}),
    message("cycle", {"cycle": {"iteration_id": 1, "wf_execution": START, "endTime": START + 4}, "cycle_name": "epoch",
                      "type": "Output", "values": {}}),
    message("workflow", {"wf_execution": START, "startTime": START, "endTime": START + 5, "status": "FINISHED"}),
)  # fmt: skip


def put(folder: Path, name: str, content: str | bytes) -> Path:
    """A file."""
    file = folder / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def test_prov_io_comes_in_whole(tmp_path: Path) -> None:
    """Programs, ranks, users, calls with their seconds, data objects; and every statement stays as it was."""
    one = imported.keep(put(tmp_path, "prov.ttl", SAMPLE), tmp_path / ".sparsam")
    found = recorded(tmp_path / ".sparsam")
    assert one.kind == "prov-io" and not found.damages
    (program,) = found.programs.values()
    assert program.facts == {"argv": ["convert.exe"], "rank": "3", "user": "ann"}
    (call,) = found.calls.values()
    assert (call.kind, call.count, call.seconds) == ("write", 1, 2.5)
    assert call.first == 1634152168 * 10**9  # 2021-10-13T19:09:28Z
    made = found.at("/step/x")
    assert made is not None and made.kind == "dataset" and made.by == program.id
    assert [found.entities[x].path for x in found.lineage(made.id)] == ["/raw"]
    (profile,) = questions.io_profile(found, "prov.ttl")
    assert (profile.call, profile.seconds, profile.path) == ("write", 2.5, "/step/x")
    strict = {
        str(x.triple) for x in ox.parse(SAMPLE.encode(), format=ox.RdfFormat.TURTLE, base_iri=turtle.BASE)
    }
    assert {str(x.triple) for x in rdf.quads(History(foreign=one.history.foreign))} == strict
    assert strict <= {str(x.triple) for x in rdf.quads(found)}  # beside what we say of it


def test_settings_of_prov_io_are_runs(tmp_path: Path) -> None:
    """Literals as subjects, which no other parser takes, are records of a version; the best is found."""
    one = imported.keep(put(tmp_path, "prov.ttl", SETTINGS), tmp_path / ".sparsam")
    assert len(one.history.foreign) == 5 + 7 + 4
    best = questions.best(recorded(tmp_path / ".sparsam"), "Quality")
    assert [(x.metrics["Quality"], x.configuration["batch_size"]) for x in best] == [(0.8, "5"), (0.75, "25")]
    assert best[1].configuration["branch"] == ["jet_", "mu_"]
    assert best[1].name == "prov.ttl v6 2022-01-20 18:37:21.640456"
    answer = store.query(
        "PREFIX ns1: <https://www.w3.org/ns/mls#> SELECT ?v WHERE { ?x ns1:Name 'batch_size'; ns1:Version ?v } ORDER BY ?v",
        tmp_path / ".sparsam",
    )
    assert answer.rows == (("v6",), ("v7",))


def test_prov_lake_s_logs_are_runs(tmp_path: Path) -> None:
    """A workflow with its settings, results, tasks and times; a torn line is named."""
    imported.keep(put(tmp_path, "lake.log", LAKE + b'[{"prov_obj": {"wf_ex'), tmp_path / ".sparsam")
    found = recorded(tmp_path / ".sparsam")
    (program,) = found.programs.values()
    assert program.configuration == {
        "Version": "v6",
        "rate": "0.001",
        "batch_size": "25",
        "training input": "dataset_1",
    }
    assert program.metrics == [(int((START + 2) * 1e6) * 1000, "Accuracy", 0.91, "1.5")]
    assert program.scopes["1.5"] == ("training, epoch 1", None)
    assert (program.ended or 0) - program.began == 5 * 10**9 and program.status == 0
    assert questions.best(found, "Accuracy")[0].name == "lake.log"
    (damage,) = found.damages
    assert damage.offset == len(LAKE) and "line 7" in damage.reason


def test_verify_names_a_damaged_import(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As it names a damaged log; and an import whose bytes were changed."""
    folder = tmp_path / ".sparsam"
    text = traces()[0]
    imported.keep(put(tmp_path, "torn.ttl", text[:-20]), folder)
    found = recorded(folder)
    assert [x.file for x in found.damages] == ["torn.ttl"]
    whole = imported.keep(put(tmp_path, "whole.ttl", text), folder)
    assert not whole.history.damages
    kept = folder / "imported" / "whole.ttl" / "document"
    kept.write_bytes(kept.read_bytes().replace(b"19:3:7", b"19:4:7"))
    assert any("not those that were imported" in x.reason for x in recorded(folder).damages)
    with pytest.raises(InputOutput, match="not those"):
        imported.one("whole.ttl", folder)


def test_our_own_export_comes_back_as_a_history(tmp_path: Path) -> None:
    """Elsewhere, with nothing recorded: the same lineage of every file, the same runs and profile; nothing said twice."""
    there = example(3)
    accounts = {
        key: replace(x, configuration={a: json.dumps(b) if isinstance(b, list) else b for a, b in x.configuration.items()})
        for key, x in there.accounts.items()
    }  # fmt: skip
    for to, name in (
        ("turtle", "a.ttl"),
        ("prov-json", "a.json"),
        ("jsonld", "b.jsonld"),
        ("prov-jsonld", "a.jsonld"),
    ):
        folder = tmp_path / to / ".sparsam"
        folder.parent.mkdir()
        imported.keep(put(tmp_path, name, rdf.write(there, to)), folder)
        found = recorded(folder)
        assert set(found.entities) == set(there.entities) and not found.damages
        assert found.accounts == accounts and accounts, to
        for key in there.entities:
            assert set(found.lineage(key)) == set(there.lineage(key)), to
            assert set(found.impact(key)) == set(there.impact(key)), to
        ours = [
            (x.name, x.began // 1000, x.programs, x.read, x.written, x.configuration.keys())
            for x in questions.runs(there)
        ]
        theirs = [
            (x.name, x.began // 1000, x.programs, x.read, x.written, x.configuration.keys())
            for x in questions.runs(found)
        ]
        assert theirs == ours
        assert {(x.call, x.path, x.count, x.bytes) for x in questions.io_profile(found, "r")} == {
            (x.call, x.path, x.count, x.bytes) for x in questions.io_profile(there, "r")
        }
        assert {str(x) for x in rdf.quads(found)} == {str(x) for x in rdf.quads(there)}
        assert all(
            x.state == questions.UNKNOWN for x in questions.lineage(found, there.entities[key].names[-1])
        )


def test_what_is_known_already_is_not_said_twice(tmp_path: Path) -> None:
    """An export that comes back to where it was recorded changes nothing, neither counts nor statements nor states."""
    folder, raw, made = tmp_path / ".sparsam", tmp_path / "raw.txt", tmp_path / "made.txt"
    raw.write_text("raw")
    with provenance.run("here", folder=folder):
        made.write_text(raw.read_text() * 2)
    before = recorded(folder)
    ours = {str(x) for x in rdf.quads(before)}
    profile = questions.io_profile(before, "here")
    imported.keep(put(tmp_path, "own.ttl", rdf.write(before, "turtle")), folder)
    imported.keep(put(tmp_path, "prov.ttl", SAMPLE), folder)
    after = recorded(folder)
    assert ours <= {str(x) for x in rdf.quads(after)}
    assert questions.io_profile(after, "here") == profile and len(profile) > 2
    (step, source) = questions.lineage(after, made)
    assert (step.state, source.state) == (questions.UNCHANGED, questions.UNCHANGED)
    assert {x.name for x in questions.runs(after)} == {"here", "prov.ttl"}
    reads = store.query("SELECT ?n WHERE { ?c a io:Read ; io:count ?n }", folder).rows
    assert len(reads) == 1


def test_prov_of_others_has_a_lineage(tmp_path: Path) -> None:
    """Entities, activities and derivations in PROV's own words alone; blank nodes and languages stay."""
    text = f"""@prefix prov: <{PROV}> . @prefix : <http://x/> . @prefix rdfs: <http://www.w3.org/2000/01/rdf-schema#> .
    :raw a prov:Entity . :clean a prov:Entity ; prov:wasDerivedFrom :raw ; prov:wasGeneratedBy :cleaning .
    :plot a prov:Entity ; rdfs:label "plot.png" ; prov:wasDerivedFrom :clean ; prov:qualifiedAttribution [ prov:agent :ann ] .
    :cleaning a prov:Activity ; prov:startedAtTime "2020-01-01T00:00:00Z"^^<http://www.w3.org/2001/XMLSchema#dateTime> .
    :raw :note "roh"@de , 1.50 , true ."""
    one = imported.keep(put(tmp_path, "theirs.ttl", text), tmp_path / ".sparsam")
    found = recorded(tmp_path / ".sparsam")
    plot = found.at("plot.png")
    assert plot is not None
    assert [found.entities[x].path for x in found.lineage(plot.id)] == ["http://x/clean", "http://x/raw"]
    steps = questions.lineage(found, "plot.png")
    assert [x.entity.path for x in steps] == ["plot.png", "http://x/clean", "http://x/raw"]
    graph = rdflib.Graph().parse(data=text, format="turtle")
    for to, form in (("turtle", "turtle"), ("jsonld", "json-ld")):
        again = rdflib.Graph().parse(data=rdf.write(History(foreign=one.history.foreign), to), format=form)
        assert compare.isomorphic(graph, again), to


def test_a_document_is_kept_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Twice the same is once; another of that name is refused; what is nothing is refused and not kept."""
    folder = tmp_path / ".sparsam"
    file = put(tmp_path, "lake.log", LAKE)
    assert main(["provenance", "import", str(file), str(file), "--folder", str(folder)]) == 0
    assert len(recorded(folder).programs) == 1 and imported.names(folder) == ["lake.log"]
    put(tmp_path, "lake.log", LAKE + LAKE)
    assert main(["provenance", "import", str(file), "--folder", str(folder)]) == 3
    assert "already" in capsys.readouterr().err
    with pytest.raises(Usage, match="nothing that is imported"):
        imported.keep(put(tmp_path, "x.csv", "a,b"), folder)
    with pytest.raises(Refused, match="no statement"):
        imported.keep(put(tmp_path, "y.ttl", "<provio:"), folder)
    assert imported.names(folder) == ["lake.log"]
    with pytest.raises(InputOutput, match="nothing called"):
        imported.one("y.ttl", folder)


def test_an_import_is_exported_as_it_came(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """By the command: isomorphic with the file; beside recorded runs, the whole graph holds it too."""
    folder = str(tmp_path / ".sparsam")
    assert (
        main(["provenance", "import", str(put(tmp_path, "prov.ttl", SAMPLE)), "--folder", folder, "--json"])
        == 0
    )
    (told,) = json.loads(capfdbinary.readouterr().out)["imported"]
    assert (told["kind"], told["statements"], told["calls"], told["damages"]) == ("prov-io", 20, 1, [])
    arguments = ["provenance", "export", "--imported", "prov.ttl", "--to", "turtle", "--folder", folder]
    assert main(arguments) == 0
    again = rdflib.Graph().parse(data=capfdbinary.readouterr().out, format="turtle")
    assert compare.isomorphic(again, rdflib.Graph().parse(data=SAMPLE, format="turtle", publicID=turtle.BASE))


FIELD = """SELECT ?x ?version ?accuracy WHERE {
  ?x ns1:Name "batch_size" ; ns1:Value "5" ; ns1:Version ?version ; ns1:Quality ?accuracy . }"""
TOP = """SELECT ?name ?value ?version ?accuracy WHERE {
  ?x ns1:Name ?name ; ns1:Type ?type ; ns1:Value ?value ; ns1:Version ?version ; ns1:Quality ?accuracy .
} ORDER BY DESC(?accuracy) LIMIT 15"""


def search() -> History:
    """Twenty runs with settings, some with results."""
    from test_history import Told

    told = Told()
    for number in range(20):
        told(number + 1, "process", run=f"run {number}", argv=["train.py"])
        told(number + 1, "config", name="batch_size", value=number % 4 + 3)
        told(number + 1, "config", name="version", value=f"v{number}")
        told(number + 1, "metric", name="loss", value=1.0, scope=None)
        told(number + 1, "metric", name="accuracy", value=number / 16, scope=None)
        told(number + 1, "metric", name="seconds", value=3, scope=None)
    return told.history()


def test_prov_io_s_questions_are_answered_by_an_export_of_ours() -> None:
    """Which version had batch_size 5 and how accurate; the fifteen best: the rows that our own functions give."""
    found = search()
    graph = rdflib.Graph().parse(data=rdf.write(found, "prov-io"), format="turtle")
    rows = {(str(x.version), float(x.accuracy)) for x in graph.query(FIELD)}
    ours = questions.best(found, "accuracy", where={"batch_size": 5})
    assert rows == {(x.configuration["version"], x.metrics["accuracy"]) for x in ours} and len(rows) == 5
    top = [(str(x.name), str(x.value), float(x.accuracy)) for x in graph.query(TOP)]
    best = questions.best(found, "accuracy")
    assert [x[2] for x in top] == sorted(
        (m for x in best[:8] for m in [x.metrics["accuracy"]] * 2), reverse=True
    )[:15]
    assert {x[1] for x in top if x[0] == "version"} <= {x.configuration["version"] for x in best[:8]}
    relation = rdflib.URIRef("prov:wasReadBy")
    written = rdflib.Graph().parse(data=rdf.write(example(), "prov-io"), format="turtle")
    assert set(written.subject_objects(relation)) == set(
        written.subject_objects(rdflib.URIRef(IO + "wasReadBy"))
    )
    assert len(set(written.subject_objects(relation))) > 5


@pytest.mark.parametrize(
    "content", [b"", b"[]", b'[{"prov_obj": 3}]', b'{"prov_obj": {}, "act_type": 1}', b"\xff\xfe\n[1]"]
)
def test_what_is_no_log_of_prov_lake_s_is_refused(content: bytes) -> None:
    """With a sentence."""
    with pytest.raises(Refused, match="no message"):
        provlake.read(content, "x.log")


def test_names_tell_the_moment() -> None:
    """A UUID of version 1 has a time; others, and other names, have none."""
    assert (
        provio.named_moment("00e38452-2c94-11ec-8f37-13304103f4e5") // 10**9 == 1634177472
    )  # 2021-10-14T02:11:12Z
    for name in ("a1", "", "9f1b0c5e-8d1c-4b6a-9a55-0d3a1f3f2b1c", "00000000-0000-1000-8000-000000000000"):
        assert provio.named_moment(name) == 0


@pytest.mark.parametrize(
    ("text", "moment"),
    [("10/13/2021 19:9:28", 1634152168), ("13/13/2021 19:9:28", 0), ("yesterday", 0), ("2/30/2021 0:0:0", 0)],
)
def test_times_without_a_zone_are_utc(text: str, moment: int) -> None:
    """And what is no time is none."""
    assert provio.when(text) == moment * 10**9


# an outside checkout of hpc-io/prov-io


@pytest.fixture
def checkout() -> Path:
    """The folder."""
    place = os.environ.get("SPARSAM_PROVIO")
    if not place:
        pytest.skip("set SPARSAM_PROVIO to a checkout of github.com/hpc-io/prov-io at 81eb034")
    return Path(place)


def test_the_sample_of_prov_io_imports_without_loss(checkout: Path, tmp_path: Path) -> None:
    """example_prov.ttl: fifteen triples, isomorphic after export; both files of settings, whole."""
    file = checkout / "example_provenance" / "example_prov.ttl"
    imported.keep(file, tmp_path / ".sparsam")
    (one,) = (imported.one(x, tmp_path / ".sparsam") for x in imported.names(tmp_path / ".sparsam"))
    graph = rdflib.Graph().parse(file, format="turtle", publicID=turtle.BASE)
    assert len(graph) == 15
    again = rdflib.Graph().parse(
        data=rdf.write(History(foreign=one.history.foreign), "turtle"), format="turtle"
    )
    assert compare.isomorphic(graph, again)
    for name, count in (
        ("example_provenance/top-reco/prov_old.ttl", 1410),
        ("user_engine/query/prov.ttl", 355),
    ):
        found = imported.read((checkout / name).read_bytes(), "prov-io", "x").history
        assert len(set(found.foreign)) == count and not found.damages
        plain = rdflib.Graph().parse(checkout / name, format="turtle")  # rdflib lets literals be subjects
        assert {(p, str(o)) for _, p, o in plain} == {(rdflib.URIRef(p), str(o)) for _, p, o in found.foreign}


def test_the_logs_of_prov_lake_import(checkout: Path, tmp_path: Path) -> None:
    """602, 702 and 802 lines: a run each, its settings, an accuracy an epoch."""
    files = sorted((checkout / "example_provenance" / "provlake").glob("*.log"))
    assert len(files) == 3
    for file in files:
        found = imported.keep(file, tmp_path / ".sparsam").history
        assert not found.damages
        (program,) = found.programs.values()
        assert program.configuration["batch_size"] == "25" and program.status == 0
        tasks = file.read_text().count('"act_type": "task"') // 3
        assert len(program.metrics) == len(program.scopes) == tasks
    assert len(questions.best(recorded(tmp_path / ".sparsam"), "Accuracy")) == 3


@pytest.mark.parametrize("script", ["field.py", "top_accuracy.py"])
def test_prov_io_s_own_scripts_run_on_an_export_of_ours(checkout: Path, script: str) -> None:
    """Their SPARQL, word for word, gives the rows that ours gives."""
    text = (checkout / "user_engine" / "query" / script).read_text()
    (query,) = re.findall(r'"""(.*?)"""', text, re.DOTALL)
    found = search()
    rows = list(rdflib.Graph().parse(data=rdf.write(found, "prov-io"), format="turtle").query(query))
    if script == "field.py":
        assert {(str(x.version), float(x.accuracy)) for x in rows} == {
            (x.configuration["version"], x.metrics["accuracy"])
            for x in questions.best(found, "accuracy", where={"batch_size": 5})
        }
    else:
        best = [x.metrics["accuracy"] for x in questions.best(found, "accuracy")]
        assert len(rows) == 15 and [float(x.accuracy) for x in rows] == sorted(best * 2, reverse=True)[:15]
