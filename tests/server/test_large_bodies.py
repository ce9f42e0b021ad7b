"""Bodies that are decoded outside the front: the same results as inside, and no harm to others from hostile ones."""

import asyncio
import json
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import pytest

from sandboxd import gojson
from sandboxd.front.decoding import BodyDecoder
from tests.conftest import ENGINES, guest_component
from tests.process import tree
from tests.running import RunningServer, write_components
from tests.waiting import until

pytestmark = pytest.mark.slow
"""Bodies of many megabytes are decoded."""

MIB = 1 << 20
ECHO = guest_component("echo")
BODIES = {
    "a string": (b'{"operation":"execute","data":"' + b"x" * 100_000 + b'"}', False),
    "numbers that Go writes otherwise": (b'{"operation":"create","data":[' + b"1e21,1.0,-0," * 9_999 + b"0]}", False),
    "keys in another case": (b'{"Operation":"execute","DATA":"' + b"<" * 50_000 + b'","metadata":{"a":"b"}}', False),
    "duplicate members": (b'{"data":1,"data":"' + b"y" * 50_000 + b'"}', False),
    "no JSON": (b"{" + b"x" * 50_000, False),
    "wrong types": (b'{"operation":1,"data":"' + b"z" * 50_000 + b'"}', False),
    "not whole": (b'{"data":"' + b"x" * 50_000, False),
    "cut at the limit": (b'{"data":"' + b"x" * 50_000, True),
    "no UTF-8": (b'{"data":"' + b"\xff\xc3" * 30_000 + b'"}', False),
    "long": (b'{"data":[' + b"[]," * 300_000 + b"[]]}", False),
}


def in_the_front(body: bytes, cut: bool) -> object:
    try:
        return gojson.decode(body, cut=cut)
    except gojson.MalformedError as error:
        return type(error), str(error)


def test_the_same_results_as_in_the_front() -> None:
    async def main() -> dict[str, object]:
        decoder = BodyDecoder("auto")
        found: dict[str, object] = {}
        try:
            for what, (body, cut) in BODIES.items():
                try:
                    found[what] = await decoder.decode(body, cut=cut, deadline_ns=time.monotonic_ns() + 60 * 10**9)
                except gojson.MalformedError as error:
                    found[what] = type(error), str(error)
        finally:
            decoder.close()
        return found

    expected = {what: in_the_front(body, cut) for what, (body, cut) in BODIES.items()}
    assert asyncio.run(main()) == expected


def decoders(server: RunningServer) -> list[int]:
    """Process ids of the decoding processes."""

    def decodes(pid: int) -> bool:
        try:
            return b"sandboxd.front.decoding.process" in Path(f"/proc/{pid}/cmdline").read_bytes()
        except FileNotFoundError:
            return False

    return [pid for pid in tree.children(server.process.pid) if decodes(pid)]


@pytest.fixture(params=ENGINES)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> RunningServer:
    resources = write_components(
        tmp_path / "resources", [guest_component("echo", timeout="5m"), guest_component("cat", timeout="2s")]
    )
    return RunningServer(resources, "--engine", request.param, "--workers", "2")


def test_a_body_that_takes_long_keeps_nobody_else_waiting(server: RunningServer) -> None:
    """The decoding process is stopped, which takes longer than any body."""
    large = "x" * MIB
    with server:
        assert server.invoke("echo", large).content == json.dumps(large).encode()
        (decoder,) = decoders(server)
        os.kill(decoder, signal.SIGSTOP)
        replies = []
        caller = threading.Thread(target=lambda: replies.append(server.invoke("cat", large)))
        caller.start()
        try:
            for number in range(50):
                assert server.invoke("echo", number).content == b"%d" % number
        finally:
            caller.join(60)
        assert [reply.status_code for reply in replies] == [500]
        assert "could not be decoded in time" in replies[0].text
        # The process was killed at the deadline, and the next body gets another.
        assert server.invoke("echo", large).status_code == 200
        assert decoders(server) not in ([], [decoder])


def test_bodies_that_wait_are_bounded_in_bytes(server: RunningServer) -> None:
    """The decoding process is stopped. Of 17 bodies of just below 4 MiB, 16 fit into the 64 MiB that may wait."""
    large = "x" * (4 * MIB - 100)
    with server, ThreadPoolExecutor(17) as threads:
        assert server.invoke("echo", large).status_code == 200
        (decoder,) = decoders(server)
        os.kill(decoder, signal.SIGSTOP)
        calls = [threads.submit(server.invoke, "echo", large) for _ in range(17)]
        refused = next(as_completed(calls, 60)).result()
        assert (refused.status_code, refused.headers.get("retry-after")) == (503, "1")
        assert "too many large request bodies" in refused.text
        assert server.metric("sandboxd_callers_turned_away_total", reason="bodies_waiting") == 1
        assert server.invoke("echo", 1).content == b"1"
        os.kill(decoder, signal.SIGCONT)
        assert sorted(call.result(60).status_code for call in calls) == [200] * 16 + [503]


def test_a_decoding_process_that_dies_loses_no_request(server: RunningServer) -> None:
    large = "x" * MIB
    with server:
        for _ in range(3):
            assert server.invoke("echo", large).status_code == 200
            for pid in decoders(server):
                os.kill(pid, signal.SIGKILL)
        assert server.invoke("echo", large).content == json.dumps(large).encode()
        left = decoders(server)
        assert left
        assert server.terminate() == 0
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in left), "the decoding process is gone")
