"""Guests for tests: committed small ones by name, others built or unpacked into a cache when first asked for."""

from pathlib import Path

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
