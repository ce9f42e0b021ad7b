"""Checks a request before anything is sent: all checks that need no network, in the policy's fixed order."""

from dataclasses import dataclass

from hostfuncs.account import LINE_BYTES
from hostfuncs.outbound.authority import DEFAULT_PORTS, Authority, Origin, parse_authority
from hostfuncs.outbound.body import RequestBody
from hostfuncs.outbound.errors import ErrorCode, OutboundError
from hostfuncs.outbound.fields import check_fields, check_target, content_length, is_method, trimmed
from hostfuncs.outbound.policy import DEFAULT_RULE, Denied, Policy, Rule
from hostfuncs.outbound.values import Fields, OutboundLimits, Request


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A request that passed the checks."""

    method: str
    authority: Authority
    origin: Origin
    target: bytes
    headers: Fields
    announced: int | None
    """Its Content-Length."""
    admitted: Rule | None
    """The rule that admitted it; None for the default rule."""
    rule: str
    """The rule's name in usage records."""
    weight: int
    """The bytes of the host's memory that its texts take."""


Known = dict[tuple[str, str], tuple[Authority, Origin, Rule | None]]
"""A cache of what one policy admits, by the scheme and authority as a guest gave them: the authority and origin they
mean, and the rule that admits them. An entry has passed every check that the policy makes before a connection, so it
replaces them."""

_MOST_KNOWN = 256


class Refused(OutboundError):  # noqa: N818 - a decision, not a malfunction
    """A request did not pass the checks.

    Parameters:
        code: the error code for the guest.
        rule: the pattern that had matched before; empty if none had.
        reason: `host`, `address`, `scheme`, `method` or `limit`; empty for a malformed request.
    """

    def __init__(self, code: ErrorCode, rule: str, reason: str = "") -> None:
        super().__init__(code)
        self.rule = rule
        self.reason = reason


def admit(
    request: Request,
    body: RequestBody | None,
    policy: Policy,
    limits: OutboundLimits,
    started: int,
    known: Known,
) -> Plan:
    """Check a request: method syntax, scheme, authority, host pattern, method, limits, target, headers, address.

    Parameters:
        request, body: the guest's, unchecked.
        policy: the egress policy.
        limits: the limits of the invocation.
        started: the number of requests that the invocation has started before.
        known: the cache of what `policy` admits. The request is added to it.

    Raises:
        Refused: see `Exchanges.start` for the codes.
    """
    rule = ""
    try:
        if not is_method(request.method):
            raise Refused(ErrorCode("HTTP-request-method-invalid"), rule)
        key = (request.scheme, request.authority)
        before = known.get(key)
        if before is not None:
            authority, origin, admitted = before
        else:
            scheme = request.scheme.lower()
            if scheme not in DEFAULT_PORTS:
                raise Refused(ErrorCode("HTTP-protocol-error"), rule, "scheme")
            try:
                authority = parse_authority(request.authority, scheme)
            except ValueError:
                raise Refused(ErrorCode("HTTP-request-URI-invalid"), rule, "host") from None
            admitted = policy.admit(scheme, authority)
            origin = (scheme, authority.host, authority.port)
        rule = DEFAULT_RULE if admitted is None else admitted.text
        if request.method.upper() == "CONNECT":
            # Nothing that passes through a tunnel can be checked. Methods are case-sensitive (RFC 9110, section 9.1),
            # but not to all proxies.
            raise Denied("method", rule)
        if started >= limits.requests:
            raise Denied("limit", rule)
        target = check_target(request.path_with_query, limits.uri_bytes)
        size = check_fields(request.headers, limit_bytes=limits.header_bytes, limit_count=limits.header_count)
        announced = _check_length(request, body, limits)
        if before is None:
            if authority.address is not None:
                policy.check_address(admitted, origin[0], authority.port, authority.address)
            if len(known) >= _MOST_KNOWN:
                known.clear()
            known[key] = (authority, origin, admitted)
    except Denied as exc:
        raise Refused(exc.code, exc.rule, exc.reason) from None
    except Refused as exc:
        exc.rule = rule
        raise
    except OutboundError as exc:
        raise Refused(exc.code, rule, "limit" if exc.code.name in _LIMIT_CODES else "") from None
    return Plan(
        method=request.method,
        authority=authority,
        origin=origin,
        target=target,
        headers=trimmed(request.headers),
        announced=announced,
        admitted=admitted,
        rule=rule,
        weight=size + len(request.headers) * LINE_BYTES + len(target),
    )


_LIMIT_CODES = frozenset({"HTTP-request-header-section-size", "HTTP-request-header-size", "HTTP-request-URI-too-long"})


def _check_length(request: Request, body: RequestBody | None, limits: OutboundLimits) -> int | None:
    announced = content_length(request.headers)
    if announced is None:
        return None
    if body is None:
        if announced:
            raise OutboundError(ErrorCode("HTTP-request-body-size", 0))
    elif body.expected is None:
        body.expected = announced
    elif body.expected != announced:
        raise OutboundError(ErrorCode("HTTP-protocol-error"))
    if announced > limits.body_bytes:
        raise Refused(ErrorCode("HTTP-request-body-size", announced), "", "limit")
    if body is not None and (body.written > announced or (body.finished and body.written != announced)):
        raise OutboundError(ErrorCode("HTTP-request-body-size", body.written))
    return announced
