"""Running components in this process, through the same code a worker runs."""

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import wasmtime
from wasmtime import component as wc

from sandboxd.limits import EngineSettings, OutboundSettings
from sandboxd.modules import fingerprint
from sandboxd.wire.messages import Call, GuestSpec, HttpRequest, Invoke, Result
from sandboxd.worker import engine, load
from sandboxd.worker.runtime import Runtime
from tests.guests.cache import CACHE, digest, made
from tests.origins import Origin

SETTINGS = EngineSettings()
_LARGE_BYTES = 1 << 20
"""What a toolchain made, an interpreter and more, has this size; the tests' own texts have not."""
HERE = Path(__file__).parents[1] / "guests" / "component"


class Components:
    """Compiles and runs components. What was compiled is kept for the test run, and of large guests in the cache.

    Parameters:
        folder: where artifacts go.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._compiler = engine.build(SETTINGS, compiling=True)
        self.engine = engine.build(SETTINGS)

    def compile(self, source: bytes) -> Path:
        """The artifact of a component, given as bytes of wasm or text."""

        def make(target: Path) -> None:
            binary = source if source[:4] == b"\0asm" else bytes(wasmtime.wat2wasm(source.decode()))
            target.write_bytes(bytes(wc.Component(self._compiler, binary).serialize()))

        if len(source) >= _LARGE_BYTES:
            engine = fingerprint.current(SETTINGS)
            return made(CACHE / "compiled" / f"{digest(source, engine.engine, engine.cpu)}.cwasm", make)
        target = self._folder / f"{digest(source)}.cwasm"
        if not target.exists():
            make(target)
        return target

    def load(self, source: bytes | str | Path, **spec: Any) -> "Loaded":
        """A component ready to run.

        Parameters:
            source: text, bytes, or a file.
            spec: of GuestSpec; `outbound` is the server's OutboundSettings.
        """
        data = (
            source.read_bytes() if isinstance(source, Path) else source.encode() if isinstance(source, str) else source
        )
        outbound = spec.pop("outbound", OutboundSettings())
        whole = GuestSpec(
            **{"binding": "b", "kind": "component", "artifact": str(self.compile(data)), "argv0": b"guest", **spec}
        )
        return Loaded(Runtime(self.engine, [load.load(self.engine, whole)], outbound).start())

    def wat(self, name: str, **spec: Any) -> "Loaded":
        """A component of tests/guests/component/wat."""
        return self.load(HERE / "wat" / f"{name}.wat", **spec)


class Loaded:
    """One component in a runtime of its own. A context manager, because the runtime has a thread."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self._number = 0

    def __enter__(self) -> "Loaded":
        return self

    def __exit__(self, *_: object) -> None:
        self.runtime.close()

    def run(
        self,
        *args: str,
        stdin: bytes = b"",
        env: tuple[tuple[bytes, bytes], ...] = (),
        timeout_s: float = 60,
        http: HttpRequest | None = None,
    ) -> Result:
        """One invocation."""
        self._number += 1
        return self.runtime.run(
            Invoke(
                id=self._number,
                guest=0,
                call=Call(
                    deadline_ns=time.monotonic_ns() + int(timeout_s * 1e9),
                    args=tuple(arg.encode() for arg in args),
                    env=env,
                    stdin=stdin,
                    http=http,
                ),
            )
        )

    def json(self, *args: str, stdin: Any = None, **kwargs: Any) -> Any:
        """One invocation that must complete; its stdout as JSON."""
        result = self.run(*args, stdin=b"" if stdin is None else json.dumps(stdin).encode(), **kwargs)
        assert result.outcome == "completed", (result.outcome, result.detail, result.stderr.decode())
        return json.loads(result.stdout)


ANY_HOST = OutboundSettings(default_allowed_hosts=("http://*:*", "https://*:*", "http://127.0.0.0/8:*"))
"""Loopback is where tests' origins are."""


@contextlib.contextmanager
def released_when(origin: Origin, count: int) -> Iterator[None]:
    """Lets an origin's held requests go once `count` have arrived."""
    stop = threading.Event()

    def watch() -> None:
        while len(origin.seen) < count and not stop.is_set():
            stop.wait(0.002)
        origin.release()

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()
