"""What a rule lifts and what it never does: metadata services, addresses within addresses, the server's own ports.

Addresses of metadata services are those that the vendors document (AWS, Azure, Google Cloud, Oracle, Alibaba, Tencent,
Scaleway, Akamai, Volcano Engine, UCloud, OpenStack); cloud-init's data sources name most of them.
"""

import ipaddress
import socket
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostfuncs.outbound.addresses import Kind, embedded, forms, is_of_this_machine, kind_of
from hostfuncs.outbound.policy import Policy
from tests.host.test_policy import decide

METADATA = [
    "169.254.169.254",
    "169.254.170.2",
    "169.254.170.23",
    "169.254.0.23",
    "169.254.42.42",
    "168.63.129.16",
    "100.100.100.200",
    "100.96.0.96",
    "100.80.80.80",
    "192.0.0.192",
    "fd00:ec2::254",
    "fd00:ec2::23",
    "fd20:ce::254",
    "fd00:c1::a9fe:a9fe",
    "fd00:42::42",
    "fd00:a9fe:a9fe::1",
    "fd00:100::100:200",
    "fe80::a9fe:a9fe",
]


def shown(address: str) -> str:
    return f"[{address}]" if ":" in address else address


@pytest.mark.parametrize("address", METADATA)
def test_no_rule_lifts_a_metadata_address_but_one_that_says_it(address: str) -> None:
    assert kind_of(ipaddress.ip_address(address)) is Kind.METADATA
    url = f"http://{shown(address)}"
    partner = "http://api.partner.example"
    for allowed in (None, ["*"], ["*://*:*"], [partner], ["http://*.partner.example"]):
        assert decide(Policy.parse(allowed), partner, address) in ("address", "host"), allowed
    assert decide(Policy.parse([partner]), partner, address) == "address"
    assert decide(Policy.parse(["*"]), url) == "address"
    # A wide network is no word for one address in it.
    assert decide(Policy.parse([partner, "http://0.0.0.0/0:*", "http://[::/0]:*"]), partner, address) == "address"
    assert decide(Policy.parse([partner, "http://169.254.0.0/16", "http://[fe80::/10]"]), partner, address) == "address"
    # The address itself, or the word.
    assert decide(Policy.parse([url]), url) == "ok"
    assert decide(Policy.parse([partner, url]), partner, address) == "ok"
    assert decide(Policy.parse([partner, f"https://{shown(address)}"]), partner, address) == "address"
    assert decide(Policy.parse([partner, "metadata"]), partner, address) == "ok"
    assert decide(Policy.parse(["metadata"]), url) == "ok"
    assert decide(Policy.parse(["metadata"]), partner, address) == "host"
    # Nothing overrides a block.
    assert decide(Policy.parse([partner, url, "metadata"], ["metadata"]), partner, address) == "address"


@pytest.mark.parametrize(
    "address", ["169.254.1.1", "169.254.20.10", "fe80::1", "224.0.0.1", "ff02::1", "0.0.0.0", "::"]
)
def test_a_rule_that_names_a_host_lifts_no_other_local_address(address: str) -> None:
    assert decide(Policy.parse(["http://named.test"]), "http://named.test", address) == "address"
    assert decide(Policy.parse(["http://named.test", f"http://{shown(address)}"]), "http://named.test", address) == "ok"


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1", "10.0.0.1", "192.168.1.1", "fd12::1"])
def test_a_rule_that_names_a_host_lifts_loopback_and_private_addresses(address: str) -> None:
    assert decide(Policy.parse(["http://named.test"]), "http://named.test", address) == "ok"


def test_the_link_local_range_is_lifted_by_itself_only() -> None:
    for wide in ("http://0.0.0.0/0", "http://169.0.0.0/8"):
        assert decide(Policy.parse([wide]), "http://169.254.7.7") == "address"
    assert decide(Policy.parse(["http://169.254.0.0/16"]), "http://169.254.7.7") == "ok"


@pytest.mark.parametrize("name", ["metadata.google.internal", "metadata.goog", "METADATA.tencentyun.com."])
def test_the_name_of_a_metadata_service_is_the_word_too(name: str) -> None:
    assert decide(Policy.parse(["*"]), f"http://{name}", "8.8.8.8") == "host"
    assert decide(Policy.parse([f"http://{name}"]), f"http://{name}", "169.254.169.254") == "ok"
    assert decide(Policy.parse(["metadata"]), f"http://{name}", "169.254.169.254") == "ok"


# addresses within addresses -------------------------------------------------------------------------------------------


def rfc6052(prefix: str, length: int, inside: str) -> str:
    """An address as RFC 6052, 2.2 makes it: bits 64 to 71 are left out."""
    bits = int(ipaddress.IPv6Address(prefix)) >> (128 - length)
    v4 = int(ipaddress.IPv4Address(inside))
    if length == 96:
        whole = bits << 32 | v4
    else:
        before = min(32, 64 - length)
        whole = (bits << before) | (v4 >> (32 - before))
        after = 32 - before
        whole = whole << 8  # the octet that is zero
        whole = (whole << after) | (v4 & ((1 << after) - 1))
        whole <<= 128 - length - 32 - 8
    return str(ipaddress.IPv6Address(whole))


# RFC 6052, 2.4: text representations of 192.0.2.33 under prefixes of every length.
@pytest.mark.parametrize(
    ("prefix", "length", "address"),
    [
        ("2001:db8::", 32, "2001:db8:c000:221::"),
        ("2001:db8:100::", 40, "2001:db8:1c0:2:21::"),
        ("2001:db8:122::", 48, "2001:db8:122:c000:2:2100::"),
        ("2001:db8:122:300::", 56, "2001:db8:122:3c0:0:221::"),
        ("2001:db8:122:344::", 64, "2001:db8:122:344:c0:2:2100::"),
        ("2001:db8:122:344::", 96, "2001:db8:122:344::192.0.2.33"),
        ("64:ff9b::", 96, "64:ff9b::192.0.2.33"),
    ],
)
def test_the_examples_of_rfc_6052(prefix: str, length: int, address: str) -> None:
    parsed = ipaddress.IPv6Address(address)
    assert ipaddress.IPv6Address(rfc6052(prefix, length, "192.0.2.33")) == parsed
    assert embedded(parsed, length) == ipaddress.IPv4Address("192.0.2.33")
    policy = Policy.parse(None, ["192.0.2.0/24"], nat64_prefixes=[f"{prefix}/{length}"])
    assert decide(policy, "http://rebound.test", address) == "address"


@pytest.mark.parametrize("inside", ["127.0.0.1", "169.254.169.254", "169.254.170.2", "100.100.100.200"])
@pytest.mark.parametrize(
    ("prefix", "length"),
    [
        *(("64:ff9b::", length) for length in (32, 40, 48, 56, 64, 96)),
        *(("64:ff9b:1::", length) for length in (48, 56, 64, 96)),
        ("64:ff9b:1:fffe::", 96),
    ],
)
def test_the_well_known_prefixes_at_every_length(prefix: str, length: int, inside: str) -> None:
    address = rfc6052(prefix, length, inside)
    assert ipaddress.ip_address(inside) in forms(ipaddress.ip_address(address))
    assert decide(Policy.parse(None), f"http://[{address}]") == "address"
    assert decide(Policy.parse(["http://named.test"]), "http://named.test", address) in ("address", "ok")
    if inside != "127.0.0.1":
        assert decide(Policy.parse(["http://named.test"]), "http://named.test", address) == "address"


@pytest.mark.parametrize("length", [32, 40, 48, 56, 64, 96])
@given(inside=st.integers(0, 2**32 - 1).map(ipaddress.IPv4Address), data=st.data())
def test_a_configured_prefix_at_every_length(length: int, inside: ipaddress.IPv4Address, data: st.DataObject) -> None:
    top = data.draw(st.integers(0, 2 ** (length - 16) - 1))
    prefix = ipaddress.IPv6Network((0x2A00 << 112 | top << (128 - length), length))
    if length == 96:
        # RFC 6052, 2.2: bits 64 to 71 are zero in the prefix as well.
        prefix = ipaddress.IPv6Network((int(prefix.network_address) & ~(0xFF << 56), length))
    address = ipaddress.IPv6Address(rfc6052(str(prefix.network_address), length, str(inside)))
    policy = Policy.parse(None, nat64_prefixes=[str(prefix)])
    assert inside in forms(address, policy.nat64)
    allowed = kind_of(inside) in (Kind.PUBLIC, Kind.PRIVATE)
    assert (decide(policy, "http://rebound.test", str(address)) == "ok") == allowed


@pytest.mark.parametrize("inside", ["8.8.8.8", "93.184.216.34"])
def test_public_addresses_through_a_translator_pass(inside: str) -> None:
    for address in (f"64:ff9b::{inside}", f"64:ff9b:1::{inside}", rfc6052("64:ff9b:1::", 64, inside)):
        assert decide(Policy.parse(None), "http://some.test", address) == "ok", address


@pytest.mark.parametrize(
    ("address", "inside"),
    [
        ("::ffff:0:127.0.0.1", "127.0.0.1"),  # SIIT, RFC 2765 and 6145
        ("::ffff:0:169.254.169.254", "169.254.169.254"),
        ("fe80::5efe:127.0.0.1", "127.0.0.1"),  # ISATAP, RFC 5214, 6.1
        ("2001:db8::5efe:127.0.0.1", "127.0.0.1"),
        ("2001:db8::200:5efe:169.254.169.254", "169.254.169.254"),
        ("2002:a9fe:a9fe::", "169.254.169.254"),  # 6to4, RFC 3056
        ("2002:808:808::5efe:169.254.169.254", "169.254.169.254"),
        ("::127.0.0.1", "127.0.0.1"),  # IPv4-compatible, RFC 4291, 2.5.5.1
        ("::ffff:127.0.0.1", "127.0.0.1"),  # IPv4-mapped
        ("2001:0:7f00:1::f7f7:f7f7", "127.0.0.1"),  # Teredo's server, RFC 4380
    ],
)
def test_every_other_way_to_carry_an_address(address: str, inside: str) -> None:
    assert ipaddress.ip_address(inside) in forms(ipaddress.ip_address(address))
    assert decide(Policy.parse(None), f"http://[{address}]") == "address"
    assert decide(Policy.parse(None), "http://rebound.test", address) == "address"
    if inside.startswith("169"):
        assert decide(Policy.parse(["http://named.test"]), "http://named.test", address) == "address"


def test_a_network_rule_does_not_match_a_stranger_who_carries_its_address() -> None:
    policy = Policy.parse(["http://10.1.0.0/16"])
    assert decide(policy, "http://10.1.2.3") == "ok"
    assert decide(policy, "http://[::ffff:10.1.2.3]") == "ok"
    for stranger in ("2001:db8::5efe:10.1.2.3", "2002:0a01:0203::1", "64:ff9b::10.1.2.3"):
        assert decide(policy, f"http://[{stranger}]") == "host"


@pytest.mark.parametrize(
    "prefix",
    ["10.0.0.0/8", "2001:db8::/33", "2001:db8::/128", "2001:db8::1/96", "nonsense", "", "64:ff9b:0:0:ff00::/96"],
)
def test_wrong_nat64_prefixes(prefix: str) -> None:
    with pytest.raises(ValueError, match="NAT64 prefix"):
        Policy.parse(None, nat64_prefixes=[prefix])


# the server's own ports -----------------------------------------------------------------------------------------------


def own_address() -> str:
    """An address of this machine that is not loopback; the loopback one if it has no other."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


def test_this_machine_s_addresses() -> None:
    for address in (own_address(), "127.0.0.1", "127.3.2.1", "::1", "0.0.0.0", "::"):
        assert is_of_this_machine(ipaddress.ip_address(address)), address
    for address in ("192.0.2.1", "8.8.8.8", "2001:db8::1"):
        assert not is_of_this_machine(ipaddress.ip_address(address)), address


NETWORK = """
ip link set lo up
ip addr add 10.99.0.1/24 dev lo
ip addr add 10.99.0.2/24 dev lo
ip addr add 10.98.0.1/32 dev lo
ip route add local 192.0.2.0/24 dev lo
ip route add local 198.51.100.0/24 dev lo src 10.99.0.1
ip -6 addr add fd99::1/64 dev lo nodad
ip -6 route add local fd98::/64 dev lo
echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
"""
"""A machine with a second address of one network, ranges routed to itself, and the anycast address of its routers
(RFC 4291, 2.6.1). Packets to some of these have another of its addresses as their source."""
OWN = ["10.99.0.1", "10.99.0.2", "10.98.0.1", "192.0.2.5", "198.51.100.5", "fd99::1", "fd99::", "fd98::7"]
OTHERS = ["10.99.1.1", "203.0.113.1", "fd97::1", "2001:db8::1"]


def test_every_address_of_this_machine_is_its_own() -> None:
    program = (
        "import ipaddress, sys; from hostfuncs.outbound.addresses import is_of_this_machine as own;"
        "print(*(own(ipaddress.ip_address(a)) for a in sys.argv[1:]))"
    )
    script = f'{NETWORK}exec "$@"'
    command = ["unshare", "--map-root-user", "--net", "sh", "-e", "-c", script, "sh", sys.executable, "-c", program]
    done = subprocess.run([*command, *OWN, *OTHERS], capture_output=True, text=True, timeout=60)
    if done.returncode and "unshare:" in done.stderr:
        pytest.skip("no network namespace can be made here")
    assert done.stdout.split() == ["True"] * len(OWN) + ["False"] * len(OTHERS), done.stderr


@pytest.mark.parametrize("address", sorted({own_address(), "127.0.0.1", "127.8.8.8"}))
def test_the_server_s_own_port_is_denied_unless_address_and_port_are_named(address: str) -> None:
    def ask(*allowed: str, port: int = 3500, resolved: bool = True) -> str:
        host = "named.test" if resolved else address
        return decide(
            Policy.parse(allowed, own_ports=[3500]), f"http://{host}:{port}", *([address] if resolved else [])
        )

    assert ask("http://named.test:3500") == "address"
    assert ask("http://named.test:*") == "address"
    assert ask("http://named.test:*", f"http://{address}:*") == "address"
    assert ask("http://named.test:*", "http://0.0.0.0/0:3500") == "address"
    assert ask("http://named.test:*", f"http://{address}:3500") == "ok"
    assert ask(f"http://{address}:3500", resolved=False) == "ok"
    assert ask(f"http://{address}:*", resolved=False) == "address"
    assert ask("http://named.test:*", port=3501) == "ok"


def test_the_own_port_is_denied_without_a_list_too() -> None:
    address = own_address()
    assert decide(Policy.parse(None, own_ports=[3500]), f"http://{address}:3500") == "address"
    assert decide(Policy.parse(None, own_ports=[80]), f"http://[::ffff:{address}]") == "address"
    assert decide(Policy.parse(None, own_ports=[3500]), "http://192.0.2.1:3500") == "ok"


def test_policies_of_two_bindings_are_not_equal() -> None:
    assert Policy.parse(["*"], owner="a") != Policy.parse(["*"], owner="b")
    assert Policy.parse(["*"], owner="a") == Policy.parse(["*"], owner="a")
