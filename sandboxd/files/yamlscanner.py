"""PyYAML's scanner with the rules of goyaml.v2 (and libyaml) for tabs and for colons in flow collections.

PyYAML refuses tabs that separate tokens. YAML allows them, and Dapr's reader accepts them: yaml/pyyaml#306, #450.
Source: sigs.k8s.io/yaml v1.4.0, goyaml.v2/scannerc.go: yaml_parser_scan_to_next_token, yaml_parser_scan_plain_scalar.
"""

from collections.abc import Iterator
from typing import Final

import yaml
from yaml.parser import Parser
from yaml.reader import Reader
from yaml.scanner import Scanner, ScannerError
from yaml.tokens import ScalarToken

_BREAKS: Final = "\r\n\x85\u2028\u2029"
_BLANKS: Final = " \t"
_ENDS: Final = "\0" + _BREAKS
_BLANK_ENDS: Final = _BLANKS + _ENDS
_FLOW_ENDS: Final = ",?[]{}"


class GoLoader(Reader, Scanner, Parser):
    """Reads the events of a YAML text.

    Parameters:
        text: YAML.
    """

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)

    def events(self) -> Iterator[yaml.Event]:
        """Yield the events of all documents.

        Raises:
            yaml.YAMLError: the text is not YAML.
        """
        while self.check_event():
            event: yaml.Event = self.get_event()  # type: ignore[no-untyped-call]
            yield event

    def scan_to_next_token(self) -> None:
        """Pass blanks, comments and line ends. A tab does not indent: it may not begin a line or follow `-`."""
        if self.index == 0 and self.peek() == "\ufeff":
            self.forward()
        while True:
            while self.peek() == " " or (self.peek() == "\t" and (self.flow_level or not self.allow_simple_key)):
                self.forward()
            self._pass_comment()
            if not self._line_break():
                return
            if not self.flow_level:
                self.allow_simple_key = True

    def scan_plain(self) -> ScalarToken:
        """Read a scalar without quotes. Blanks within it are kept, those around a line's end become one space."""
        start = end = self.get_mark()
        chunks: list[str] = []
        blanks: str | None = ""
        while blanks is not None and not (self.column == 0 and self._at_document_end()) and self.peek() != "#":
            word = self._plain_word()
            if word:
                chunks += (blanks, word)
                self.allow_simple_key = False
                end = self.get_mark()
            blanks = self._plain_blanks(start)
        return ScalarToken("".join(chunks), True, start, end)

    def scan_directive_ignored_line(self, start_mark: yaml.Mark) -> None:
        """Pass the rest of a directive's line."""
        self._pass_line("while scanning a directive", start_mark)

    def scan_block_scalar_ignored_line(self, start_mark: yaml.Mark) -> None:
        """Pass the rest of the line that begins a block scalar."""
        self._pass_line("while scanning a block scalar", start_mark)

    def scan_block_scalar_indicators(self, start_mark: yaml.Mark) -> tuple[bool | None, int | None]:
        """Read what follows `|` or `>`. Return whether line ends are kept, and the indentation."""
        chomping: bool | None = None
        increment: int | None = None
        while (self.peek() in "+-" and chomping is None) or (self.peek() in "0123456789" and increment is None):
            char = self.peek()
            if char == "0":
                wrong = "expected indentation indicator in the range 1-9, but found 0"
                raise ScannerError("while scanning a block scalar", start_mark, wrong, self.get_mark())
            if char in "+-":
                chomping = char == "+"
            else:
                increment = int(char)
            self.forward()
        return chomping, increment

    def scan_block_scalar_indentation(self) -> tuple[list[str], int, yaml.Mark]:
        """Find the indentation of a block scalar. Return the line ends before its text, the indentation, its place."""
        chunks: list[str] = []
        deepest, end = 0, self.get_mark()
        while self.peek() in " " + _BREAKS:
            if self.peek() == " ":
                self.forward()
                deepest = max(deepest, self.column)
            else:
                chunks.append(self._line_break())
                end = self.get_mark()
        self._refuse_tab()
        return chunks, deepest, end

    def scan_block_scalar_breaks(self, indent: int) -> tuple[list[str], yaml.Mark]:
        """Pass empty lines and the indentation of the next line. Return the line ends, and where the last one ended."""
        chunks: list[str] = []
        end = self.get_mark()
        while True:
            while self.column < indent and self.peek() == " ":
                self.forward()
            if self.column < indent:
                self._refuse_tab()
            if self.peek() not in _BREAKS:
                return chunks, end
            chunks.append(self._line_break())
            end = self.get_mark()

    def _refuse_tab(self) -> None:
        if self.peek() == "\t":
            wrong = "found a tab character where an indentation space is expected"
            raise ScannerError("while scanning a block scalar", self.get_mark(), wrong, self.get_mark())

    def _line_break(self) -> str:
        """Pass a line's end. Return the text that it is in a scalar; empty if there is no line end here."""
        return str(self.scan_line_break())  # type: ignore[no-untyped-call]

    def _pass_comment(self) -> None:
        if self.peek() == "#":
            while self.peek() not in _ENDS:
                self.forward()

    def _pass_line(self, what: str, start_mark: yaml.Mark) -> None:
        while self.peek() in _BLANKS:
            self.forward()
        self._pass_comment()
        if self.peek() not in _ENDS:
            wrong = f"expected a comment or a line break, but found {self.peek()!r}"
            raise ScannerError(what, start_mark, wrong, self.get_mark())
        self._line_break()

    def _at_document_end(self) -> bool:
        return self.prefix(3) in ("---", "...") and self.peek(3) in _BLANK_ENDS

    def _plain_word(self) -> str:
        length = 0
        while True:
            char = self.peek(length)
            if (
                char in _BLANK_ENDS
                or (char == ":" and self.peek(length + 1) in _BLANK_ENDS)
                or (self.flow_level and char in _FLOW_ENDS)
            ):
                break
            length += 1
        word: str = self.prefix(length)
        self.forward(length)
        return word

    def _plain_blanks(self, start: yaml.Mark) -> str | None:
        """Pass blanks and line ends. Return their text in the scalar; None if the scalar ends before them."""
        if self.peek() not in _BLANKS + _BREAKS:
            return None
        indent = self.indent + 1
        kept, first, more = "", "", ""
        while self.peek() in _BLANKS + _BREAKS:
            char = self.peek()
            if char in _BREAKS:
                line_break = self._line_break()
                if first:
                    more += line_break
                else:
                    first = line_break
            else:
                if first and self.column < indent and char == "\t":
                    wrong = "found a tab character that violates indentation"
                    raise ScannerError("while scanning a plain scalar", start, wrong, self.get_mark())
                if not first:
                    kept += char
                self.forward()
        if first:
            self.allow_simple_key = True
            kept = (more or " ") if first == "\n" else first + more
        return None if not self.flow_level and self.column < indent else kept
