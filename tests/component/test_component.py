"""`sandboxd component` and a client that calls as daprd does."""

import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from sandboxd.commands.component import folder_from
from sandboxd.front.grpc.proto import component_pb2
from tests.component.plugged import SERVICE, Plugged, asked, discovered, init, invoke
from tests.guests import path
from tests.process.tree import until

pytestmark = pytest.mark.slow  # processes that are started anew


def url(guest: str) -> str:
    return f"file://{path(guest)}"


@pytest.fixture(scope="module")
def plugged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plugged]:
    with Plugged(tmp_path_factory.mktemp("plugged")) as server:
        yield server


@pytest.fixture(scope="module")
def channel(plugged: Plugged) -> Iterator[grpc.Channel]:
    with plugged.dialled() as found:
        yield found


def test_daprd_finds_the_binding(plugged: Plugged, channel: grpc.Channel) -> None:
    assert SERVICE in discovered(channel)
    # Nothing else in the folder is a file that daprd would dial.
    assert [entry.name for entry in plugged.sockets.iterdir() if not entry.is_dir()] == ["wasm.sock"]
    answer = asked(channel, "ListOperations", b"", "any")
    assert component_pb2.ListOperationsResponse.FromString(answer.body).operations == ["execute"]
    assert asked(channel, "Ping", b"", "any").code == "OK"


def test_instances_have_their_own_properties(plugged: Plugged, channel: grpc.Channel) -> None:
    for name, guest in (("up", "upper"), ("multi", "multi")):
        answer = init(channel, name, url=url(guest), URL2="ignored")
        assert (answer.code, answer.message) == ("OK", "")
    assert invoke(channel, "up", b'{"b":"c"}').body == b'{"B":"C"}'
    assert invoke(channel, "multi", b"null", {"args": "dump,a", "traceparent": "bad"}).body.startswith(b"arg 5:multi\n")
    assert plugged.metric("sandboxd_requests_total", binding="up", protocol="grpc", outcome="completed") == 1
    # daprd's hot reload sends another Init for the same name.
    assert init(channel, "up", url=url("multi")).code == "OK"
    assert invoke(channel, "up", b"x").body == b"x"


def test_an_init_that_fails_changes_nothing(channel: grpc.Channel) -> None:
    assert init(channel, "kept", url=url("multi")).code == "OK"
    answer = init(channel, "kept")
    assert answer.code == "INVALID_ARGUMENT"
    assert "missing url" in answer.message
    answer = init(channel, "kept", url="file:///nowhere.wasm")
    assert answer.code == "INVALID_ARGUMENT"
    assert "/nowhere.wasm" in answer.message
    assert invoke(channel, "kept", b"still").body == b"still"
    assert init(channel, "fresh", url="file:///nowhere.wasm").code == "INVALID_ARGUMENT"
    assert invoke(channel, "fresh").code == "FAILED_PRECONDITION"


def test_errors_are_what_daprd_puts_its_words_before(channel: grpc.Channel) -> None:
    assert init(channel, "failing", url=url("multi")).code == "OK"
    failed = invoke(channel, "failing", metadata={"args": "exit,3"})
    assert (failed.code, failed.message) == ("INTERNAL", "module closed with exit_code(3)")
    failed = invoke(channel, "failing", operation="create")
    assert failed.message == "binding failing does not support operation create. supported operations:execute"
    failed = invoke(channel, "failing", metadata={"args": "big,5000000"})
    assert failed.code == "RESOURCE_EXHAUSTED"
    assert "daprd accepts at most 4194304" in failed.message
    unknown = invoke(channel, "unknown")
    assert unknown.code == "FAILED_PRECONDITION"
    assert "restart daprd" in unknown.message
    assert asked(channel, "Init", b"\xff\xff\xff", "failing").code == "INTERNAL"


def test_a_deadline_of_daprds_ends_the_guest(channel: grpc.Channel) -> None:
    assert init(channel, "loop", url=url("loop")).code == "OK"
    assert invoke(channel, "loop", timeout=0.3).code == "DEADLINE_EXCEEDED"
    assert init(channel, "after", url=url("multi")).code == "OK"
    until(lambda: invoke(channel, "after", b"x").body == b"x", "a free worker")


def test_the_properties_are_private(plugged: Plugged, channel: grpc.Channel) -> None:
    assert init(channel, "secret", url=url("multi"), **{"env.KEY": "s3cret"}).code == "OK"
    state = plugged.sockets.parent / "state"
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in state.iterdir()} == {0o600}
    mounted = init(channel, "nosy", url=url("multi"), mounts=f"{state}:/state")
    assert mounted.code == "INVALID_ARGUMENT"
    assert "s3cret" not in plugged.text()


def test_only_so_many_components_are_kept(plugged: Plugged, channel: grpc.Channel) -> None:
    assert init(channel, "first", url=url("multi")).code == "OK"
    state = plugged.sockets.parent / "state"
    planted = [state / f"{number}.yaml" for number in range(256)]
    try:
        for file in planted:
            file.touch()
        answer = init(channel, "one-more", url=url("multi"))
        assert answer.code == "INVALID_ARGUMENT"
        assert "at most 256 may be kept" in answer.message
        for file in planted[:128]:
            file.unlink()
        planted[-1].write_text("#" * (16 << 20))
        assert "of 16 MiB together" in init(channel, "one-more", url=url("multi")).message
        planted[-1].unlink()
        assert init(channel, "one-more", url=url("multi")).code == "OK"
        assert invoke(channel, "first", b"still").body == b"still"
    finally:
        for file in planted:
            file.unlink(missing_ok=True)


def test_a_restart_serves_without_another_init(tmp_path: Path) -> None:
    with Plugged(tmp_path) as first, first.dialled() as channel:
        assert init(channel, "up", url=url("upper")).code == "OK"
        first.process.kill()
        first.process.wait(60)
    # What a killed process leaves is no socket that holds daprd up: it is gone when the next one has started.
    assert first.socket.exists()
    with Plugged(tmp_path) as second, second.dialled() as channel:
        assert invoke(channel, "up", b"abc").body == b"ABC"
        assert second.terminate() == 0
        assert not second.socket.exists()


def test_a_socket_in_use_is_left_alone(tmp_path: Path) -> None:
    sockets = tmp_path / "sockets"
    sockets.mkdir()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(sockets / "wasm.sock"))
        other.listen()
        with pytest.raises(AssertionError, match="another process listens there"), Plugged(tmp_path):
            pass


@pytest.mark.parametrize("what", ["sockets", "state"])
def test_a_link_where_a_private_folder_should_be_is_refused(tmp_path: Path, what: str) -> None:
    """Anybody may write to Dapr's folder in /tmp, and could have the socket's mode given to another file."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o755)
    (tmp_path / "sockets").mkdir()
    link = tmp_path / "sockets" / ".sandboxd" if what == "sockets" else tmp_path / "state"
    link.symlink_to(elsewhere)
    with pytest.raises(AssertionError, match="is a link, or belongs to another user"), Plugged(tmp_path):
        pass
    assert elsewhere.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize(
    ("environ", "folder"),
    [
        ({}, "/tmp/dapr-components-sockets"),
        ({"DAPR_COMPONENTS_SOCKETS_FOLDER": "/a", "DAPR_COMPONENT_SOCKETS_FOLDER": "/b"}, "/a"),
        # All that the injector sets in a component's container.
        ({"DAPR_COMPONENT_SOCKETS_FOLDER": "/b"}, "/b"),
        ({"DAPR_COMPONENTS_SOCKETS_FOLDER": ""}, "/tmp/dapr-components-sockets"),
    ],
)
def test_daprs_variables_name_the_folder(environ: dict[str, str], folder: str) -> None:
    assert folder_from(environ) == Path(folder)
