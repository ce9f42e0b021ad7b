"""Commands made by today's toolchains: arguments, environment, standard streams, exit codes, what is denied."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from sandboxd.limits import Limits
from sandboxd.wire.messages import GuestMount
from tests.guests.component.build import javascript_component, python_component
from tests.guests.programs import COMMAND, FILES, PROGRAMS
from tests.host.components import ANY_HOST, Components, Loaded, released_when
from tests.origins import Origin, refused_port

pytestmark = pytest.mark.build


@pytest.fixture(scope="module")
def client(components: Components) -> Iterator[Loaded]:
    with components.load(
        python_component("client", "client"), argv0=b"client", env=((b"FIXED", b"by the operator"),)
    ) as guest:
        yield guest


def test_arguments_environment_and_stdin(client: Loaded) -> None:
    result = client.json("echo", "a", "", "b é ,", env=((b"NAME", b"caf\xc3\xa9"), (b"EMPTY", b"")), stdin="in")
    assert result == {
        "args": ["client", "echo", "a", "", "b é ,"],
        "env": [["FIXED", "by the operator"], ["NAME", "café"], ["EMPTY", ""]],
        "stdin": '"in"',
    }


def test_arguments_that_are_not_utf_8_arrive_marked(client: Loaded) -> None:
    result = client.json("echo", env=((b"X", b"\xff\xfe"),))
    assert result["env"][1] == ["X", "\ufffd\ufffd"]


@pytest.mark.parametrize("size", [0, 1, 65536, 65537, 3_000_000])
def test_all_of_stdin_can_be_read(client: Loaded, size: int) -> None:
    assert client.run("stdin", stdin=b"x" * size).stdout == b'[%d, "Closed"]\n' % size


def test_exit_codes(client: Loaded) -> None:
    result = client.run("exit", "7")
    assert (result.outcome, result.exit_code, result.detail) == ("exit_nonzero", 7, "module closed with exit_code(7)")
    assert result.stdout == b"before\n"
    assert client.run("exit", "0").outcome == "completed"
    assert (client.run("fail").outcome, client.run("fail").exit_code) == ("exit_nonzero", 1)


def test_an_exception_of_the_guest_is_a_trap_with_its_traceback_on_stderr(client: Loaded) -> None:
    result = client.run("raise")
    assert (result.outcome, result.detail) == ("trapped", "wasm error: unreachable")
    assert b"ValueError: a guest's own error" in result.stderr


def test_stderr_is_kept_from_its_end(components: Components) -> None:
    with components.load(python_component("client", "client"), limits=Limits(stderr_bytes=100)) as guest:
        result = guest.run("stderr", "5000")
    assert (result.stderr, result.stderr_total) == (b"e" * 97 + b"end", 5003)


def test_there_are_no_files_and_no_sockets(client: Loaded) -> None:
    assert client.json("denied") == ["ACCESS_DENIED", "PERMANENT_RESOLVER_FAILURE", "FileNotFoundError"]


def test_clocks_advance_and_timers_fire_in_order(client: Loaded) -> None:
    first, second, wall, resolution, order = client.json("clocks")
    assert second >= first
    assert wall[1] >= wall[0] > 1_700_000_000 * 10**9
    assert resolution == 1
    assert order == [1]
    assert client.json("sleep", "1000000") == "awake"


def test_random_differs(client: Loaded) -> None:
    one, other = client.json("random"), client.json("random")
    assert all(a != b for a, b in zip(one, other, strict=True))


def test_the_insecure_seed_stays_the_same(client: Loaded) -> None:
    """wasmtime's test p2_random asks for it."""
    _, _, first, second = client.json("random")
    assert first == second


def test_one_invocation_leaves_nothing_for_the_next(client: Loaded) -> None:
    client.run("stdin", stdin=b"left over")
    assert client.run("echo").stdout == client.run("echo").stdout
    assert client.json("echo")["stdin"] == ""


@pytest.fixture(scope="module")
def javascript(components: Components) -> Iterator[Loaded]:
    with components.load(javascript_component("client", "client-with-files"), outbound=ANY_HOST) as guest:
        yield guest


def test_javascript_runs(javascript: Loaded) -> None:
    assert javascript.run("hello").stdout == b'hello from js ["guest","hello"]'


def test_javascript_counts_lines(components: Components, tmp_path: Path) -> None:
    """A row of the table of docs/guests.md."""
    (program,) = (program for program in PROGRAMS if not program.served and program.abi == COMMAND)
    mounts = []
    for name in ("data", "out"):
        (tmp_path / name).mkdir()
        reach = str(tmp_path / name)
        mounts.append(
            GuestMount(anchor=str(tmp_path), source=name, target=f"/{name}", read_only=name == "data", reach=reach)
        )
    for name, text in FILES.items():
        (tmp_path / "data" / name).write_text(text)
    with components.load(program.file(), mounts=tuple(mounts)) as guest:
        result = guest.run(*program.args)
    assert (result.outcome, result.stdout) == ("completed", program.stdout), result.detail


def test_javascript_fetches(javascript: Loaded) -> None:
    with Origin() as origin:
        assert javascript.run("get", origin.url("/status/404")).stdout == b"404 null status 404"
        assert javascript.run("post", origin.url("/echo"), "café").stdout == "200 café".encode()
        assert origin.seen[1].get("content-type") == "text/x"
        assert javascript.run("size", origin.url("/bytes/1048576")).stdout == b"1048576"
        assert javascript.run("size", origin.url("/chunked/100000")).stdout == b"100000"


def test_javascript_fetches_many_at_once(javascript: Loaded) -> None:
    """The origin answers nobody until all have asked."""
    with Origin() as origin, released_when(origin, 8):
        assert javascript.run("many", origin.url("/hold"), "8").stdout == b"held,held,held,held,held,held,held,held"


def test_javascript_is_told_of_a_failure(javascript: Loaded) -> None:
    with refused_port() as port:
        result = javascript.run("get", f"http://127.0.0.1:{port}/")
    assert (result.outcome, result.stdout[:7]) == ("completed", b"failed:")
    assert [record.outcome for record in result.outbound] == ["connection-refused"]
