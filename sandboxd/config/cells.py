"""The share of the settings that each cell gets, and their encoding for the way to it."""

import dataclasses
from pathlib import Path
from typing import Any

import msgspec

from sandboxd.config import Config


def share(config: Config, number: int, cells: int) -> Config:
    """Return the settings of one cell. `pool.workers` and `pool.queueLimit` are the server's, and are divided.

    Parameters:
        config: of the server.
        number: the cell's, from 0.
        cells: how many there are, at least 1.
    """
    pool = dataclasses.replace(
        config.pool,
        workers=max(1, _part(config.pool.workers, number, cells)),
        # Rounded up: a limit of 1 must not become 0 in most cells, which would mean that nothing may wait there.
        queue_limit=-(-config.pool.queue_limit // cells),
    )
    return dataclasses.replace(config, pool=pool, cells=cells)


def _part(total: int, number: int, cells: int) -> int:
    return total // cells + (1 if number < total % cells else 0)


def concurrency(limit: int, cells: int) -> int:
    """Return a cell's share of a binding's `maxConcurrency`, rounded up, because a cell that may run none would refuse.

    Parameters:
        limit: of the server; 0 if there is none.
        cells: how many there are, at least 1.
    """
    return -(-limit // cells)


def pack(config: Config) -> bytes:
    """Encode settings."""
    return msgspec.msgpack.encode(config, enc_hook=str)


def unpack(data: bytes) -> Config:
    """Decode what `pack` encoded.

    Raises:
        msgspec.ValidationError: another version of the server encoded them.
    """
    return msgspec.msgpack.decode(data, type=Config, dec_hook=_path)


def _path(kind: type, value: Any) -> Any:
    if kind is Path:
        return Path(value)
    raise NotImplementedError(f"{kind} does not travel")
