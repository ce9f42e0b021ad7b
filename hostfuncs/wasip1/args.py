"""`args_get`, `args_sizes_get`: the command line. Source: WASI snapshot-01, wasi_snapshot_preview1.witx."""

from hostfuncs.wasip1.errno import SUCCESS
from hostfuncs.wasip1.program import Function, Program, Strings


def write_strings(program: Program, strings: Strings, pointers: int, block: int) -> int:
    """Write an array of pointers and the zero-terminated strings they point to: both or neither."""
    memory = program.memory
    memory.check(pointers, 4 * len(strings.offsets))
    memory.write(block, strings.block)
    memory.write(pointers, strings.pointers(block))
    return SUCCESS


def write_sizes(program: Program, strings: Strings, count: int, size: int) -> int:
    """Write the number of strings, and the bytes that they take with their zeros."""
    program.memory.write_u32(count, len(strings.offsets))
    program.memory.write_u32(size, len(strings.block))
    return SUCCESS


def args_get(program: Program, argv: int, argv_buf: int) -> int:
    """Read the command line.

    Parameters:
        argv: where one pointer per argument goes.
        argv_buf: where the arguments go, one after the other, each with a terminating zero.

    Errno: SUCCESS; FAULT if either does not fit into memory.
    """
    return write_strings(program, program.args, argv, argv_buf)


def args_sizes_get(program: Program, argc: int, argv_buf_size: int) -> int:
    """Tell the size of the command line.

    Parameters:
        argc: where the number of arguments goes, u32.
        argv_buf_size: where their size in bytes goes, u32.

    Errno: SUCCESS; FAULT if either lies outside memory.
    """
    return write_sizes(program, program.args, argc, argv_buf_size)


FUNCTIONS = (Function("args_get", "ii", args_get), Function("args_sizes_get", "ii", args_sizes_get))
