"""The process that a program is checked in: `python -m sparsam.shapes.child`, started by `sandbox.run`."""

import gc
import signal
import sys

from sparsam.errors import Refused
from sparsam.shapes import deferred, sandbox
from sparsam.shapes.arguments import Argument
from sparsam.shapes.verdict import Unknown, to_json


def main() -> None:
    """Takes the request, checks the program and sends the report."""
    gc.disable()  # what is imported stays
    channel = sandbox.connect()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    late = not channel.request["compiler"]
    if late:
        deferred.defer()
    from sparsam.shapes import checker, explore
    from sparsam.shapes.solver import Solver

    limits = explore.Limits(**channel.request["limits"])
    arguments = [
        Argument(**{**argument, "sizes": tuple(argument["sizes"])})
        for argument in channel.request["arguments"]
    ]
    checker.prepare()
    gc.set_threshold(*checker.COLLECTED)  # for what comes behind the runs, too: the process ends soon
    gc.enable()
    refused = sandbox.enter(channel)
    told = 0

    def progress(explored: explore.Explored) -> None:
        nonlocal told
        if late and deferred.wanted:
            raise explore.Abandoned
        for refusal in refused():
            reason = f"{refusal.what} was refused to the program, which may go on differently without"
            explored.unknown(Unknown("refused", reason))
        if len(explored.failed) > told:
            told = len(explored.failed)
            partial = checker.report_of(explored, channel.program.target, 0.0, solver, ())
            channel.send({"report": to_json(partial)})

    solver = Solver()
    try:
        report = checker.check_program(
            channel.program, arguments, limits=limits, solver=solver, progress=progress
        )
    except Refused as error:
        channel.finish({"refused": {"text": str(error), "code": error.code}})
    except explore.Abandoned:
        channel.finish({deferred.AGAIN: deferred.wanted})
    channel.finish({"report": to_json(report)})


if __name__ == "__main__":
    sys.setrecursionlimit(4000)
    main()
