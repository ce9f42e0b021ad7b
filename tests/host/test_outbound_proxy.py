"""Through a configured proxy, and never through one the environment names."""

import pytest

from hostfuncs.outbound import ErrorCode, Outbound, Policy, Settings
from tests.host.outbound_client import fetch
from tests.origins import Origin


def test_requests_go_to_the_proxy() -> None:
    with Origin() as proxy:
        outbound = Outbound(Settings(proxy=f"http://user:secret@127.0.0.1:{proxy.port}"))
        got = fetch(outbound, "http://elsewhere.test/status/418", policy=Policy.parse(None))
        # The scripted origin does not know the path: as a proxy it is asked for the whole URL.
        assert got.status == 404
        assert proxy.seen[-1].target == "http://elsewhere.test/status/418"
        assert proxy.seen[-1].get("host") == "elsewhere.test"
        assert proxy.seen[-1].get("proxy-authorization") == "Basic dXNlcjpzZWNyZXQ="
        outbound.close()


def test_addresses_the_guest_names_are_still_checked() -> None:
    with Origin() as proxy:
        outbound = Outbound(Settings(proxy=f"http://127.0.0.1:{proxy.port}"))
        for url in ("http://169.254.169.254/", "http://[::1]/", "http://metadata.google.internal/"):
            got = fetch(outbound, url, policy=Policy.parse(None))
            assert got.error in (ErrorCode("destination-IP-prohibited"), ErrorCode("HTTP-request-denied"))
        assert proxy.seen == []
        outbound.close()


def test_a_proxy_in_the_environment_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    with Origin() as proxy, Origin() as origin:
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "https_proxy"):
            monkeypatch.setenv(name, proxy.url(""))
        outbound = Outbound()
        assert fetch(outbound, origin.url("/echo")).status == 200
        assert proxy.seen == []
        outbound.close()


@pytest.mark.parametrize("url", ["", "proxy", "http://proxy", "https://proxy:1", "socks5://proxy:1", "http://proxy:0"])
def test_wrong_proxies_are_said_at_once(url: str) -> None:
    with pytest.raises(ValueError, match="the outbound proxy is not http://"):
        Outbound(Settings(proxy=url))
