"""The header blocks of a connection: those that come are decoded with a cache, those that go are literals.

A caller sends the same headers with nearly every call. Once its encoder has them in the dynamic table, the blocks are
equal byte by byte; and as long as the table stays as it is, equal blocks mean equal fields. So the heads of whole
blocks are kept, until a block changes the table.

Source: RFC 7541. The decoder is that of the package hpack.
"""

from typing import Final

from hpack import Decoder, HPACKError, OversizedHeaderListError

from sandboxd.front.grpc.frames import ConnectionBroken, ErrorCode
from sandboxd.front.grpc.heads import Head

KEPT: Final = 32
"""The most heads that are kept for one connection."""
KEPT_BYTES: Final = 2048
"""The largest head that is kept."""
SPARE_BYTES: Final = 16 * 1024
"""Heads that are larger than allowed by no more than this are decoded, and their calls refused. Beyond it the
connection ends: without the rest of a block the table is lost."""


class HeaderBlocks:
    """Decodes the blocks that come on a connection, in their order.

    Parameters:
        max_bytes: the most that the fields of a head may count.
    """

    __slots__ = ("_decoder", "_heads", "_max_bytes", "_state")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._decoder = Decoder(max_header_list_size=max_bytes + SPARE_BYTES)
        self._heads: dict[bytes, Head] = {}
        self._state: object = None
        """The table's newest entry, number of entries and size: different after each change."""

    def __repr__(self) -> str:
        return f"<HeaderBlocks, {len(self._heads)} kept>"

    def head(self, block: bytes) -> Head:
        """Decode a whole block.

        Raises:
            ConnectionBroken: it cannot be decoded, or is too large.
        """
        head = self._heads.get(block)
        if head is not None:
            return head
        try:
            fields = self._decoder.decode(block, raw=True)
        except OversizedHeaderListError:
            raise ConnectionBroken(ErrorCode.ENHANCE_YOUR_CALM, "the headers are too large") from None
        except (HPACKError, IndexError):
            # IndexError: the block ends within a number. The package's words are not told: some hold an address of this
            # process's memory.
            raise ConnectionBroken(ErrorCode.COMPRESSION_ERROR, "a header block cannot be decoded") from None
        head = Head([(bytes(name), bytes(value)) for name, value in fields], self._max_bytes)
        if self._changed():
            self._heads.clear()
        elif head.size <= KEPT_BYTES and head.error is None and not head.malformed:
            if len(self._heads) >= KEPT:
                self._heads.clear()
            self._heads[block] = head
        return head

    def _changed(self) -> bool:
        """Return whether the dynamic table is another one than when this was last asked."""
        table = self._decoder.header_table
        entries = table.dynamic_entries
        newest = entries[0] if entries else None
        former, self._state = self._state, (newest, len(entries), table.maxsize)
        return (
            former is None
            or former[0] is not newest  # type: ignore[index]  # a tuple from here on
            or former[1:] != self._state[1:]  # type: ignore[index]
        )


def literal(name: bytes, value: bytes) -> bytes:
    """Return a field as a literal without indexing (RFC 7541, 6.2.2), which needs no table."""
    return b"\0" + _integer(len(name)) + name + _integer(len(value)) + value


def _integer(number: int) -> bytes:
    """Return the length of a string that is not Huffman-coded (RFC 7541, 5.1, with a prefix of seven bits)."""
    if number < 127:
        return bytes((number,))
    number -= 127
    out = bytearray(b"\x7f")
    while number >= 128:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)
