"""Draws the rooms of docs/development.md from the layers contracts.

`python -m tests.docs.rooms` renews them in the file.
"""

import ast
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs/development.md"

_MARKERS = re.compile(r"(<!-- rooms -->\n).*?(<!-- end -->)", re.DOTALL)


def layers() -> dict[str, list[list[str]]]:
    """By package, the rooms of each layer of pyproject.toml's contracts, the topmost first."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        contracts = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    return {
        package: [re.findall(r"\w+", layer) for layer in contract["layers"]]
        for contract in contracts
        if contract["type"] == "layers"
        for package in contract["containers"]
    }


def picture() -> str:
    """Markdown: a table for each package, a row for each room, with the first line of the room's docstring."""
    parts: list[str] = []
    for package, rooms_by_layer in layers().items():
        parts += [f"`{package}/`:", "", "| layer | room | what it is |", "|---|---|---|"]
        for number, rooms in enumerate(rooms_by_layer, 1):
            parts += [f"| {number} | `{room}` | {_docstring(package, room)} |" for room in rooms]
        parts.append("")
    return "\n".join(parts).rstrip()


def update(text: str) -> str:
    """`text` with the rooms between its markers renewed.

    Raises:
        ValueError: the markers are not there exactly once.
    """
    text, count = _MARKERS.subn(lambda match: f"{match[1]}{picture()}\n{match[2]}", text)
    if count != 1:
        raise ValueError(f"the markers <!-- rooms --> and <!-- end --> stand {count} times in the text")
    return text


def _docstring(package: str, room: str) -> str:
    """The first line of a room's docstring."""
    folder, module = ROOT / package / room / "__init__.py", ROOT / package / f"{room}.py"
    tree = ast.parse((folder if folder.is_file() else module).read_text(encoding="utf-8"))
    return (ast.get_docstring(tree) or "(no docstring)").partition("\n")[0].strip().replace("|", "\\|")


if __name__ == "__main__":
    DOCUMENT.write_text(update(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
