"""Runs `sandboxd run` many times without starting Python as often: a fork of one process for each command.

    python -m tests.conformance.command_line < commands > ends

A command is one line of JSON: the words after `sandboxd`. An end is one, too: exit code, stdout, stderr.
"""

import base64
import json
import os
import sys
import tempfile

# What a command imports late: neither makes an engine, which no child could use.
from sandboxd import cli


def end_of(words: list[str]) -> tuple[int, str, str]:
    """Run one command in a child."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        pid = os.fork()
        if pid == 0:
            try:
                null = os.open(os.devnull, os.O_RDONLY)
                for descriptor, number in ((null, 0), (out.fileno(), 1), (err.fileno(), 2)):
                    os.dup2(descriptor, number)
                cli.main(words)
            except SystemExit as ended:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(ended.code if isinstance(ended.code, int) else 1)
            finally:
                os._exit(99)
        _, status = os.waitpid(pid, 0)
        out.seek(0)
        err.seek(0)
        texts = [base64.b64encode(file.read()).decode() for file in (out, err)]
        return os.waitstatus_to_exitcode(status), texts[0], texts[1]


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(end_of(json.loads(line))), flush=True)
