"""Authorities that could be read in two ways are not read at all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostfuncs.outbound.authority import parse_authority


@pytest.mark.parametrize(
    ("text", "scheme", "host", "port", "header"),
    [
        ("example.com", "http", "example.com", 80, b"example.com"),
        ("example.com", "https", "example.com", 443, b"example.com"),
        ("EXAMPLE.com:80", "http", "example.com", 80, b"example.com"),
        ("example.com:80", "https", "example.com", 80, b"example.com:80"),
        ("example.com:", "https", "example.com", 443, b"example.com"),
        ("example.com:00443", "https", "example.com", 443, b"example.com"),
        ("example.com.", "http", "example.com", 80, b"example.com"),
        ("localhost:65535", "http", "localhost", 65535, b"localhost:65535"),
        ("my_service:1", "http", "my_service", 1, b"my_service:1"),
        ("127.0.0.1:8080", "http", "127.0.0.1", 8080, b"127.0.0.1:8080"),
        ("[::1]", "http", "::1", 80, b"[::1]"),
        ("[0:0:0:0:0:0:0:1]:81", "http", "::1", 81, b"[::1]:81"),
        ("[::FFFF:1.2.3.4]", "http", "::ffff:1.2.3.4", 80, None),
        ("bücher.example", "http", "xn--bcher-kva.example", 80, b"xn--bcher-kva.example"),
        ("BÜCHER.example:8", "http", "xn--bcher-kva.example", 8, b"xn--bcher-kva.example:8"),
        # UTS 46 maps what looks like a dot, a digit or a letter to it, before anything is decided.
        ("example\u3002com", "http", "example.com", 80, b"example.com"),
        ("\uff11\uff12\uff17.0.0.1", "http", "127.0.0.1", 80, b"127.0.0.1"),
        ("1.example", "http", "1.example", 80, b"1.example"),
        ("0xabc.example", "http", "0xabc.example", 80, b"0xabc.example"),
    ],
)
def test_one_reading(text: str, scheme: str, host: str, port: int, header: bytes | None) -> None:
    authority = parse_authority(text, scheme)
    if header is not None:
        assert authority.host == host
        assert authority.header == header
    assert authority.port == port
    assert (authority.address is not None) == ("example" not in host and (host[0].isdigit() or ":" in host))


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":80",
        ".",
        "..",
        "a..b",
        ".a",
        "user@example.com",
        "user:password@example.com",
        "@example.com",
        "example.com@",
        "example.com:65536",
        "example.com:99999",
        "example.com:0",
        "example.com:-1",
        "example.com:+80",
        "example.com:8o",
        "example.com:80:80",
        "example.com:\u0668\u0660",
        "example.com :80",
        " example.com",
        "example.com\n",
        "exam\tple.com",
        "example.com\r\nX: y",
        "example\x00.com",
        "example.com\x7f",
        "example.com\u00a0",
        "example.com/",
        "example.com?x",
        "example.com#x",
        "example.com\\evil.test",
        "exa%6dple.com",
        "[::1",
        "::1",
        "[::1]x",
        "[::1]80",
        "[127.0.0.1]",
        "[example.com]",
        "[fe80::1%eth0]",
        "[fe80::1%25eth0]",
        "[]",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "0177.0.0.1",
        "127.1",
        "127.0.1",
        "127.0.0.1.",
        "1.2.3.4.5",
        "256.0.0.1",
        "127.0.0.01",
        "127.0.0.0x1",
        "example.0",
        "-example.com",
        "example-.com",
        "a" * 64 + ".com",
        ".".join(["a" * 60] * 5),
        "a" * 600,
        "\ud800.com",
        "xn--\u00e9.example",
        "*.example.com",
        "exa!mple.com",
    ],
)
def test_no_reading(text: str) -> None:
    if text == "127.0.0.1.":
        # A trailing dot is dropped before the address is read, as in URLs of the WHATWG's standard.
        assert parse_authority(text, "http").host == "127.0.0.1"
        return
    with pytest.raises(ValueError):
        parse_authority(text, "http")


@given(st.text(max_size=40))
def test_what_is_read_is_plain_and_reads_the_same_again(text: str) -> None:
    try:
        authority = parse_authority(text, "http")
    except ValueError:
        return
    assert authority.header.isascii()
    assert b"\r" not in authority.header
    assert b"@" not in authority.header
    again = parse_authority(authority.header.decode("ascii"), "http")
    assert (again.host, again.port, again.address) == (authority.host, authority.port, authority.address)
