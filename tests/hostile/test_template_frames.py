"""A template that its guest has taken over lies to the front and to the zygote of a real server.

The hook of tests/escape runs the Python that the guest is given as an argument, in the template alone. What the zygote
does with each message is in test_template_lies.py.
"""

import json
import random
import re
from collections.abc import Iterator

import pytest

from tests.conftest import guest_component
from tests.escape.test_escape import HOOK
from tests.running import RunningServer, write_components
from tests.waiting import until

PARKED = "m.Parked(at='stdin', boot_ns=0, cpu_ns=0, private_bytes=0)"


def front(*messages: str) -> str:
    """Code that sends messages to the front."""
    return "".join(f"parts.channel.sendall(codec.encode({message}))\n" for message in messages)


def zygote(*packets: str) -> str:
    """Code that parks, waits to be asked for a child, and sends packets to the zygote instead."""
    asked = (
        "data, fds, _, _ = socket.recv_fds(parts.control, 4096, 3)\n"
        "(order,) = codec.Decoder(codec.ToTemplate).feed(data)\n"
    )
    return front(PARKED) + asked + "".join(f"parts.control.send({one})\n" for one in packets)


READY = "m.Ready(os.getpid())"
"""A template has said it once before its guest runs."""
LIES = {
    "parked before it is ready": (front(PARKED.replace("boot_ns=0", "boot_ns=-1")), "told of a start that cannot be"),
    "parked nowhere": (front(PARKED.replace("stdin", "nowhere")), "told of a start that cannot be"),
    "parked for centuries": (
        front(PARKED.replace("boot_ns=0", "boot_ns=1 << 62")),
        "told of a start that cannot be",
    ),
    "negative processor time": (
        front(PARKED.replace("cpu_ns=0", "cpu_ns=-1")),
        "told of a start that cannot be",
    ),
    "negative memory": (
        front(PARKED.replace("private_bytes=0", "private_bytes=-1")),
        "told of memory that cannot be",
    ),
    "memory of exabytes": (
        front(PARKED.replace("private_bytes=0", "private_bytes=(1 << 64) - 1")),
        "told of memory that cannot be",
    ),
    "parked twice": (front(PARKED, PARKED), "told that it was parked, which it cannot be"),
    "parked, and not": (
        front(PARKED, "m.NotParked(outcome=Outcome.COMPLETED)"),
        "told that it was not parked, which it cannot tell",
    ),
    "ready twice": (front(READY), "sent READY twice, or for another process"),
    "ready for the zygote": (front("m.Ready(os.getppid())"), "sent READY twice, or for another process"),
    "a result": (front("m.Result(id=0, outcome=Outcome.COMPLETED)"), "which was not its next"),
    "a result for others": (front(PARKED, "m.Result(id=1, outcome=Outcome.COMPLETED)"), "which was not its next"),
    "a head": (front(PARKED, "m.ResponseHead(1, 200, ())"), "which does not stream there"),
    "skipped": (front(PARKED, "m.Skipped(1)"), "which was not taken back"),
    "a message for the zygote": (front("m.Forked(1, 1)"), "sent garbage"),
    "a text beyond all frames": (
        front("m.NotParked(outcome=Outcome.TRAPPED, detail='<' * (64 << 20))"),
        "sent garbage: frame of",
    ),
    "no frame": ("parts.channel.sendall(b'\\xff' * 65536)\n", "sent garbage"),
    "a child that nobody wants": (zygote("codec.encode(m.Forked(order.serial + 1000, 1))"), ""),
    "itself": (zygote("codec.encode(m.Forked(order.serial, os.getpid()))"), ""),
    "the zygote": (zygote("codec.encode(m.Forked(order.serial, os.getppid()))"), ""),
    "a process number beyond all": (zygote("codec.encode(m.Forked(order.serial, 1 << 62))"), ""),
    "a packet that is no frame": (zygote("b'\\xff' * 4096"), ""),
    "a frame that never ends": (
        zygote("(1 << 20).to_bytes(4, 'little') + bytes(4000)", *["bytes(4096)"] * 200),
        "",
    ),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    documents = [guest_component("upper", warmStart="true", warmInstances="1"), guest_component("echo")]
    resources = write_components(tmp_path_factory.mktemp("lies") / "resources", documents)
    with RunningServer(resources, "--workers", "1", environ={"PYTHONPATH": str(HOOK)}) as running:
        yield running


def take_over(server: RunningServer, code: str) -> list[str]:
    """Ask until a template that is started with this code has been killed. The answers are right: they come from
    workers. Returns what was logged meanwhile."""
    since = len(server.lines)
    argv = json.dumps([f"#!template\n{code}parts.control.recv(1)\nos._exit(0)"])

    def messages() -> list[str]:
        return [str(line.get("message")) for line in server.lines[since:]]

    def killed() -> bool:
        reply = server.invoke("upper", "abc", {"argv": argv})
        assert (reply.status_code, reply.text) == (200, '"ABC"')
        return any(map(re.compile(r"template \d+ \(pid \d+\) was killed by SIGKILL").match, messages()))

    until(killed, "the template was killed")
    assert server.invoke("echo", "abc").text == '"abc"'
    assert not [line for line in server.lines[since:] if "Traceback" in str(line)]
    return messages()


@pytest.mark.parametrize("name", LIES)
def test_a_lie_ends_the_template_and_costs_nobody_an_answer(server: RunningServer, name: str) -> None:
    code, told = LIES[name]
    before = server.metric("sandboxd_worker_exits_total", reason="protocol")
    messages = take_over(server, f"# {name}\n{code}")
    if told:
        (first, *_) = [message for message in messages if told in message]
        assert len(first) < 1024
        assert first.isprintable()
        assert server.metric("sandboxd_worker_exits_total", reason="protocol") > before


def test_bytes_that_are_almost_a_template_s_frames(server: RunningServer) -> None:
    chance = random.Random(20261128)
    for number in range(16):
        changes = [(chance.random(), chance.randrange(256)) for _ in range(chance.randint(1, 6))]
        to_front = number % 2 == 0
        frame = PARKED if to_front else "m.Forked(order.serial, os.getpid())"
        made = f"f = bytearray(codec.encode({frame}))\nfor at, byte in {changes!r}: f[int(at * len(f))] = byte\n"
        # What is still a frame, or the beginning of one, is no good reason. What follows it is one.
        if to_front:
            code = f"{made}parts.channel.sendall(f + b'\\xff' * 4096)\n"
        else:
            code = f"{zygote()}{made}parts.control.send(f)\nparts.control.send(b'\\xff' * 4096)\n"
        take_over(server, code)
