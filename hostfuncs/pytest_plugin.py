"""A pytest plugin for people who write guests: fixtures that run a .wasm with input, limits and origins of the test's.

    def test_it_greets(run_wasm):
        assert run_wasm("greet.wasm", args=["Ada"]).stdout == b"hello, Ada"

    def test_it_asks_the_service(run_wasm, wasm_origin):
        wasm_origin.answer("/users/1", b'{"name": "Ada"}', headers=[("content-type", "application/json")])
        result = run_wasm("users.wasm", args=[wasm_origin.url("/users/1")])
        assert result.ok, result.message
        assert wasm_origin.seen[0].method == "GET"

Installed with the package, so pytest finds it by itself. wasmtime is loaded when a fixture is first used. See
docs/testing-guests.md.
"""

from __future__ import annotations

import http.server
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from hostfuncs import HttpRequest, Limits, Policy, Program, Result
    from hostfuncs.outbound.httpx_adapter import Factory, Transport


class RunWasm(Protocol):
    """The type of the fixture `run_wasm`."""

    def __call__(
        self,
        wasm: bytes | str | os.PathLike[str],
        *,
        args: Sequence[str | bytes] = (),
        env: Mapping[str, str | bytes] | None = None,
        stdin: bytes = b"",
        timeout: float = 30.0,
        request: HttpRequest | None = None,
        limits: Limits | None = None,
        policy: Policy | None = None,
        strict: bool = False,
        transport: Transport | Factory | None = None,
    ) -> Result:
        """Run a guest once. As `hostfuncs.run`, but what was compiled is kept, also for later sessions.

        Parameters:
            wasm: bytes, or a path: an absolute one, or one relative to the file of the test.
            policy: whom the guest may call; by default the test's own origin and nobody else, or, with a transport,
                everything that is not local.
            transport: answers the guest's requests instead of the network, for example `httpx.MockTransport(handler)`.
        """
        ...


@dataclass(frozen=True, slots=True)
class SeenRequest:
    """A request that reached a WasmOrigin."""

    method: str
    target: str
    """Path with query."""
    headers: tuple[tuple[str, str], ...]
    """In the order of arrival, names in lower case."""
    body: bytes


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


Handler = Callable[[SeenRequest], "bytes | tuple[int, bytes]"]
"""Answers a request with a body, or with status and body."""


class WasmOrigin:
    """An HTTP/1.1 server on loopback that answers as a test tells it. Unknown paths are answered with 404."""

    def __init__(self) -> None:
        self.seen: list[SeenRequest] = []
        """The requests that have arrived, in order."""
        self._answers: dict[str, _Answer | Handler] = {}
        origin = self

        class Connection(_Connection):
            def respond(self, request: SeenRequest) -> _Answer:
                return origin._respond(request)

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Connection)
        # Connections that guests keep open must not hold up the end of the test.
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def __repr__(self) -> str:
        return f"<WasmOrigin {self.authority}, {len(self.seen)} requests>"

    @property
    def authority(self) -> str:
        """`127.0.0.1:PORT`."""
        return f"127.0.0.1:{self._server.server_address[1]}"

    def url(self, path: str = "/") -> str:
        """Return the URL of a path."""
        return f"http://{self.authority}{path}"

    def answer(
        self,
        path: str,
        body: bytes | Handler = b"",
        *,
        status: int = 200,
        headers: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Set the answer to requests for a path.

        Parameters:
            path: without query.
            body: the body, or a function that makes the answer of the request.
            status: 200 to 599; ignored if `body` is a function.
            headers: lines of the response besides Content-Length.
        """
        self._answers[path] = body if callable(body) else _Answer(status, tuple(headers), body)

    def _respond(self, request: SeenRequest) -> _Answer:
        self.seen.append(request)
        answer = self._answers.get(request.target.partition("?")[0])
        if answer is None:
            return _Answer(404, (), b"")
        if isinstance(answer, _Answer):
            return answer
        made = answer(request)
        return _Answer(200, (), made) if isinstance(made, bytes) else _Answer(made[0], (), made[1])

    def close(self) -> None:
        """End the server."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Connection(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def respond(self, request: SeenRequest) -> _Answer:
        raise NotImplementedError

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing: tests look at `seen`."""

    def _handle(self) -> None:
        headers = tuple((name.lower(), value) for name, value in self.headers.items())
        answer = self.respond(SeenRequest(self.command, self.path, headers, self._body()))
        self.send_response_only(answer.status)
        for name, value in answer.headers:
            self.send_header(name, value)
        self.send_header("content-length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def __getattr__(self, name: str) -> Any:
        # The base class looks for a method of the request's method: do_GET, do_POST, and so on.
        if name.startswith("do_"):
            return self._handle
        raise AttributeError(name)

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("transfer-encoding", "").lower():
            return self.rfile.read(int(self.headers.get("content-length", "0")))
        parts: list[bytes] = []
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass  # trailers
        return b"".join(parts)


@pytest.fixture
def wasm_origin() -> Iterator[WasmOrigin]:
    """An HTTP origin on loopback that answers as the test tells it, and keeps what it saw."""
    origin = WasmOrigin()
    yield origin
    origin.close()


class _Compiled:
    """The guests compiled in a session.

    Parameters:
        cache: the folder that keeps them for later sessions, if there is one.
    """

    def __init__(self, cache: Path | None) -> None:
        self._cache = cache
        self._programs: dict[tuple[bytes, bool], Program] = {}

    def get(self, data: bytes, strict: bool) -> Program:
        from hostfuncs import Program

        program = self._programs.get((data, strict))
        if program is None:
            program = self._programs[data, strict] = Program(data, strict=strict, cache=self._cache)
        return program

    def close(self) -> None:
        for program in self._programs.values():
            program.close()


@pytest.fixture(scope="session")
def _compiled_guests(pytestconfig: pytest.Config) -> Iterator[_Compiled]:
    # pytest has no cache when its plugin is off (`-p no:cacheprovider`). A folder within its own is for this user only,
    # whatever the umask was when pytest made its own.
    cache = getattr(pytestconfig, "cache", None)
    compiled = _Compiled(None if cache is None else cache.mkdir("wasm") / "compiled")
    yield compiled
    compiled.close()


@pytest.fixture
def run_wasm(request: pytest.FixtureRequest, _compiled_guests: _Compiled) -> RunWasm:
    """Runs guests: see RunWasm. With the fixture `wasm_origin` in the same test, guests may call that origin."""
    from hostfuncs import Policy

    folder = Path(request.path).parent
    origin = request.getfixturevalue("wasm_origin") if "wasm_origin" in request.fixturenames else None
    default_policy = Policy.parse([f"http://{origin.authority}"] if origin is not None else [])

    def run(
        wasm: bytes | str | os.PathLike[str],
        *,
        args: Sequence[str | bytes] = (),
        env: Mapping[str, str | bytes] | None = None,
        stdin: bytes = b"",
        timeout: float = 30.0,
        request: HttpRequest | None = None,
        limits: Limits | None = None,
        policy: Policy | None = None,
        strict: bool = False,
        transport: Transport | Factory | None = None,
    ) -> Result:
        data = bytes(wasm) if isinstance(wasm, bytes | bytearray | memoryview) else (folder / wasm).read_bytes()
        compiled = _compiled_guests.get(data, strict)
        if policy is None:
            policy = default_policy if transport is None else Policy.parse(["*"])
        with compiled.configured(limits=limits, policy=policy) as program:
            return program.run(args=args, env=env, stdin=stdin, timeout=timeout, request=request, transport=transport)

    return run
