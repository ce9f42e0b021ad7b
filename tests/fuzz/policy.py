"""The egress policy: authorities mean one thing, patterns are read or refused, the default admits no inner address."""

import ipaddress

from tests.fuzz.engine import fuzz, instrumented

with instrumented():
    from hostfuncs.outbound.authority import parse_authority
    from hostfuncs.outbound.policy import Denied, Policy

SEEDS = (
    b"api.example.com:8443",
    b"[fe80::1%25eth0]:80",
    b"0x7f.1",
    b"https://*.svc.cluster.local:8080",
    b"http://10.1.0.0/16:*",
    "http://bücher.example.".encode(),
    b"\x7f\0\0\1",
    b"\0\0\0\0\0\0\0\0\0\0\xff\xff\x7f\0\0\1",
    b"\0\x64\xff\x9b\0\0\0\0\0\0\0\0\xa9\xfe\xa9\xfe",
)
DEFAULT = Policy.parse(None)


def target(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    for scheme in ("http", "https"):
        try:
            authority = parse_authority(text, scheme)
        except ValueError as error:
            assert str(error)
        else:
            again = parse_authority(authority.header.decode("ascii"), scheme)
            assert (again.host, again.port, again.address) == (authority.host, authority.port, authority.address)
            assert 1 <= authority.port <= 65535
            assert not set(authority.header) & set(b" @/?#\\%\r\n\t\0")
            try:
                rule = Policy.parse([text]).admit(scheme, authority)
            except (ValueError, Denied):
                rule = None
            assert rule is None or rule.text == text
    if len(data) in (4, 16):
        _check_address(ipaddress.ip_address(data))


def _check_address(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    inner = [address]
    if isinstance(address, ipaddress.IPv6Address):
        inner += [form for form in (address.ipv4_mapped, address.sixtofour) if form is not None]
        if address in ipaddress.ip_network("64:ff9b::/96"):
            inner.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    try:
        DEFAULT.check_address(None, "http", 80, address)
    except Denied as denied:
        assert denied.reason == "address"
        return
    for form in inner:
        assert not (form.is_loopback or form.is_link_local or form.is_multicast or form.is_unspecified), address


if __name__ == "__main__":
    fuzz(target)
