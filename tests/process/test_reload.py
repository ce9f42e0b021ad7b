"""Changes while the server runs: what is new takes over, what is broken changes nothing, and no request is lost."""

import asyncio
import itertools
import json
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from sandboxd.config import Config
from sandboxd.config.model import Reload
from sandboxd.server.watch import FileStats, file_stats, watch
from tests.conftest import ENGINES, guest_component
from tests.guests import path
from tests.process import tree
from tests.process.test_last_words import STOPPING
from tests.running import PATIENT, RunningServer, component, listening_socket, write_components
from tests.waiting import BOUND_S, until

CLIENTS = 4


@pytest.fixture
def guest(tmp_path: Path) -> Path:
    """A guest file of our own: `echo`, to be replaced by `upper`."""
    file = tmp_path / "guests" / "changing.wasm"
    file.parent.mkdir()
    shutil.copy(path("echo"), file)
    return file


@pytest.fixture
def resources(tmp_path: Path, guest: Path) -> Path:
    documents = [component("changing", f"file://{guest}"), guest_component("echo"), guest_component("sleep")]
    return write_components(tmp_path / "resources", documents)


def replace(file: Path, by: bytes) -> None:
    """Replace a file in one step, as deployments do."""
    fresh = file.with_suffix(".fresh")
    fresh.write_bytes(by)
    fresh.replace(file)


def reloaded(server: RunningServer, since: int, event: str = "reloaded") -> dict[str, Any]:
    return server.wait_for(lambda line: line.get("event") == event, since=since)


def refused(server: RunningServer, since: int, why: str) -> None:
    server.wait_for(lambda line: line.get("event") == "reload_failed" and why in line["message"], since=since)


def hangup(server: RunningServer, event: str = "reloaded") -> None:
    """SIGHUP, and wait for what it led to."""
    since = len(server.lines)
    server.process.send_signal(signal.SIGHUP)
    reloaded(server, since, event)


def extended(server: RunningServer) -> dict[str, str]:
    with server.client() as client:
        found: dict[str, str] = client.get("/v1.0/metadata").json()["extended"]
        return found


def test_sighup_brings_new_guests_and_a_broken_one_changes_nothing(resources: Path, guest: Path) -> None:
    with RunningServer(resources, "--workers", "2", environ={"SANDBOXD_RELOAD_WATCH": "false"}) as server:
        assert server.invoke("changing", "Dapr").content == b'"Dapr"'
        assert extended(server)["generation"] == "1"
        replace(guest, path("upper").read_bytes())
        hangup(server)
        assert server.invoke("changing", "Dapr").content == b'"DAPR"'
        assert extended(server)["generation"] == "2"
        assert server.metric("sandboxd_module_reloads_total", binding="changing", result="success") == 1

        replace(guest, b"\0asm\1\0\0\0 and then nonsense")
        hangup(server, "reload_failed")
        assert server.invoke("changing", "Dapr").content == b'"DAPR"'
        assert "changing" in extended(server)["lastReloadError"]
        assert extended(server)["generation"] == "2"
        assert server.metric("sandboxd_module_reloads_total", binding="changing", result="failure") == 1
        # It concerns no other binding.
        assert server.metric("sandboxd_module_reloads_total", binding="echo") == 0
        with server.client() as client:
            assert client.get("/readyz").status_code == 200

        replace(guest, path("echo").read_bytes())
        hangup(server)
        assert "lastReloadError" not in extended(server)
        assert server.invoke("changing", "Dapr").content == b'"Dapr"'
        until(lambda: len(tree.zygotes(server)) == 1, "former generations are gone")
        assert len(tree.workers(server)) == 2


def _tab(file: Path) -> None:
    file.write_text(file.read_text().replace("metadata:", "metadata:\n\tx: y", 1))


def _other_type(file: Path) -> None:
    file.write_text(file.read_text().replace("bindings.wasm", "binding.wasm"))


def _other_kind(file: Path) -> None:
    file.write_text(file.read_text().replace("kind: Component", "kind: Deployment"))


def _unreadable(file: Path) -> None:
    file.unlink()
    file.mkdir()


def _dangling(file: Path) -> None:
    file.unlink()
    file.symlink_to("nowhere")


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningServer, Path]]:
    """A server, and one of its component files."""
    resources = write_components(tmp_path_factory.mktemp("live") / "resources", [guest_component("echo")])
    with RunningServer(resources, "--workers", "1", environ={"SANDBOXD_RELOAD_WATCH": "false"}) as server:
        yield server, resources / "upper.yaml"


@pytest.mark.parametrize(
    "spoil",
    [
        _tab,
        _other_type,
        _other_kind,
        _unreadable,
        _dangling,
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(b"# nothing yet\n"),
        lambda file: file.write_bytes(b"\xff\xfe\x00"),
    ],
    ids=["tab", "type", "kind", "unreadable", "dangling", "empty", "comment", "not text"],
)
def test_a_mistake_in_a_live_file_takes_no_binding_down(
    live: tuple[RunningServer, Path], spoil: Callable[[Path], object]
) -> None:
    server, file = live
    file.write_text(guest_component("upper"))
    hangup(server)
    spoil(file)
    hangup(server, "reload_failed")
    assert server.invoke("upper", "still here").content == b'"STILL HERE"'
    assert "upper" in extended(server)["lastReloadError"]
    assert server.metric("sandboxd_reload_last_success") == 0
    assert server.metric("sandboxd_binding_ready", binding="upper") == 1
    assert server.metric("sandboxd_module_reloads_total", binding="upper", result="failure") == 1
    assert server.metric("sandboxd_module_reloads_total", binding="echo") == 0
    # Removing the file is how a binding is taken away.
    file.rmdir() if file.is_dir() else file.unlink()
    hangup(server)
    assert server.invoke("upper", "x").status_code != 200
    assert "lastReloadError" not in extended(server)
    assert server.metric("sandboxd_reload_last_success") == 1
    assert server.invoke("echo", "x").content == b'"x"'


def test_a_document_that_is_taken_out_of_a_file_takes_its_binding_away(tmp_path: Path) -> None:
    resources = write_components(tmp_path / "resources", [guest_component("echo"), guest_component("upper")])
    file = resources / "components.yaml"
    with RunningServer(resources, "--workers", "1", environ={"SANDBOXD_RELOAD_WATCH": "false"}) as server:
        assert server.invoke("upper", "x").content == b'"X"'
        file.write_text(guest_component("echo"))
        hangup(server)
        assert server.invoke("upper", "x").status_code != 200
        assert server.invoke("echo", "x").status_code == 200


def test_a_binding_may_leave_by_its_scopes(tmp_path: Path) -> None:
    resources = write_components(tmp_path / "resources", [guest_component("echo")])
    file = resources / "upper.yaml"
    file.write_text(guest_component("upper"))
    with RunningServer(resources, "--workers", "1", environ={"SANDBOXD_RELOAD_WATCH": "false"}) as server:
        file.write_text(file.read_text() + "\nscopes:\n- another-app\n")
        hangup(server)
        assert server.invoke("upper", "x").status_code != 200


def test_files_are_watched(resources: Path, guest: Path) -> None:
    with RunningServer(resources, "--workers", "1", environ={"SANDBOXD_RELOAD_DEBOUNCE": "50ms"}) as server:
        since = len(server.lines)
        replace(guest, path("upper").read_bytes())
        reloaded(server, since)
        # More reloads may follow: of the check with which watching begins, or of a file that was half written.
        until(lambda: server.invoke("changing", "guest").content == b'"GUEST"', "the new guest")

        since = len(server.lines)
        (resources / "more.yaml").write_text(guest_component("upper"))
        reloaded(server, since)
        until(lambda: server.invoke("upper", "component").content == b'"COMPONENT"', "the new component")

        since = len(server.lines)
        (resources / "more.yaml").write_text(component("late", f"file://{guest.with_name('none.wasm')}"))
        refused(server, since, "none.wasm")
        assert server.invoke("upper", "component").content == b'"COMPONENT"'

        since = len(server.lines)
        (resources / "more.yaml").unlink()
        reloaded(server, since)
        until(lambda: server.invoke("upper", 1).status_code == 500, "it is gone")
        assert "couldn't find output binding upper" in server.invoke("upper", 1).json()["message"]


def test_a_guest_that_was_missing_is_noticed_when_it_comes(resources: Path, guest: Path) -> None:
    late = guest.with_name("late.wasm")
    with RunningServer(resources, "--workers", "1", environ={"SANDBOXD_RELOAD_DEBOUNCE": "50ms"}) as server:
        since = len(server.lines)
        (resources / "more.yaml").write_text(component("late", f"file://{late}"))
        refused(server, since, "late.wasm")
        since = len(server.lines)
        replace(late, path("upper").read_bytes())
        reloaded(server, since)
        until(lambda: server.invoke("late", "here").content == b'"HERE"', "the guest that was missing")


class Subject:
    """A catalog that read its files at some earlier time."""

    def __init__(self, seen: FileStats, guest: Path) -> None:
        self.file_stats = seen
        self.local_files = (str(guest),)
        self.mounted: tuple[str, ...] = ()
        self.remote = False

    async def unchanged(self) -> bool:
        raise AssertionError("nothing is remote")


@pytest.mark.parametrize("folder", ["resources", "nowhere"])
def test_a_change_between_reading_and_watching_is_noticed(tmp_path: Path, guest: Path, folder: str) -> None:
    config = Config(resources_paths=(str(tmp_path / folder),), reload=Reload(debounce_ms=10))
    write_components(tmp_path / "resources", [component("changing", f"file://{guest}")])
    seen = file_stats(config.resources_paths, [str(guest)])
    replace(guest, path("upper").read_bytes())

    async def noticed() -> None:
        changed = asyncio.Event()
        async with asyncio.timeout(BOUND_S), asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(watch(config, Subject(seen, guest), changed))
            await changed.wait()
            watching.cancel()

    asyncio.run(noticed())


# under load -----------------------------------------------------------------------------------------------------------


class Load:
    """Clients that call without a pause, each on connections of its own, and keep what they were answered.

    Parameters:
        server: whom.
        keep: use connections again.
    """

    def __init__(self, base_url: str, *, keep: bool = True) -> None:
        self.wrong: list[str] = []
        self.answers = 0
        self._base_url = base_url
        self._keep = keep
        self._end = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(CLIENTS)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        self.more(50)
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(BOUND_S)
            assert not thread.is_alive()

    def more(self, count: int) -> None:
        """Wait for so many further answers."""
        goal = self.answers + count
        until(lambda: self.answers >= goal or self.wrong, f"{count} further answers")

    def _run(self, client_number: int) -> None:
        limits = httpx.Limits(max_keepalive_connections=1 if self._keep else 0)
        with httpx.Client(base_url=self._base_url, trust_env=False, verify=False, timeout=120, limits=limits) as client:
            for number in itertools.count():
                if self._end.is_set():
                    return
                data = f"{client_number}-{number}"
                wrong = self._call(client, data)
                with self._lock:
                    self.answers += 1
                    if wrong:
                        self.wrong.append(wrong)

    def _call(self, client: httpx.Client, data: str) -> str:
        body = json.dumps({"operation": "execute", "data": data}).encode()
        try:
            reply = client.post("/v1.0/bindings/echo", content=body)
        except httpx.TransportError as error:
            return f"{data}: {error!r}"
        right = reply.status_code == 200 and reply.text == json.dumps(data)
        return "" if right else f"{data}: {reply.status_code} {reply.text}"


@pytest.mark.parametrize("engine", ENGINES)
def test_a_reload_under_load_loses_nothing(resources: Path, guest: Path, engine: str) -> None:
    variables = {"SANDBOXD_RELOAD_WATCH": "false"}
    with (
        RunningServer(resources, "--workers", "2", "--engine", engine, environ=variables) as server,
        Load(server.base_url) as load,
    ):
        for name in ("upper", "echo", "upper"):
            replace(guest, path(name).read_bytes())
            hangup(server)
            load.more(50)
        # One that cannot be loaded, in the midst of it.
        replace(guest, b"no guest")
        hangup(server, "reload_failed")
        load.more(50)
    assert load.wrong == []
    print(f"\n{load.answers} answers through 3 reloads")


@pytest.mark.parametrize("keep", [True, False], ids=["kept", "fresh"])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_rolling_restart_loses_nothing(resources: Path, engine: str, keep: bool) -> None:
    with listening_socket() as shared:
        options = ("--workers", "2", "--engine", engine)
        former = RunningServer(resources, *options, listener=shared, environ=PATIENT)
        try:
            with Load(former.base_url, keep=keep) as load:
                successor = RunningServer(resources, *options, listener=shared)
                try:
                    load.more(50)
                    assert former.terminate() == 0
                finally:
                    former.stop()
                    former = successor
                load.more(50)
            assert load.wrong == []
            print(f"\n{load.answers} answers through a restart")
        finally:
            former.stop()


def test_a_slow_request_outlives_the_reload_that_replaces_its_guests(resources: Path) -> None:
    """The former generation finishes what it has begun."""
    with RunningServer(resources, "--workers", "1", environ={"SANDBOXD_RELOAD_WATCH": "false"}) as server:
        answers: list[httpx.Response] = []
        call = threading.Thread(target=lambda: answers.append(server.invoke("sleep", None, {"args": "12000"})))
        call.start()
        until(lambda: server.metric("sandboxd_pool_workers", state="busy") == 1, "it runs")
        (zygote,) = tree.zygotes(server)
        (resources / "components.yaml").write_text(guest_component("upper"))
        with tree.watched([zygote]) as gone:
            hangup(server)
            assert server.invoke("upper", "new").content == b'"NEW"'
            assert not answers
            call.join(BOUND_S)
            assert answers[0].content[:4] == b"1 0 "
            assert gone(BOUND_S) == []


def test_a_stopped_worker_does_not_keep_the_former_generation(resources: Path) -> None:
    with RunningServer(resources, "--workers", "2", environ={"SANDBOXD_RELOAD_WATCH": "false"}) as server:
        former = [*tree.zygotes(server), *tree.workers(server)]
        with tree.watched(former) as gone:
            tree.stop(former[1])
            hangup(server)
            assert gone(BOUND_S) == []
        assert server.invoke("echo", 1).content == b"1"


def test_a_reload_whose_zygote_dies_is_refused(resources: Path) -> None:
    stops = resources.with_name("the next zygote stops")
    environ = {"SANDBOXD_RELOAD_WATCH": "false", "PYTHONPATH": str(STOPPING), "PYTHON_STOPS_IF": str(stops)}
    with RunningServer(resources, "--workers", "2", environ=environ) as server:
        (serving,) = tree.zygotes(server)
        since = len(server.lines)
        stops.touch()
        server.process.send_signal(signal.SIGHUP)
        until(lambda: any(tree.state(pid) == "T" for pid in tree.zygotes(server)), "the next zygote")
        (loading,) = set(tree.zygotes(server)) - {serving}
        os.kill(loading, signal.SIGKILL)
        refused(server, since, "the zygote")
        assert "the zygote" in extended(server)["lastReloadError"]
        assert tree.zygotes(server) == [serving]
        assert server.invoke("echo", 1).content == b"1"
