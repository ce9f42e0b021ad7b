"""Runs a guest once for a request, over every protocol: what its pool raises and returns, counted and as a Failure."""

import logging
from typing import Final

from sandboxd.front.answering import failures
from sandboxd.front.answering.deciding import answered
from sandboxd.front.ports import Invoker, Served
from sandboxd.log import fields
from sandboxd.pool.errors import BindingUnavailable, Rejected
from sandboxd.wire.messages import Call, Result

log: Final = logging.getLogger("sandboxd.request")


async def attempt(
    invoker: Invoker, served: Served, call: Call, span: str, began_ns: int, *, by_policy: bool = False
) -> Result:
    """Run a guest once.

    Parameters:
        invoker: runs it.
        served: its binding.
        call: what it is called with.
        span: traceparent of the request.
        began_ns: CLOCK_MONOTONIC instant at which the request came.
        by_policy: the call's deadline is that of a resiliency policy, and not the binding's limit.

    Returns:
        the result of a guest that succeeded.

    Raises:
        Failure: no worker was available, or the guest failed.
    """
    served.runs = number = served.runs + 1
    name = served.binding.name
    try:
        result = await invoker.invoke(name, call)
    except (Rejected, BindingUnavailable) as error:
        raise failures.of_error(error, name) from None
    except Exception as error:
        log.exception("invoking failed", extra=fields(binding=name, request_id=span[36:52]))
        raise failures.of_error(error, name) from None
    served.metrics.ran(result, len(call.stdin), by_policy=by_policy)
    return answered(result, served, number, span, began_ns)
