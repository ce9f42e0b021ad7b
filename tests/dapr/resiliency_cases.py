"""Resiliency resources and calls whose answers were recorded from daprd: tests/golden/daprd-1.18.2/resiliency.jsonl.

`python -m tests.dapr.resiliency_cases` records them anew.
"""

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.dapr.daprd import VERSION, Daprd, needed
from tests.grpc_calls import invoke
from tests.guests import path
from tests.running import component, write_components

GOLDEN = Path(__file__).parents[1] / "golden" / f"daprd-{VERSION}" / "resiliency.jsonl"
BINDINGS = {"multi": "multi", "other": "multi", "loop": "loop"}
"""The bindings, and the guest of each."""

TRAP = ("multi", "trap")
OK = ("multi", "empty")
EXIT = ("multi", "exit,3")


@dataclass(frozen=True)
class Case:
    """A resource, and the calls that are made one after the other."""

    name: str
    policies: Mapping[str, Any]
    outbound: Mapping[str, str] | None
    """The policies of `components.multi.outbound` and of `components.loop.outbound`; None names no target."""
    calls: Sequence[tuple[str, str] | float]
    """(binding, args), or seconds to wait."""


def _retry(**fields: Any) -> dict[str, Any]:
    return {"retries": {"r": fields}}


def _times(number: int) -> dict[str, Any]:
    return {"duration": "1ms", "maxRetries": number}


def _breaker(**fields: Any) -> dict[str, Any]:
    return {"circuitBreakers": {"c": fields}}


CASES = [
    Case("timeout", {"timeouts": {"t": "200ms"}}, {"timeout": "t"}, [("loop", ""), OK, EXIT]),
    Case("timeout in milliseconds", {"timeouts": {"t": "200"}}, {"timeout": "t"}, [("loop", ""), OK]),
    Case("timeout as a number", {"timeouts": {"t": 200}}, {"timeout": "t"}, [("loop", ""), OK]),
    Case("timeout with retries", {"timeouts": {"t": "100ms"}, **_retry(duration="1ms", maxRetries=2)},
         {"timeout": "t", "retry": "r"}, [("loop", ""), TRAP, TRAP]),
    Case("constant retries", _retry(policy="constant", duration="5ms", maxRetries=3), {"retry": "r"},
         [TRAP, TRAP, EXIT, OK]),
    Case("policy in capitals", _retry(policy="Constant", duration="5", maxRetries=1), {"retry": "r"}, [TRAP, TRAP]),
    Case("no retries", _retry(duration="5ms", maxRetries=0), {"retry": "r"}, [TRAP, TRAP]),
    Case("exponential retries", _retry(policy="exponential", maxInterval="10ms", maxRetries=2), {"retry": "r"},
         [TRAP, TRAP]),
    Case("matching that matches nothing", _retry(duration="1ms", maxRetries=2,
         matching={"httpStatusCodes": "429,503-504", "gRPCStatusCodes": "14"}), {"retry": "r"}, [TRAP, TRAP]),
    Case("an operation that does not exist", _retry(duration="1ms", maxRetries=2), {"retry": "r"},
         [("multi:create", ""), TRAP, TRAP]),
    Case("breaker", _breaker(trip="consecutiveFailures >= 2", timeout="300ms"), {"circuitBreaker": "c"},
         [TRAP, TRAP, TRAP, OK, ("other", "empty"), 0.4, TRAP, OK, 0.4, OK, OK, TRAP]),
    Case("breaker with the default trip", _breaker(timeout="60s"), {"circuitBreaker": "c"}, [TRAP] * 8),
    Case("breaker and a success between", _breaker(trip="consecutiveFailures > 1"), {"circuitBreaker": "c"},
         [TRAP, OK, TRAP, OK, TRAP, TRAP, OK]),
    Case("breaker by totals", _breaker(trip="requests >= 4 && totalFailures * 2 >= requests"), {"circuitBreaker": "c"},
         [OK, TRAP, OK, TRAP, OK]),
    Case("breaker by a share in integers", _breaker(trip="totalFailures / requests > 0"), {"circuitBreaker": "c"},
         [OK, TRAP, TRAP, OK]),
    Case("breaker by a share", _breaker(trip="double(totalFailures) / double(requests) >= 0.5"),
         {"circuitBreaker": "c"}, [OK, OK, TRAP, TRAP, OK]),
    Case("breaker by an integer and a fraction", _breaker(trip="totalFailures > 1.5"), {"circuitBreaker": "c"},
         [TRAP, TRAP, OK]),
    Case("breaker by mixed arithmetic", _breaker(trip="totalFailures * 1.5 > 1.0"), {"circuitBreaker": "c"},
         [TRAP, TRAP, OK]),
    Case("breaker by a number", _breaker(trip="requests"), {"circuitBreaker": "c"}, [TRAP, TRAP, OK]),
    Case("breaker by an unknown number", _breaker(trip="failures > 0"), {"circuitBreaker": "c"}, [TRAP, TRAP, OK]),
    Case("breaker by an error or a truth", _breaker(trip="1 / (requests - requests) > 0 || totalFailures > 1"),
         {"circuitBreaker": "c"}, [TRAP, TRAP, OK]),
    Case("breaker with an interval", _breaker(trip="totalFailures >= 2", interval="200ms"), {"circuitBreaker": "c"},
         [TRAP, 0.3, TRAP, OK, TRAP, OK]),
    Case("breaker that needs two successes",
         _breaker(trip="consecutiveFailures >= 1", timeout="200ms", maxRequests=2),
         {"circuitBreaker": "c"}, [TRAP, OK, 0.3, OK, TRAP, OK, 0.3, OK, OK, TRAP, OK]),
    Case("breaker within retries",
         {**_retry(duration="1ms", maxRetries=5), **_breaker(trip="consecutiveFailures >= 3")},
         {"retry": "r", "circuitBreaker": "c"}, [TRAP, TRAP, OK]),
    Case("breaker and a timeout", {"timeouts": {"t": "100ms"}, **_breaker(trip="consecutiveFailures >= 1")},
         {"timeout": "t", "circuitBreaker": "c"}, [("loop", ""), ("loop", ""), OK]),
    Case("breaker and an operation that does not exist", _breaker(trip="consecutiveFailures >= 1"),
         {"circuitBreaker": "c"}, [("multi:create", ""), TRAP, OK]),
    Case("default for bindings", {"retries": {"DefaultBindingComponentOutboundRetryPolicy": _times(1),
         "DefaultComponentOutboundRetryPolicy": _times(2)}}, None, [TRAP, TRAP]),
    Case("default for outbound", {"retries": {"DefaultComponentOutboundRetryPolicy": _times(2),
         "DefaultComponentRetryPolicy": _times(3)}}, None, [TRAP, TRAP]),
    Case("default for components", {"retries": {"DefaultComponentRetryPolicy": _times(3),
         "DefaultRetryPolicy": _times(4)}}, None, [TRAP, TRAP]),
    Case("default for all", {"retries": {"DefaultRetryPolicy": _times(4),
         "DefaultAppRetryPolicy": _times(5)}}, None, [TRAP, TRAP]),
    Case("defaults of all kinds", {"timeouts": {"DefaultTimeoutPolicy": "100ms"},
         "circuitBreakers": {"DefaultCircuitBreakerPolicy": {"trip": "consecutiveFailures >= 2"}},
         "retries": {"DefaultComponentRetryPolicy": _times(1)}}, None,
         [("loop", ""), ("loop", ""), TRAP, TRAP, ("other", "empty")]),
    Case("a target takes no defaults", {"retries": {"DefaultRetryPolicy": _times(4)},
         "timeouts": {"t": "10s"}}, {"timeout": "t"}, [TRAP, TRAP, ("other", "trap"), ("other", "trap")]),
    Case("policies that are not there", {}, {"timeout": "nope", "retry": "nope"}, [TRAP, TRAP]),
    Case("a negative timeout", {"timeouts": {"t": "-1s"}}, {"timeout": "t"}, [TRAP, OK]),
    Case("a timeout that is none", {"timeouts": {"t": "soon"}}, {"timeout": "t"}, [TRAP, OK]),
    Case("a policy that does not exist", _retry(policy="linear", maxRetries=1), {"retry": "r"}, [TRAP, TRAP]),
    Case("a trip that is none", _breaker(trip="consecutiveFailures >"), {"circuitBreaker": "c"}, [TRAP, OK]),
    Case("a status that is none", _retry(duration="1ms", maxRetries=1, matching={"httpStatusCodes": "42"}),
         {"retry": "r"}, [TRAP, TRAP]),
    Case("retries that are no number", _retry(duration="1ms", maxRetries="two"), {"retry": "r"}, [TRAP, TRAP]),
]  # fmt: skip


def resource(case: Case) -> dict[str, Any]:
    """Return the case's resource."""
    targets = {} if case.outbound is None else {name: {"outbound": dict(case.outbound)} for name in ("multi", "loop")}
    return {
        "apiVersion": "dapr.io/v1alpha1",
        "kind": "Resiliency",
        "metadata": {"name": "res"},
        "spec": {"policies": dict(case.policies), "targets": {"components": targets}},
    }


def folder_of(case: Case, folder: Path) -> Path:
    """Write the resource and the components, and return their folder."""
    documents = [component(name, f"file://{path(guest)}") for name, guest in BINDINGS.items()]
    write_components(folder, documents)
    (folder / "resiliency.yaml").write_text(json.dumps(resource(case)))
    return folder


def played(case: Case, call: Callable[[str, str, str], str]) -> list[str]:
    """Make the calls and return what each was answered.

    Parameters:
        call: makes one, of a binding, an operation and arguments; returns `ok` or the message of the error.
    """
    answers = []
    for step in case.calls:
        if isinstance(step, float):
            # The breaker's own clock has to move on: its states are what is tested.
            time.sleep(step)
            continue
        name, _, operation = step[0].partition(":")
        answers.append(shown(call(name, operation or "execute", step[1])))
    return answers


def shown(message: str) -> str:
    """Return a message as it is compared: of a trap, the number of the run but not the trace."""
    return re.sub(r"\nwasm stack trace:.*", "", message, flags=re.DOTALL)


def _record() -> None:
    program = needed()
    GOLDEN.parent.mkdir(exist_ok=True)
    with GOLDEN.open("w") as out:
        for case in CASES:
            with TemporaryDirectory() as scratch, Daprd(program, folder_of(case, Path(scratch) / "r")) as daprd:

                def over_http(name: str, operation: str, args: str, daprd: Daprd = daprd) -> str:
                    answer = daprd.invoke(name, metadata={"args": args}, operation=operation)
                    return "ok" if answer.status_code == 200 else str(answer.json()["message"])

                http = played(case, over_http)
                lines = [
                    re.sub("Retrying in [^…]*", "Retrying in D", msg) for msg in map(_msg, daprd.lines) if _told(msg)
                ]
            with (
                TemporaryDirectory() as scratch,
                Daprd(program, folder_of(case, Path(scratch) / "r")) as daprd,
                daprd.channel() as channel,
            ):

                def over_grpc(name: str, operation: str, args: str, channel: Any = channel) -> str:
                    answer = invoke(channel, name, b"null", {"args": args}, operation=operation)
                    return "ok" if answer.code == "OK" else f"{answer.message}"

                grpc = played(case, over_grpc)
            assert grpc == http, f"{case.name}: {http} over HTTP, {grpc} over gRPC"
            print(json.dumps({"case": case.name, "answers": http, "log": lines}), file=out, flush=True)


def _msg(line: Mapping[str, Any]) -> str:
    return str(line.get("msg", ""))


_told = re.compile("Error processing|Recovered|Circuit breaker|Could not").match


if __name__ == "__main__":
    _record()
