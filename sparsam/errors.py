"""What can go wrong, as a small family of errors.

    SparsamError                 has a ``code`` for programs and an ``exit_code`` for the shell
    ├── Usage         (2)        an argument or option is off
    ├── Refused       (3)        the input is understood and not supported, or not to be trusted
    ├── BudgetMissed  (4)        the best that was found costs or loses more than was asked for
    └── InputOutput   (5)        a file, folder or disk did not do its part

Each text says what was given, what was expected and how to mend it.
"""


class SparsamError(Exception):
    """Base of every error raised on purpose. ``code`` is stable and kebab-case; the text is for people."""

    exit_code = 3

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.code = code


class Usage(SparsamError, ValueError):
    """An argument is outside what the call accepts."""

    exit_code = 2


class Refused(SparsamError, ValueError):
    """The input is understood, and refused: unsupported, inconsistent, or not what it claims to be."""

    exit_code = 3


class BudgetMissed(SparsamError, RuntimeError):
    """The budget could not be met; what was found is kept."""

    exit_code = 4


class InputOutput(SparsamError, OSError):
    """A file or folder is missing, unreadable, full or corrupt."""

    exit_code = 5
