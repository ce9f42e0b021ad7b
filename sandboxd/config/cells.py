"""Divides the server's settings among its cells, and encodes them for the cell processes."""

import dataclasses
from pathlib import Path
from typing import Any

import msgspec

from sandboxd.config import Config


def share(config: Config, number: int, cells: int) -> Config:
    """Return the settings of one cell: the server's, with its share of `pool.workers` and `pool.queueLimit`.

    Parameters:
        config: the server's settings.
        number: the cell's number, from 0.
        cells: the number of cells, at least 1.
    """
    pool = dataclasses.replace(
        config.pool,
        workers=max(1, _part(config.pool.workers, number, cells)),
        # Rounded up: a limit of 1 must not become 0 in most cells, where nothing could wait then.
        queue_limit=-(-config.pool.queue_limit // cells),
    )
    return dataclasses.replace(config, pool=pool, cells=cells)


def _part(total: int, number: int, cells: int) -> int:
    return total // cells + (1 if number < total % cells else 0)


def concurrency(limit: int, cells: int) -> int:
    """Return a cell's share of a binding's `maxConcurrency`.

    It is rounded up, because a cell with a share of 0 would refuse every request.

    Parameters:
        limit: the limit of the whole server; 0 if there is none.
        cells: the number of cells, at least 1.
    """
    return -(-limit // cells)


def pack(config: Config) -> bytes:
    """Encode settings for a cell process."""
    return msgspec.msgpack.encode(config, enc_hook=str)


def unpack(data: bytes) -> Config:
    """Decode settings that `pack` encoded.

    Raises:
        msgspec.ValidationError: another version of the server encoded them.
    """
    return msgspec.msgpack.decode(data, type=Config, dec_hook=_path)


def _path(kind: type, value: Any) -> Any:
    if kind is Path:
        return Path(value)
    raise NotImplementedError(f"settings of type {kind} cannot be decoded")
