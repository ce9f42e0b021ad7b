"""Run a guest once for a script: give the runner its input, and collect its output and ending in a `Result`."""

from __future__ import annotations

from hostfuncs.outbound import UsageRecord
from hostfuncs.outcome import Outcome
from hostfuncs.running.arguments import wasi_request
from hostfuncs.running.component import ComponentRunner
from hostfuncs.running.core import CoreRunner
from hostfuncs.running.endings import Ending
from hostfuncs.running.response import CollectedResponse
from hostfuncs.running.values import HttpRequest, HttpResponse, Result
from hostfuncs.wasip2 import BytesSource, Collected, KeptTail, Stdio


def run_core(
    runner: CoreRunner,
    args: list[bytes],
    env: list[tuple[bytes, bytes]],
    stdin: bytes,
    deadline_ns: int,
    request: HttpRequest | None,
) -> Result:
    """Run a core module once and return the result.

    Parameters:
        runner: the guest.
        args, env, stdin: the input; `args` without the program's name.
        deadline_ns: CLOCK_MONOTONIC instant.
        request: must be None.

    Raises:
        ValueError: there is a request, or an argument or a variable contains a NUL character.
    """
    if request is not None:
        raise ValueError("request: the guest is a core module, and only components can handle requests")
    runner.begin(args, env, stdin)
    ending = runner.run(deadline_ns)
    return _result(
        ending,
        stdout=runner.stdout,
        stderr=runner.stderr,
        stderr_total=runner.stderr_total,
        outbound=tuple(runner.usage),
        memory_bytes=runner.memory_bytes,
        guest_ns=runner.guest_ns,
    )


def run_component(
    runner: ComponentRunner,
    args: list[bytes],
    env: list[tuple[bytes, bytes]],
    stdin: bytes,
    deadline_ns: int,
    request: HttpRequest | None,
) -> Result:
    """Run a component once, as a command or with a request, and return the result.

    Parameters:
        runner, args, env, stdin, deadline_ns: see `run_core`.
        request: the request for a handler; None for a command.

    Raises:
        TypeError, ValueError: the request is missing, wrong, or not for this guest; or an argument or a variable
            contains a NUL character.
    """
    if request is None and not runner.is_command:
        raise ValueError("request: the guest handles requests and is not a command, so it needs one")
    stdout, stderr = Collected(runner.limits.stdout_bytes), KeptTail(runner.limits.stderr_bytes)
    stdio = Stdio(BytesSource(stdin), stdout, stderr)
    body = Collected(runner.limits.stdout_bytes)
    response: CollectedResponse | None = None
    if request is None:
        runner.begin(args, env, stdio)
    else:
        response = CollectedResponse(body)
        runner.begin(args, env, stdio, request=wasi_request(request), responder=response)
    ending = runner.run(deadline_ns)
    head = None if response is None else response.complete_head
    return _result(
        ending,
        stdout=stdout.value(),
        stderr=stderr.tail.value(),
        stderr_total=stderr.tail.total,
        outbound=tuple(runner.usage),
        guest_ns=runner.guest_ns,
        response=None
        if head is None or ending.outcome is not Outcome.COMPLETED
        else HttpResponse(status=head.status, headers=head.headers, body=body.value()),
    )


def _result(
    ending: Ending,
    *,
    stdout: bytes,
    stderr: bytes,
    stderr_total: int,
    outbound: tuple[UsageRecord, ...],
    guest_ns: int,
    memory_bytes: int = 0,
    response: HttpResponse | None = None,
) -> Result:
    # The message is the only log that a script has.
    message = ending.log if ending.outcome is Outcome.HOST_FAILED else ending.message
    return Result(
        outcome=ending.outcome,
        exit_code=ending.exit_code,
        message=message,
        trace=ending.trace,
        limit=ending.limit,
        stdout=stdout,
        stderr=stderr,
        stderr_total=stderr_total,
        response=response,
        outbound=outbound,
        memory_bytes=memory_bytes,
        guest_ns=guest_ns,
    )
