"""Keep exceptions of Python's signal handlers out of host functions.

A signal handler that raises, such as Python's own for SIGINT, may raise anywhere in the main thread. If it raised in a
host function before that enters its `try`, nothing could catch the exception, and the process would end.
"""

import _signal  # type: ignore[import-not-found]
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from hostfuncs.abi import InvocationState

_Handler = Callable[[int, FrameType | None], object]

# `signal.getsignal` converts each number and handler to a member of an enumeration. For all signals together, this
# takes longer than a whole run of a small guest.
_get = _signal.getsignal
_set = _signal.signal
_NUMBERS = tuple(int(number) for number in signal.valid_signals())


@contextlib.contextmanager
def deferred(state: InvocationState) -> Iterator[None]:
    """Run signal handlers as usual while the context is entered, but keep their exceptions until the guest has ended.

    The run sees such an exception in `state.interrupt`, and ends. It is raised when the context is left. Outside the
    main thread this does nothing, because handlers run there only.

    A transport, or a handler, may set further handlers meanwhile: `signal.signal` is replaced too. Those handlers stay.

    Parameters:
        state: the run's state.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    active = True
    replaced: dict[int, Any] = {}
    """The handlers to restore, by signal."""
    originals: dict[Any, Any] = {}
    """The original handler of each wrapper."""
    set_signal = signal.signal

    def keeping(handler: _Handler) -> _Handler:
        def handle(number: int, frame: FrameType | None) -> None:
            if not active:
                handler(number, frame)
                return
            try:
                handler(number, frame)
            except BaseException as error:  # noqa: BLE001 - raised again when the guest has ended
                if state.interrupt is None:
                    state.interrupt = error

        originals[handle] = handler
        return handle

    def set_within(number: int, handler: Any) -> Any:
        if active:
            before = set_signal(number, keeping(handler) if callable(handler) else handler)
            replaced[int(number)] = handler
        else:
            before = set_signal(number, handler)
            replaced.pop(int(number), None)
        return originals.get(before, before)

    try:
        signal.signal = set_within  # type: ignore[assignment]
        for number in _NUMBERS:
            handler = _get(number)
            if callable(handler) and handler not in originals:
                replaced[number] = handler
                _set(number, keeping(handler))
        yield
    finally:
        active = False
        while True:
            try:
                while replaced:
                    number = next(iter(replaced))
                    _set(number, replaced[number])
                    replaced.pop(number, None)
                signal.signal = set_signal
                break
            except BaseException as error:  # noqa: BLE001 - a handler raised between two others; raised again below
                if state.interrupt is None:
                    state.interrupt = error
        interrupt, state.interrupt = state.interrupt, None
        if interrupt is not None:
            raise interrupt
