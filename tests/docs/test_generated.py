"""The generated parts of docs/ are those the code and pyproject.toml say."""

from pathlib import Path

from sandboxd.commands.reference import update
from tests.docs import rooms

REFERENCE = Path(__file__).parents[2] / "docs/reference.md"


def test_the_tables_are_current() -> None:
    text = REFERENCE.read_text(encoding="utf-8")
    assert update(text) == text, "run: make docs"


def test_the_rooms_are_those_of_the_layers_contracts() -> None:
    text = rooms.DOCUMENT.read_text(encoding="utf-8")
    assert rooms.update(text) == text, "run: make docs"


def test_every_room_has_a_docstring_to_show() -> None:
    assert {package for package, rows in rooms.layers().items() if rows} == {"sandboxd", "hostfuncs"}
    assert "(no docstring)" not in rooms.picture()
