"""Runs a guest for the status page: a request as that of the API, with more details in its answer."""

import json
import shlex
import time
from collections.abc import Callable
from typing import Any, Final

from sandboxd import gojson
from sandboxd.front.answering import failures, payload
from sandboxd.front.answering.deciding import OPERATION, decide, unfit
from sandboxd.front.answering.failures import Failure
from sandboxd.front.answering.runlog import keep_failure
from sandboxd.front.answering.tracing import new_span
from sandboxd.front.ports import Bindings, Invoker, Served
from sandboxd.outcome import Outcome
from sandboxd.pool.errors import BindingUnavailable, Rejected
from sandboxd.wire.messages import Result

MAX_SHOWN_BYTES: Final = 256 * 1024
"""The longest reply that is shown. Bytes."""


class Trial:
    """Runs guests for the status page.

    Parameters:
        invoker: runs guests.
        bindings: returns the bindings that are served.
    """

    def __init__(self, invoker: Invoker, bindings: Callable[[], Bindings]) -> None:
        self._invoker = invoker
        self._bindings = bindings

    def __repr__(self) -> str:
        return "<Trial>"

    async def run(self, name: str, data: Any, metadata: dict[str, str], api: str) -> dict[str, Any]:
        """Run a guest once, and count it as any request.

        Parameters:
            name: the binding.
            data, metadata: the request's, see docs/reference.md.
            api: the API's base URL, for the curl command of the answer. The path of a Unix socket and a line feed may
                precede it.

        Returns:
            outcome, reply, error, stderr, exit code, times and the curl command that sends the same request.
        """
        body = json.dumps({"operation": OPERATION, "data": data, "metadata": metadata}).encode()
        began = time.monotonic_ns()
        span = new_span(None)
        served = self._bindings().by_name.get(name)
        answer: dict[str, Any] = {"binding": name, "traceId": span[3:35], "curl": _curl(api, name, body)}
        if served is None:
            failed = failures.not_found(name)
            return {**answer, "outcome": failed.outcome.value, "error": failed.message}
        try:
            result = await self._invoke(served, body, span, began)
        except Failure as failure:
            served.metrics.ended(failure.outcome, (time.monotonic_ns() - began) * 1e-9)
            keep_failure(served.metrics, failure, span, began)
            return {**answer, **_times(began), "outcome": failure.outcome.value, "error": failure.message}
        served.metrics.ended(result.outcome, (time.monotonic_ns() - began) * 1e-9)
        answer |= {"outcome": result.outcome.value, **_times(began, result), **_written(result, metadata, served)}
        if result.outcome is not Outcome.COMPLETED:
            failed = failures.of_result(result, served, served.runs)
            keep_failure(served.metrics, failed, span, began)
            answer |= {"error": failed.reason()}
        return answer

    async def _invoke(self, served: Served, body: bytes, span: str, began: int) -> Result:
        try:
            request = payload.converted(gojson.decode(body), served.binding.stdin)
        except (payload.DataError, payload.KindError) as error:
            raise unfit(error) from None
        call = decide(
            served,
            served.binding.name,
            OPERATION,
            request.metadata,
            request.data,
            span.encode(),
            began + served.timeout_ns,
        )
        served.runs += 1
        try:
            result = await self._invoker.invoke(served.binding.name, call)
        except (Rejected, BindingUnavailable) as error:
            raise failures.of_error(error, served.binding.name) from None
        served.metrics.ran(result, len(call.stdin))
        return result


def _times(began: int, result: Result | None = None) -> dict[str, Any]:
    times: dict[str, Any] = {"totalMs": (time.monotonic_ns() - began) / 1e6}
    if result is not None:
        times |= {
            "queueMs": result.queue_ns / 1e6,
            "instantiateMs": result.instantiate_ns / 1e6,
            "guestMs": result.guest_ns / 1e6,
        }
    return {"times": times}


def _written(result: Result, metadata: dict[str, str], served: Served) -> dict[str, Any]:
    stdout = result.stdout
    if result.outcome is Outcome.COMPLETED:
        stdout = b"".join(payload.reply_pieces(payload.stdout_kind(metadata, served.binding.stdout), stdout))
    return {
        "reply": stdout[:MAX_SHOWN_BYTES].decode("utf-8", "replace"),
        "replyBytes": len(stdout),
        "replyCut": len(stdout) > MAX_SHOWN_BYTES,
        "status": result.http.status if result.http is not None else None,
        "stderr": result.stderr.decode("utf-8", "replace"),
        "stderrBytes": result.stderr_total,
        "exitCode": result.exit_code,
        "memoryBytes": result.memory_bytes,
        "outbound": len(result.outbound),
    }


def _curl(api: str, name: str, body: bytes) -> str:
    from urllib.parse import quote

    socket, _, base = api.rpartition("\n")
    parts = ["curl", *(["--unix-socket", socket] if socket else [])]
    parts += ["-d", body.decode(), f"{base}/v1.0/bindings/{quote(name, safe='')}"]
    return shlex.join(parts)
