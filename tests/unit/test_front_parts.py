"""Small parts of the front: routing, guest names, engine choice, sockets, hang-ups."""

import asyncio
import socket
from dataclasses import replace
from typing import Any

import pytest

from sandboxd.components.binding import Binding
from sandboxd.errors import ConfigError
from sandboxd.front.answering.guard import Guards
from sandboxd.front.answering.outcomes import TABLE, result_detail, result_hints, result_message
from sandboxd.front.answering.tracing import new_span
from sandboxd.front.http.cors import Cors
from sandboxd.front.http.routing import binding_name, clean
from sandboxd.front.ports import Bindings
from sandboxd.front.servers.disconnects import Disconnects
from sandboxd.front.servers.serving import HttpServerSettings, choose, listen
from sandboxd.limits import Limits
from sandboxd.metrics import Metrics
from sandboxd.outcome import Outcome
from sandboxd.resiliency import Policy
from sandboxd.wire.messages import OutboundUsage, Result


@pytest.mark.parametrize(
    ("path", "cleaned"),
    [
        (b"/", b"/"),
        (b"//", b"/"),
        (b"///a//b/", b"/a/b"),
        (b"/a/./b/../c", b"/a/c"),
        (b"/../..", b"/"),
        (b"/a%2Fb/", b"/a%2Fb"),
        (b"/%", None),
        (b"/%4", None),
        (b"/%gg", None),
    ],
)
def test_clean(path: bytes, cleaned: bytes | None) -> None:
    assert clean(path) == cleaned


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (b"/v1.0/bindings/a", "a"),
        (b"/v1.0/bindings/a+b%2Bc%2Fd", "a b+c/d"),
        (b"/v1.0/bindings/%C3%A9", "é"),
        (b"/v1.0/bindings/%ff%e2%80", "\ufffd\ufffd\ufffd"),
        (b"/v1.0/bindings", None),
        (b"/v1.0/bindings/a/b", None),
        (b"/v1.0/bindingsx/a", None),
    ],
)
def test_binding_name(path: bytes, name: str | None) -> None:
    assert binding_name(path) == name


def test_bindings_are_found_by_name_and_by_usual_path() -> None:
    made = Bindings.of([Binding(name="a b", version="v1", url="file://x.wasm")], Metrics(version="1"))
    assert made.by_name["a b"] is made.by_path[b"/v1.0/bindings/a%20b"]
    with pytest.raises(TypeError):
        made.by_name["c"] = made.by_name["a b"]  # type: ignore[index]


def test_bindings_that_have_not_changed_are_taken_over() -> None:
    metrics = Metrics(version="1")
    one, two = (Binding(name=name, version="v1", url="file://x.wasm") for name in ("one", "two"))
    first = Bindings.of([one, two], metrics)
    first.by_name["one"].runs = 7
    third = replace(one, name="three")
    second = Bindings.of([one, replace(two, content_type="text/html"), third], metrics, former=first)
    assert second.by_name["one"] is first.by_name["one"]
    assert second.by_name["one"].runs == 7
    assert second.by_name["two"] is not first.by_name["two"]
    assert second.by_name["two"].success_headers == [(b"content-type", b"text/html")]
    served = Bindings.of([one], metrics, programs=set(), handlers={"one"}, former=second).by_name["one"]
    assert (served.is_program, served.handles_http) == (False, True)
    metrics.forget_binding("one")
    assert Bindings.of([one], metrics, former=second).by_name["one"].metrics is metrics.binding("one")


def test_a_guard_is_that_of_the_latest_load() -> None:
    metrics = Metrics(version="1")
    policy = Policy(timeout_ns=10**9)
    guarded = Binding(name="one", version="v1", url="file://x.wasm", policy=policy)
    first = Bindings.of([guarded], metrics, guards=Guards().of([guarded], metrics))
    assert first.by_name["one"].guard is not None
    second = Bindings.of([guarded], metrics, former=first)
    assert second.by_name["one"].guard is None


def test_every_outcome_has_an_answer() -> None:
    assert set(TABLE) == set(Outcome)


def detail(result: Result, reason: str, *, mounts: bool = False, program: bool = True) -> str:
    return result_detail(result, result_hints(result, reason, mounts=mounts), program=program)


def test_detail_of_a_cut_tail_does_not_begin_within_a_character() -> None:
    result = Result(id=1, outcome=Outcome.EXIT_NONZERO, stderr=("é" * 1000 + "x").encode(), stderr_total=2001)
    assert detail(result, "") == "stderr: " + "é" * 511 + "x"


def test_detail_does_not_repeat_the_message() -> None:
    text = "module closed with exit_code(3)"
    result = Result(id=1, outcome=Outcome.EXIT_NONZERO, exit_code=3, detail=text)
    assert detail(result, "".join(result_message(result, "guest", Limits()))) == ""


def test_new_span_keeps_the_trace_and_the_sampling_flag() -> None:
    parent = f"00-{'a' * 32}-{'b' * 16}-03".encode()
    span = new_span(parent)
    assert span.startswith(f"00-{'a' * 32}-")
    assert span.endswith("-01")
    assert len({new_span(parent) for _ in range(100)}) == 100
    assert new_span(f"cc-{'a' * 32}-{'b' * 16}-00-more".encode()).startswith(f"00-{'a' * 32}-")


@pytest.mark.parametrize(
    ("origins", "origin", "allowed"),
    [
        (["*"], b"http://any", True),
        (["http://A.example"], b"HTTP://a.EXAMPLE", True),
        (["http://a.example"], b"http://a.example.evil", False),
        (["http://*.example"], b"http://x.example", True),
        (["http://*aa"], b"http://a", False),
    ],
)
def test_origins(origins: list[str], origin: bytes, allowed: bool) -> None:
    scope: dict[str, Any] = {
        "method": "OPTIONS",
        "headers": [(b"origin", origin), (b"access-control-request-method", b"PUT")],
    }
    answer = Cors(origins).preflight(scope)
    assert answer is not None
    assert (b"access-control-allow-methods", b"PUT") in answer if allowed else len(answer) == 4


def test_engine_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose(HttpServerSettings()) == "uvicorn"
    assert choose(HttpServerSettings(tls_certificate="x.pem")) == "hypercorn"
    with pytest.raises(ConfigError, match="no TLS"):
        choose(HttpServerSettings(kind="uvicorn", tls_certificate="x.pem"))
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert choose(HttpServerSettings()) == "hypercorn"
    with pytest.raises(ConfigError, match="not installed"):
        choose(HttpServerSettings(kind="uvicorn"))


def test_listen_refuses_a_taken_port() -> None:
    with listen("127.0.0.1", 0) as first:
        with pytest.raises(OSError, match="in use"):
            listen("127.0.0.1", first.getsockname()[1])
        with socket.create_connection(first.getsockname(), timeout=60):
            pass


def test_disconnects_cancel_only_while_inside() -> None:
    async def main() -> tuple[bool, bool, str]:
        disconnects = Disconnects()
        hang_up = asyncio.Event()

        asked = asyncio.Event()

        async def receive() -> dict[str, Any]:
            asked.set()
            await hang_up.wait()
            return {"type": "http.disconnect"}

        async def request() -> bool:
            presence = disconnects.enter(receive)
            try:
                await asyncio.sleep(20)
            except asyncio.CancelledError:
                return presence.gone
            finally:
                disconnects.leave(presence)
            return False

        async def finished() -> bool:
            presence = disconnects.enter(receive)
            await asyncio.wait_for(asked.wait(), 60)
            assert presence.watcher is not None
            disconnects.leave(presence)
            hang_up.set()
            await asyncio.wait({presence.watcher})
            return presence.watcher.cancelled() and not presence.gone

        over = await finished()
        gone = await asyncio.wait_for(asyncio.create_task(request()), 60)
        return over, gone, repr(disconnects)

    assert asyncio.run(main()) == (True, True, "<Disconnects 0 unwatched>")


def usage(target: str, denied: str) -> OutboundUsage:
    return OutboundUsage(rule="", outcome="HTTP-request-denied", duration_ns=1, denied=denied, target=target)


def test_detail_says_which_host_was_denied_and_which_key_allows_it() -> None:
    result = Result(
        id=1,
        outcome=Outcome.EXIT_NONZERO,
        exit_code=1,
        outbound=(usage("http://a.test", "host"),) * 3,
        stderr=b"error 2",
    )
    assert detail(result, "") == (
        "an outbound request to http://a.test was denied: add it to allowedOutboundHosts\nstderr: error 2"
    )


def test_a_denied_host_cannot_steer_a_terminal() -> None:
    result = Result(id=1, outcome=Outcome.TRAPPED, outbound=(usage("http://\x1b[2J\n", "host"),))
    assert "http://\\x1b[2J\\n was denied" in detail(result, "")


def test_detail_says_that_there_are_no_mounts() -> None:
    """What Go, C and Rust write for a file where no folder is preopened."""
    for stderr in (
        b"config.json: No such file or directory\n",
        b"open config.json: Bad file number",
        b'failed to find a pre-opened file descriptor through which "x" could be opened',
    ):
        result = Result(id=1, outcome=Outcome.EXIT_NONZERO, exit_code=3, stderr=stderr)
        assert "has no mounts" in detail(result, "")
        assert "has no mounts" not in detail(result, "", mounts=True)


def test_the_end_of_stdout_stands_beside_that_of_stderr() -> None:
    """TinyGo writes panics to stdout."""
    result = Result(id=1, outcome=Outcome.TRAPPED, stdout=b"x" * 2000 + b"panic: runtime error", stderr=b"e")
    assert detail(result, "") == f"stderr: e\nstdout: {'x' * 1004}panic: runtime error"
    assert detail(result, "", program=False) == "stderr: e"
