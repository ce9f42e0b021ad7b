"""The text of metrics, made at once."""

import asyncio
from collections.abc import Sequence

from sandboxd.metrics import Metrics
from sandboxd.metrics.exposition import paced_text, pieces_of
from sandboxd.wire.cells import Family


def expose(metrics: Metrics, accept: str = "") -> tuple[bytes, str]:
    """Return all metrics as text, and its Content-Type."""
    return asyncio.run(paced_text(metrics.pieces(), accept, 0))


def expose_families(families: Sequence[Family], accept: str = "") -> tuple[bytes, str]:
    """Return metrics that came as messages as text, and its Content-Type."""
    return asyncio.run(paced_text(pieces_of(families), accept, 0))
