"""Only public names of httpx2 and httpcore2 are used: none that begins with an underscore."""

import ast
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIBRARIES = ("httpx2", "httpcore2")
USERS = sorted(
    path
    for room in ("hostfuncs", "sandboxd", "bench")
    for path in (ROOT / room).rglob("*.py")
    if any(library in path.read_text() for library in LIBRARIES)
)


def private_uses(text: str) -> Iterator[str]:
    """Every mention of a private name that the module does not define itself, as `line: what`."""
    tree = ast.parse(text)
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)} | {
        node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    }
    modules = {
        alias.asname or alias.name: alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.name.partition(".")[0] not in LIBRARIES
    }
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                found = [alias.name for alias in names]
            case ast.ImportFrom(module=module, names=names):
                found = [f"{module}.{alias.name}" for alias in names]
            case ast.Attribute(value=ast.Call(func=ast.Name(id="super"))):
                found = [f"{LIBRARIES[0]}.{node.attr}"]
            case ast.Attribute(value=ast.Name(id=holder)) if holder in ("self", "cls", *modules) or node.attr in own:
                continue
            case ast.Attribute():
                found = [f"{LIBRARIES[0]}.{node.attr}"]
            case _:
                continue
        for name in found:
            library, *parts = name.split(".")
            if library in LIBRARIES and any(part.startswith("_") and not part.endswith("__") for part in parts):
                yield f"{node.lineno}: {name}"


def test_there_is_something_to_look_at() -> None:
    assert ROOT / "hostfuncs/outbound/httpcore_adapter.py" in USERS
    assert list(private_uses("import httpcore2._async\n")) == ["1: httpcore2._async"]
    assert list(private_uses("from httpx2 import _client\n")) == ["1: httpx2._client"]
    assert list(private_uses("async def f(self):\n    await super()._send()\n")) == ["2: httpx2._send"]
    assert list(private_uses("pool._connections\n")) == ["1: httpx2._connections"]
    assert not list(private_uses("import httpcore2\nself._mine = httpcore2.Origin\n"))


@pytest.mark.parametrize("path", USERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_private_name_is_used(path: Path) -> None:
    assert not list(private_uses(path.read_text()))


@pytest.mark.parametrize("path", USERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_private_name_is_overridden(path: Path) -> None:
    module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    for _, ours in inspect.getmembers(module, inspect.isclass):
        if ours.__module__ != module.__name__:
            continue
        theirs = [base for base in ours.__mro__ if base.__module__.partition(".")[0] in LIBRARIES]
        taken = {name for base in theirs for name in vars(base) if name.startswith("_") and not name.endswith("__")}
        assert not taken & set(vars(ours)), ours
