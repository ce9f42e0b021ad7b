"""The egress policy: patterns, the default rule, blocked networks, addresses in disguise. No network."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostfuncs.outbound.addresses import Kind, forms, kind_of
from hostfuncs.outbound.authority import parse_authority
from hostfuncs.outbound.policy import Denied, Policy


def decide(policy: Policy, url: str, *resolved: str) -> str:
    """`ok`, or the reason for a denial, going through the steps in order."""
    scheme, _, rest = url.partition("://")
    try:
        authority = parse_authority(rest, scheme)
        rule = policy.admit(scheme, authority)
        addresses = [authority.address] if authority.address else [ipaddress.ip_address(text) for text in resolved]
        for address in addresses:
            policy.check_address(rule, scheme, authority.port, address)
    except Denied as denied:
        return denied.reason
    return "ok"


@pytest.mark.parametrize(
    ("pattern", "url", "expected"),
    [
        ("https://api.example.com", "https://api.example.com", "ok"),
        ("https://api.example.com", "https://API.Example.COM.", "ok"),
        ("https://api.example.com", "https://api.example.com:443", "ok"),
        ("https://api.example.com", "https://api.example.com:8443", "host"),
        ("https://api.example.com", "http://api.example.com", "scheme"),
        ("https://api.example.com", "https://api.example.com.evil.test", "host"),
        ("https://api.example.com", "https://xapi.example.com", "host"),
        ("http://*.svc.cluster.local:8080", "http://a.b.svc.cluster.local:8080", "ok"),
        ("http://*.svc.cluster.local:8080", "http://svc.cluster.local:8080", "host"),
        ("http://*.svc.cluster.local:8080", "http://evilsvc.cluster.local:8080", "host"),
        ("http://*.svc.cluster.local:8080", "http://a.svc.cluster.local", "host"),
        ("https://10.1.0.0/16:*", "https://10.1.255.1:9", "ok"),
        ("https://10.1.0.0/16:*", "https://10.2.0.1", "host"),
        ("https://10.1.0.0/16:*", "https://name-in-10.test", "host"),
        ("https://10.1.0.0/16", "https://[::ffff:10.1.2.3]", "ok"),
        ("https://[fd00::/8]:*", "https://[fd12::1]:5", "ok"),
        ("https://[fd00::]/8:*", "https://[fd12::1]:5", "ok"),
        ("http://[::1]:80", "http://[0:0:0:0:0:0:0:1]", "ok"),
        ("*", "http://anything.test:81", "ok"),
        ("*://*:*", "https://anything.test:81", "ok"),
        ("https://*", "https://anything.test", "ok"),
        ("https://*", "https://anything.test:81", "host"),
        ("https://bücher.example", "https://xn--bcher-kva.example", "ok"),
        ("https://xn--bcher-kva.example", "https://bücher.example", "ok"),
        ("http://example.com", "http://example.com@evil.test", None),
    ],
)
def test_patterns_match_scheme_host_and_port(pattern: str, url: str, expected: str | None) -> None:
    if expected is None:
        with pytest.raises(ValueError, match="user information"):
            decide(Policy.parse([pattern]), url, "93.184.216.34")
    else:
        assert decide(Policy.parse([pattern]), url, "93.184.216.34") == expected


def test_one_text_is_not_a_list_of_patterns() -> None:
    with pytest.raises(TypeError, match=r"allowed_hosts is one text; write \['\*'\]"):
        Policy.parse("*")


def test_an_empty_list_allows_nothing() -> None:
    assert decide(Policy.parse([]), "https://example.com", "93.184.216.34") == "host"


NOT_BY_DEFAULT = [
    ("127.0.0.1", Kind.LOOPBACK),
    ("127.255.255.254", Kind.LOOPBACK),
    ("::1", Kind.LOOPBACK),
    ("169.254.1.1", Kind.LINK_LOCAL),
    ("fe80::1", Kind.LINK_LOCAL),
    ("169.254.169.254", Kind.METADATA),
    ("fd00:ec2::254", Kind.METADATA),
    ("168.63.129.16", Kind.METADATA),
    ("100.100.100.200", Kind.METADATA),
    ("224.0.0.1", Kind.MULTICAST),
    ("ff02::1", Kind.MULTICAST),
    ("0.0.0.0", Kind.UNSPECIFIED),
    ("0.1.2.3", Kind.UNSPECIFIED),
    ("255.255.255.255", Kind.UNSPECIFIED),
    ("::", Kind.UNSPECIFIED),
]


@pytest.mark.parametrize(("address", "kind"), NOT_BY_DEFAULT)
def test_default_rule_refuses_what_only_an_attacker_asks_for(address: str, kind: Kind) -> None:
    assert kind_of(ipaddress.ip_address(address)) is kind
    shown = f"[{address}]" if ":" in address else address
    assert decide(Policy.parse(None), f"http://{shown}") == "address"
    assert decide(Policy.parse(None), "http://rebound.test", address) == "address"
    # A wildcard names nothing explicitly.
    assert decide(Policy.parse(["*"]), "http://rebound.test", address) == "address"
    # Named explicitly, by address, it is allowed; the host that resolves to it lifts loopback alone.
    assert decide(Policy.parse([f"http://{shown}"]), f"http://{shown}") == "ok"
    lifted = "ok" if kind is Kind.LOOPBACK else "address"
    assert decide(Policy.parse(["http://named.test"]), "http://named.test", address) == lifted
    assert decide(Policy.parse(["*", f"http://{shown}"]), "http://other.test", address) == "ok"
    assert decide(Policy.parse(["*", f"https://{shown}"]), "http://other.test", address) == "address"


@pytest.mark.parametrize("address", ["93.184.216.34", "10.0.0.1", "172.31.0.1", "192.168.0.1", "100.64.0.1", "fd00::1"])
def test_default_rule_allows_public_and_private_as_dapr_does(address: str) -> None:
    assert decide(Policy.parse(None), "http://some.test", address) == "ok"


@pytest.mark.parametrize("host", ["metadata.google.internal", "METADATA.google.internal.", "metadata.goog"])
def test_metadata_names_are_refused_unless_named(host: str) -> None:
    assert decide(Policy.parse(None), f"http://{host}", "93.184.216.34") == "host"
    assert decide(Policy.parse(["*"]), f"http://{host}", "93.184.216.34") == "host"
    assert decide(Policy.parse([f"http://{host}"]), f"http://{host}", "169.254.169.254") == "ok"


@pytest.mark.parametrize(
    ("disguised", "inside"),
    [
        ("::ffff:127.0.0.1", "127.0.0.1"),
        ("64:ff9b::7f00:1", "127.0.0.1"),
        ("64:ff9b::a9fe:a9fe", "169.254.169.254"),
        ("64:ff9b:1::7f00:1", "127.0.0.1"),
        ("2002:7f00:1::", "127.0.0.1"),
        ("2002:a9fe:a9fe::1", "169.254.169.254"),
        ("::7f00:1", "127.0.0.1"),
        ("2001:0:4136:e378:8000:63bf:80ff:fffe", "127.0.0.1"),
    ],
)
def test_addresses_inside_addresses_are_seen(disguised: str, inside: str) -> None:
    assert ipaddress.ip_address(inside) in forms(ipaddress.ip_address(disguised))
    assert decide(Policy.parse(None), f"http://[{disguised}]") == "address"
    assert decide(Policy.parse(None), "http://rebound.test", disguised) == "address"


@pytest.mark.parametrize(
    ("block", "address"),
    [
        ("private", "10.9.8.7"),
        ("private", "::ffff:10.9.8.7"),
        ("private", "64:ff9b::a09:807"),
        ("loopback", "127.0.0.1"),
        ("loopback", "0.0.0.0"),
        ("link-local", "169.254.169.254"),
        ("metadata", "169.254.169.254"),
        ("203.0.113.0/24", "203.0.113.5"),
        ("203.0.113.5", "203.0.113.5"),
        ("2001:db8::/32", "2001:db8::1"),
    ],
)
def test_blocked_networks_win_over_everything(block: str, address: str) -> None:
    policy = Policy.parse(["http://named.test", "http://0.0.0.0/0:*", "http://[::/0]:*"], [block])
    assert decide(policy, "http://named.test", address) == "address"
    shown = f"[{address}]" if ":" in address else address
    assert decide(policy, f"http://{shown}") == "address"


def test_a_rule_that_names_the_host_beats_a_wildcard_before_it() -> None:
    policy = Policy.parse(["*", "http://localhost:8080"])
    authority = parse_authority("localhost:8080", "http")
    rule = policy.admit("http", authority)
    assert rule is not None
    assert rule.text == "http://localhost:8080"
    assert decide(policy, "http://localhost:8080", "127.0.0.1") == "ok"
    assert decide(policy, "http://localhost:8081", "127.0.0.1") == "address"


def test_denials_carry_the_matched_rule_and_never_the_host() -> None:
    policy = Policy.parse(["https://*.example.com"])
    rule = policy.admit("https", parse_authority("secret-tenant.example.com", "https"))
    with pytest.raises(Denied) as caught:
        policy.check_address(rule, "https", 443, ipaddress.ip_address("127.0.0.1"))
    assert caught.value.rule == "https://*.example.com"
    assert caught.value.code.name == "destination-IP-prohibited"
    with pytest.raises(Denied) as caught:
        policy.admit("https", parse_authority("other.test", "https"))
    assert caught.value.rule == ""
    assert caught.value.code.name == "HTTP-request-denied"


@pytest.mark.parametrize(
    ("pattern", "cause"),
    [
        ("", "is not scheme"),
        ("example.com", "is not scheme"),
        ("ftp://example.com", "is not scheme"),
        ("https://example.com/path", "https://example.com/path"),
        ("https://example.com:0", "port 0"),
        ("https://example.com:65536", "port 65536"),
        ("https://example.com:http", "is not scheme"),
        ("https://a*b.example.com", "whole labels"),
        ("https://*.*.example.com", "host name"),
        ("https://10.1.0.1/16", "host bits"),
        ("https://10.1.0.0/33", "10.1.0.0/33"),
        ("https://*.10.1.0.1", "not an address"),
        ("https://127.1", "four decimal numbers"),
        ("https://[::1%eth0]", "zone"),
        ("https://[::1", "is not scheme"),
        ("https://user@example.com", "host name"),
        (" https://example.com", "is not scheme"),
        ("https://exa mple.com", "host name"),
    ],
)
def test_wrong_patterns_say_what_to_write(pattern: str, cause: str) -> None:
    with pytest.raises(ValueError, match=r"write for example|ports are") as caught:
        Policy.parse([pattern])
    assert repr(pattern) in str(caught.value)
    assert cause in str(caught.value)


@pytest.mark.parametrize("text", ["", "public", "10.0.0.0/40", "example.com"])
def test_wrong_block_networks_say_what_to_write(text: str) -> None:
    with pytest.raises(ValueError, match="write a CIDR such as"):
        Policy.parse(None, [text])


@given(st.text(max_size=60))
def test_no_text_makes_the_pattern_parser_fail_otherwise(text: str) -> None:
    try:
        Policy.parse([text], [text])
    except ValueError:
        return


@given(st.integers(0, 2**128 - 1).map(ipaddress.IPv6Address) | st.integers(0, 2**32 - 1).map(ipaddress.IPv4Address))
def test_what_the_standard_library_calls_local_never_passes_by_default(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    suspicious = any(
        form.is_loopback or form.is_link_local or form.is_multicast or form.is_unspecified for form in forms(address)
    )
    try:
        Policy.parse(None).check_address(None, "http", 80, address)
    except Denied:
        return
    assert not suspicious


@pytest.mark.parametrize("network", ["10.1.2.3/8", "fd00::1/8"])
def test_a_network_with_bits_beyond_its_prefix_is_refused_as_in_the_configuration(network: str) -> None:
    with pytest.raises(ValueError, match="has bits set beyond its prefix"):
        Policy.parse(None, [network])
