"""Gives the workers of a server under test a hole: stdin that begins with MARK is run as Python.

It stands for code that has escaped from a guest. Python reads this file at its start because the folder is on
PYTHONPATH, which the tests set; nothing of it is in the product.
"""

import sys

MARK = b"#!escaped\n"
IN_TEMPLATE = b"#!template\n"
"""An argument that begins so is run in the template of a warm start, and is only an argument elsewhere."""

if any("sandboxd.zygote.main" in word for word in sys.orig_argv):
    # Whatever the code needs is loaded here: a worker can import nothing.
    import contextlib
    import ctypes
    import errno
    import fcntl
    import gc
    import io
    import json
    import mmap
    import os
    import resource
    import select
    import signal
    import socket
    import struct
    import traceback

    from sandboxd.outcome import Outcome
    from sandboxd.wall import landlock, seccomp
    from sandboxd.wire import codec
    from sandboxd.wire import messages as m
    from sandboxd.wire.messages import Result
    from sandboxd.worker import runtime

    match os.environ.get("PYTHON_WITHOUT_LAYER"):
        case "landlock":
            landlock.abi = lambda: 0
        case "seccomp":
            seccomp.available = lambda: False

    _LOADED = {
        module.__name__: module
        for module in (ctypes, errno, fcntl, gc, io, json, mmap, os, resource, select, signal, socket, struct, sys)
    }
    _LIBC = ctypes.CDLL(None, use_errno=True)
    # A first error makes Python load what words it.
    traceback.format_exc()

    def _call(number, *arguments):  # type: ignore[no-untyped-def]
        """Make a system call; its result, or minus the errno."""
        words = [ctypes.c_long(word) if isinstance(word, int) else word for word in arguments]
        result = _LIBC.syscall(ctypes.c_long(number), *words)
        return result if result != -1 else -ctypes.get_errno()

    _run = runtime.Runtime.run

    def run(self, invoke, **more):  # type: ignore[no-untyped-def]
        """`Runtime.run`, with the hole in front of it."""
        if more:
            for argument in invoke.call.args:
                if argument.startswith(IN_TEMPLATE):
                    parts = next(found for found in gc.get_objects() if type(found).__name__ == "TemplateParts")
                    names = {**_LOADED, "m": m, "codec": codec, "Outcome": Outcome, "parts": parts}
                    exec(compile(argument.decode(), "<escaped>", "exec"), names)
            return _run(self, invoke, **more)
        stdin = invoke.call.stdin
        text = json.loads(stdin) if stdin.startswith(b'"') else ""
        if not isinstance(text, str) or not text.encode().startswith(MARK):
            return _run(self, invoke)
        out = io.StringIO()
        names = {**_LOADED, "syscall": _call, "libc": _LIBC, "runtime": self}
        names |= {"m": m, "codec": codec, "Outcome": Outcome, "invoke": invoke, "channel": self.channel}
        with contextlib.redirect_stdout(out):
            try:
                exec(compile(text, "<escaped>", "exec"), names)
            except BaseException as error:
                code = getattr(error, "errno", None)
                print(errno.errorcode.get(code, type(error).__name__) if code else f"{type(error).__name__}: {error}")
        return Result(id=invoke.id, outcome=Outcome.COMPLETED, stdout=out.getvalue().encode())

    runtime.Runtime.run = run
