"""Guests that attack their host, one file each, written as text: no compiler would produce most of them.

`attack("stdout_flood")` is its binary. What a guest does is said on its first lines.
"""

from pathlib import Path

import wasmtime

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Of all attacks that are files."""
    return sorted(file.stem for file in FOLDER.glob("*.wat"))


def attack(name: str) -> bytes:
    """One of them, as a binary."""
    return bytes(wasmtime.wat2wasm((FOLDER / f"{name}.wat").read_text()))
