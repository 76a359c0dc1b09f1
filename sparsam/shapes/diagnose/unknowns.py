"""What keeps a check from being sure: the codes of what stays unknown, and what to do about each."""

from collections.abc import Mapping

UNKNOWNS: Mapping[str, tuple[str, str]] = {
    "unmodelled-call": (
        "A call that is not modelled",
        "The program called something of which only its result's existence is known: an extension in C, a custom\n"
        "operator without a fake implementation. What follows from it is not checked.",
    ),
    "solver": (
        "The solver gave up on a condition",
        "Whether sizes exist for a path could not be decided within the solver's budget, or z3 is not installed\n"
        "(`pip install sparsam[shapes]`). A smaller range for a symbol (`--arg batch_size=1..64`) often helps.",
    ),
    "paths": (
        "More paths than were allowed",
        "The program branches on so many sizes that not all ways through it were taken.\n"
        "Give sizes that do not matter as numbers, or allow more paths.",
    ),
    "time": (
        "The time was over",
        "The check ended before all paths were taken. Allow more time, or check a function instead of the program.",
    ),
    "memory": (
        "The memory was over",
        "The checked program needed more memory than a check may use, for real data and not for tensors of the model.",
    ),
    "loop": (
        "A loop that could not be summarised",
        "The loop runs a symbolic number of times, and its body changes shapes in a way for which no rule was found.\n"
        "It was run for some numbers of rounds only.",
    ),
    "value": (
        "A value that only data would tell",
        "A shape or a decision depends on the contents of a tensor. Sizes were assumed for it, and not all of them\n"
        "could be covered.",
    ),
    "missing-module": (
        "A package that is not installed",
        "The program imports a package that is not here; what it would have done is not checked.\n"
        "Install it in the environment of the check.",
    ),
    "specialised": (
        "A size that was taken as a number",
        "An operation, or the program, turned a symbolic size into a number. The verdict holds for this number only.",
    ),
    "recursion": (
        "A recursion without an end in sight",
        "A function calls itself a symbolic number of times. It was followed for some depth only.",
    ),
    "unconfirmed": (
        "An error that a second run did not show",
        "Sizes were found for which the program should fail, and with these sizes as plain numbers it did not.\n"
        "It is not reported as an error; nor is the path proved.",
    ),
    "own-refusal": (
        "The program refuses sizes itself",
        "For some sizes the program ends with an error of its own making, which may be what it is meant to do.",
    ),
    "argument": (
        "An argument is missing",
        "The program needs an argument to run; give it with `--arg name=value`, or a range with `--arg name=1..64`.",
    ),
    "crash": (
        "The checked program crashed",
        "The process that ran the program ended by a signal. No path through it is proved.",
    ),
}
"""Title and meaning by code."""
