"""Ending guests that compute beyond their deadline, or for a caller who went away.

One thread per worker advances the engine's epoch when there may be a reason to; compiled code notices at the next loop
or call and asks the callback here, in the guest's own thread, which decides for the invocation that is running *then*.
So a tick that comes late never ends the wrong guest. The thread sleeps until the deadline of the invocation it last
saw: since later invocations have later deadlines, it wakes about once per timeout, not once per invocation.
"""

import _thread
import math
import threading
import time
from typing import Any

import wasmtime

from hostfuncs.abi import InvocationState, capi

TICK_S = 0.005
"""How often a guest that ought to end is told again: it may have been in a host call when first told."""

_REFUSED = b"ended by the host"


class Watch:
    """The deadline thread of one worker, and the callback its stores ask.

    Made before the fork, started after it: a thread from before would not exist here.

    Parameters:
        engine: whose epoch is advanced.
    """

    def __init__(self, engine: wasmtime.Engine) -> None:
        self._engine = engine
        self._engine_address = capi.address_of(engine)
        self._wake = threading.Event()
        self._wakes_at_ns: float = math.inf
        self._state: InvocationState | None = None
        self._deadline_ns = 0
        self._id: int | None = None
        self._cancelled: int | None = None
        self._closed = False
        self._callback = capi.EpochCallback(self._asked)
        self.callback_address = capi.callback_address(self._callback)
        """For `wasmtime_store_epoch_deadline_callback`. Stores are given a deadline of one tick."""
        self._ended = threading.Lock()
        """Held while the thread runs."""

    def __repr__(self) -> str:
        return f"<Watch invocation={self._id} overdue={self._overdue()}>"

    def start(self) -> None:
        """Start the thread.

        Raises:
            RuntimeError: the system gives no thread.
        """
        self._ended.acquire()
        try:
            # Not threading.Thread: it waits until the new thread has run, which every start of a worker would pay for.
            _thread.start_new_thread(self._run, ())
        except BaseException:
            self._ended.release()
            raise

    def arm(self, invocation: int, state: InvocationState, deadline_ns: int) -> None:
        """An invocation begins. Call before its store is given its epoch deadline."""
        self._state = state
        self._id = invocation
        # The thread first publishes when it will wake, then looks at the deadline; here it is the other way round. So
        # one of the two sees the other's.
        self._deadline_ns = deadline_ns
        if deadline_ns < self._wakes_at_ns:
            self._wake.set()

    def disarm(self) -> None:
        """It is over."""
        self._deadline_ns = 0
        self._id = None
        self._state = None

    def cancel(self, invocation: int) -> None:
        """End an invocation, if it is the one that runs. From any thread."""
        self._cancelled = invocation
        state = self._state
        if state is not None and self._id == invocation:
            state.wake()
        self._wake.set()

    def cancelled(self) -> bool:
        """Whether the running invocation was cancelled; for blocking host functions."""
        return self._cancelled is not None and self._cancelled == self._id

    def close(self) -> None:
        """End the thread, if it was started; waits for it."""
        self._closed = True
        self._wake.set()
        if self._ended.acquire(timeout=5):
            self._ended.release()

    def _overdue(self) -> bool:
        deadline = self._deadline_ns
        return bool(deadline) and (time.monotonic_ns() >= deadline or self.cancelled())

    def _run(self) -> None:
        try:
            self._tick()
        finally:
            self._ended.release()

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
            wake.wait((deadline - time.monotonic_ns()) / 1e9 if deadline else None)

    def _asked(self, _context: Any, _data: Any, delta: int, kind: int) -> int:
        """Of `wasmtime_store_epoch_deadline_callback`: the epoch has advanced; may the guest go on?"""
        state = self._state
        try:
            if state is not None:
                state.check()
            capi.write_u64(delta, 1)
            capi.write_u8(kind, 0)
        except BaseException as error:  # noqa: BLE001 - nothing may leave a callback, see hostfuncs.abi.define
            if state is not None and (state.ended is None and state.failure is None):
                state.note(error)
            pointer: int = capi.error_new(_REFUSED)
            return pointer
        return 0
