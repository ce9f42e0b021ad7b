"""Starts `tests.server.echo_front` for a test."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.waiting import BOUND_S

ENGINES = ("hypercorn", "uvicorn")


class Front:
    """A running front: `port`, `base_url`, and its log once it has ended."""

    def __init__(self, process: "subprocess.Popen[str]", port: int) -> None:
        self.process = process
        self.port = port
        self.base_url = f"http://127.0.0.1:{port}"
        self.log = ""

    def end(self, timeout: float = BOUND_S) -> int:
        """Let it end in order; its exit status."""
        if self.process.stdin is not None and not self.process.stdin.closed:
            self.process.stdin.close()
        assert self.process.stderr is not None
        self.process.wait(timeout=timeout)
        self.log += self.process.stderr.read()
        return self.process.returncode


@contextlib.contextmanager
def started(engine: str, **options: object) -> Iterator[Front]:
    """Run a front until the end of the block; fails if it does not end in order."""
    words = [f"{key}={value}" for key, value in options.items()]
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "tests.server.echo_front", engine, *words],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.stderr.read() if process.stderr else ""
        front = Front(process, int(line))
        yield front
        assert front.end() == 0, front.log
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(timeout=BOUND_S)
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()
