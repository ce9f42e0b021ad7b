"""End guests that compute beyond their deadline.

A thread advances the engine's epoch when a guest may have to end. Compiled code notices this at its next loop or call,
and calls the callback here, in the guest's own thread. The callback decides about the run that is current then, so a
late tick never ends the wrong guest. The thread sleeps until the deadline of the run that it saw last. Later runs have
later deadlines, so it wakes about once per timeout and not once per run.
"""

import _thread
import math
import os
import threading
import time
from typing import Any

import wasmtime

from hostfuncs.abi import InvocationState, capi

TICK_S = 0.005
"""Seconds between ticks for an overdue guest. A guest misses a tick while it is in a host call."""

_REFUSED = b"ended by the host"


class DeadlineThread:
    """The deadline thread of one guest runner or of all runners of a process, and the epoch callback of their stores.

    It watches one run at a time. It may be made before a fork. `start` must be called after the fork, in the process
    that runs guests, because a fork does not copy threads.

    Parameters:
        engine: the engine whose epoch is advanced. Guests of the same engine in other threads have callbacks of their
            own, which let them go on.
        every_s: the seconds between interruptions of the guest before its deadline, in which Python handles signals.
            None interrupts it only at its deadline.
    """

    def __init__(self, engine: wasmtime.Engine, every_s: float | None = None) -> None:
        self._engine = engine
        self._engine_address = capi.address_of(engine)
        self._every_s = every_s
        self._wake = threading.Event()
        self._wakes_at_ns: float = math.inf
        self._state: InvocationState | None = None
        self._deadline_ns = 0
        self._closed = False
        self._pid = 0
        self._callback = capi.EpochCallback(self._may_go_on)
        self.callback_address = capi.callback_address(self._callback)
        """The callback for `wasmtime_store_epoch_deadline_callback`. Stores have an epoch deadline of one tick."""
        self._running = threading.Lock()
        """Held while the thread runs."""

    def __repr__(self) -> str:
        return f"<DeadlineThread armed={self._state is not None} overdue={self._overdue()}>"

    def start(self) -> None:
        """Start the thread, unless it runs in this process already.

        Raises:
            RuntimeError: the system cannot start a thread.
        """
        if self._pid == os.getpid():
            return
        # A fork does not copy threads, but it may have copied locks that a thread of the parent held.
        self._closed = False
        self._wake = threading.Event()
        self._wakes_at_ns = math.inf
        self._running = threading.Lock()
        self._running.acquire()
        try:
            # threading.Thread would wait until the new thread has run, which would slow the start of every worker.
            _thread.start_new_thread(self._run, (self._running,))
        except BaseException:
            self._running.release()
            raise
        self._pid = os.getpid()

    def arm(self, state: InvocationState, deadline_ns: int) -> None:
        """Begin to watch a run. Call this before its store gets an epoch deadline."""
        self._state = state
        # The thread first writes when it will wake and then reads the deadline. This function first writes the deadline
        # and then reads when the thread will wake. Therefore one of the two sees the other's value.
        self._deadline_ns = deadline_ns
        if deadline_ns < self._wakes_at_ns:
            self._wake.set()

    def disarm(self) -> None:
        """Stop watching, because the run is over."""
        self._deadline_ns = 0
        self._state = None

    def close(self) -> None:
        """End the thread, if it runs in this process, and wait for it for at most 5 seconds. `start` starts another."""
        self._closed = True
        if self._pid != os.getpid():
            return
        self._wake.set()
        if self._running.acquire(timeout=5):
            self._running.release()
        self._pid = 0

    def _overdue(self) -> bool:
        deadline = self._deadline_ns
        return bool(deadline) and time.monotonic_ns() >= deadline

    def _run(self, running: threading.Lock) -> None:
        try:
            self._tick()
        finally:
            running.release()

    def _tick(self) -> None:
        wake = self._wake
        while not self._closed:
            wake.clear()
            if self._overdue():
                capi.engine_increment_epoch(self._engine_address)
                wake.wait(TICK_S)
                continue
            deadline = self._deadline_ns
            self._wakes_at_ns = deadline or math.inf
            if self._deadline_ns != deadline or self._overdue():
                continue
            left = (deadline - time.monotonic_ns()) / 1e9 if deadline else None
            if self._every_s is None or left is None:
                wake.wait(left)
            elif not wake.wait(min(left, self._every_s)):
                capi.engine_increment_epoch(self._engine_address)

    def _may_go_on(self, _context: Any, _data: Any, delta: int, kind: int) -> int:
        """Answer `wasmtime_store_epoch_deadline_callback`: 0 lets the guest go on, an error ends it."""
        state = self._state
        try:
            if state is not None:
                state.check()
            capi.write_u64(delta, 1)
            capi.write_u8(kind, 0)
        except BaseException as error:  # noqa: BLE001 - the boundary, see hostfuncs.abi.define
            if state is not None and (state.ended is None and state.failure is None):
                state.note(error)
            pointer: int = capi.error_new(_REFUSED)
            return pointer
        return 0
