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
    "index": (
        "An index that may be past the end",
        "A tensor of indices has bounds that follow from how it was made, such as a running count of a mask's ones, and the\n"
        "greatest of them is past the end of what is picked from. Whether the data go that far is not known.",
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
    "compiler": (
        "The compiler is not loaded",
        "The program asks for a part of `torch._dynamo` that this process does not have. `sparsam check` repeats the check in\n"
        "one that has it, so this is told only where the process of the check is started in another way.",
    ),
    "argument": (
        "An argument is missing",
        "The program needs an argument to run; give it with `--arg name=value`, or a range with `--arg name=1..64`.",
    ),
    "crash": (
        "The check crashed",
        "The process that ran the program ended by a signal, or the checker met an exception of its own. What was not\n"
        "yet looked at is not proved.",
    ),
    "diverged": (
        "A run that did not go the way that it was sent",
        "With the same sizes the program decided something else than before: it depends on time, on memory addresses,\n"
        "or on something else that a check does not hold fixed. The sizes of this path are not proved.",
    ),
    "operations": (
        "More calls than one run may make",
        "One run of the program called the framework more often than a check waits for, as a long training loop with a\n"
        "plain number of rounds does. Check a function, or give a smaller number of rounds.",
    ),
    "refused": (
        "Something that a check does not let happen",
        "The program wanted to start a process, write a file, load a library or touch something else outside of the\n"
        "check. It was refused, and what would have come of it is not known.",
    ),
    "exit": (
        "The program left by itself",
        "The process ended with an exit code and without a result, as by `os._exit`. No path is proved.",
    ),
    "output": (
        "More output than a check keeps",
        "The program printed without an end in sight and was stopped. Print less, or check a function.",
    ),
    "protocol": (
        "A result that cannot be trusted",
        "The messages of the process that ran the program are not those of a check, or it went on after its result.\n"
        "A program that writes into files that it did not open does this. Nothing that it said counts.",
    ),
    "missing-file": (
        "A file that is not there",
        "The program reads a file that is missing or is not read by a check. A stand-in without contents was used.\n"
        "Where the contents decide about shapes, check a function and give the sizes with `--arg`.",
    ),
    "network": (
        "Something that would come from the network",
        "A check has no network. What would have been fetched is replaced by a stand-in of which nothing is known.",
    ),
    "notebook-line": (
        "A line of a notebook that is no Python",
        "A magic or a command of the shell was left out, and what it does is not checked.",
    ),
}
"""Title and meaning by code."""
