"""`proc_exit`, `proc_raise`, `sched_yield`. Source: WASI snapshot-01, wasi_snapshot_preview1.witx."""

from hostfuncs.abi import ProcExit
from hostfuncs.wasip1.errno import NOSYS, SUCCESS
from hostfuncs.wasip1.program import Function, Program


def proc_exit(_program: Program, code: int) -> None:
    """End the guest.

    Parameters:
        code: its exit status, u32; 0 is success.

    Never returns to the guest.
    """
    raise ProcExit(code)


def proc_raise(_program: Program, _signal: int) -> int:
    """Send the guest a signal.

    Errno: NOSYS always, as in wazero: there are no signals, and the function has been removed from WASI.
    """
    return NOSYS


def sched_yield(_program: Program) -> int:
    """Yield the processor.

    Errno: SUCCESS always. A guest has one thread, so there is nothing to yield to.
    """
    return SUCCESS


FUNCTIONS = (
    Function("proc_exit", "i", proc_exit, ""),
    Function("proc_raise", "i", proc_raise),
    Function("sched_yield", "", sched_yield),
)
