"""The shape of the two packages: no file imports itself round a corner, and no module lies loose beside the rooms.

Which room may import which is the layers contract in pyproject.toml (`make check`). Not tested here: calls between
objects, which may go both ways.
"""

from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("sandboxd", "hostfuncs")

LOOSE = {"__init__", "__main__", "cli", "errors", "outcome"}
"""The modules of sandboxd/ that every room may know, or that start the program. Everything else is in a room."""

Circle = frozenset[str]


def circles(imports: dict[str, set[str]]) -> list[Circle]:
    """The strongly connected groups of more than one module.

    Parameters:
        imports: a module's name, and the names of those it imports.
    """
    reached = {name: _reachable(name, imports) for name in imports}
    found = {
        frozenset(other for other in reached[name] if name in reached[other])
        for name in imports
        if name in reached[name]
    }
    return sorted(found, key=sorted)


def _reachable(start: str, imports: dict[str, set[str]]) -> set[str]:
    found: set[str] = set()
    waiting = [start]
    while waiting:
        for name in imports[waiting.pop()] - found:
            found.add(name)
            waiting.append(name)
    return found


def imports_between_files() -> dict[str, set[str]]:
    """Return all imports, also those for type checkers and those inside functions."""
    graph = grimp.build_graph(*PACKAGES, exclude_type_checking_imports=False, cache_dir=None)
    return {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}


@pytest.mark.parametrize(
    ("imports", "expected"),
    [
        ({"a": {"b"}, "b": {"c"}, "c": set()}, []),
        ({"a": {"b"}, "b": {"a"}, "c": {"a"}}, [{"a", "b"}]),
        ({"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"e"}, "e": {"d"}}, [{"a", "b", "c"}, {"d", "e"}]),
        ({"a": {"a"}}, [{"a"}]),
    ],
)
def test_circles_are_found(imports: dict[str, set[str]], expected: list[set[str]]) -> None:
    assert circles(imports) == [frozenset(group) for group in expected]


def test_no_circle_of_imports() -> None:
    found = [sorted(circle) for circle in circles(imports_between_files())]
    assert found == [], "let one of these files not import the others (a Protocol or a file of its own opens a circle)"


def test_the_imports_for_type_checkers_count() -> None:
    with_them = imports_between_files()
    without = grimp.build_graph(*PACKAGES, exclude_type_checking_imports=True, cache_dir=None)
    assert sum(map(len, with_them.values())) > without.count_imports()


def test_no_type_is_prepared_for_reading_while_threads_run() -> None:
    """`msgspec.json.decode(type=...)` prepares a type at its first use; two threads that do so at once crash."""
    alone = {"compile_main.py"}  # a process of one thread
    found = [
        file.name
        for file in (ROOT / "sandboxd" / "modules").glob("*.py")
        if file.name not in alone and "msgspec.json.decode(" in file.read_text()
    ]
    assert found == [], "make a msgspec.json.Decoder where the module is loaded"


def test_nothing_lies_loose_beside_the_rooms() -> None:
    assert {file.stem for file in (ROOT / "sandboxd").glob("*.py")} == LOOSE
