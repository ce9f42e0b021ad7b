"""A bounds-checked reader of the WebAssembly binary format, limited to import, memory and export sections, and to the
modules within a component."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

MAX_NAME_BYTES = 100_000
MAX_SECTIONS = 1_000_000


class MalformedError(Exception):
    """The bytes violate the format; the message says how and at which offset."""


class Reader:
    """Reads forward over a part of a file. A read past its end raises MalformedError.

    Parameters:
        data: the whole file, so that messages name offsets in the file.
        at: the offset of the part's first byte.
        end: the offset after its last byte; by default the end of the file.
    """

    __slots__ = ("_at", "_data", "_end")

    def __init__(self, data: bytes, at: int = 0, end: int | None = None) -> None:
        self._data = data
        self._at = at
        self._end = len(data) if end is None else end

    def __repr__(self) -> str:
        return f"<Reader at {self._at} of {self._end}>"

    def sections(self) -> Iterator[tuple[int, Reader]]:
        """Yield each section, custom ones included, as its id and a reader of its content."""
        for _ in range(MAX_SECTIONS):
            if self._at >= self._end:
                return
            number = self.byte()
            size = self.u32()
            if size > self._end - self._at:
                raise MalformedError(f"section {number} at offset {self._at} is longer than the file")
            yield number, Reader(self._data, self._at, self._at + size)
            self._at += size
        raise MalformedError(f"more than {MAX_SECTIONS} sections")

    def rest(self) -> bytes:
        """Return a copy of what is left of the part."""
        return self._data[self._at : self._end]

    def skip(self, count: int) -> None:
        """Pass over bytes."""
        if count > self._end - self._at:
            raise MalformedError(f"unexpected end at offset {self._end}")
        self._at += count

    def byte(self) -> int:
        """Read one byte."""
        if self._at >= self._end:
            raise MalformedError(f"unexpected end at offset {self._at}")
        value = self._data[self._at]
        self._at += 1
        return value

    def u32(self) -> int:
        """Read an unsigned LEB128 of at most 32 bits (five bytes)."""
        value = self._leb(32)
        if value >= 1 << 32:
            raise MalformedError(f"integer too large at offset {self._at}")
        return value

    def count(self, what: str, most: int) -> int:
        """Read the length of a vector.

        Each element has at least one byte, so a length beyond the end of the section is an error.

        Parameters:
            what: the elements' name in messages.
            most: the highest length that is accepted.
        """
        value = self.u32()
        if value > most:
            raise MalformedError(f"{value} {what}, at most {most} are supported")
        if value > self._end - self._at:
            raise MalformedError(f"{value} {what} announced at offset {self._at}, more than the section can hold")
        return value

    def name(self) -> str:
        """Read a name: UTF-8 of at most MAX_NAME_BYTES."""
        length = self.u32()
        if length > MAX_NAME_BYTES:
            raise MalformedError(f"name of {length} bytes at offset {self._at}")
        if length > self._end - self._at:
            raise MalformedError(f"name at offset {self._at} runs past its section")
        raw = self._data[self._at : self._at + length]
        self._at += length
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise MalformedError(f"name at offset {self._at - length} is not UTF-8") from None

    def extern_name(self) -> str:
        """Read a component's import or export name, which follows a byte for its form."""
        if self.byte() > 1:
            raise MalformedError(f"unknown form of name at offset {self._at - 1}")
        return self.name()

    def choice(self, names: Sequence[str], what: str) -> str:
        """Read one byte that is an index into `names`. `what` names it in messages."""
        value = self.byte()
        if value >= len(names):
            raise MalformedError(f"unknown {what} {value} at offset {self._at - 1}")
        return names[value]

    def value_type(self) -> None:
        """Skip a value, reference or component value type: one byte, or 0x63/0x64 and a heap type."""
        if self.byte() in (0x63, 0x64):
            self._leb(33)

    def limits(self) -> bool:
        """Skip limits. Return whether they are for 64-bit addresses."""
        flags = self.byte()
        if flags > 0x0F:
            raise MalformedError(f"unknown limits {flags:#x} at offset {self._at - 1}")
        self._leb(64)
        if flags & 1:
            self._leb(64)
        if flags & 8:
            self.u32()
        return bool(flags & 4)

    def _leb(self, bits: int) -> int:
        value = 0
        for shift in range(0, bits, 7):
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise MalformedError(f"integer representation too long at offset {self._at}")


def core_modules(component: bytes) -> Iterator[bytes]:
    """Yield the core modules within a component and the components nested in it (component-model, Binary.md).

    Raises:
        MalformedError: a section cannot be found.
    """
    parts = [Reader(component, 8)]
    while parts:
        for number, section in parts.pop().sections():
            if number == 1:
                yield section.rest()
            elif number == 4:
                section.skip(8)
                parts.append(section)
