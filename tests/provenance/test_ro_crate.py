"""RO-Crate: the profiles' requirements, and their competency questions."""

import json
import os
import re
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from test_rdf import example

from sparsam.cli import main
from sparsam.provenance import rdf
from sparsam.provenance.graph import History
from sparsam.provenance.questions import sha256_of
from sparsam.provenance.runs import recorded
from sparsam.provenance.tracked import track

rdflib = pytest.importorskip("rdflib")

TERMS = {
    "@vocab": "http://schema.org/", "File": "http://schema.org/MediaObject",
    "ComputationalWorkflow": "https://bioschemas.org/ComputationalWorkflow",
    "conformsTo": "http://purl.org/dc/terms/conformsTo", "resourceUsage": "https://w3id.org/ro/terms/workflow-run#resourceUsage",
    "environment": "https://w3id.org/ro/terms/workflow-run#environment",
    "sha256": "https://w3id.org/ro/terms/workflow-run#sha256",
}  # fmt: skip
"""Of the contexts that lie on the web, what is used here."""


def graph(content: bytes) -> Any:
    """A crate as RDF, without the web."""
    found = json.loads(content)
    found["@context"] = TERMS
    return rdflib.Graph().parse(data=json.dumps(found), format="json-ld", publicID="http://crate/")


@pytest.fixture(scope="module")
def crate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes, History]:
    """Of a tracked script that makes two files out of one, and of one that fails."""
    folder = tmp_path_factory.mktemp("crate")
    (folder / "raw data.txt").write_text("raw")
    (folder / "make.py").write_text(
        "import sparsam.provenance as p\n"
        "text = open('raw data.txt').read()\n"
        "p.record_config({'rate': 0.5, 'deep': [1, 2]})\n"
        "for name in ('a.txt', 'b.txt'):\n"
        "    with open(name, 'w') as file: file.write(text * 2)\n"
        "with open('a.txt', 'w') as file: file.write(text * 3)\n"
        "p.record_metric('accuracy', 0.75)\n"
    )
    (folder / "fail.py").write_text("open('a.txt').read()\nraise SystemExit(3)\n")
    before = os.getcwd()
    os.chdir(folder)
    try:
        track([sys.executable, "make.py"], folder=folder / ".sparsam", run="making")
        track([sys.executable, "fail.py"], folder=folder / ".sparsam", run="failing")
    finally:
        os.chdir(before)
    found = recorded(folder / ".sparsam")
    return folder, rdf.write(found, "ro-crate"), found


def nodes(content: bytes) -> dict[str, dict[str, Any]]:
    """By id."""
    found = json.loads(content)["@graph"]
    made = {x["@id"]: x for x in found}
    assert len(made) == len(found)
    return made


def test_a_crate_has_what_the_profiles_ask_for(crate: tuple[Path, bytes, History]) -> None:
    """Descriptor, root, conformance, main entity, actions with instrument, object, result; no reference leads nowhere."""
    folder, content, _ = crate
    made = nodes(content)
    descriptor, root = made["ro-crate-metadata.json"], made["./"]
    assert {"@id": "https://w3id.org/ro/crate/1.1"} in descriptor["conformsTo"] and descriptor["about"] == {
        "@id": "./"
    }
    assert {x["@id"] for x in root["conformsTo"]} == {
        "https://w3id.org/ro/wfrun/process/0.5", "https://w3id.org/ro/wfrun/workflow/0.5",
        "https://w3id.org/workflowhub/workflow-ro-crate/1.0",
    }  # fmt: skip
    assert root["datePublished"] and root["name"] and root["license"] and root["description"]
    assert {"File", "SoftwareSourceCode", "ComputationalWorkflow"} == set(
        made[root["mainEntity"]["@id"]]["@type"]
    )

    def references(value: Any) -> list[str]:
        if isinstance(value, dict):
            return [value["@id"]] if set(value) == {"@id"} else []
        return [y for x in value for y in references(x)] if isinstance(value, list) else []

    outside = ("http://schema.org/", "https://bioschemas.org/", "https://w3id.org/ro/crate/")
    for one in made.values():
        for value in one.values():
            assert all(x in made or x.startswith(outside) for x in references(value)), one
    run = made["#run-making"]
    assert {made[x["@id"]]["name"] for x in run["object"]} == {"raw data.txt", "rate", "deep"}
    assert {made[x["@id"]]["name"] for x in run["result"]} == {"a.txt", "b.txt", "accuracy"}
    assert run["instrument"] == {"@id": "file://" + str(folder / "make.py")}
    assert run["actionStatus"] == {"@id": "http://schema.org/CompletedActionStatus"}
    failed = made["#run-failing"]
    assert (
        failed["actionStatus"] == {"@id": "http://schema.org/FailedActionStatus"}
        and failed["error"] == "exit code 3"
    )
    accuracy = next(x for x in made.values() if x.get("name") == "accuracy")
    assert accuracy["value"] == "0.75" and accuracy["@type"] == "PropertyValue"


def test_files_of_a_crate_are_the_files(crate: tuple[Path, bytes, History]) -> None:
    """What lies there is named by its address, with size and hash; what was overwritten says so."""
    folder, content, _ = crate
    files = [x for x in nodes(content).values() if x["@type"] == "File"]
    lying = {unquote(urlsplit(x["@id"]).path): x for x in files if x["@id"].startswith("file://")}
    assert {Path(x).name for x in lying} >= {"raw data.txt", "a.txt", "b.txt"}
    for place, one in lying.items():
        assert one["sha256"] == sha256_of(place) and int(one["contentSize"]) == os.stat(place).st_size
    (old,) = [x for x in files if "no longer" in x.get("description", "")]
    assert old["name"] == "a.txt" and old["@id"].startswith("#entity-")
    assert str(folder) in old["alternateName"]


QUESTIONS = {
    "cq2": "?action a s:CreateAction ; w:resourceUsage ?u . ?u a s:PropertyValue ; s:propertyID ?id ; s:value ?value .",
    "cq5": "?action a s:CreateAction ; s:instrument ?t ; s:startTime ?start ; s:endTime ?end . ?t a s:SoftwareApplication .",
    "cq6": "?action a s:CreateAction ; s:instrument ?w ; s:startTime ?start ; s:endTime ?end . ?w a b:ComputationalWorkflow .",
    "cq7": "?action a s:CreateAction ; s:actionStatus ?status .",
    "cq8": "?action a s:CreateAction ; s:instrument ?w ; s:object ?in . ?w a b:ComputationalWorkflow .",
    "cq9": "?app a s:SoftwareApplication ; s:name ?name .",
    "cq10": "?tool a s:SoftwareApplication ; s:softwareRequirements ?q ; s:mainEntity ?q . ?q s:version ?v . "
    "?action s:instrument ?tool .",
}  # fmt: skip
"""What the competency questions that apply ask for, in our words."""


@pytest.mark.parametrize("question", QUESTIONS)
def test_competency_questions_have_answers(crate: tuple[Path, bytes, History], question: str) -> None:
    """Resources, durations of tools and of the workflow, success, inputs, versions, what a script stands on."""
    head = "PREFIX s: <http://schema.org/> PREFIX b: <https://bioschemas.org/> "
    head += "PREFIX w: <https://w3id.org/ro/terms/workflow-run#>"
    rows = list(graph(crate[1]).query(f"{head} SELECT DISTINCT * WHERE {{ {QUESTIONS[question]} }}"))
    assert rows
    if question == "cq6":
        assert {str(x.action).rpartition("#")[2] for x in rows} == {"run-making", "run-failing"}
        assert all(str(x.start) <= str(x.end) for x in rows)
    if question == "cq10":
        assert {str(x.v) for x in rows} == {".".join(map(str, sys.version_info[:3]))}
    if question == "cq7":
        assert {str(x.status).rpartition("/")[2] for x in rows} == {
            "CompletedActionStatus",
            "FailedActionStatus",
        }
    if question == "cq2":
        read = [
            int(x.value) for x in rows if str(x.id).endswith("bytesRead") and "run-making" in str(x.action)
        ]
        assert read == [3]


def test_any_history_is_a_crate(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """Random ones, hostile names, an empty one; by the command, too."""
    for seed in range(3):
        made = nodes(rdf.write(example(seed), "ro-crate"))
        assert made["./"]["mentions"] and len(graph(rdf.write(example(seed), "ro-crate"))) > 100
    assert nodes(rdf.write(History(), "ro-crate"))["./"]["mentions"] == []
    folder = tmp_path / ".sparsam"
    (tmp_path / "x.ttl").write_bytes(rdf.write(example(1), "turtle"))
    assert main(["provenance", "import", str(tmp_path / "x.ttl"), "--folder", str(folder)]) == 0
    capfdbinary.readouterr()
    assert main(["provenance", "export", "--to", "ro-crate", "--folder", str(folder)]) == 0
    assert "./" in nodes(capfdbinary.readouterr().out)


@pytest.mark.parametrize("question", ["cq2", "cq5", "cq6", "cq7", "cq8", "cq9", "cq10"])
def test_the_profiles_own_questions(crate: tuple[Path, bytes, History], question: str) -> None:
    """The SPARQL of the working group, word for word, from an outside checkout."""
    place = os.environ.get("SPARSAM_WFRUN")
    if not place:
        pytest.skip(
            "set SPARSAM_WFRUN to a checkout of github.com/ResearchObject/workflow-run-crate at 23f7b03"
        )
    text = (Path(place) / "docs" / "sparql" / f"{question}.py").read_text()
    queries = re.findall(r'QUERY\d* = """\\\n(.*?)"""', text, re.DOTALL)
    assert queries
    for query in queries:
        rows = list(graph(crate[1]).query(query))
        assert rows, query
        if question == "cq6":
            assert len(rows) == 2 and all(x.start and x.end for x in rows)
