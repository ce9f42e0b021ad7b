"""Code that has escaped into a worker whose guests call out tries to reach more than its binding may.

What must happen follows from the egress policy (docs/outbound.md) and the manual pages: no socket (EPERM), and no
connection that the policy of the binding refuses, whatever the egress broker is told.
"""

import os
import re
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2 as httpx
import pytest

from sandboxd.wall import landlock, seccomp
from sandboxd.wall.syscalls import this_machine
from tests.escape.test_escape import HOOK
from tests.host.legacy_guests import c_client
from tests.origins import Origin
from tests.process import tree
from tests.running import RunningServer, component, write_components
from tests.waiting import until

pytestmark = [
    pytest.mark.build,
    pytest.mark.skipif(
        this_machine() is None or not seccomp.available() or landlock.abi() < 6,
        reason="needs seccomp and Landlock ABI 6 of a machine that the wall knows",
    ),
]

SECRET = "geheimnis-der-anderen-bindung"

ASK = """
dialer = runtime._dialer
channel = dialer._channel
own = invoke.id
pack = sys.modules["msgspec"].msgpack.encode
unpack = sys.modules["msgspec"].msgpack.decode

def send(message):
    channel.setblocking(True)
    channel.settimeout(60)
    return channel.send(message if isinstance(message, bytes) else pack(message))

def answer(number=None):
    while True:
        data, fds, _, _ = socket.recv_fds(channel, 4096, 4)
        if not data:
            return "closed", []
        message = unpack(data)
        if message[0] != "resolved" and (number is None or message[1:2] in ([], [number])):
            return message, fds

def ask(host, port, scheme="http", invocation=None, number=1000):
    send(["dial", number, own if invocation is None else invocation, scheme, host, port])
    message, fds = answer(number)
    print(message[0], *message[2:], len(fds))
"""
"""Speaks the broker's protocol; the messages are those of `sandboxd.broker.messages`."""


class Server:
    """A server with two bindings that call out: each may call an origin of its own."""

    def __init__(self, folder: Path) -> None:
        self.own, self.others = Origin(), Origin()
        self.folder = folder
        self.components = [
            component(name, f"file://{c_client()}", allowedOutboundHosts=f'["http://127.0.0.1:{origin.port}"]', **more)
            for name, origin, more in (
                ("caller", self.own, {}),
                ("other", self.others, {"env.KEY": SECRET}),
            )
        ]
        resources = write_components(folder / "resources", self.components)
        environ = {"PYTHONPATH": str(HOOK), "SANDBOXD_POOL_WALL": "required"}
        self.server = RunningServer(resources, "--workers", "2", environ=environ)

    def run(self, code: str) -> str:
        """What the code printed in a worker of the binding `caller`; the text of the error if the worker was killed."""
        numbers = f"OWN, OTHERS, SERVER = {self.own.port}, {self.others.port}, {self.server.port}\n"
        # The worker goes on to serve honest guests, whose dialer has the same socket.
        whole = f"#!escaped\n{numbers}{ASK}\n{code}\nchannel.setblocking(False)"
        return self.server.invoke("caller", whole).text.strip()

    def asked(self, binding: str, port: int) -> httpx.Response:
        """The answer to an honest guest that calls an origin."""
        return self.server.invoke(binding, "x", {"args": f"http://127.0.0.1:{port}/headers"})

    def call(self, binding: str, port: int) -> int:
        """Its status."""
        return self.asked(binding, port).status_code


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    served = Server(tmp_path_factory.mktemp("broker"))
    with served.own, served.others, served.server:
        served.server.wait_for(lambda line: line.get("event") == "broker")
        yield served


def test_honest_guests_reach_what_they_may(served: Server) -> None:
    assert (served.call("caller", served.own.port), served.call("other", served.others.port)) == (200, 200)
    assert (served.call("caller", served.others.port), served.call("other", served.own.port)) == (500, 500)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("socket.socket(); print('a socket')", "EPERM"),
        ("socket.socket(type=socket.SOCK_DGRAM); print('a socket')", "EPERM"),
        ("a, b = socket.socketpair(); print(libc.connect(a.fileno(), bytes(16), 16), ctypes.get_errno())", "-1 1"),
        ("os.open('/etc/resolv.conf', os.O_RDONLY)", "EPERM|EACCES"),
        ("os.open('/etc/hosts', os.O_RDONLY)", "EPERM|EACCES"),
    ],
)
def test_a_worker_has_no_network_of_its_own(served: Server, code: str, expected: str) -> None:
    assert re.fullmatch(expected, served.run(code))


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("ask('127.0.0.1', OWN)", "dialled 1"),
        ("ask('127.0.0.1', OTHERS)", "failed denied 0 host  0"),
        ("ask('127.0.0.1', SERVER)", "failed denied 0 host  0"),
        ("ask('169.254.169.254', 80)", "failed denied 0 host  0"),
        ("ask('::ffff:127.0.0.1', OTHERS)", "failed denied 0 host  0"),
        ("ask('metadata.google.internal', 80)", "failed denied 0 host  0"),
        ("ask('127.0.0.1', OWN, scheme='https')", "failed denied 0 scheme  0"),
        ("ask('127.0.0.1', OWN, scheme='ftp')", "failed denied 0 scheme  0"),
        ("ask('127.0.0.1', OWN, scheme='')", "failed denied 0 host  0"),  # there is no proxy
        ("ask('127.0.0.1@x', OWN)", "failed denied 0 host  0"),
        ("ask('x' * 900, 80)", "failed denied 0 host  0"),
        ("ask('127.0.0.1', OWN, invocation=own + 1)", "failed not-running 0   0"),
        ("ask('127.0.0.1', OTHERS, invocation=0)", "failed not-running 0   0"),
    ],
)
def test_the_broker_asks_the_front_and_the_policy(served: Server, code: str, expected: str) -> None:
    assert served.run(code) == expected


def test_the_invocation_of_another_worker_lends_no_policy(served: Server) -> None:
    """Whatever number near its own a worker names, it gets no connection that only the other binding may have."""
    found = served.run("for n in range(own - 3, own + 4): ask('127.0.0.1', OTHERS, invocation=n, number=n + 5000)")
    assert set(found.splitlines()) == {"failed denied 0 host  0", "failed not-running 0   0"}


@pytest.mark.parametrize(
    ("code", "named"),
    [
        ("send(b'\\xc1')", "that is not a request"),
        ("send(b'\\xff' * 200)", "that is not a request"),
        ("send(['dial', 1, own, 'http', 'x', 0])", "that is not a request"),
        ("send(['dial', -1, own, 'http', 'x', 80])", "that is not a request"),
        ("send(['dial', 1, own, 'http', 'x', 1 << 64 - 1])", "that is not a request"),
        ("send(['dial', 1, own, 'http', 'x' * 4096, 80])", "of more than 1024 bytes"),
        ("send(b'\\x91' * 1024)", "that is not a request"),
        (
            "for n in (1, 1): send(['dial', n, own + 1, 'http', 'x', 80])",
            "two requests to the egress broker with one number",
        ),
        (
            "for n in range(90): send(['dial', n, own + 1, 'http', 'x', 80])",
            "more than 80 connections asked for at once",
        ),
        (
            "socket.send_fds(channel, [pack(['cancel', 1])], [channel.fileno()])",
            "sent descriptors to the",
        ),
    ],
)
def test_a_worker_that_lies_to_the_broker_is_killed_and_named(served: Server, code: str, named: str) -> None:
    since = len(served.server.lines)
    before = served.server.metric("sandboxd_worker_exits_total", reason="protocol")
    served.run(f"channel.setblocking(True)\n{code}\nprint(answer()[0])\nselect.select([], [], [], 10)")
    line = served.server.wait_for(lambda line: named in str(line.get("message")), since=since)
    assert (line["level"], line["logger"]) == ("error", "sandboxd.pool")
    until(
        lambda: served.server.metric("sandboxd_worker_exits_total", reason="protocol") == before + 1, "a counted exit"
    )
    assert served.call("other", served.others.port) == 200


def test_a_flood_of_requests_hinders_nobody(served: Server) -> None:
    code = "for n in range(2, 8000, 2):\n send(['dial', n, own, 'http', '127.0.0.1', OTHERS])\n answer()"
    assert served.run(f"{code}\nprint('done')") == "done"
    assert served.call("other", served.others.port) == 200


def test_a_flood_of_requests_for_other_runs_hinders_nobody(served: Server) -> None:
    asked = "for n in range(1, 79): send(['dial', n, own + 1, 'http', '127.0.0.1', OWN])"
    assert served.run(f"{asked}\nfor n in range(1, 79): answer()\nprint('done')") == "done"
    assert served.call("other", served.others.port) == 200


def test_connections_that_a_worker_does_not_take_stay_few(served: Server) -> None:
    """Those on their way count for the user (unix(7)): all workers would get none any more."""
    code = """
for n in range(120):
    send(["dial", n, own, "http", "127.0.0.1", OWN])
    sys.modules["time"].sleep(0.005)
print(len([answer(n) for n in range(120)]))
"""
    since = len(served.server.lines)
    assert "120" not in served.run(code)
    served.server.wait_for(lambda line: "connections asked for at once" in str(line.get("message")), since=since)
    assert served.call("other", served.others.port) == 200


def test_the_broker_holds_no_secret(served: Server) -> None:
    """It gets the policies only. The test reads its memory as root, or skips."""
    pid = tree.broker(served.server)
    if os.geteuid() != 0:
        pytest.skip("only root may read the memory of a process that is not dumpable")
    assert SECRET.encode() in memory(tree.zygote(served.server))
    assert SECRET.encode() not in memory(pid)


def memory(pid: int) -> bytes:
    """What a process can write to."""
    found = b""
    with open(f"/proc/{pid}/mem", "rb", 0) as file:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            start, end = (int(part, 16) for part in line.split()[0].split("-"))
            if " rw" in line and end - start < 1 << 28 and "[v" not in line:
                try:
                    file.seek(start)
                    found += file.read(end - start)
                except OSError:
                    continue  # a guard page, or gone meanwhile
    return found


def test_a_broker_that_dies_is_replaced(served: Server) -> None:
    before = served.server.metric("sandboxd_egress_broker_restarts_total")
    pid, since = tree.broker(served.server), len(served.server.lines)
    workers = set(tree.workers(served.server))
    os.kill(pid, signal.SIGKILL)
    line = served.server.wait_for(lambda line: line.get("event") == "broker-lost", since=since)
    assert (line["level"], "ended with status -9" in line["message"]) == ("error", True)
    # Asked before the next one serves: the requests wait for it. Those of both workers, at the same time.
    with ThreadPoolExecutor(2) as threads:
        calls = [threads.submit(served.asked, "caller", served.own.port) for _ in range(2)]
        answers = [call.result(60) for call in calls]
    assert [answer.status_code for answer in answers] == [200, 200], [answer.text for answer in answers]
    served.server.wait_for(lambda line: line.get("event") == "broker", since=since)
    assert served.call("other", served.others.port) == 200
    assert served.server.metric("sandboxd_egress_broker_restarts_total") == before + 1
    assert set(tree.workers(served.server)) == workers


def test_a_request_under_way_when_the_broker_dies_fails_with_a_reason(served: Server) -> None:
    """The broker is stopped, so that it has the request and does not answer it when it is killed."""
    pid, since = tree.broker(served.server), len(served.server.lines)
    os.kill(pid, signal.SIGSTOP)
    code = """
send(["dial", 77, own, "http", "127.0.0.1", OWN])
print("sent", file=sys.stderr, flush=True)
print(answer()[0][0])
"""
    found: list[str] = []
    asking = threading.Thread(target=lambda: found.append(served.run(code)))
    asking.start()
    served.server.wait_for(lambda line: line.get("message") == "sent", since=since)
    os.kill(pid, signal.SIGKILL)
    asking.join(60)
    assert found == ["lost"]


def test_a_reload_changes_the_policies(served: Server) -> None:
    changed = [text.replace(f":{served.own.port}", f":{served.others.port}") for text in map(str, served.components)]
    write_components(served.folder / "resources", changed)
    pid, since = tree.broker(served.server), len(served.server.lines)
    served.server.process.send_signal(signal.SIGHUP)
    served.server.wait_for(lambda line: line.get("event") == "reloaded", since=since)
    until(lambda: served.run("ask('127.0.0.1', OTHERS)") == "dialled 1", "the new policy")
    assert served.run("ask('127.0.0.1', OWN)") == "failed denied 0 host  0"
    assert tree.broker(served.server) == pid
