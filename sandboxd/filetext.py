"""Text files of the operator's, read with bounds: no device, no pipe that blocks, no endless file."""

import os
import stat
from pathlib import Path


class FileTextError(Exception):
    """The file cannot be read as text. The message says why and does not repeat the path."""


def read_text(path: Path, *, max_bytes: int) -> str:
    """The UTF-8 text of a regular file, a byte order mark removed.

    Parameters:
        path: the file; symbolic links are followed, as mounted ConfigMaps need.
        max_bytes: longest file accepted.

    Raises:
        FileTextError: it cannot be opened, is not a regular file, is longer, or is not UTF-8.
    """
    try:
        # Non-blocking, so that opening a FIFO nobody writes to returns.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise FileTextError(error.strerror or str(error)) from None
    except ValueError:
        raise FileTextError("no possible path") from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise FileTextError("not a regular file")
        with os.fdopen(os.dup(descriptor), "rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise FileTextError(error.strerror or str(error)) from None
    finally:
        os.close(descriptor)
    if len(data) > max_bytes:
        raise FileTextError(f"longer than {max_bytes} bytes")
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise FileTextError(f"not UTF-8: byte {data[error.start]:#04x} in line {line}") from None
