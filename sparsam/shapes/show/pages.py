"""What a diagnostic means: for a terminal, and as the page docs/shapes/diagnostics.md."""

import re

from sparsam.shapes.diagnose import FAMILIES, RULES, rule_of
from sparsam.shapes.diagnose.unknowns import UNKNOWNS

HEAD = """# Diagnostics of the shape checker

Written by `python -m sparsam.shapes.show` from the rules themselves; a test compares.

A code names a diagnostic and does not change. `sparsam check --explain CODE` prints what stands here.
In the examples `torch`, `nn`, `F` and `data` are `torch`, `torch.nn`, `torch.nn.functional` and `torch.utils.data`;
the line that fails is marked `# here`.
"""


def explain(code: str) -> str:
    """What a code means, with an example, for a terminal.

    Raises:
        Refused: If there is no such code.
    """
    name = code.removeprefix("unknown-")
    if code not in RULES and name in UNKNOWNS:
        title, text = UNKNOWNS[name]
        return f"{name}: {title}\n\n{text}\n".replace("`", "")
    rule = rule_of(code)
    body = rule.documentation.partition("\n")[2].strip()
    body = re.sub(
        r"^```python\n(.*?)^```$", lambda block: _indented(block[1]), body, flags=re.DOTALL | re.MULTILINE
    )
    return f"{rule.code}: {rule.title}\n\n{body.strip()}\n".replace("`", "")


def _indented(code: str) -> str:
    return "".join(f"    {line}".rstrip() + "\n" for line in code.splitlines()).rstrip("\n")


def diagnostics_page() -> str:
    """docs/shapes/diagnostics.md as it has to be."""
    parts = [HEAD]
    for family, rules in FAMILIES.items():
        parts.append(f"\n## {family}\n")
        for rule in rules:
            body = rule.documentation.partition("\n")[2].strip()
            parts.append(f"\n### {rule.code}\n\n**{rule.title}.**\n\n{body}\n")
    parts.append(
        "\n## What stays unknown\n\nThese are no errors; they say why a path, or the program, is not proved.\n"
    )
    for code, (title, text) in UNKNOWNS.items():
        parts.append(f"\n### unknown: {code}\n\n**{title}.**\n\n{text}\n")
    return "".join(parts)
