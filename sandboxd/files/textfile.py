"""Reads the operator's text files within bounds: it refuses devices, pipes and files that are too long."""

import codecs
import os
import stat
from pathlib import Path


class FileTextError(Exception):
    """The file cannot be read as text. The message gives the reason but not the path."""


def read_text(path: Path, *, max_bytes: int, lenient: bool = False) -> str:
    """Return the UTF-8 text of a regular file, without a byte order mark.

    Parameters:
        path: the file. Symbolic links are followed, because the files of mounted ConfigMaps are links.
        max_bytes: the longest file that is accepted.
        lenient: read as Dapr's YAML reader does. UTF-16 with a byte order mark is accepted, too. A byte that is not
            UTF-8 becomes a lone surrogate, which no valid text has.

    Raises:
        FileTextError: it cannot be opened, is not a regular file, is too long, or is not UTF-8.
    """
    try:
        # O_NONBLOCK: opening a FIFO without a writer must not block.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise FileTextError(error.strerror or str(error)) from None
    except ValueError:
        raise FileTextError("not a valid path") from None
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
    if lenient:
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            whole = len(data) // 2 * 2
            return data[:whole].decode("utf-16", "surrogatepass") + data[whole:].decode("ascii", "surrogateescape")
        return data.decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise FileTextError(f"not UTF-8: byte {data[error.start]:#04x} in line {line}") from None
