"""`poll`: waiting for several things at once. Source: the WASI draft of 2022 behind wasi-go, poll.wit."""

from hostfuncs.abi import Fault, HostTrap
from hostfuncs.legacy_http.calls import Calls, Function
from hostfuncs.legacy_http.things import Pollable


def poll_oneoff(calls: Calls, function: str, pointer: int, count: int, out: int) -> None:
    """Wait until at least one of the pollables is ready.

    Parameters:
        pointer, count: array of handles, u32 each; at least one.
        out: gets {ptr, len}: one byte per pollable, 1 if it is ready, allocated with `cabi_realloc`.

    Traps: none given, or more than there can be handles; no such pollable; memory. Ends the guest at its deadline.
    """
    if not count or count > 65536:
        raise HostTrap(f"{function}: {count} pollables; between 1 and 65536 can be waited for")
    calls.check_answer(function, out, 8)
    try:
        raw = calls.memory.read(pointer, 4 * count)
    except Fault as fault:
        raise HostTrap(f"{function}: pollables: {fault}") from None
    handles = [int.from_bytes(raw[at : at + 4], "little") for at in range(0, len(raw), 4)]
    pollables = [calls.get(function, "pollable", handle, Pollable) for handle in handles]
    calls.wait(lambda: any(pollable.ready() for pollable in pollables))
    answer = bytes(pollable.ready() for pollable in pollables)
    calls.answer(function, out, calls.give(function, answer), len(answer))


def drop_pollable(calls: Calls, function: str, pollable: int) -> None:
    """Give a pollable back. Traps: no such pollable."""
    calls.drop(function, "pollable", pollable, Pollable)


FUNCTIONS = (Function("poll-oneoff", "iii", "", poll_oneoff), Function("drop-pollable", "i", "", drop_pollable))
