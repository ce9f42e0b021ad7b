"""`sandboxd component` under a real daprd, whose component files do not change."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from tests.component.plugged import Plugged
from tests.conftest import guest_component
from tests.dapr.daprd import Daprd, needed
from tests.grpc_calls import invoke
from tests.running import write_components
from tests.waiting import until

pytestmark = pytest.mark.slow  # two servers, started anew

DAPRS = "error invoking output binding {0}: rpc error: code = {1} desc = {2}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("under")
    secret = guest_component("secret", "env")
    secret += "  - name: env.KEY\n    secretKeyRef: {name: SANDBOXD_TEST_SECRET}\nauth: {secretStore: env}\n"
    store = (
        "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: env}\n"
        "spec: {type: secretstores.local.env, version: v1}\n"
    )
    slow = guest_component("loop", timeout="60s")
    documents = [store, secret, slow, guest_component("up", "upper"), guest_component("multi")]
    return write_components(folder / "r", documents).parent


@pytest.fixture(scope="module")
def plugged(folder: Path) -> Iterator[Plugged]:
    needed()
    with Plugged(folder) as server:
        yield server


@pytest.fixture(scope="module")
def daprd(folder: Path, plugged: Plugged) -> Iterator[Daprd]:
    environ = {"SANDBOXD_TEST_SECRET": "s3cret"}
    with Daprd(needed(), folder / "r", sockets=plugged.sockets, environ=environ) as running:
        yield running


def inits(plugged: Plugged) -> list[dict[str, Any]]:
    """The lines of the log so far that tell of an Init."""
    return [line for line in plugged.lines if line.get("event") == "init"]


def test_it_takes_the_place_of_the_built_in_binding(daprd: Daprd, plugged: Plugged) -> None:
    assert "pluggable component 'wasm' was successfully registered" in daprd.text()
    with daprd.client() as client:
        listed = {found["name"]: found for found in client.get("/v1.0/metadata").json()["components"]}
    assert listed["up"] == {"name": "up", "type": "bindings.wasm", "version": "v1", "capabilities": ["OUTPUT_BINDING"]}
    names = {"up", "multi", "secret", "loop"}
    until(lambda: {found["binding"] for found in inits(plugged)} == names, "each was told")


def test_over_http(daprd: Daprd, plugged: Plugged) -> None:
    before = plugged.metric("sandboxd_requests_total", binding="up", protocol="grpc", outcome="completed")
    answer = daprd.invoke("up", {"b": "c"})
    assert (answer.status_code, answer.content) == (200, b'{"B":"C"}')
    answer = daprd.invoke("multi", "x", {"args": "dump,a,b"})
    assert answer.content == b'arg 5:multi\narg 4:dump\narg 1:a\narg 1:b\n"x"'
    after = plugged.metric("sandboxd_requests_total", binding="up", protocol="grpc", outcome="completed")
    assert after == before + 1


def test_over_grpc(daprd: Daprd) -> None:
    with daprd.channel() as channel:
        assert invoke(channel, "multi", b"\xff\x00x").data == b"\xff\x00x"
        assert invoke(channel, "multi", b"", {"args": "dump"}).data == b"arg 5:multi\narg 4:dump\n"
        failed = invoke(channel, "multi", b"", {"args": "exit,3"})
    assert failed.code == "INTERNAL"
    assert failed.message == DAPRS.format("multi", "Internal", "module closed with exit_code(3)")


def test_secrets_come_resolved(daprd: Daprd, plugged: Plugged) -> None:
    assert "KEY=s3cret" in daprd.invoke("secret").text
    assert "s3cret" not in plugged.text()


def test_errors(daprd: Daprd) -> None:
    answer = daprd.invoke("multi", metadata={"args": "exit,3"})
    assert answer.status_code == 500
    assert answer.json() == {
        "errorCode": "ERR_INVOKE_OUTPUT_BINDING",
        "message": DAPRS.format("multi", "Internal", "module closed with exit_code(3)"),
    }
    unsupported = daprd.invoke("multi", operation="create").json()["message"]
    # daprd asks for the operations once, and answers itself.
    assert unsupported.endswith("binding multi does not support operation create. supported operations:execute")


def test_a_reply_that_daprd_does_not_take_is_explained(daprd: Daprd) -> None:
    largest = daprd.invoke("multi", metadata={"args": "big,4190000"})
    assert (largest.status_code, len(largest.content)) == (200, 4190000)
    answer = daprd.invoke("multi", metadata={"args": "big,5000000"})
    assert answer.status_code == 500
    wanted = DAPRS.format("multi", "ResourceExhausted", "the reply takes 500")
    assert answer.json()["message"].startswith(wanted)
    assert "daprd accepts at most 4194304 from a pluggable component" in answer.json()["message"]
    # daprd's limit for what its callers send is the same; what passes there passes here.
    sent = daprd.invoke("multi", "x" * 4_000_000)
    assert len(sent.content) == 4_000_002


def test_a_caller_that_goes_ends_the_guest(daprd: Daprd, plugged: Plugged) -> None:
    with daprd.client() as client, pytest.raises(httpx.ReadTimeout):
        client.post("/v1.0/bindings/loop", json={"operation": "execute"}, timeout=4)
    with daprd.channel() as channel:
        # The client's own deadline, or the component's answer to it, which daprd wraps: whichever comes first.
        assert invoke(channel, "loop", timeout=4).code in ("DEADLINE_EXCEEDED", "INTERNAL")

    def ended() -> float:
        """The runs that ended; whether by the deadline or by the call's end is a race within daprd."""
        labels = {"binding": "loop", "protocol": "grpc"}
        outcomes = ("cancelled", "deadline_exceeded")
        return sum(plugged.metric("sandboxd_requests_total", outcome=outcome, **labels) for outcome in outcomes)

    until(lambda: ended() == 2, "both invocations have been ended")
    assert daprd.invoke("up", "x").content == b'"X"'


def test_hot_reload(daprd: Daprd, plugged: Plugged, folder: Path) -> None:
    file = folder / "r" / "later.yaml"
    file.write_text(guest_component("later", "upper"))
    until(lambda: daprd.invoke("later", "x").content == b'"X"', "the new component is served")
    file.write_text(guest_component("later", "multi"))
    until(lambda: daprd.invoke("later", "x").content == b'"x"', "the changed component is served")
    until(lambda: len([line for line in inits(plugged) if line["binding"] == "later"]) == 2, "it was told of both")
    file.unlink()
    gone = "error invoking output binding later: couldn't find output binding later"
    until(lambda: gone in daprd.invoke("later", "x").text, "the component is gone")


class Load:
    """Calls `up` in a row from two threads and counts the answers."""

    def __init__(self, daprd: Daprd) -> None:
        self._daprd = daprd
        self._end = threading.Event()
        self.good = 0
        self.wrong: list[Any] = []
        self.failed: list[str] = []
        self._threads = [threading.Thread(target=self._run) for _ in range(2)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(60)

    def _run(self) -> None:
        with self._daprd.client() as client:
            body = json.dumps({"operation": "execute", "data": "abc"})
            while not self._end.is_set():
                answer = client.post("/v1.0/bindings/up", content=body)
                if answer.status_code == 200 and answer.content == b'"ABC"':
                    self.good += 1
                elif answer.status_code == 500:
                    self.failed.append(answer.json()["message"])
                else:
                    self.wrong.append((answer.status_code, answer.content))

    def more(self) -> None:
        """Wait for further good answers."""
        before = self.good
        until(lambda: self.good > before + 20 or self.wrong, "further answers")


def test_a_restart_of_sandboxd_under_load(tmp_path: Path) -> None:
    program = needed()
    resources = write_components(tmp_path / "r", [guest_component("up", "upper")])
    with Plugged(tmp_path) as first:
        daprd = Daprd(program, resources, sockets=first.sockets)
        with daprd, Load(daprd) as load:
            load.more()
            assert first.terminate() == 0
            # daprd sends no other Init: the second one has kept what the first was told.
            with Plugged(tmp_path) as second:
                load.more()
                # And once more, without a farewell.
                second.process.kill()
                second.process.wait(60)
                with Plugged(tmp_path):
                    load.more()
    assert load.wrong == []
    unavailable = DAPRS.format("up", "Unavailable", "")
    assert all(message.startswith(unavailable) for message in load.failed), load.failed[:5]


def test_a_restart_of_daprd_under_load(tmp_path: Path) -> None:
    program = needed()
    resources = write_components(tmp_path / "r", [guest_component("up", "upper")])
    with Plugged(tmp_path) as plugged:
        first = Daprd(program, resources, sockets=plugged.sockets)
        with first, Daprd(program, resources, sockets=plugged.sockets) as beside, Load(beside) as load:
            load.more()
            first.process.kill()
            first.process.wait(60)
            load.more()
            with Daprd(program, resources, sockets=plugged.sockets) as second:
                assert second.invoke("up", "abc").content == b'"ABC"'
                load.more()
        assert load.wrong == []
        assert load.failed == []
        until(lambda: len(inits(plugged)) == 3, "each was told")


def test_an_init_that_fails_is_told_by_daprd(tmp_path: Path) -> None:
    program = needed()
    resources = write_components(tmp_path / "r", [guest_component("up", "upper", sha256="0" * 64)])
    with Plugged(tmp_path) as plugged:
        with Daprd(program, resources, sockets=plugged.sockets, wait=False) as daprd:
            assert daprd.process.wait(60) != 0
            daprd.wait_for_end()
            assert "rpc error: code = InvalidArgument desc = " in daprd.text()
            assert "sha256" in daprd.text()
        line = plugged.wait_for(lambda line: line.get("event") == "init_failed")
        assert line["binding"] == "up"


def test_a_name_of_its_own_is_missed_by_daprd(tmp_path: Path) -> None:
    program = needed()
    document = guest_component("up", "upper").replace("bindings.wasm", "bindings.sandboxd")
    resources = write_components(tmp_path / "r", [document])
    with Daprd(program, resources, wait=False) as daprd:
        # Without the socket daprd ends, where it would serve bindings.wasm by itself.
        assert daprd.process.wait(60) != 0
        assert "couldn't find binding up (bindings.sandboxd/v1)" in daprd.text()
    with (
        Plugged(tmp_path, name="sandboxd") as plugged,
        Daprd(program, resources, sockets=plugged.sockets) as daprd,
    ):
        assert daprd.invoke("up", "x").content == b'"X"'
