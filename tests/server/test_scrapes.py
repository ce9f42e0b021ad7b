"""Scrapes of the metrics of many bindings, by callers without a token."""

import gzip
import threading
from collections.abc import Iterator

import pytest

from tests.server.callers import connect, read_all
from tests.server.fronts import ENGINES, Front, started

BODY = b'{"operation":"execute","data":1}'
ECHO = b"POST /v1.0/bindings/echo HTTP/1.1\r\nhost: x\r\ndapr-api-token: t\r\ncontent-length: %d\r\n\r\n%b" % (
    len(BODY),
    BODY,
)


def scrape(front: Front) -> bytes:
    with connect(front) as connection:
        connection.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        return read_all(connection)


def completed(text: bytes) -> float:
    wanted = b'sandboxd_requests_total{binding="echo",outcome="completed",protocol="http"} '
    return next(float(line.removeprefix(wanted)) for line in text.splitlines() if line.startswith(wanted))


@pytest.mark.parametrize("engine", ENGINES)
def test_scrapers_are_many_and_requests_are_answered_and_counted(engine: str) -> None:
    with started(engine, bindings=40, token="t") as front:
        over = threading.Event()
        texts: list[bytes] = []

        def attack() -> None:
            while not over.is_set():
                texts.append(scrape(front))

        scrapers = [threading.Thread(target=attack) for _ in range(4)]
        for scraper in scrapers:
            scraper.start()
        try:
            with connect(front) as connection:
                for asked in range(1, 201):
                    connection.sendall(ECHO)
                    answer = b""
                    while not answer.endswith(b"\r\n\r\n1"):
                        part = connection.recv(65536)
                        assert part, answer
                        answer += part
                    if asked % 50 == 0:
                        assert completed(scrape(front)) == asked  # counted before anybody can ask
        finally:
            over.set()
            for scraper in scrapers:
                scraper.join(30)
        assert texts
        assert all(text.startswith(b"HTTP/1.1 200 ") for text in texts)
    assert front.log == ""


@pytest.mark.parametrize("engine", ENGINES)
def test_the_text_is_compressed_for_who_wants_it(engine: str) -> None:
    with started(engine, bindings=40) as front, connect(front) as connection:
        connection.sendall(b"GET /metrics HTTP/1.0\r\naccept-encoding: deflate, gzip\r\n\r\n")
        head, _, body = read_all(connection).partition(b"\r\n\r\n")
        plain = scrape(front).partition(b"\r\n\r\n")[2]
    assert b"\r\ncontent-encoding: gzip" in head.lower()
    assert b"\r\nvary: accept, accept-encoding" in head.lower()
    assert len(body) < len(plain) / 5
    assert names(gzip.decompress(body)) == names(plain)


def names(text: bytes) -> list[bytes]:
    """What stands before the values."""
    return [line.rpartition(b" ")[0] for line in text.splitlines()]


OPEN_METRICS = b"application/openmetrics-text"


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        (OPEN_METRICS + b"; version=1.0.0", OPEN_METRICS + b"; version=1.0.0"),
        (OPEN_METRICS + b"; version=9.9.9", OPEN_METRICS + b"; version=1.0.0"),
        (OPEN_METRICS + b"; version=1.x", b"text/plain; version=0.0.4"),
        (OPEN_METRICS + b"; version=" + b"9" * 6000, b"text/plain; version=0.0.4"),
        (OPEN_METRICS + b"; version=0.0.1, text/plain; version=1.0.0", b"text/plain; version=1.0.0"),
        (b"text/plain; version=., " + OPEN_METRICS, OPEN_METRICS + b"; version=1.0.0"),
    ],
)
def test_a_scrape_gets_a_format_that_there_is(engine_front: Front, accept: bytes, content_type: bytes) -> None:
    """RFC 9110, 12.5.1: what cannot be had as asked for is answered as if it were not asked for."""
    with connect(engine_front) as connection:
        connection.sendall(b"GET /metrics HTTP/1.0\r\naccept: " + accept + b"\r\n\r\n")
        head = read_all(connection).partition(b"\r\n\r\n")[0]
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"content-type: " + content_type + b";" in head


@pytest.fixture(scope="module", params=ENGINES)
def engine_front(request: pytest.FixtureRequest) -> Iterator[Front]:
    with started(request.param) as front:
        yield front
    assert front.log == ""
