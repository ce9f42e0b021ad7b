"""Downloads from real, scripted HTTP origins on the loopback: retries, redirects, bounds, time, TLS and proxies."""

import asyncio
import contextlib
import gzip
import logging
import socket
import ssl
from pathlib import Path

import pytest

from sandboxd.modules.download import FetchSettings
from sandboxd.modules.errors import SourceError, UnreachableError
from sandboxd.modules.store import Store
from tests.unit.module_origins import GUEST, Answer, fetch, origin, reply, run


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
    async def main(url: str) -> None:
        with pytest.raises(UnreachableError) as caught:
            await fetch(url.replace("http://", "http://user:hunter2@"), store)
        assert caught.value.message == f'wasm: failed to parse metadata: Get "{url}": connection refused'
        with pytest.raises(UnreachableError, match=r": connection refused \(nothing listens there: check the port"):
            await fetch(url.replace("127.0.0.1", "localhost"), store)  # several addresses, several causes
        with pytest.raises(UnreachableError, match=r"not known|no address|temporary failure") as caught:
            await fetch("http://no-such-host.invalid/x.wasm", store)

    with socket.socket() as bound:  # nobody else can listen on its port, and it does not
        bound.bind(("127.0.0.1", 0))
        run(main(f"http://127.0.0.1:{bound.getsockname()[1]}/x.wasm"))


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
            assert "trying again" in caplog.text
            assert "hunter" not in caplog.text

    run(main())


def test_too_long_by_announcement_by_bytes_and_after_unpacking(store: Store) -> None:
    async def endless(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"4000\r\n" + bytes(0x4000) + b"\r\n")
            await writer.drain()

    bomb = gzip.compress(bytes(5_000_000))
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
    settings = FetchSettings(read_timeout_s=0.5, backoff_s=0.001, attempts=2)

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
