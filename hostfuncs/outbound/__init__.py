"""Outbound HTTP for guests: one client under every wasi-http interface.

A host interface uses it like this::

    warm(Settings(...))                                     # optional, before the fork: reads the certificate stores
    outbound = Outbound(Settings(...))                      # one per worker, used after the fork
    policy = Policy.parse(allowed_hosts, block_networks)    # one per binding, made before the fork

    exchanges = outbound.begin(policy, OutboundLimits(...), deadline_ns)     # one per invocation
    body = exchanges.request_body(content_length=None)      # only if the guest wants to send one
    exchange = exchanges.start(Request(...), Options(...), body)             # never blocks
    body.permit(); body.write(b"..."); body.finish(trailers)                 # never block either
    exchanges.wait(exchange.done)                            # drives the loop until the predicate holds
    head = exchange.result()                                 # ResponseHead, or raises OutboundError
    exchanges.wait(exchange.body.ready)
    chunk = exchange.body.read(65536)                        # b"" and .ended = end; raises OutboundError
    exchange.body.trailers
    exchange.close()                                         # dropped by the guest
    records = exchanges.close()                              # always; cancels and closes what is left

The event loop runs only inside `Exchanges.wait` and `Exchanges.turn`, which does not wait. Between their calls nothing
is sent or received. Every object has cheap synchronous predicates (`done()`, `ready()`, `permit()`). `wait` takes any
predicate over them, so `wait(lambda: any(p() for p in predicates))` waits for one of many.

There are two kinds of failures. `OutboundError` carries the wasi-http error code for the guest. A `GuestEnded`, such as
`DeadlineExceeded` or `HostMemoryExceeded`, ends the guest.
"""

from hostfuncs.ending import DeadlineExceeded
from hostfuncs.field_rules import FORBIDDEN_FIELDS
from hostfuncs.outbound.body import RequestBody, ResponseBody
from hostfuncs.outbound.errors import (
    DnsErrorPayload,
    ErrorCode,
    FieldSizePayload,
    OutboundError,
    TlsAlertPayload,
)
from hostfuncs.outbound.exchange import Exchange
from hostfuncs.outbound.exchanges import Exchanges
from hostfuncs.outbound.fields import is_field_name, is_field_value, is_forbidden, is_method
from hostfuncs.outbound.policy import Policy
from hostfuncs.outbound.sender import Outbound, warm
from hostfuncs.outbound.values import Options, OutboundLimits, Request, ResponseHead, Settings, UsageRecord

__all__ = [
    "FORBIDDEN_FIELDS",
    "DeadlineExceeded",
    "DnsErrorPayload",
    "ErrorCode",
    "Exchange",
    "Exchanges",
    "FieldSizePayload",
    "Options",
    "Outbound",
    "OutboundError",
    "OutboundLimits",
    "Policy",
    "Request",
    "RequestBody",
    "ResponseBody",
    "ResponseHead",
    "Settings",
    "TlsAlertPayload",
    "UsageRecord",
    "is_field_name",
    "is_field_value",
    "is_forbidden",
    "is_method",
    "warm",
]
