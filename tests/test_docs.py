"""The docs cannot drift far: their links lead somewhere, and the tutorial's code runs."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "changelog.d").glob("*.md")])
TUTORIAL = ROOT / "docs" / "tutorial.md"


def without_code(text: str) -> str:
    """The page without fenced blocks and inline code, where brackets are no links."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_resolve(page):
    """Every relative link of a page leads to a file or folder, and to a heading where it names one."""
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            broken.append(link)
    assert not broken, f"{page.relative_to(ROOT)} links to nothing: {broken}"


def test_every_decision_is_on_the_index():
    """A decision's page is found from docs/index.md."""
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    missing = [page.name for page in (ROOT / "docs" / "decisions").glob("*.md") if page.name not in index]
    assert not missing


@pytest.mark.slow  # trains a small model; .ci/run runs it
def test_tutorial_runs(tmp_path, monkeypatch):
    """The Python blocks of the tutorial run in order, in one session, in an empty folder."""
    if not TUTORIAL.exists():
        pytest.skip("docs/tutorial.md is not written yet")
    monkeypatch.chdir(tmp_path)
    text = TUTORIAL.read_text(encoding="utf-8")
    session: dict[str, object] = {"__name__": "tutorial"}
    for block in re.finditer(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        line = text[: block.start(1)].count("\n")
        code = compile(
            "\n" * line + block.group(1), str(TUTORIAL), "exec"
        )  # errors show the page's own lines
        exec(code, session)
    assert len(session) > 2, "docs/tutorial.md has no Python block"
