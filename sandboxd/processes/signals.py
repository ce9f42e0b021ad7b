"""Signals of a server from its first instruction on.

Importing takes some tenths of a second. In that time SIGHUP would end the process, and for process 1, to which the
kernel delivers no signal without a handler, SIGTERM would be lost: a container would have to be killed.
"""

import asyncio
import os
import signal
from collections.abc import Callable

_reload = False


def take_early() -> None:
    """Handle signals until `take` does: SIGTERM and SIGINT end the process, which has begun nothing; SIGHUP is kept.

    Import nothing large before calling this.
    """
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    signal.signal(signal.SIGHUP, _keep)
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        # The kernel would end the process. A handler is not inherited by other programs, as SIG_IGN would be.
        signal.signal(number, lambda *_: None)


def _keep(*_: object) -> None:
    global _reload
    _reload = True


def take(
    loop: asyncio.AbstractEventLoop,
    stop: Callable[[], None],
    reload: Callable[[], None],
    log_level: Callable[[int], None],
) -> None:
    """Handle signals by the event loop from now on.

    Parameters:
        loop: the running one.
        stop: called for SIGTERM and SIGINT.
        reload: called for SIGHUP, also for one that has come already.
        log_level: called for SIGUSR1 with -1 and for SIGUSR2 with 1: so many steps less is logged.
    """
    loop.add_signal_handler(signal.SIGUSR1, log_level, -1)
    loop.add_signal_handler(signal.SIGUSR2, log_level, 1)
    loop.add_signal_handler(signal.SIGTERM, stop)
    loop.add_signal_handler(signal.SIGINT, stop)
    loop.add_signal_handler(signal.SIGHUP, reload)
    if _reload:
        reload()
