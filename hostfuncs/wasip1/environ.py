"""`environ_get`, `environ_sizes_get`: the environment. Source: WASI snapshot-01, wasi_snapshot_preview1.witx."""

from hostfuncs.wasip1.args import write_sizes, write_strings
from hostfuncs.wasip1.program import Function, Program


def environ_get(program: Program, environ: int, environ_buf: int) -> int:
    """Read the environment.

    Parameters:
        environ: where one pointer per variable goes.
        environ_buf: where the variables go as `NAME=VALUE`, each with a terminating zero.

    Errno: SUCCESS; FAULT if either does not fit into memory.
    """
    return write_strings(program, program.environ, environ, environ_buf)


def environ_sizes_get(program: Program, count: int, environ_buf_size: int) -> int:
    """Tell the size of the environment.

    Parameters:
        count: where the number of variables goes, u32.
        environ_buf_size: where their size in bytes goes, u32.

    Errno: SUCCESS; FAULT if either lies outside memory.
    """
    return write_sizes(program, program.environ, count, environ_buf_size)


FUNCTIONS = (Function("environ_get", "ii", environ_get), Function("environ_sizes_get", "ii", environ_sizes_get))
