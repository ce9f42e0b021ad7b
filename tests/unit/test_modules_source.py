"""Guests from files and from real, scripted HTTP origins on the loopback."""

import asyncio
import contextlib
import gzip
import hashlib
import logging
import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from sandboxd.modules import source
from sandboxd.modules.download import Downloader, FetchSettings, redacted
from sandboxd.modules.errors import SourceError, UnreachableError
from sandboxd.modules.source import Fetched
from sandboxd.modules.store import Store

GUEST = b"\0asm\x01\0\0\0" + bytes(range(256)) * 40
DIGEST = hashlib.sha256(GUEST).hexdigest()
QUICK = FetchSettings(
    max_bytes=100_000,
    connect_timeout_s=5,
    read_timeout_s=5,
    total_timeout_s=20,
    backoff_s=0.001,
    backoff_max_s=0.002,
    revalidate_timeout_s=10,
)

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


def reply(status: int = 200, body: bytes = GUEST, **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} X", "Connection: close"]
    fields = {"Content_Length": str(len(body)), **headers}
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items() if value]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Origin:
    """Answers each request with the next of its script; the last one repeats. Records the heads it was sent."""

    def __init__(self, *script: bytes | Answer) -> None:
        self.script = list(script)
        self.heads: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.append(task)
        try:
            self.heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
            answer = self.script.pop(0) if len(self.script) > 1 else self.script[0]
            if isinstance(answer, bytes):
                writer.write(answer)
            else:
                await answer(writer)
            await writer.drain()
            writer.close()
            await writer.wait_closed()
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            writer.transport.abort()  # the client left, or the test is over


@contextlib.asynccontextmanager
async def origin(*script: bytes | Answer, tls: ssl.SSLContext | None = None) -> AsyncIterator[Origin]:
    it = Origin(*script)
    server = await asyncio.start_server(it.serve, "127.0.0.1", 0, ssl=tls)
    it.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.sockets[0].getsockname()[1]}/my-guest.wasm"
    try:
        yield it
    finally:
        server.close()
        for task in it.tasks:
            task.cancel()
        await asyncio.gather(*it.tasks, return_exceptions=True)
        await asyncio.sleep(0)  # aborted transports close their sockets in the next turn


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


async def fetch(url: str, store: Store, *, settings: FetchSettings = QUICK, **options: Any) -> Fetched:
    async with Downloader(settings, tls=options.pop("tls", None)) as downloader:
        options.setdefault("pin", None)
        return await source.fetch(url, store=store, downloader=downloader, settings=settings, **options)


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(main)


def free_url() -> str:
    """A URL nobody listens on: the port stays bound, unlistened."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    _bound.append(sock)
    return f"http://127.0.0.1:{sock.getsockname()[1]}/x.wasm"


_bound: list[socket.socket] = []


@pytest.fixture(autouse=True, scope="module")
def _unbind() -> Any:
    yield
    for sock in _bound:
        sock.close()


# URLs and files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("", "missing url"),
        ("guest.wasm", "invalid URL: guest.wasm"),
        ("oci://ghcr.io/x", "TODO oci"),
        ("ftp://x/y.wasm", "unsupported URL scheme: ftp"),
        ("HTTP://x/y.wasm", "unsupported URL scheme: HTTP"),
        ("file:guest.wasm", "invalid URL: file:guest.wasm"),
        ("http://", "invalid URL: http://"),
        ("https:///x.wasm", "invalid URL: https:///x.wasm"),
        ("http://[::1/x", "invalid URL: http://[::1/x"),
    ],
)
def test_urls_are_judged_in_dapr_s_words(url: str, text: str) -> None:
    with pytest.raises(SourceError) as caught:
        source.scheme_of(url)
    assert caught.value.message == f"wasm: failed to parse metadata: {text}"


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("file://guest.wasm", "guest"),
        ("file:///opt/guests/upper.v2.wasm", "upper.v2"),
        ("file://a%20b.wasm", "a%20b"),
        ("file://dir/guest", "guest"),
        ("http://h/ruby%2F3.2/ruby-3.2.0-slim.wasm?x=/y.wasm#z", "ruby-3.2.0-slim"),
        ("https://h/a%20b.wasm", "a b"),
        ("https://h/dir/", "dir"),
        ("https://h", "."),
        ("https://h/", "/"),
        ("https://h/.wasm", ""),
    ],
)
def test_argv0_is_go_s_path_base_without_the_suffix(url: str, name: str) -> None:
    assert source.guest_name(url) == name


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:pa@ss@h:1/x.wasm", "https://h:1/x.wasm"),
        ("https://h/x.wasm?X-Signature=abc#f", "https://h/x.wasm?xxxxx"),
        ("https://h/x@y", "https://h/x@y"),
        ("https://u@h?a@b", "https://h?xxxxx"),
        ("file:///a\nb", "file:///a: b"),
    ],
)
def test_urls_are_shown_without_secrets(url: str, shown: str) -> None:
    assert redacted(url) == shown


def test_files_relative_and_absolute(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a b%20.wasm").write_bytes(GUEST)
    monkeypatch.chdir(tmp_path)

    async def main() -> None:
        for url in ("file://a b%20.wasm", "file://./a b%20.wasm", f"file://{tmp_path}/a b%20.wasm"):
            got = await fetch(url, store)
            assert (got.data, got.digest, got.scheme, got.how) == (GUEST, DIGEST, "file", "read")
        assert (await fetch("file://a b%20.wasm", store, pin=DIGEST)).digest == DIGEST
        with pytest.raises(SourceError, match="the component pins 0000"):
            await fetch("file://a b%20.wasm", store, pin="0" * 64)

    run(main())


def test_files_that_are_none(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo")
    Path("long.wasm").write_bytes(bytes(100_001))
    Path("just.wasm").write_bytes(bytes(100_000))

    async def message(path: str) -> str:
        with pytest.raises(SourceError) as caught:
            await fetch(f"file://{path}", store)
        return caught.value.message.removeprefix("wasm: failed to parse metadata: ")

    async def main() -> None:
        assert await message("gone.wasm") == "open gone.wasm: no such file or directory"
        assert await message("") == "open : no such file or directory"
        assert await message("/") == "read /: is a directory"
        assert await message("fifo") == "open fifo: no regular file"
        assert await message("long.wasm") == "long.wasm is longer than 100000 bytes"
        assert "null byte" in await message("a\0b")
        assert len((await fetch("file://just.wasm", store)).data) == 100_000
        # The kernel says such files are empty.
        assert (await fetch("file:///proc/version", store)).data.startswith(b"Linux")

    run(main())


# HTTP ----------------------------------------------------------------------------------------------------------------


def test_a_download_is_kept_and_revalidated(store: Store) -> None:
    async def main() -> None:
        first = reply(ETag='"v1"', Last_Modified="Wed, 01 Jan 2025 00:00:00 GMT")
        other = GUEST + b"!"
        async with origin(first, reply(304, b""), reply(304, b""), reply(body=other, ETag='"v2"')) as it:
            got = await fetch(it.url, store)
            assert (got.data, got.digest, got.how, got.scheme) == (GUEST, DIGEST, "downloaded", "http")
            assert "if-none-match" not in it.heads[0].lower()
            got = await fetch(it.url, store)
            assert (got.data, got.how) == (GUEST, "revalidated")
            assert 'if-none-match: "v1"' in it.heads[1].lower()
            assert "if-modified-since: wed, 01 jan 2025 00:00:00 gmt" in it.heads[1].lower()
            assert (await fetch(it.url, store)).how == "revalidated"
            got = await fetch(it.url, store)
            assert (got.data, got.how) == (other, "downloaded")

    run(main())


def test_a_damaged_kept_copy_is_downloaded_unconditionally(store: Store) -> None:
    async def main() -> None:
        async with origin(reply(ETag='"v1"')) as it:
            await fetch(it.url, store)
            Path(store.path, "modules", f"{DIGEST}.wasm").write_bytes(GUEST[:-1])
            got = await fetch(it.url, store)
            assert (got.data, got.how) == (GUEST, "downloaded")
            assert "if-none-match" not in it.heads[1].lower()

    run(main())


def test_304_without_a_question_is_an_error(store: Store) -> None:
    async def main() -> None:
        async with origin(reply(304, b"")) as it:
            with pytest.raises(SourceError, match="received 304 status code"):
                await fetch(it.url, store)

    run(main())


def test_a_restart_works_while_the_origin_is_down(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with origin(reply()) as it:  # no validators: the copy is kept all the same
            url = it.url
            await fetch(url, store)
        got = await fetch(url, store)
        assert (got.data, got.how) == (GUEST, "offline")
        assert "connection refused; going on with the copy kept" in caplog.text
        with pytest.raises(SourceError, match="the component pins"):
            await fetch(url, store, pin="0" * 64)
        assert (await fetch(url, store, pin=DIGEST)).how == "pinned"

    run(main())


@pytest.mark.parametrize("status", [500, 502, 503, 429])
def test_an_origin_in_trouble_is_stood_in_for_by_the_kept_copy(store: Store, status: int) -> None:
    async def main() -> None:
        async with origin(reply(ETag='"1"'), reply(status, b"")) as it:
            await fetch(it.url, store)
            assert (await fetch(it.url, store)).how == "offline"
            assert len(it.heads) == 3

    run(main())


@pytest.mark.parametrize("status", [404, 410, 401, 403])
def test_a_final_answer_is_believed_even_with_a_kept_copy(store: Store, status: int) -> None:
    async def main() -> None:
        async with origin(reply(ETag='"1"'), reply(status, b"gone")) as it:
            await fetch(it.url, store)
            with pytest.raises(SourceError, match=f"received {status} status code"):
                await fetch(it.url, store)

    run(main())


@pytest.mark.parametrize("status", [404, 403, 204, 206, 301])
def test_dapr_s_words_for_a_status_that_is_not_200(store: Store, status: int) -> None:
    async def main() -> None:
        async with origin(reply(status, b"")) as it:
            with pytest.raises(SourceError) as caught:
                await fetch(it.url, store)
            expected = f'wasm: failed to parse metadata: received {status} status code from "{it.url}"'
            assert caught.value.message == expected
            assert not isinstance(caught.value, UnreachableError)
            assert len(it.heads) == 1

    run(main())


def test_a_pinned_module_is_asked_for_once(store: Store) -> None:
    async def main() -> None:
        async with origin(reply()) as it:
            assert (await fetch(it.url, store, pin=DIGEST)).how == "downloaded"
            assert (await fetch(it.url, store, pin=DIGEST)).how == "pinned"
            assert len(it.heads) == 1
            with pytest.raises(SourceError, match=f"has sha256 {DIGEST}, and the component pins {'1' * 64}"):
                await fetch(it.url, store, pin="1" * 64)

    run(main())


def test_what_misses_its_pin_is_not_kept(store: Store) -> None:
    async def main() -> None:
        async with origin(reply()) as it:
            with pytest.raises(SourceError, match="pins"):
                await fetch(it.url, store, pin="1" * 64)
        assert not Path(store.path, "modules").exists()

    run(main())


def broken(data: bytes) -> Answer:
    """Send some bytes, then reset the connection."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        writer.transport.abort()

    return answer


@pytest.mark.parametrize(
    "failure",
    [
        reply(503, b""),
        reply(429, b"", Retry_After="1"),
        reply(500, b"oops"),
        b"",
        b"HTP/1.1 what\r\n\r\n",
        reply()[:-1],
        broken(b""),
        broken(reply()[:5000]),
    ],
    ids=["503", "429", "500", "closed", "no-http", "cut-off", "reset", "reset-in-body"],
)
def test_passing_failures_are_tried_again(store: Store, failure: bytes | Answer) -> None:
    async def main() -> None:
        async with origin(failure, failure, failure, reply()) as it:
            assert (await fetch(it.url, store)).data == GUEST
            assert len(it.heads) == 4
        async with origin(failure) as it:
            with pytest.raises(UnreachableError) as caught:
                await fetch(it.url, store)
            assert len(it.heads) == 4
            assert "127.0.0.1" in caught.value.message

    run(main())


def test_refused_connections_name_the_cause(store: Store) -> None:
    async def main() -> None:
        url = free_url()
        with pytest.raises(UnreachableError) as caught:
            await fetch(url.replace("http://", "http://user:hunter2@"), store)
        assert caught.value.message == f'wasm: failed to parse metadata: Get "{url}": connection refused'
        with pytest.raises(UnreachableError, match=r": connection refused \(check"):
            await fetch(url.replace("127.0.0.1", "localhost"), store)  # several addresses, several causes
        with pytest.raises(UnreachableError, match=r"not known|no address|temporary failure") as caught:
            await fetch("http://no-such-host.invalid/x.wasm", store)

    run(main())


def test_redirects_are_followed_up_to_a_limit(store: Store) -> None:
    async def main() -> None:
        async with origin(reply()) as target, origin(reply(302, b"", Location=target.url)) as it:
            assert (await fetch(it.url, store)).data == GUEST
        async with origin(reply(307, b"", Location="/my-guest.wasm")) as it:
            with pytest.raises(SourceError, match="stopped after 10 redirects"):
                await fetch(it.url, store)
            assert len(it.heads) == 11
        for location in ("ftp://x/y", "file:///etc/passwd"):
            async with origin(reply(302, b"", Location=location)) as it:
                with pytest.raises(SourceError, match="not http or https"):
                    await fetch(it.url, store)
        async with origin(reply(302, b"", Location="http://[")) as it:
            with pytest.raises(SourceError):
                await fetch(it.url, store)

    run(main())


def test_passwords_go_to_their_own_origin_only_and_never_into_a_log(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="sandboxd")

    async def main() -> None:
        async with origin(reply(503, b"")) as target, origin(reply(302, b"", Location=target.url)) as it:
            with pytest.raises(SourceError) as caught:
                await fetch(it.url.replace("http://", "http://me:hunter2@") + "?sig=hunter3", store)
            assert "authorization: basic bwu6ahvudgvymg==" in it.heads[0].lower()
            assert "authorization" not in target.heads[0].lower()
            assert "hunter" not in str(caught.value)
            assert "asking again" in caplog.text
            assert "hunter" not in caplog.text

    run(main())


def test_too_long_by_announcement_by_bytes_and_after_unpacking(store: Store) -> None:
    async def endless(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"4000\r\n" + bytes(0x4000) + b"\r\n")
            await writer.drain()

    bomb = gzip.compress(bytes(50_000_000))
    scripts: list[bytes | Answer] = [
        reply(body=b"x", Content_Length="100001"),
        reply(body=bytes(100_001)),
        reply(body=bytes(100_001), Content_Length=""),
        reply(body=bomb, Content_Encoding="gzip"),
        endless,
    ]

    async def main() -> None:
        for script in scripts:
            async with origin(script) as it:
                with pytest.raises(SourceError, match="longer than 100000 bytes") as caught:
                    await fetch(it.url, store)
                assert "modules.maxDownloadSize" in caught.value.remedy
                assert len(it.heads) == 1
        async with origin(reply(body=bytes(100_000))) as it:
            assert len((await fetch(it.url, store)).data) == 100_000
        async with origin(reply(body=gzip.compress(GUEST), Content_Encoding="gzip")) as it:
            assert (await fetch(it.url, store)).data == GUEST
        async with origin(reply(body=b"no gzip", Content_Encoding="gzip")) as it:
            with pytest.raises(SourceError, match="content encoding"):
                await fetch(it.url, store)

    run(main())


def silent_after(data: bytes) -> Answer:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    return answer


def test_an_origin_that_stops_answering(store: Store) -> None:
    settings = FetchSettings(read_timeout_s=0.05, backoff_s=0.001, attempts=2)

    async def main() -> None:
        for begun in (b"", reply()[:200]):
            async with origin(silent_after(begun)) as it:
                with pytest.raises(UnreachableError, match="the origin stopped answering"):
                    await fetch(it.url, store, settings=settings)
                assert len(it.heads) == 2

    run(main())


def test_a_trickle_ends_at_the_total_timeout(store: Store) -> None:
    async def trickle(writer: asyncio.StreamWriter) -> None:
        writer.write(reply()[:200])
        while not writer.is_closing():
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.01)

    async def main() -> None:
        async with origin(trickle) as it:
            with pytest.raises(UnreachableError, match=r"not done after 0\.2 s"):
                await fetch(it.url, store, settings=FetchSettings(total_timeout_s=0.2))

    run(main())


def test_progress_tells_bytes_and_the_announced_length(store: Store) -> None:
    seen: list[tuple[int, int]] = []

    async def main() -> None:
        async with origin(reply()) as it:
            await fetch(it.url, store, on_bytes=lambda done, total: seen.append((done, total)))

    run(main())
    assert seen
    assert all(0 < done <= len(GUEST) and total == len(GUEST) for done, total in seen)


def test_a_store_that_cannot_be_written_only_costs_the_copy(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    Path(store.path).chmod(0o777)

    async def main() -> None:
        async with origin(reply()) as it:
            assert (await fetch(it.url, store)).how == "downloaded"
        assert "is not kept" in caplog.text

    run(main())


# TLS -----------------------------------------------------------------------------------------------------------------


def certificate(folder: Path, name: str) -> tuple[ssl.SSLContext, Path]:
    """A server context with a self-signed certificate for `name`, and the file that makes clients trust it."""
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    alternative: x509.GeneralName
    try:
        alternative = x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        alternative = x509.DNSName(name)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    chain = folder / "chain.pem"
    chain.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private = folder / "key.pem"
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, private)
    return context, chain


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # asyncio: the peer breaks off its server's handshake
def test_tls_is_verified_and_failures_are_final(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server, chain = certificate(tmp_path, "127.0.0.1")

    async def main() -> None:
        async with origin(reply(), tls=server) as it:
            with pytest.raises(SourceError, match="tls: failed to verify certificate") as caught:
                await fetch(it.url, store)
            assert not isinstance(caught.value, UnreachableError)
            monkeypatch.setenv("SSL_CERT_FILE", str(chain))
            got = await fetch(it.url, store)
            assert (got.data, got.scheme) == (GUEST, "https")
            trusting = ssl.create_default_context(cafile=chain)
            assert (await fetch(it.url, store, tls=trusting)).data == GUEST
        async with origin(reply()) as plain, origin(reply(302, b"", Location=plain.url), tls=server) as it:
            with pytest.raises(SourceError, match="redirected from https to http"):
                await fetch(it.url, store)
            assert plain.heads == []

    run(main())


def test_a_certificate_for_another_name_is_refused(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, chain = certificate(tmp_path, "example.com")
    monkeypatch.setenv("SSL_CERT_FILE", str(chain))

    async def main() -> None:
        async with origin(reply(), tls=server) as it:
            with pytest.raises(SourceError, match="tls: failed to verify certificate: IP address mismatch"):
                await fetch(it.url, store)

    run(main())


def test_the_environment_s_proxy_is_honoured(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with origin(reply()) as proxy:
            monkeypatch.setenv("HTTP_PROXY", proxy.url.removesuffix("/my-guest.wasm"))
            assert (await fetch("http://guests.invalid/a.wasm", store)).data == GUEST
            assert proxy.heads[0].startswith("GET http://guests.invalid/a.wasm HTTP/1.1")

    run(main())
