"""The text of metrics, made at once."""

import asyncio
from collections.abc import Sequence

from sandboxd.metrics import Metrics
from sandboxd.metrics.exposition import KeptPieces, TextFormat, paced
from sandboxd.wire.cells import Family


def expose(metrics: Metrics, accept: str = "") -> tuple[bytes, str]:
    """Return all metrics as text, and its Content-Type."""
    form = TextFormat(accept)
    return b"".join((*asyncio.run(paced(metrics.text_pieces(form), 0)), form.end)), form.content_type


def expose_families(families: Sequence[Family], accept: str = "", kept: KeptPieces | None = None) -> tuple[bytes, str]:
    """Return metrics that came as messages as text, and its Content-Type."""
    form = TextFormat(accept)
    pieces = (kept or KeptPieces()).pieces(families, form)
    return b"".join((*asyncio.run(paced(pieces, 0)), form.end)), form.content_type
