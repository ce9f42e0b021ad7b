"""Every attack on a real server: the caller is told exactly what happened, metrics count it, nobody else is hurt.

Not here: attacks on the outbound side, which need origins, and what a caller can do to the front.
"""

import re

import pytest

from tests.guests import hostile
from tests.hostile.conftest import ATTACKS, NO_BINDING, REFUSED, Attack, Counts, settled
from tests.running import RunningServer

PREFIX = "error invoking output binding {name}: "
TRACE = "\nwasm stack trace:\n"
FUNCTION = re.compile(r"\t\S+\(\.\.\.\)|\t\t\S+:\d+:\d+|\t\.\.\. maybe followed by omitted frames")
TRACED = ("trapped", "memory_exceeded")
"""The outcomes whose message ends with the functions that were running."""
NOT_BEGUN = {
    "memory_from_birth",
    "hidden_memory",
    "table_from_birth",
    "elements_beyond_table",
    "data_beyond_memory",
    "large_data",
}
"""Those that fail before any function runs."""


def assert_unharmed(server: RunningServer, before: Counts) -> Counts:
    """The server answers, and has the workers it had."""
    reply = server.invoke("echo", "still here")
    assert (reply.status_code, reply.content) == (200, b'"still here"')
    after = Counts.of(server)
    for name in ("sandboxd_worker_starts_total", "sandboxd_worker_exits_total"):
        assert after.total(name) == before.total(name), server.text()
    return after


def test_every_attack_is_tried() -> None:
    assert set(hostile.names()) <= {attack.name for attack in ATTACKS} | REFUSED.keys()


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_an_attack_costs_its_caller_only(hostile_server: RunningServer, attack: Attack) -> None:
    before = Counts.of(hostile_server)
    reply = hostile_server.invoke(attack.name, attack.data)
    if attack.outcome == "completed":
        assert reply.status_code == 200, reply.text
    else:
        assert reply.status_code == 500, reply.text
        answer = reply.json()
        assert answer["errorCode"] == "ERR_INVOKE_OUTPUT_BINDING"
        expected = (PREFIX + attack.reason).format(name=attack.name)
        message, _, trace = settled(answer["message"]).partition(TRACE)
        assert message == expected
        assert (trace != "") == (attack.outcome in TRACED and attack.name not in NOT_BEGUN), trace
        assert len(trace) <= 2100
        assert all(FUNCTION.fullmatch(line) for line in trace.splitlines()), trace
    after = assert_unharmed(hostile_server, before)

    def more(name: str, **labels: str) -> float:
        labels["binding"] = attack.name
        return after.total(name, **labels) - before.total(name, **labels)

    assert more("sandboxd_requests_total") == more("sandboxd_requests_total", outcome=attack.outcome) == 1
    assert more("sandboxd_limits_reached_total") == bool(attack.limit)
    assert more("sandboxd_limits_reached_total", limit=attack.limit) == bool(attack.limit)


def test_the_output_of_an_attack_is_bounded(hostile_server: RunningServer) -> None:
    assert hostile_server.invoke("tiny_writes").content == b"x" * 100_000
    since = len(hostile_server.lines)
    hostile_server.invoke("stderr_flood")
    line = hostile_server.wait_for(lambda line: line.get("binding") == "stderr_flood", since=since)
    assert line["stderr_bytes"] == 120_000_003
    assert len(line["stderr"].encode()) == 4096
    assert line["stderr"].endswith("end")


def test_attacks_at_once_leave_room_for_others(hostile_server: RunningServer) -> None:
    """More overdue guests than workers, and an honest one between them."""
    import concurrent.futures

    before = Counts.of(hostile_server)
    names = ["endless_loop", "echo", "sleeper", "echo", "endless_randomness", "stdout_flood", "echo"]
    with concurrent.futures.ThreadPoolExecutor(len(names)) as threads:
        replies = list(threads.map(lambda name: hostile_server.invoke(name, "x"), names))
    assert [reply.status_code for reply in replies] == [500, 200, 500, 200, 500, 500, 200]
    assert_unharmed(hostile_server, before)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_loaded_is_refused_by_name(hostile_server: RunningServer, name: str) -> None:
    before = Counts.of(hostile_server)
    reply = hostile_server.invoke(name)
    assert reply.status_code == 500
    assert reply.json()["message"] == (PREFIX + NO_BINDING).format(name=name)
    assert any(
        REFUSED[name] in str(line.get("message")) for line in hostile_server.lines if line.get("binding") == name
    )
    assert before.total("sandboxd_binding_ready", binding=name) == 0
    assert_unharmed(hostile_server, before)


@pytest.mark.parametrize(
    ("metadata", "data", "limit", "status", "words"),
    [
        ({"args": "x" * 1024}, None, "argsLimit", 400, "at most 1 KiB (argsLimit) are allowed"),
        ({"env.A": "x" * 1024}, None, "envLimit", 400, "at most 1 KiB (envLimit) are allowed"),
        ({}, "x" * 70_000, "listen.maxBodySize", 400, "stream too large"),
    ],
)
def test_requests_beyond_a_limit(
    hostile_server: RunningServer, metadata: dict[str, str], data: str | None, limit: str, status: int, words: str
) -> None:
    before = Counts.of(hostile_server)
    reply = hostile_server.invoke("args", data, metadata)
    assert reply.status_code == status
    assert words in reply.json()["message"]
    if data is not None:
        assert reply.json()["detail"] == "the request body is longer than 64 KiB (listen.maxBodySize)"
    after = assert_unharmed(hostile_server, before)
    labels = {"binding": "args", "limit": limit}
    name = "sandboxd_limits_reached_total"
    assert after.total(name, **labels) - before.total(name, **labels) == 1
