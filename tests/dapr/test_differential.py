"""Generated requests to a real daprd and to sandboxd: both answer the same, byte for byte.

The generator has a fixed seed, so that a difference comes again; SANDBOXD_TEST_SEED chooses another one.
"""

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx2 as httpx
import pytest

from tests.conftest import ENGINES, guest_component
from tests.dapr.daprd import Daprd, needed
from tests.dapr.resiliency_cases import EXIT, OK, TRAP, Case, folder_of, played
from tests.grpc_calls import UNLIMITED, invoke
from tests.running import RunningServer, write_components

pytestmark = pytest.mark.slow  # two servers, started anew

SEED = int(os.environ.get("SANDBOXD_TEST_SEED", "1"))
BODIES = 400
CALLS = 150
POLICIES = 5

NUMBERS = (
    "0", "-0", "1", "-1", "1.0", "1.50", "1e2", "1E+2", "1e-7", "1e21", "1e20", "123456789012345678901234567890",
    "9007199254740993", "0.1", "3.14e-300", "1e400", "-1e400", "5e-324", "01", "+1", "1.", ".5", "0x10", "NaN",
)  # fmt: skip
TEXTS = (
    '""', '"a"', '"\\u00e9"', '"é"', '"\\ud83d\\ude00"', '"\\ud800"', '"<&>"', '"\\u2028"', '"\\/"', '"\\n\\t\\b\\f"',
    '"\\u0000"', '"\x7f"', '"\\x"', '"a\nb"', '"unended', "'a'",
)  # fmt: skip
KEYS = ("operation", "Operation", "OPERATION", "data", "Data", "metadata", "Metadata", "other", "dat\\u0061")
OPERATIONS = ('"execute"', '"create"', '""', "null", "1", '"Execute"')
ARGS = ('"dump"', '"dump,a,,b"', '","', '""', '"exit,3"', '"exit,0"', '"empty"', "null", "1", '"é"', '"dump, x "')


def value(rng: random.Random, depth: int = 0) -> str:
    """A JSON value, or nearly one."""
    kind = rng.random()
    if kind < 0.3:
        return rng.choice(NUMBERS)
    if kind < 0.6:
        return rng.choice(TEXTS)
    if kind < 0.7 or depth > 4:
        return rng.choice(("true", "false", "null", "nul", "True"))
    if kind < 0.85:
        return "[" + ",".join(value(rng, depth + 1) for _ in range(rng.randrange(4))) + "]"
    pairs = (f"{rng.choice(TEXTS[:8])}: {value(rng, depth + 1)}" for _ in range(rng.randrange(4)))
    return "{" + ", ".join(pairs) + "}"


def body(rng: random.Random) -> bytes:
    """A request's body: mostly an envelope, sometimes with bytes changed."""
    members = ['"operation": "execute"'] if rng.random() < 0.8 else []
    for _ in range(rng.randrange(4)):
        key = rng.choice(KEYS)
        if key.lower() == "operation":
            members.append(f'"{key}":{rng.choice(OPERATIONS)}')
        elif key.lower() == "metadata":
            metadata = f'{{"args": {rng.choice(ARGS)}}}' if rng.random() < 0.8 else value(rng)
            members.append(f'"{key}" : {metadata}')
        else:
            members.append(f'"{key}":{value(rng)}')
    rng.shuffle(members)
    text = ("{" + ",".join(members) + "}").encode("utf-8", "surrogatepass")
    if rng.random() < 0.2:
        at = rng.randrange(len(text) + 1)
        text = text[:at] + rng.choice((b"", b"\xff", b"{", b'"', b",", b"\0", b" ", b"\xef\xbb\xbf")) + text[at + 1 :]
    return text + rng.choice((b"", b"", b"", b" ", b"x", b"{}", b"\n"))


@pytest.fixture(scope="module")
def resources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    documents = [guest_component(name, "multi") for name in ("multi", "a b")]
    return write_components(tmp_path_factory.mktemp("both") / "r", documents)


@pytest.fixture(scope="module")
def daprd(resources: Path) -> Iterator[Daprd]:
    with Daprd(needed(), resources) as running:
        yield running


def shown(answer: httpx.Response) -> dict[str, Any]:
    """What is compared of an answer: of errors code and message, of others every byte."""
    found: dict[str, Any] = {"status": answer.status_code, "type": answer.headers.get("content-type")}
    if answer.status_code == 200:
        return found | {"body": answer.content}
    error = answer.json()
    return found | {"code": error["errorCode"], "message": error["message"]}


@pytest.mark.parametrize("engine", ENGINES)
def test_http(daprd: Daprd, resources: Path, engine: str) -> None:
    rng = random.Random(SEED)
    with (
        RunningServer(resources, "--engine", engine, "--workers", "1") as server,
        server.client() as ours,
        daprd.client() as theirs,
    ):
        for number in range(BODIES):
            path = f"/v1.0/bindings/{rng.choice(('multi', 'multi', 'multi', 'a%20b', 'a+b', 'nope', '%C3%A9'))}"
            sent = body(rng)
            method = rng.choice(("POST", "PUT"))
            found, wanted = (shown(client.request(method, path, content=sent)) for client in (ours, theirs))
            assert found == wanted, f"request {number}: {method} {path} {sent!r}"


def test_grpc(daprd: Daprd, resources: Path, tmp_path: Path) -> None:
    rng = random.Random(SEED)
    socket = tmp_path / "s"
    with (
        RunningServer(resources, "--workers", "1", "--grpc-unix-socket", str(socket)) as server,
        grpc.insecure_channel(f"unix:{socket}", options=UNLIMITED) as ours,
        daprd.channel() as theirs,
    ):
        server.wait_for(lambda line: line.get("event") == "serving_grpc")
        for number in range(CALLS):
            name = rng.choice(("multi", "multi", "a b", "nope", "", "a%20b"))
            operation = rng.choice(("execute", "execute", "execute", "create", ""))
            args = rng.choice(("", "dump", "dump,a,,b", "exit,3", "empty", ",", "é"))
            metadata = {"args": args} if rng.random() < 0.8 else {}
            data = rng.randbytes(rng.choice((0, 1, 100)))
            headers = [("args", "dump,header")] if rng.random() < 0.3 else []
            answers = [invoke(channel, name, data, metadata, headers, operation) for channel in (ours, theirs)]
            found, wanted = (
                (answer.code, answer.message, answer.body, answer.details, answer.initial) for answer in answers
            )
            assert found == wanted, f"call {number}: {name!r} {operation!r} {metadata} {headers} {data!r}"


def policies(rng: random.Random, number: int) -> Case:
    """Retries and a breaker of all shapes that need no clock, and calls."""
    trips = (
        "consecutiveFailures >= 2", "totalFailures > 2", "requests > 3 && totalFailures * 2 >= requests",
        "double(totalFailures) / double(requests) > 0.5 || consecutiveFailures > 3",
        "!(totalSuccesses >= totalFailures)",
    )  # fmt: skip
    wanted: dict[str, Any] = {}
    outbound = {}
    if rng.random() < 0.7:
        retry = {"policy": rng.choice(("constant", "Constant")), "duration": "1ms", "maxRetries": rng.randrange(4)}
        wanted["retries"] = {"r": retry}
        outbound["retry"] = "r"
    if rng.random() < 0.8:
        wanted["circuitBreakers"] = {"c": {"trip": rng.choice(trips), "timeout": "1h"}}
        outbound["circuitBreaker"] = "c"
    return Case(f"generated {number}", wanted, outbound, [rng.choice((OK, TRAP, TRAP, EXIT)) for _ in range(14)])


def test_resiliency(tmp_path: Path) -> None:
    program, rng = needed(), random.Random(SEED)
    for number in range(POLICIES):
        case = policies(rng, number)
        resources = folder_of(case, tmp_path / str(number))
        answers = []
        with Daprd(program, resources) as daprd, RunningServer(resources, "--workers", "1") as server:
            for client_of in (server.client, daprd.client):
                with client_of() as client:

                    def call(name: str, operation: str, args: str, client: httpx.Client = client) -> str:
                        request = {"operation": operation, "metadata": {"args": args}}
                        answer = client.post(f"/v1.0/bindings/{name}", content=json.dumps(request))
                        return "ok" if answer.status_code == 200 else str(answer.json()["message"])

                    answers.append(played(case, call))
        assert answers[0] == answers[1], case
