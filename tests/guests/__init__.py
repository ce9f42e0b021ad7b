"""Guests for tests: committed small ones by name, others built or unpacked into a cache when first asked for.

`path("echo")` is committed; `go_guest("upper")` is built by the Go toolchain; `ruby()`, `php()`, `python311()`,
`cpython312()` are interpreters from packages. None of them needs a filesystem. What each guest does is said at the
top of its source (or in its function); sources and compilers are in `recipes.py`, `make guests` rebuilds them.
"""

from pathlib import Path

from tests.guests.cache import (
    ToolMissingError,
    cpython312,
    esbuild,
    go_guest,
    php,
    python311,
    qjs,
    quickjs,
    ruby,
    skip_or_fail,
    sqlite,
)

__all__ = [
    "BIN",
    "ToolMissingError",
    "cpython312",
    "esbuild",
    "go_guest",
    "path",
    "php",
    "python311",
    "qjs",
    "quickjs",
    "ruby",
    "skip_or_fail",
    "sqlite",
]

BIN = Path(__file__).parent / "bin"


def path(name: str) -> Path:
    """The committed guest `name` (without `.wasm`).

    Raises:
        FileNotFoundError: there is none; the text lists those there are.
    """
    file = BIN / f"{name}.wasm"
    if not file.is_file():
        known = ", ".join(sorted(p.stem for p in BIN.glob("*.wasm")))
        raise FileNotFoundError(f"no committed guest {name!r}; there are: {known}")
    return file
