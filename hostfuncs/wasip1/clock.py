"""`clock_res_get`, `clock_time_get`. Source: WASI snapshot-01, wasi_snapshot_preview1.witx; `clockid`."""

from hostfuncs.wasip1.errno import INVAL, SUCCESS
from hostfuncs.wasip1.program import Function, Program

REALTIME, MONOTONIC, PROCESS_CPUTIME, THREAD_CPUTIME = range(4)


def clock_res_get(program: Program, clock: int, resolution: int) -> int:
    """Tell the resolution of a clock.

    Parameters:
        clock: 0 realtime, 1 monotonic, 2 CPU time of the process, 3 of the thread (a guest has one thread: the same).
        resolution: where the nanoseconds go, u64.

    Errno: SUCCESS; INVAL for any other clock; FAULT if `resolution` lies outside memory.
    """
    if clock == REALTIME:
        value = program.sources.realtime_resolution
    elif clock <= THREAD_CPUTIME:
        value = program.sources.monotonic_resolution
    else:
        return INVAL
    program.memory.write_u64(resolution, value)
    return SUCCESS


def clock_time_get(program: Program, clock: int, _precision: int, time: int) -> int:
    """Read a clock.

    Parameters:
        clock: as for `clock_res_get`. The CPU clocks count from their first reading.
        precision: by how much the answer may lag, in nanoseconds. It never lags.
        time: where the nanoseconds go, u64.

    Errno: SUCCESS; INVAL for an unknown clock; FAULT if `time` lies outside memory.
    """
    if clock == REALTIME:
        value = program.sources.realtime()
    elif clock == MONOTONIC:
        value = program.sources.monotonic()
    elif clock <= THREAD_CPUTIME:
        value = program.sources.cpu_time()
    else:
        return INVAL
    program.memory.write_u64(time, value)
    return SUCCESS


FUNCTIONS = (Function("clock_res_get", "ii", clock_res_get), Function("clock_time_get", "iIi", clock_time_get))
