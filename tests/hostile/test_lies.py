"""A worker that a guest has taken over lies to the front: about each field of each frame, and in bytes that are none.

The bounds are those of the binding's limits and of the messages' own documentation. An escaped worker is stood for by
the hook of tests/escape, which runs the Python that it is sent.
"""

import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

import httpx2 as httpx
import pytest
import wasmtime

from tests.conftest import guest_component
from tests.escape.test_escape import HOOK
from tests.host.refusing_text import refusing
from tests.running import RunningServer, component, write_components
from tests.waiting import until

LOST = "the worker process was lost"


@dataclass(frozen=True, kw_only=True)
class Lie:
    """One thing that a worker says and that is not so.

    Parameters:
        code: sends it.
        told: what the log must say of it.
        http: the invocation streams.
    """

    code: str
    told: str
    http: bool = False


def result(fields: str, told: str) -> Lie:
    """A lie in a result."""
    return Lie(
        code=f"channel.send(m.Result(**{{'id': invoke.id, 'outcome': Outcome.COMPLETED}} | dict({fields})))", told=told
    )


def head(fields: str, told: str) -> Lie:
    """A lie in the head of a response."""
    return Lie(code=f"channel.send(m.ResponseHead(invoke.id, {fields}))", told=told, http=True)


OK = "m.ResponseHead(invoke.id, 200, {})"
SPAN = "does not fit into the time"
PROCESSOR = "processor time that does not fit"


def usage(**fields: object) -> str:
    """A record of an outbound request, as code."""
    return f"m.OutboundUsage(**{ {'rule': 'default', 'outcome': 'ok', 'duration_ns': 0} | fields!r})"


LIES = {
    **{
        f"outcome {outcome}": result(f"outcome=Outcome.{outcome}", "an outcome that only the front decides")
        for outcome in ("UNAUTHORIZED", "REJECTED", "NOT_FOUND", "WORKER_LOST")
    },
    "stdout too long": result("stdout=bytes(2049)", "more stdout"),
    "stdout far too long": result("stdout=bytes(8 << 20)", "frame of 8388"),
    "stderr too long": result("stderr=bytes(1025), stderr_total=1025", "more stderr"),
    "stderr longer than all of it": result("stderr=b'x', stderr_total=0", "length of stderr"),
    "negative length of stderr": result("stderr_total=-1", "length of stderr"),
    "length of stderr beyond all": result("stderr_total=(1 << 64) - 1", "length of stderr"),
    "an endless text": result("outcome=Outcome.TRAPPED, detail='x' * 4097", "a longer text"),
    "a text of wide characters": result("outcome=Outcome.TRAPPED, detail='\\u20ac' * 1400", "a longer text"),
    "a text beyond all frames": result("outcome=Outcome.TRAPPED, detail='<' * (200 << 20)", "sent garbage: frame of"),
    "a limit of another name": result("outcome=Outcome.TRAPPED, limit='x' * 100", "limit that does not exist"),
    "exit code with an outcome that has none": result("exit_code=1", "exit code that does not go with"),
    "negative exit code": result("outcome=Outcome.EXIT_NONZERO, exit_code=-1", "exit code that does not go with"),
    "exit code of 33 bits": result(
        "outcome=Outcome.EXIT_NONZERO, exit_code=1 << 32", "exit code that does not go with"
    ),
    "no exit code": result("outcome=Outcome.EXIT_NONZERO", "no exit code"),
    "negative time": result("guest_ns=-1", SPAN),
    "negative time to instantiate": result("instantiate_ns=-(1 << 63)", SPAN),
    "a run of centuries": result("guest_ns=(1 << 64) - 1", SPAN),
    "a run longer than its span": result("guest_ns=10 ** 12", SPAN),
    "both together longer than the span": result("guest_ns=10 ** 11, instantiate_ns=10 ** 11", SPAN),
    "negative processor time": result("cpu_ns=-2", PROCESSOR),
    "processor time of an hour": result("cpu_ns=3600 * 10 ** 9", PROCESSOR),
    "processor time of centuries": result("cpu_ns=(1 << 64) - 1", PROCESSOR),
    "a time in the queue": result("queue_ns=1", "how long the invocation waited"),
    "more memory than the limit": result("memory_bytes=(1 << 20) + 1", "memory that the binding may not have"),
    "negative memory": result("memory_bytes=-1", "memory that the binding may not have"),
    "negative cuts": result("texts_cut=-1", "number of cut texts"),
    "cuts without end": result("texts_cut=1 << 40", "number of cut texts"),
    "more records than requests": result(
        f"outbound=({usage()},) * 73", "more outbound requests than the binding may make"
    ),
    "a rule of another binding": result(
        f"outbound=({usage(rule='https://other.example')},)", "outbound rule that the binding does not have"
    ),
    "a negative request": result(f"outbound=({usage(duration_ns=-1)},)", "does not fit into the run"),
    "a request longer than the run": result(f"outbound=({usage(duration_ns=10**12)},)", "does not fit into the run"),
    "a denial of another kind": result(f"outbound=({usage(denied='x')},)", "no outbound request has"),
    "an error code with a line break": result("outbound=(" + usage(outcome="a\nb") + ",)", "no outbound request has"),
    "a response with status 101": result("http=m.HttpResponse(status=101)", "status that ends no request"),
    "a response with status 600": result("http=m.HttpResponse(status=600)", "status that ends no request"),
    "the result of another invocation": result("id=invoke.id + 1", "which was not its next"),
    "a negative id": result("id=-1", "which was not its next"),
    "the same result twice": Lie(
        code="channel.send(*[m.Result(id=invoke.id, outcome=Outcome.COMPLETED, stdout=b'\"x\"')] * 2)",
        told="which was not its next",
    ),
    "ready again": Lie(code="channel.send(m.Ready(os.getpid()))", told="READY twice"),
    "skipped what it runs": Lie(code="channel.send(m.Skipped(invoke.id))", told="which was not taken back"),
    "skipped what there is not": Lie(code="channel.send(m.Skipped(1 << 62))", told="which was not taken back"),
    "credit for no stream": Lie(code="channel.send(m.RequestCredit(invoke.id, 1))", told="which does not stream"),
    "a head for no stream": Lie(code="channel.send(m.ResponseHead(invoke.id, 200, ()))", told="which does not stream"),
    "a body for no stream": Lie(code="channel.send(m.ResponseBody(invoke.id, b'x'))", told="which does not stream"),
    "not begun": Lie(
        code="import_page = [o for o in gc.get_objects() if type(o).__name__ == 'StatusPage']\n"
        "import_page[0]._map[0:8] = bytes(8)\n"
        "channel.send(m.Result(id=invoke.id, outcome=Outcome.COMPLETED))",
        told="had not begun",
    ),
    "an unknown outcome": Lie(
        code="f = codec.encode(m.Result(id=invoke.id, outcome=Outcome.COMPLETED))\n"
        "f = f.replace(b'completed', b'c\\x1b[31m\\nd')\n"
        "channel._socket.sendall(f)",
        told="sent garbage",
    ),
    "a message for another direction": Lie(code="channel.send(m.Kill(1))", told="sent garbage"),
    "status 101": head("101, ()", "status that ends no request"),
    "status 1000": head("1000, ()", "status that ends no request"),
    "a status below zero": head("-1, ()", "status that ends no request"),
    "two lengths": head("200, ((b'content-length', b'1'), (b'Content-Length', b'1'))", "Content-Length that frames"),
    "two other lengths": head(
        "200, ((b'content-length', b'1'), (b'content-length', b'2'))", "Content-Length that frames"
    ),
    "a length in words": head("200, ((b'content-length', b'+1'),)", "Content-Length that frames"),
    "a transfer encoding": head("200, ((b'transfer-encoding', b'chunked'),)", "belongs to the connection"),
    "a line break in a value": head("200, ((b'a', b'b\\r\\nc: d'),)", "characters that none may have"),
    "a line break in a name": head("200, ((b'a\\r\\nb', b'c'),)", "characters that none may have"),
    "an empty name": head("200, ((b'', b'c'),)", "characters that none may have"),
    "a field too long": head("200, ((b'a', b'b' * (128 << 10)),)", "longer fields"),
    "fields without end": head("200, ((b'a', b''),) * 3000", "sent garbage"),
    "a body before the head": Lie(
        code="channel.send(m.ResponseBody(invoke.id, b'x'))", told="without a head", http=True
    ),
    "two heads": Lie(code=f"channel.send(*[{OK.format('()')}] * 2)", told="second head", http=True),
    "a body longer than its length": Lie(
        code="channel.send(m.ResponseHead(invoke.id, 200, ((b'content-length', b'1'),)))\n"
        "channel.send(m.ResponseBody(invoke.id, b'ab'))",
        told="longer body",
        http=True,
    ),
    "a body longer than the limit": Lie(
        code=f"channel.send({OK.format('()')}, *[m.ResponseBody(invoke.id, bytes(1024))] * 5)",
        told="longer body",
        http=True,
    ),
    "a body that cannot be": Lie(
        code="channel.send(m.ResponseHead(invoke.id, 204, ()), m.ResponseBody(invoke.id, b'a'))",
        told="longer body",
        http=True,
    ),
    "an end before the head": Lie(
        code="channel.send(m.Result(id=invoke.id, outcome=Outcome.COMPLETED))", told="without a response", http=True
    ),
    "an end before the announced length": Lie(
        code="channel.send(m.ResponseHead(invoke.id, 200, ((b'content-length', b'9'),)), "
        "m.Result(id=invoke.id, outcome=Outcome.COMPLETED))",
        told="another length of body",
        http=True,
    ),
    "the head again in the result": Lie(
        code=f"channel.send({OK.format('()')}, "
        "m.Result(id=invoke.id, outcome=Outcome.COMPLETED, http=m.HttpResponse(status=200)))",
        told="head twice",
        http=True,
    ),
    "credit for a body that does not follow": Lie(
        code="channel.send(m.RequestCredit(invoke.id, 1))", told="gave credit", http=True
    ),
    "a piece for another invocation": Lie(
        code="channel.send(m.ResponseHead(invoke.id + 1, 200, ()))", told="which does not stream", http=True
    ),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("lies")
    (folder / "web.wasm").write_bytes(bytes(wasmtime.wat2wasm(refusing(1))))
    limits = {"stdoutLimit": "2Ki", "stderrLimit": "1Ki", "memoryLimit": "1Mi", "outboundRequests": "4"}
    documents = [
        guest_component("echo", **limits),
        guest_component("upper"),
        component("web", f"file://{folder}/web.wasm", httpBodyLimit="4Ki", **limits),
    ]
    environ = {"PYTHONPATH": str(HOOK)}
    with RunningServer(write_components(folder / "resources", documents), "--workers", "1", environ=environ) as running:
        yield running


def sent(server: RunningServer, code: str, *, http: bool = False) -> tuple[int, str]:
    """Have a worker run code; the status and the text of the answer. A cut answer has status 0."""
    text = f"#!escaped\n{code}"
    if not http:
        reply = server.invoke("echo", text)
        return reply.status_code, reply.text
    with server.client() as client:
        try:
            reply = client.post("/v1.0/http/web/", content=json.dumps(text).encode())
        except httpx.RemoteProtocolError:
            return 0, LOST
    return reply.status_code, reply.text


@pytest.mark.parametrize("name", LIES)
def test_a_lie_ends_its_worker_and_costs_only_its_caller(server: RunningServer, name: str) -> None:
    lie = LIES[name]
    before = server.metric("sandboxd_worker_exits_total", reason="protocol")
    since = len(server.lines)
    status, text = sent(server, lie.code, http=lie.http)
    # Two answers are complete before the lie comes.
    if name not in ("the same result twice", "a body that cannot be"):
        assert status in (0, 500, 502)
        assert LOST in text
        assert len(text) < 4096
    until(lambda: server.metric("sandboxd_worker_exits_total", reason="protocol") == before + 1, "the exit is counted")
    server.wait_for(lambda line: lie.told in line.get("message", ""), since=since)
    told = [line for line in server.lines[since:] if re.search(r"worker \d+ \(pid \d+\) ", line.get("message", ""))]
    accused = [line for line in told if lie.told in line["message"]]
    assert len(accused) == 1, told
    assert accused[0]["level"] == "error"
    assert len(accused[0]["message"]) < 1024
    assert accused[0]["message"].isprintable()
    assert server.invoke("upper", "abc").text == '"ABC"'


def test_what_a_worker_may_say_is_believed(server: RunningServer) -> None:
    honest = (
        "channel.send(m.Result(id=invoke.id, outcome=Outcome.COMPLETED, stdout=b'\"' + b'x' * 2046 + b'\"', "
        "stderr=bytes(1024), stderr_total=1 << 40, memory_bytes=1 << 20, "
        f"outbound=({usage(duration_ns=0)},) * 72))\nos._exit(0)"
    )
    status, text = sent(server, honest)
    assert (status, len(text)) == (200, 2048)


def test_one_who_never_says_what_it_begins_is_not_given_the_same_call_for_ever(server: RunningServer) -> None:
    code = (
        "page = [o for o in gc.get_objects() if type(o).__name__ == 'StatusPage'][0]\n"
        "page._map[0:8] = bytes(8)\nos._exit(0)"
    )
    status, text = sent(server, code)
    assert status == 500
    assert "3 worker processes in a row ended with it unread" in text


def test_bytes_that_are_almost_frames(server: RunningServer) -> None:
    chance = random.Random(20261126)
    for _ in range(40):
        changes = [(chance.random(), chance.randrange(256)) for _ in range(chance.randint(1, 6))]
        cut = chance.random() if chance.random() < 0.3 else 1.0
        code = (
            "f = bytearray(codec.encode(m.Result(id=invoke.id, outcome=Outcome.TRAPPED, stdout=b'12', detail='d', "
            f"stderr=b'e', stderr_total=1, outbound=({usage()},), http=m.HttpResponse(status=200))))\n"
            f"for at, byte in {changes!r}:\n    f[int(at * len(f))] = byte\n"
            f"channel._socket.sendall(f[: int(len(f) * {cut})])\nos._exit(0)"
        )
        status, text = sent(server, code)
        assert status in (200, 400, 500), text
        assert len(text) < 8192
    assert server.invoke("upper", "abc").text == '"ABC"'
    assert not [line for line in server.lines if "Traceback" in str(line)]
