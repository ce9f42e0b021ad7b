"""What can go wrong with an outbound request, as wasi-http names it, and the table that turns failures into it.

The names are the cases of `variant error-code` in wasi:http/types@0.2. Failures are recognised by exception type,
errno, getaddrinfo code or OpenSSL's numbers, never by the text of a message.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DnsErrorPayload:
    """`record DNS-error-payload`."""

    rcode: str | None = None
    info_code: int | None = None


@dataclass(frozen=True, slots=True)
class TlsAlertPayload:
    """`record TLS-alert-received-payload`."""

    alert_id: int | None = None
    alert_message: str | None = None


@dataclass(frozen=True, slots=True)
class FieldSizePayload:
    """`record field-size-payload`."""

    field_name: str | None = None
    field_size: int | None = None


Payload = DnsErrorPayload | TlsAlertPayload | FieldSizePayload | int | str | None


@dataclass(frozen=True, slots=True)
class ErrorCode:
    """One case of wasi-http's `error-code`.

    Parameters:
        name: the case's name exactly as the WIT has it, `DNS-error` for example; a member of `ERROR_CODES`.
        payload: what the case carries: a payload record, an int for the sizes, a str for the texts; None where the
            case has no payload and for the `none` of an optional one.
    """

    name: str
    payload: Payload = None


class OutboundError(Exception):
    """A failed or refused request; `code` is what the guest is told."""

    def __init__(self, code: ErrorCode) -> None:
        super().__init__(code.name if code.payload is None else f"{code.name} {code.payload}")
        self.code = code


class DeadlineExceeded(Exception):  # noqa: N818 - the state is the name, as in TimeoutError's family
    """The invocation's deadline passed while the host waited for an origin. The guest is ended."""
