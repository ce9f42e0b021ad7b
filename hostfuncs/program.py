"""Running guests from a script: `run` for one run, `Program` for many of one guest.

The names here are public through `hostfuncs`. Whatever a caller passes, the process survives: mistakes are exceptions,
and everything a guest does is in the `Result`.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import sys
import time
import weakref
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

import wasmtime

from hostfuncs.files import Mount, Tmp
from hostfuncs.limits import Limits
from hostfuncs.outbound import Outbound, Policy, Settings
from hostfuncs.outbound.network import Resolver
from hostfuncs.running import compiling, signals, threadstack
from hostfuncs.running import engine as engines
from hostfuncs.running.arguments import (
    data_of,
    deadline_after,
    encoded,
    encoded_texts,
    encoded_variables,
    expect,
    file_settings,
)
from hostfuncs.running.compiled_cache import CompiledCache
from hostfuncs.running.component import ComponentRunner
from hostfuncs.running.core import CoreRunner
from hostfuncs.running.deadline import DeadlineThread
from hostfuncs.running.egress import TransportEgress, outbound_limits
from hostfuncs.running.results import run_component, run_core
from hostfuncs.running.values import HttpRequest, Result, Text, Wasm

if TYPE_CHECKING:
    from hostfuncs.outbound.httpx_adapter import Factory, HttpxAdapter, Transport

DEFAULT_TIMEOUT_S: Final = 30.0
_STACK_BYTES: Final = compiling.SETTINGS.wasm_stack_bytes + engines.HOST_STACK_BYTES
"""The stack that a thread needs to run a guest, and is required to have to compile one."""
_SIGNAL_CHECK_S: Final = 0.05
"""The interval at which a guest that computes is interrupted to look for signals."""
_EXIT_WAIT_S: Final = 5.0
"""The longest that the interpreter waits at its exit for the runs of daemon threads to end."""
_FRAMES: Final = 200
"""Python frames that host functions may need."""


class _LinkedGuest:
    """A linked guest with its deadline thread and its connections: one run at a time."""

    def __init__(self, program: Program) -> None:
        self.runner = program._link()
        self.deadlines = DeadlineThread(program._engine, every_s=_SIGNAL_CHECK_S)
        self.outbound: Outbound | None = None
        self.adapter: HttpxAdapter | None = None
        """The transport of the run that is under way, if it has one."""
        egress = None
        if self.runner.imports_http:
            outbound = self.outbound = Outbound(program._settings, resolver=program._resolver)
            egress = TransportEgress(
                outbound=lambda: outbound,
                policy=program._policy,
                limits=outbound_limits(program._limits),
                adapter=lambda: self.adapter,
            )
        self.runner.prepare(self.deadlines, egress)
        self.deadlines.start()

    def close(self) -> None:
        self.deadlines.close()
        # A loop cannot be closed while another runs in this thread; Python then warns of it, and rightly.
        if self.outbound is not None and asyncio._get_running_loop() is None:
            self.outbound.close()


_running: set[_LinkedGuest] = set()
_exiting: list[bool] = []


@atexit.register
def _end_all() -> None:
    """End the runs of daemon threads. A host function called after the interpreter is gone would end the process."""
    _exiting.append(True)
    until = time.monotonic() + _EXIT_WAIT_S
    while _running and time.monotonic() < until:
        for guest in list(_running):
            guest.runner.state.interrupt = SystemExit()
        time.sleep(_SIGNAL_CHECK_S / 10)


def _close(guests: list[_LinkedGuest], pid: int) -> None:
    if os.getpid() != pid:
        return  # the connections are the parent's
    while guests:
        guests.pop().close()


class Program:
    """A guest compiled once, to be run many times. A context manager; `close` ends its threads and connections.

    Runs may overlap: each thread that runs the guest at the same time gets a linked guest of its own. After a fork the
    child may go on using the object. Each run has a fresh instance: nothing of one run is left for the next.

    Parameters:
        wasm: a core module with WASI preview 1 (and Dapr's wasi-http), or a component that is a WASI 0.2 command or a
            `wasi:http/incoming-handler`. Compiling takes up to seconds for large guests, on all cores.
        name: argv[0] of the guest.
        limits: of each run.
        policy: whom the guest may call; nobody by default. See `Policy.parse`.
        outbound: certificates, proxy and timeouts of outbound HTTP.
        resolver: turns names into addresses; the system's by default.
        strict: no HTTP, and clocks and randomness that a timing attack could not use.
        mounts: folders that the guest finds.
        tmp: a folder in memory that each run finds empty.
        cache: a folder in which the compiled guest is kept for later processes; made if it is missing. What is in it is
            executed, so it must belong to this user and be writable by nobody else. What was not used for 30 days is
            removed.

    Raises:
        GuestError: the guest is not WebAssembly, is damaged, or imports what this host does not have.
        TypeError, ValueError: an argument is wrong; the text names it.
        RuntimeError: this thread has too small a stack.
        OSError: the file cannot be read, or the source of a mount is not a folder that can be opened.
        PermissionError: another user may write into the cache.
    """

    def __init__(
        self,
        wasm: Wasm,
        *,
        name: Text = "guest",
        limits: Limits | None = None,
        policy: Policy | None = None,
        outbound: Settings | None = None,
        resolver: Resolver | None = None,
        strict: bool = False,
        mounts: Iterable[Mount] = (),
        tmp: Tmp | None = None,
        cache: str | os.PathLike[str] | None = None,
    ) -> None:
        self._files = file_settings(mounts, tmp)
        kept = None if cache is None else CompiledCache(cache, compiling.SETTINGS)
        engine = compiling.shared_engine(os.getpid())
        self._name = encoded("name", name)
        self._strict = bool(strict)
        self._set_up(limits, policy, outbound, resolver)
        self._engine = engine
        threadstack.check(_STACK_BYTES)
        self._guest = compiling.compile_guest(engine, compiling.read(wasm), kept)
        # Linked once now, so that a guest that cannot be linked is refused here and not by the first run.
        self._idle.append(_LinkedGuest(self))

    def _set_up(
        self, limits: Limits | None, policy: Policy | None, outbound: Settings | None, resolver: Resolver | None
    ) -> None:
        self._limits = expect("limits", Limits() if limits is None else limits, Limits)
        self._policy = expect("policy", Policy.parse([]) if policy is None else policy, Policy)
        self._settings = expect("outbound", Settings() if outbound is None else outbound, Settings)
        self._resolver = resolver
        self._closed = False
        self._pid = os.getpid()
        self._inherited: list[list[_LinkedGuest]] = []
        self._idle: list[_LinkedGuest] = []
        self._finalizer = weakref.finalize(self, _close, self._idle, self._pid)

    def configured(
        self,
        *,
        limits: Limits | None = None,
        policy: Policy | None = None,
        outbound: Settings | None = None,
        resolver: Resolver | None = None,
    ) -> Program:
        """Make a program of the same guest with other settings. Nothing is compiled again.

        Parameters: as for Program; what is not given has its default, whatever this program has.

        Returns:
            A program of its own, to be closed on its own.
        """
        other = Program.__new__(Program)
        other._name, other._strict, other._engine, other._guest = self._name, self._strict, self._engine, self._guest
        other._files = self._files
        other._set_up(limits, policy, outbound, resolver)
        return other

    def __repr__(self) -> str:
        kind = "module" if isinstance(self._guest, wasmtime.Module) else "component"
        return f"<Program {self._name.decode(errors='replace')}: {kind}{', closed' if self._closed else ''}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the threads and connections. Runs that other threads have under way go on to their end."""
        self._closed = True
        if self._pid == os.getpid():
            self._finalizer()

    def run(
        self,
        *,
        args: Iterable[Text] = (),
        env: Mapping[str, Text] | None = None,
        stdin: bytes = b"",
        timeout: float = DEFAULT_TIMEOUT_S,
        request: HttpRequest | None = None,
        transport: Transport | Factory | None = None,
    ) -> Result:
        """Run the guest once and wait for its end.

        Parameters:
            args: argv after the program's name.
            env: the environment: all of it, nothing of this process's is passed on.
            stdin: all of standard input.
            timeout: seconds from now until the guest is ended, whatever it does; at most 10**9. 0 or less has passed.
            request: for a `wasi:http/incoming-handler`; its response is in the result.
            transport: answers the guest's requests, those that policy and limits let through; by default the network
                does. A transport of httpx (`import httpx2 as httpx`), such as `httpx.MockTransport(handler)`, or a
                function that makes one around the inner transport, which sends as the policy allows. What the
                transport raises ends the request; it is logged to `hostfuncs.transport` unless it is an error of httpx.

        Returns:
            How the run ended. Nothing that a guest does is raised.

        Raises:
            TypeError, ValueError: an argument is wrong; the text names it.
            RuntimeError: the program is closed; or this thread is within another run already, has too small a stack, or
                runs an event loop while the guest may make requests.
            RecursionError: too few frames are left for host functions.
            BaseException: what a signal handler raised, such as KeyboardInterrupt. The guest is ended first.
        """
        arguments = encoded_texts("args", args)
        variables = encoded_variables(env)
        data = data_of("stdin", stdin)
        deadline_ns = deadline_after(timeout)
        if request is not None:
            expect("request", request, HttpRequest)
        adapter = None if transport is None else _adapter(transport)
        if self._closed:
            raise RuntimeError("the program is closed; make a new one")
        _check_frames()
        with threadstack.entered(_STACK_BYTES):
            guest = self._take()
            try:
                if guest.outbound is not None and asyncio._get_running_loop() is not None:
                    raise RuntimeError(
                        "an event loop runs in this thread, and a guest that makes requests needs one of its own; "
                        "await asyncio.to_thread(program.run, ...) instead"
                    )
                guest.deadlines.start()
                guest.adapter = adapter
                _running.add(guest)
                if _exiting:
                    raise RuntimeError("the interpreter is exiting")
                with signals.deferred(guest.runner.state):
                    if isinstance(guest.runner, CoreRunner):
                        return run_core(guest.runner, arguments, variables, data, deadline_ns, request)
                    return run_component(guest.runner, arguments, variables, data, deadline_ns, request)
            finally:
                _running.discard(guest)
                guest.adapter = None
                self._give_back(guest)

    def _take(self) -> _LinkedGuest:
        if self._pid != os.getpid():
            # The parent goes on using its connections: the child keeps them untouched and opens its own.
            self._inherited.append(self._idle)
            self._finalizer.detach()
            self._idle = []
            self._finalizer = weakref.finalize(self, _close, self._idle, os.getpid())
            self._pid = os.getpid()
        try:
            return self._idle.pop()
        except IndexError:
            return _LinkedGuest(self)

    def _give_back(self, guest: _LinkedGuest) -> None:
        if guest.outbound is not None and guest.outbound.looking_up:
            # A name look-up cannot be interrupted, and the next run would wait for it.
            guest.close()
            return
        self._idle.append(guest)
        if self._closed:
            _close(self._idle, self._pid)

    def _link(self) -> CoreRunner | ComponentRunner:
        if isinstance(self._guest, wasmtime.Module):
            return CoreRunner(
                self._engine,
                self._guest,
                self._limits,
                argv0=self._name,
                strict=self._strict,
                files=self._files,
                settings=compiling.SETTINGS,
            )
        return ComponentRunner(
            self._engine,
            self._guest,
            self._limits,
            argv0=self._name,
            strict=self._strict,
            files=self._files,
            settings=compiling.SETTINGS,
        )


def run(
    wasm: Wasm,
    *,
    args: Iterable[Text] = (),
    env: Mapping[str, Text] | None = None,
    stdin: bytes = b"",
    timeout: float = DEFAULT_TIMEOUT_S,
    request: HttpRequest | None = None,
    limits: Limits | None = None,
    policy: Policy | None = None,
    outbound: Settings | None = None,
    resolver: Resolver | None = None,
    strict: bool = False,
    mounts: Iterable[Mount] = (),
    tmp: Tmp | None = None,
    cache: str | os.PathLike[str] | None = None,
    transport: Transport | Factory | None = None,
) -> Result:
    """Compile a guest and run it once. Whoever runs one more than once makes a `Program`, or names a `cache`: compiling
    takes longest.

    Parameters and errors: as for `Program` and `Program.run`. The timeout does not include compiling.

    Returns:
        How the run ended. Nothing that a guest does is raised.
    """
    with Program(
        wasm,
        limits=limits,
        policy=policy,
        outbound=outbound,
        resolver=resolver,
        strict=strict,
        mounts=mounts,
        tmp=tmp,
        cache=cache,
    ) as program:
        return program.run(args=args, env=env, stdin=stdin, timeout=timeout, request=request, transport=transport)


def _adapter(transport: Transport | Factory) -> HttpxAdapter:
    # Both load an HTTP client and the modules it needs, which a script without a transport does without.
    import logging

    from hostfuncs.outbound.httpx_adapter import HttpxAdapter

    def report(failed: BaseException) -> None:
        text = "the transport raised %s, so the guest's request failed with internal-error"
        logging.getLogger("hostfuncs.transport").error(text, type(failed).__name__, exc_info=failed)

    return HttpxAdapter(transport, report)


def _check_frames() -> None:
    """Check that host functions have frames left. One that could not even begin would end the process.

    Raises:
        RecursionError: too few are left.
    """
    try:
        sys._getframe(max(0, sys.getrecursionlimit() - _FRAMES))
    except ValueError:
        return
    raise RecursionError(f"fewer than {_FRAMES} frames are left for the host functions of the guest")
