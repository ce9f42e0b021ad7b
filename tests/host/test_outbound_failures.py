"""Origins that are slow, broken, gone or hostile, and the codes guests are told."""

import asyncio
import errno
import socket
import ssl
import time
from collections.abc import Iterator, Sequence

import h11
import httpcore2
import pytest

import hostfuncs.outbound.httpcore_adapter  # names the failures of httpcore2  # noqa: F401
from hostfuncs.outbound import (
    DeadlineExceeded,
    DnsErrorPayload,
    ErrorCode,
    Options,
    Outbound,
    OutboundError,
    OutboundLimits,
    Policy,
    Settings,
    TlsAlertPayload,
)
from hostfuncs.outbound.errors import ERROR_CODES, Cut, Phase, Unanswered, Unresolved, code_of
from tests.host.outbound_client import LOOPBACK, fetch, invocation, request
from tests.origins import Origin, Silent, refused_port


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin() as running:
        yield running


@pytest.fixture
def outbound() -> Iterator[Outbound]:
    engine = Outbound()
    yield engine
    engine.close()


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/close-silently", ErrorCode("connection-terminated")),
        ("/short", ErrorCode("HTTP-response-incomplete")),
        ("/garbage", ErrorCode("HTTP-protocol-error")),
        ("/bad-coding", ErrorCode("HTTP-response-transfer-coding")),
        ("/upgrade", ErrorCode("HTTP-protocol-error")),
        ("/big-head", ErrorCode("HTTP-response-header-section-size", 200_031)),
        ("/many-headers", ErrorCode("HTTP-response-header-section-size", 9909)),
    ],
)
def test_broken_answers(origin: Origin, outbound: Outbound, path: str, code: ErrorCode) -> None:
    got = fetch(outbound, origin.url(path))
    assert got.error is not None
    assert got.error.name == code.name
    assert [record.outcome for record in got.usage] == [code.name]
    assert outbound.connections() == (0, 0)
    # Nothing of it stays with the engine.
    assert fetch(outbound, origin.url("/echo")).status == 200


def test_a_body_longer_than_announced_is_cut_and_the_connection_not_kept(origin: Origin, outbound: Outbound) -> None:
    assert fetch(outbound, origin.url("/long")).body == b"01234"
    assert outbound.connections() == (0, 0)


def test_a_body_without_framing_ends_with_the_connection(origin: Origin, outbound: Outbound) -> None:
    assert fetch(outbound, origin.url("/until-close")).body == b"until the end"


def test_what_arrived_before_a_reset_is_read_first(origin: Origin, outbound: Outbound) -> None:
    with invocation(outbound) as exchanges:
        exchange = exchanges.start(request(origin.url("/reset")))
        exchanges.wait(exchange.body.ready)
        assert exchange.body.read(100) == b"0123456789"
        origin.release()
        exchanges.wait(exchange.body.ready)
        with pytest.raises(OutboundError, match="HTTP-response-incomplete"):
            exchange.body.read(100)


def test_refused(outbound: Outbound) -> None:
    with refused_port() as port:
        assert fetch(outbound, f"http://127.0.0.1:{port}/").error == ErrorCode("connection-refused")


@pytest.mark.parametrize(
    ("path", "options"),
    [
        ("/slow-head", Options(first_byte_timeout_ns=30_000_000)),
        ("/hold", Options(first_byte_timeout_ns=30_000_000)),
        ("/hold-body", Options(between_bytes_timeout_ns=30_000_000)),
    ],
)
def test_timeouts_of_the_guest(origin: Origin, outbound: Outbound, path: str, options: Options) -> None:
    got = fetch(outbound, origin.url(path), options=options)
    assert got.error == ErrorCode("connection-read-timeout")
    assert (got.head is not None) == (path == "/hold-body")


def test_a_zero_timeout_fails_and_does_not_hang(origin: Origin, outbound: Outbound) -> None:
    got = fetch(outbound, origin.url("/hold"), options=Options(first_byte_timeout_ns=0))
    assert got.error == ErrorCode("connection-read-timeout")


def test_tls_that_never_answers_is_a_connect_timeout(outbound: Outbound) -> None:
    with Silent() as silent:
        got = fetch(outbound, f"https://{silent.authority}/", options=Options(connect_timeout_ns=50_000_000))
    assert got.error == ErrorCode("connection-timeout")


class Scripted:
    """A resolver that answers as told: a list of addresses per question, or an exception."""

    def __init__(self, *answers: Sequence[str] | BaseException) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        """The next answer; the last one again and again."""
        self.asked.append(host)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, BaseException):
            raise answer
        return answer


class Mute:
    """A resolver that never answers."""

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        """Wait for ever."""
        await asyncio.get_running_loop().create_future()
        raise AssertionError


def test_a_resolver_that_never_answers_is_a_dns_timeout() -> None:
    engine = Outbound(resolver=Mute())
    got = fetch(engine, "http://name.test/", policy=Policy.parse(["*"]), options=Options(connect_timeout_ns=30_000_000))
    assert got.error == ErrorCode("DNS-timeout")
    engine.close()


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (socket.gaierror(socket.EAI_NONAME, ""), ErrorCode("DNS-error", DnsErrorPayload("NXDOMAIN"))),
        (socket.gaierror(socket.EAI_AGAIN, ""), ErrorCode("DNS-error", DnsErrorPayload("SERVFAIL"))),
        ([], ErrorCode("DNS-error", DnsErrorPayload("NODATA"))),
        (["not an address"], ErrorCode("DNS-error", DnsErrorPayload("NODATA"))),
    ],
)
def test_names_that_do_not_resolve(answer: Sequence[str] | BaseException, code: ErrorCode) -> None:
    engine = Outbound(resolver=Scripted(answer))
    assert fetch(engine, "http://name.test/", policy=Policy.parse(["*"])).error == code
    engine.close()


def test_the_systems_resolver_knows_what_does_not_exist(outbound: Outbound) -> None:
    got = fetch(outbound, "http://some.invalid:3000/", policy=Policy.parse(["*://*:*"]))
    assert got.error is not None
    assert got.error.name == "DNS-error"


def test_rebinding_cannot_happen(origin: Origin) -> None:
    """The name means a public address when it is checked and loopback ever after: loopback is not reached."""
    resolver = Scripted(["203.0.113.1"], ["127.0.0.1"])
    engine = Outbound(Settings(connect_timeout_ms=100), resolver=resolver)
    url = f"http://rebind.test:{origin.port}/echo"
    policy = Policy.parse(None)
    first = fetch(engine, url, policy=policy)
    assert first.error is not None
    assert first.error.name in ("connection-timeout", "destination-IP-unroutable", "connection-refused")
    second = fetch(engine, url, policy=policy)
    assert second.error == ErrorCode("destination-IP-prohibited")
    assert [(record.rule, record.denied) for record in second.usage] == [("default", "address")]
    assert resolver.asked == ["rebind.test", "rebind.test"]
    assert origin.connections == 0
    engine.close()


def test_a_prohibited_address_among_good_ones_is_left_out(origin: Origin) -> None:
    policy = Policy.parse(["http://named.test:*"], ["127.0.0.2/32", "10.0.0.0/8"])
    engine = Outbound(resolver=Scripted(["10.0.0.1", "127.0.0.2", "127.0.0.1"]))
    got = fetch(engine, f"http://named.test:{origin.port}/headers", policy=policy)
    assert got.status == 200
    # The name stays in Host, whatever address was connected to.
    assert got.body == f"Host: named.test:{origin.port}".encode()
    engine.close()


def test_the_next_address_is_tried(origin: Origin) -> None:
    engine = Outbound(resolver=Scripted(["127.0.0.2", "127.0.0.1"]))
    got = fetch(engine, f"http://localhost:{origin.port}/echo")
    assert got.status == 200
    engine.close()


@pytest.mark.parametrize("disguise", ["::ffff:127.0.0.1", "0.0.0.0"])
def test_disguised_loopback_is_not_reached(origin: Origin, disguise: str) -> None:
    engine = Outbound(resolver=Scripted([disguise]))
    got = fetch(engine, f"http://name.test:{origin.port}/echo", policy=Policy.parse(["http://*:*"]))
    assert got.error == ErrorCode("destination-IP-prohibited")
    assert origin.connections == 0
    engine.close()


def test_the_deadline_ends_a_wait(origin: Origin, outbound: Outbound) -> None:
    exchanges = outbound.begin(LOOPBACK, OutboundLimits(), time.monotonic_ns() + 50_000_000)
    exchange = exchanges.start(request(origin.url("/hold")))
    with pytest.raises(DeadlineExceeded):
        exchanges.wait(exchange.done)
    assert [record.outcome for record in exchanges.close()] == ["dropped"]
    assert outbound.connections() == (0, 0)


def test_a_check_that_raises_ends_a_wait(origin: Origin, outbound: Outbound) -> None:
    class GoneError(Exception):
        pass

    def check() -> None:
        raise GoneError

    exchanges = outbound.begin(LOOPBACK, OutboundLimits(), time.monotonic_ns() + 20_000_000_000, check)
    exchange = exchanges.start(request(origin.url("/hold")))
    with pytest.raises(GoneError):
        exchanges.wait(exchange.done)
    exchanges.close()


def test_a_predicate_that_raises_reaches_whoever_waits(origin: Origin, outbound: Outbound) -> None:
    with invocation(outbound) as exchanges:
        exchange = exchanges.start(request(origin.url("/echo")))

        def ready() -> bool:
            if exchange.done():
                raise KeyError
            return False

        with pytest.raises(KeyError):
            exchanges.wait(ready)


ROWS: list[tuple[BaseException, Phase, ErrorCode]] = [
    (Unanswered(), Phase.HEAD, ErrorCode("connection-terminated")),
    (Cut(), Phase.BODY, ErrorCode("HTTP-response-incomplete")),
    (Unresolved(), Phase.RESOLVING, ErrorCode("DNS-error", DnsErrorPayload("NODATA"))),
    (TimeoutError(), Phase.WAITING, ErrorCode("connection-limit-reached")),
    (TimeoutError(), Phase.RESOLVING, ErrorCode("DNS-timeout")),
    (TimeoutError(), Phase.CONNECTING, ErrorCode("connection-timeout")),
    (TimeoutError(), Phase.HEAD, ErrorCode("connection-read-timeout")),
    (TimeoutError(errno.ETIMEDOUT, ""), Phase.BODY, ErrorCode("connection-timeout")),
    (OSError(errno.ECONNREFUSED, ""), Phase.CONNECTING, ErrorCode("connection-refused")),
    (OSError(errno.ENETUNREACH, ""), Phase.CONNECTING, ErrorCode("destination-IP-unroutable")),
    (OSError(errno.EHOSTUNREACH, ""), Phase.CONNECTING, ErrorCode("destination-IP-unroutable")),
    (OSError(errno.EPERM, ""), Phase.CONNECTING, ErrorCode("destination-unavailable")),
    (OSError(errno.EMFILE, ""), Phase.CONNECTING, ErrorCode("connection-limit-reached")),
    (OSError(errno.ECONNRESET, ""), Phase.HEAD, ErrorCode("connection-terminated")),
    (OSError(errno.ECONNRESET, ""), Phase.BODY, ErrorCode("HTTP-response-incomplete")),
    (OSError(errno.EPIPE, ""), Phase.HEAD, ErrorCode("connection-terminated")),
    (OSError("no number"), Phase.CONNECTING, ErrorCode("destination-unavailable")),
    (ssl.SSLCertVerificationError(), Phase.CONNECTING, ErrorCode("TLS-certificate-error")),
    (ssl.SSLEOFError(), Phase.CONNECTING, ErrorCode("connection-terminated")),
    (ssl.SSLError(1, "anything"), Phase.CONNECTING, ErrorCode("TLS-protocol-error")),
    (h11.RemoteProtocolError("x", 431), Phase.HEAD, ErrorCode("HTTP-response-header-section-size")),
    (h11.RemoteProtocolError("x", 501), Phase.HEAD, ErrorCode("HTTP-response-transfer-coding")),
    (h11.RemoteProtocolError("x"), Phase.HEAD, ErrorCode("HTTP-protocol-error")),
    (httpcore2.RemoteProtocolError("x"), Phase.HEAD, ErrorCode("HTTP-protocol-error")),
    (httpcore2.ConnectError(ssl.SSLCertVerificationError()), Phase.WAITING, ErrorCode("TLS-certificate-error")),
    (
        httpcore2.ConnectError(ConnectionRefusedError(errno.ECONNREFUSED, "")),
        Phase.WAITING,
        ErrorCode("connection-refused"),
    ),
    (httpcore2.ReadError("text"), Phase.HEAD, ErrorCode("connection-terminated")),
    (httpcore2.ProxyError("x"), Phase.CONNECTING, ErrorCode("destination-unavailable")),
    (OutboundError(ErrorCode("loop-detected")), Phase.HEAD, ErrorCode("loop-detected")),
    (ZeroDivisionError(), Phase.HEAD, ErrorCode("internal-error", "ZeroDivisionError")),
]


@pytest.mark.parametrize(("failure", "phase", "code"), ROWS, ids=lambda value: repr(value)[:40])
def test_the_table_of_failures(failure: BaseException, phase: Phase, code: ErrorCode) -> None:
    assert code_of(failure, phase) == code
    assert code.name in ERROR_CODES


def test_an_alert_keeps_its_number() -> None:
    failure = ssl.SSLError(1, "text is not looked at")
    failure.reason = "TLSV13_ALERT_CERTIFICATE_REQUIRED"
    expected = ErrorCode("TLS-alert-received", TlsAlertPayload(116, "certificate_required"))
    assert code_of(failure, Phase.HEAD) == expected


def test_error_codes_are_those_of_the_wit() -> None:
    assert len(ERROR_CODES) == len(set(ERROR_CODES)) == 39
    assert (ERROR_CODES[0], ERROR_CODES[15], ERROR_CODES[38]) == (
        "DNS-timeout",
        "HTTP-request-denied",
        "internal-error",
    )
