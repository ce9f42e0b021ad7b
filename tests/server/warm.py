"""One guest under two names, cold and started warm, and the comparison of their answers."""

import base64
import json
import re
from collections.abc import Mapping
from pathlib import Path

import wasmtime

from tests.running import RunningServer, component
from tests.waiting import BOUND_S, until

LARGE_BODIES = {"SANDBOXD_LISTEN_MAX_BODY_SIZE": "32Mi"}

INPUTS: Mapping[str, bytes] = {
    "empty": b"",
    "one byte": b"a",
    "4 MiB": bytes(range(256)) * (4 << 12),
    "binary": b"\0\xff\r\n\x80" * 100,
}


def pair(name: str, url: str | Path, *, instances: int = 1, **metadata: str) -> list[str]:
    """One guest under two names: cold, and started warm.

    Parameters:
        name: the names are NAME-cold and NAME-warm.
        url: the guest.
        instances: the children kept ready. With 0 it is not started warm if it starts quickly.
        metadata: of both.
    """
    options = {"stdin": "base64", **metadata}
    return [
        component(f"{name}-cold", f"file://{url}", **options),
        component(f"{name}-warm", f"file://{url}", warmStart="true", warmInstances=str(instances), **options),
    ]


def module(folder: Path, name: str, text: str) -> Path:
    path = folder / f"{name}.wasm"
    path.write_bytes(wasmtime.wat2wasm(text))
    return path


def ask(server: RunningServer, binding: str, stdin: bytes, argv: tuple[str, ...] = ()) -> tuple[int, bytes]:
    """Return status and body of one request."""
    metadata = {"argv": json.dumps(argv)} if argv else {}
    reply = server.invoke(binding, base64.b64encode(stdin).decode(), metadata)
    body = re.sub(rb"-(warm|cold)", b"", reply.content)
    # Messages about traps number the instances of a server.
    return reply.status_code, re.sub(rb"module\[byte-\d+\]", b"module[byte]", body)


def warm_up(server: RunningServer, binding: str, argv: tuple[str, ...] = (), bound_s: float = BOUND_S) -> None:
    """Ask until the guest is started warm with these arguments."""

    def started() -> bool:
        before = server.metric("sandboxd_warm_invocations_total", binding=binding)
        ask(server, binding, b"", argv)
        return server.metric("sandboxd_warm_invocations_total", binding=binding) > before

    until(started, f"{binding} starts warm", bound_s)


def same(server: RunningServer, name: str, stdin: bytes, argv: tuple[str, ...] = ()) -> tuple[int, bytes]:
    """Compare a run that was started warm with a cold one, and return what both answered."""
    before = server.metric("sandboxd_warm_invocations_total", binding=f"{name}-warm")
    cold = ask(server, f"{name}-cold", stdin, argv)

    def started_warm() -> bool:
        assert ask(server, f"{name}-warm", stdin, argv) == cold
        return server.metric("sandboxd_warm_invocations_total", binding=f"{name}-warm") > before

    until(started_warm, "a run is started warm")
    return cold
