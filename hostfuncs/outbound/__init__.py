"""Outbound HTTP for guests: one engine under every wasi-http interface.

How the pieces fit, for those who write a host interface on top::

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

Nothing moves unless `Exchanges.wait` (or `Exchanges.turn`, one pass that never sleeps) is called: the event loop
runs only inside those two. Every object has cheap synchronous questions (`done()`, `ready()`, `permit()`), and `wait`
takes any predicate over them, so waiting for one of many is `wait(lambda: any(p() for p in predicates))`.

Two failures, nothing between: `OutboundError` carries the wasi-http error code the guest is told; `DeadlineExceeded`
ends the guest.
"""

from hostfuncs.outbound.body import RequestBody, ResponseBody
from hostfuncs.outbound.errors import (
    DeadlineExceeded,
    DnsErrorPayload,
    ErrorCode,
    FieldSizePayload,
    OutboundError,
    TlsAlertPayload,
)
from hostfuncs.outbound.exchange import Exchange
from hostfuncs.outbound.exchanges import Exchanges
from hostfuncs.outbound.fields import FORBIDDEN_FIELDS, is_field_name, is_field_value, is_forbidden, is_method
from hostfuncs.outbound.policy import Policy
from hostfuncs.outbound.sender import Outbound, warm
from hostfuncs.outbound.shapes import Options, OutboundLimits, Request, ResponseHead, Settings, UsageRecord

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
