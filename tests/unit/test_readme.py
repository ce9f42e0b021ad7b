"""README.md's tables are those the code runs on."""

from pathlib import Path

from sandboxd.reference import update

README = Path(__file__).parents[2] / "README.md"


def test_the_tables_are_current() -> None:
    text = README.read_text(encoding="utf-8")
    assert update(text) == text, "run: .venv/bin/sandboxd reference --update README.md"
