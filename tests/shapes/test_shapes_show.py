"""Reports as text, JSON and SARIF: complete, harmless, stable; the pages are up to date."""

import dataclasses
import io
import json
import os
import re
import unicodedata
from pathlib import Path

import pytest
import reports  # tests/shapes/reports.py

from sparsam.errors import Refused
from sparsam.shapes.diagnose import RULES, explain_failure
from sparsam.shapes.diagnose.unknowns import UNKNOWNS
from sparsam.shapes.show import (
    diagnostics_page,
    explain,
    from_document,
    rich_text,
    to_document,
    to_sarif,
    to_text,
)
from sparsam.shapes.show.document import schema
from sparsam.shapes.show.plain import plain
from sparsam.shapes.show.plain import width as columns
from sparsam.shapes.verdict import Failure, Operand, Place, Report, Symbol, Verdict

DOCS = Path(__file__).parents[2] / "docs" / "shapes"

ISSUE = """\
train.py:41:19 error[view-numel]: cannot view (B, 12, T, 64) as (B, T, 512)
   41 |         context = context.view(batch, length, 512)
      |                   ^^^^^^^^^^^^ 12·64 = 768 per token, 512 asked
   reached with B = 1, T = 1: forward (train.py:88) → attention (train.py:41)
   fix: 768 in place of 512
"""


def test_finding_is_shown_with_line_marker_way_and_fix():
    """The form of a finding, word for word."""
    assert to_text(reports.whole(reports.attention())).startswith(ISSUE)


def test_summary_names_verdict_paths_symbols_and_time():
    """Everything of a report that is no finding stands below."""
    text = to_text(reports.whole(reports.attention()))
    for part in (
        "train.py:7:1 unknown[loop]: The body changes a shape.",
        "unknown[solver]: Gave up on N % B != 0.",
        "train.py error: 1 error, 2 unknown",
        "2 paths: 1 proved, 1 error",
        "B in 1 … 512  (batch_size of the command line)",
        "T ≥ 1",
        "3.2 s, 0.4 s of it in the solver",
        "14 runs",
    ):
        assert part in text


def test_verbose_adds_the_frameworks_sentence():
    """What was decided, and what the framework said, is shown on request only."""
    report = reports.whole(reports.attention())
    more = to_text(report, verbose=True)
    assert "said: RuntimeError: shape '[B, T, 512]' is invalid" in more and "decided: N % B != 0" in more
    assert "said:" not in to_text(report)


def test_sizes_of_the_witness_come_before_values():
    """Sizes stand first, and of the values that only data would tell there are three."""
    finding = dataclasses.replace(
        reports.attention(), witness={"v0": 1, "v1": 0, "v2": 2, "B": 1, "v3": 5, "v4": 6}
    )
    symbols = tuple(Symbol(f"v{n}", 0, None, "value") for n in range(5))
    text = to_text(Report("p", Verdict.ERROR, (finding,), symbols=symbols))
    assert "reached with B = 1, v0 = 1, v1 = 0, v2 = 2, 2 values more: " in text
    assert "\n  v4 ≥ 0\n" in text
    assert "v4" not in to_text(Report("p", Verdict.PROVED, symbols=symbols))


def test_proved_report_is_short():
    """A program that is proved gets its verdict and nothing else."""
    assert to_text(Report("train.py", Verdict.PROVED)) == "train.py proved\n"


def test_colours_change_no_letter():
    """The styled form has the letters of the plain one."""
    report = reports.whole(reports.attention())
    assert rich_text(report).plain + "\n" == to_text(report)


@pytest.mark.parametrize("colour", [False, True])
def test_hostile_names_are_harmless(colour):
    """No control character, change of direction or private letter of a program reaches the terminal."""
    from rich.console import Console

    text = to_text(reports.hostile(), verbose=True)
    if colour:
        shown = io.StringIO()
        Console(file=shown, markup=False, emoji=False, highlight=False, width=200).print(
            rich_text(reports.hostile(), verbose=True), soft_wrap=True
        )
        text = shown.getvalue()
    assert "[red]f[/red]" in text
    bad = {character for character in text if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co")} - {
        "\n"
    }
    assert not bad


def test_long_things_are_cut():
    """Many findings, deep chains, long lines and long lists end with a mark of what was left out."""
    text = to_text(reports.hostile())
    assert len(text) < 100_000 and max(map(len, text.splitlines())) < 2_500
    assert "… and 10 more findings" in text and "… and 20 more symbols" in text and " → … → " in text


@pytest.mark.parametrize(
    ("source", "column", "end"),
    [
        ("x = y.view(3)", 5, 11),
        ("\tx = y.view(3)", 6, 12),
        ("日本 = 語.view(3)", 6, 12),
        ("x" * 300 + " = y.view(3)", 304, 310),
        ("x = y.view(3)" + " " * 5 + "# " + "z" * 300, 5, 11),
        ("x = y.view(" + "3," * 200, 5, 411),
        ("e\u0301 = y.view(3)", 6, 12),
    ],
)
def test_marker_stands_under_what_it_marks(source, column, end):
    """The carets begin in the column of the terminal where the marked piece begins, and the line is not too long."""
    finding = reports.attention(source=source)
    place = dataclasses.replace(finding.failure.place, column=column, end_column=end)
    finding = dataclasses.replace(finding, failure=dataclasses.replace(finding.failure, chain=(place,)))
    lines = to_text(reports.whole(finding)).splitlines()
    at = next(index for index, line in enumerate(lines) if "^" in line)
    before = sum(map(columns, lines[at].partition("^")[0]))
    marked = "".join(cut_at(lines[at - 1], before))
    assert marked.startswith("y.view" if "y.view" in source else "語.view"[: end - column])
    assert sum(map(columns, lines[at - 1])) <= 112


def cut_at(line: str, column: int) -> str:
    """What of a line stands from a column of the terminal on."""
    for index in range(len(line)):
        if sum(map(columns, line[:index])) == column and (not line[index:] or columns(line[index])):
            return line[index:]
    return ""


@pytest.mark.parametrize(
    ("symbol", "text"),
    [
        (Symbol("B", 1, 512), "B in 1 … 512"),
        (Symbol("B", 0, None), "B ≥ 0"),
        (Symbol("B", None, 4), "B ≤ 4"),
        (Symbol("B", 3, 3), "B = 3"),
        (Symbol("p", 0.5, 1.5, meaning="a probability"), "p in 0.5 … 1.5  (a probability)"),
        (Symbol("B", None, None), "B: any"),
        (Symbol("N", 1, None, place=Place("/x/a.py", 4, 2)), "N ≥ 1  (a.py:4:2)"),
    ],
)
def test_range_is_shown(symbol, text):
    """Each form of a range, and where the symbol arises."""
    report = Report("p", Verdict.PROVED, symbols=(symbol,))
    assert f"  {text}\n" in to_text(report, root="/x")


def test_document_gives_the_report_back():
    """JSON and back is the same report; what JSON does not know is null."""
    report = reports.whole(reports.attention())
    text = json.dumps(to_document(report), allow_nan=False)
    back = from_document(json.loads(text))
    assert back.statistics["peak_bytes"] is None
    assert dataclasses.replace(back, statistics=report.statistics) == report
    hostile = reports.hostile()
    assert from_document(json.loads(json.dumps(to_document(hostile)))) == hostile


@pytest.mark.parametrize(
    "change", [{"version": 2}, {"version": None}, {"findings": 3}, {"verdict": "fine"}, {"paths": None}]
)
def test_damaged_document_is_refused(change):
    """A document of another version or form gets a sentence, no traceback."""
    with pytest.raises(Refused):
        from_document({**to_document(reports.whole()), **change})


def test_document_follows_its_schema():
    """The schema accepts every document, and refuses one with a field of another type."""
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    validator = jsonschema.Draft202012Validator(schema())
    for report in (reports.whole(reports.attention()), reports.hostile(), Report("p", Verdict.PROVED)):
        validator.validate(json.loads(json.dumps(to_document(report))))
    for change in ({"verdict": "fine"}, {"findings": [{}]}, {"version": 0}):
        assert list(validator.iter_errors({**to_document(reports.whole()), **change}))


def test_schema_names_every_field():
    """No field of a report is missing in the schema."""
    definitions = schema()["$defs"]
    for made in (Failure, Operand, Place, Symbol):
        assert set(definitions[made.__name__]["properties"]) == {
            field.name for field in dataclasses.fields(made)
        }


LEVELS = {"none", "note", "warning", "error"}


def check_sarif(log: dict) -> None:
    """What SARIF 2.1.0 demands of the parts that are used here (sections 3.13 to 3.52)."""
    assert log["version"] == "2.1.0" and log["$schema"].endswith("sarif-2.1.0.json")
    (run,) = log["runs"]
    driver = run["tool"]["driver"]
    assert driver["name"] and driver["version"]
    identifiers = [rule["id"] for rule in driver["rules"]]
    assert len(set(identifiers)) == len(identifiers)
    for rule in driver["rules"]:
        assert (
            rule["shortDescription"]["text"].endswith(".")
            and rule["help"]["text"]
            and rule["help"]["markdown"]
        )
        assert rule["defaultConfiguration"]["level"] in LEVELS and re.fullmatch(r"[A-Za-z0-9]+", rule["name"])
    for invocation in run["invocations"]:
        assert isinstance(invocation["executionSuccessful"], bool) and isinstance(invocation["exitCode"], int)
        for notification in invocation.get("toolExecutionNotifications", []):
            assert notification["message"]["text"] and notification["level"] in LEVELS
    for result in run["results"]:
        assert identifiers[result["ruleIndex"]] == result["ruleId"] and result["message"]["text"]
        assert result["level"] in LEVELS
        assert result.get("kind", "fail") == "fail" or result["level"] == "none"
        assert result["partialFingerprints"] and all(
            isinstance(v, str) for v in result["partialFingerprints"].values()
        )
        assert len(result["locations"]) == 1
        steps = [
            step["location"]
            for flow in result.get("codeFlows", [])
            for thread in flow["threadFlows"]
            for step in thread["locations"]
        ]
        assert steps or result.get("kind") == "open"
        for location in [*result["locations"], *steps]:
            check_location(location["physicalLocation"])
    assert json.loads(json.dumps(log)) == log


def check_location(physical: dict) -> None:
    """A file by a valid reference, and a region that is none too small."""
    uri = physical["artifactLocation"]["uri"]
    assert re.fullmatch(r"(file://)?[A-Za-z0-9_.~/%!$&'()*+,;=:@-]+", uri), uri
    assert uri.startswith("file:///") or (
        physical["artifactLocation"]["uriBaseId"] and not uri.startswith("/")
    )
    region = physical["region"]
    assert region["startLine"] >= 1 and region["startColumn"] >= 1
    assert region.get("endColumn", region["startColumn"] + 1) > region["startColumn"]


@pytest.mark.parametrize("report", [reports.whole(reports.attention()), reports.whole(), reports.hostile()])
def test_sarif_has_the_structure_of_the_standard(report):
    """Every part that is written is as SARIF 2.1.0 demands it."""
    check_sarif(to_sarif(report))


@pytest.mark.skipif(
    "SPARSAM_SARIF_SCHEMA" not in os.environ, reason="SPARSAM_SARIF_SCHEMA names no copy of the schema"
)
def test_sarif_follows_the_published_schema():
    """The logs are valid against the schema that OASIS publishes."""
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    published = json.loads(Path(os.environ["SPARSAM_SARIF_SCHEMA"]).read_text(encoding="utf-8"))
    for report in (reports.whole(reports.attention()), reports.whole(), reports.hostile()):
        jsonschema.validators.validator_for(published)(published).validate(to_sarif(report))


def test_sarif_shows_the_way_and_the_witness():
    """The chain is a code flow that ends at the finding's line; the witness stands in the message."""
    result = to_sarif(reports.whole(reports.attention()))["runs"][0]["results"][0]
    flow = result["codeFlows"][0]["threadFlows"][0]["locations"]
    lines = [step["location"]["physicalLocation"]["region"]["startLine"] for step in flow]
    assert lines == [88, 41] == [88, result["locations"][0]["physicalLocation"]["region"]["startLine"]]
    assert "for B = 1, T = 1" in result["message"]["text"]


def prints(*findings) -> list[str]:
    """The fingerprints of findings."""
    return [
        r["partialFingerprints"]["sparsam/v1"]
        for r in to_sarif(Report("p", Verdict.ERROR, findings))["runs"][0]["results"]
    ]


def test_fingerprint_outlives_lines_added_above():
    """A finding keeps its fingerprint when its line moves or is indented, and not when it is another."""
    (here,) = prints(reports.attention())
    assert prints(reports.attention(line=99)) == [here]
    assert prints(reports.attention(source="  " + reports.LINE)) == [here]
    for other in ({"file": "other.py"}, {"function": "decode"}, {"source": reports.LINE + " + 1"}):
        assert prints(reports.attention(**other)) != [here]


def test_equal_lines_have_fingerprints_of_their_own():
    """Two findings on equal lines of one function are two, in the order of the report."""
    one, two = prints(reports.attention(41), reports.attention(52))
    assert one != two and prints(reports.attention(41)) == [one]


@pytest.mark.parametrize("code", [*RULES, *UNKNOWNS])
def test_every_code_is_explained(code):
    """A code gets its title and text, without marks of Markdown."""
    text = explain(code)
    assert text.startswith(f"{code}: ") and "`" not in text
    if code in RULES:
        assert "Fails:\n    " in text and "Mended:\n    " in text
        assert RULES[code].meaning and not RULES[code].title.endswith(".")


def test_unknown_code_names_those_that_come_near():
    """A misspelt code is refused with the codes that are meant."""
    with pytest.raises(Refused, match="Did you mean .*view-numel"):
        explain("view-nummel")
    with pytest.raises(Refused, match="diagnostics"):
        explain("\x1b[31m")


def test_pages_are_up_to_date():
    """docs/shapes is what `python -m sparsam.shapes.show` writes."""
    assert (DOCS / "diagnostics.md").read_text(encoding="utf-8") == diagnostics_page()
    assert json.loads((DOCS / "report.schema.json").read_text(encoding="utf-8")) == schema()


def test_plain_text_is_of_one_line_and_limited():
    """No text is longer than its limit, nor has a line's end."""
    assert plain("a\nb\u2028c") == "a b c"
    assert len(plain("x" * 10_000, 50)) == 50 and plain("x" * 10_000, 50).endswith("…")
    assert len(plain("\x1b" * 10**6 + "x", 50)) <= 50


HOSTILE_FAILURES = [
    Failure(
        operation,
        error,
        text,
        (Operand("", "tensor", shape), Operand("", "number", text="((((")),
        (Place("a.py", 1, source="x"),),
    )
    for operation in (
        "torch.Tensor.view",
        "torch.nn.Conv2d",
        "torch.nn.functional.cross_entropy",
        "",
        "torch.einsum",
    )
    for error in ("RuntimeError", "IndexError")
    for text in (
        "",
        "(" * 5000,
        reports.HOSTILE * 100,
        "shape '[",
        "shape '[]' is invalid for input of size ",
        "got [] X []",
    )
    for shape in ((), ("(",), ("B" * 9000,), (reports.HOSTILE,), None)
]


def test_any_failure_gets_an_answer():
    """Whatever an exception says, there is a code that exists and a line of limited length."""
    for failure in HOSTILE_FAILURES:
        code, *texts = explain_failure(failure, {"B": 1})
        assert code in RULES and texts[0]
        assert all("\n" not in text and len(text) <= 300 for text in texts)


def test_hook_and_workflow_name_what_is_there():
    """The hook's file and the examples on the page are YAML and agree on the hook's name, the command and its options."""
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    (hook,) = yaml.safe_load((DOCS.parents[1] / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))
    assert hook["entry"] == "sparsam check" and hook["language"] == "python" and hook["types"] == ["python"]
    page = (DOCS / "ci.md").read_text(encoding="utf-8")
    config, workflow = (
        yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    )
    assert [used["id"] for used in config["repos"][0]["hooks"]] == [hook["id"]]
    steps = workflow["jobs"]["check"]["steps"]
    written = next(step["run"] for step in steps if "--format sarif" in step.get("run", "")).rpartition("> ")[
        2
    ]
    uploaded = next(step for step in steps if "upload-sarif" in step.get("uses", ""))
    assert uploaded["with"]["sarif_file"] == written and uploaded["if"] == "always()"
