"""What a rule is: a function from the failed call to a message, whose docstring is the page of its diagnostic.

The first line of the docstring is the diagnostic's title; what it means follows, then the heads "Fails:" and "Mended:"
with a block of code each. The code is run by the tests: the first block fails on the line marked ``# here`` and is
diagnosed with the rule's own code, the second runs.
"""

import dataclasses
import inspect
import re
from collections.abc import Callable

from sparsam.shapes.diagnose.call import Answer, Call

Explain = Callable[[Call], Answer | None]


@dataclasses.dataclass(frozen=True)
class Rule:
    """One diagnostic.

    Args:
        code: Its stable name.
        explain: Gives the answer, or None where the rule does not fit the call.
        operations: Last parts of the names of the operations that it is asked about.
        says: A pattern; the rule is asked as well about calls whose sentence has it. A rule with neither is asked
            about all calls.
    """

    code: str
    explain: Explain
    operations: frozenset[str] = frozenset()
    says: str = ""

    def fits(self, call: Call) -> bool:
        """Whether the rule is to be asked."""
        if not self.operations and not self.says:
            return True
        return bool(self.operations & call.names) or bool(self.says and call.said(self.says))

    @property
    def documentation(self) -> str:
        """The docstring, without its indentation."""
        return inspect.cleandoc(self.explain.__doc__ or "")

    @property
    def title(self) -> str:
        """First line of the docstring, without the full stop."""
        return self.documentation.partition("\n")[0].rstrip(".")

    @property
    def meaning(self) -> str:
        """What it means: the docstring's text between the title and the examples, a sentence a line."""
        return self.documentation.partition("\n")[2].partition("\nFails:")[0].strip()

    @property
    def examples(self) -> tuple[str, ...]:
        """The blocks of code of the docstring: one that fails, and the mended one."""
        return tuple(re.findall(r"^```python\n(.*?)^```", self.documentation, re.DOTALL | re.MULTILINE))


def rule(code: str, *operations: str, says: str = "") -> Callable[[Explain], Rule]:
    """Make a rule of a function; `operations` are names, or several in one text with blanks between."""
    names = frozenset(name for text in operations for name in text.split())
    return lambda explain: Rule(code, explain, names, says)
