"""Parks the run of a core module: puts stand-ins for stdin and the environment into the state of preview 1."""

from __future__ import annotations

from collections.abc import Callable

from hostfuncs import wasip1
from hostfuncs.running.parking import AwaitedBytes, AwaitedStrings, Gate, Input, ParkPoint, Wait


def gate_for(program: wasip1.Program, wait: Wait, *, environ: wasip1.Strings, resume: Callable[[Input], None]) -> Gate:
    """Set up a program whose run has begun so that the guest is parked at its first use of input.

    Parameters:
        program: the state of preview 1's functions.
        wait: called when the guest is parked.
        environ: the variables of every run. Those of the input follow them, if the guest has not read its environment
            by then.
        resume: called with the input when the run goes on.

    Returns:
        the gate, for whatever else may park the run.
    """
    awaited = program.environ = AwaitedStrings(program.environ)

    def go_on(given: Input) -> None:
        program.sources.resume()
        program.stdin = memoryview(given.stdin)
        if not awaited.asked:
            program.environ = environ.extended([name + b"=" + value for name, value in given.env])
        resume(given)

    def suspend() -> None:
        program.sources.suspend()
        program.memory.use_large_pages()

    def arrive(at: ParkPoint) -> Input:
        if at is ParkPoint.READY:
            # Between two calls the guest is not in the middle of asking for its environment.
            awaited.asked = False
        return wait(at)

    gate = Gate(arrive, suspend=suspend, resume=go_on)
    program.stdin = AwaitedBytes(gate)  # type: ignore[assignment]
    return gate
