"""The library of host functions in C: where it is built, which one is taken, and what runs without it.

Not tested here: what its functions do (test_native.py).
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hostfuncs import native
from hostfuncs.native import build, library
from tests.host.native import need_native


def compiled(folder: Path, text: str) -> Path:
    """A library of another source."""
    # A name for each: the loader takes a path that it knows for the library that it has.
    target = folder / f"{abs(hash(text))}.so"
    (source := target.with_suffix(".c")).write_text(text)
    try:
        command = build.compilers(dict(os.environ))[0]
    except IndexError:
        need_native()
        raise
    subprocess.run([*command, "-shared", "-nostdlib", "-fPIC", "-o", str(target), str(source)], check=True)
    return target


def test_a_library_of_another_source_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    symbols = 'const char hostfuncs_native_source[] = "{}"; const unsigned long long hostfuncs_native_run_bytes = 8;'
    for source, complaint in ((symbols.format("0"), "another preview1.c"), ("int x;", "another library")):
        other = compiled(tmp_path, source)
        with pytest.raises(ValueError, match=complaint):
            library.Library(other)
    other = compiled(tmp_path, symbols.format(library.digest()))
    monkeypatch.setattr(library, "LIBRARY", other)
    assert library.find.__wrapped__() is None
    for missing in (tmp_path / "missing.so", Path(__file__)):
        monkeypatch.setattr(library, "LIBRARY", missing)
        assert library.find.__wrapped__() is None


def test_without_a_compiler_there_is_no_library(tmp_path: Path) -> None:
    target = tmp_path / "built.so"
    for environ, complaint in (
        ({"CC": "false"}, "false: it failed"),
        ({"CC": "/nowhere/cc"}, "No such file"),
        ({"HOSTFUNCS_NATIVE": "off"}, "off"),
    ):
        with pytest.raises(build.UnavailableError, match=complaint):
            build.build(target, {"PATH": os.environ["PATH"]} | environ)
    assert list(tmp_path.iterdir()) == []
    said = subprocess.run(
        [sys.executable, build.__file__], env={"HOSTFUNCS_NATIVE": "off"}, capture_output=True, text=True, check=True
    )
    assert said.stdout == "the host functions stay in Python: HOSTFUNCS_NATIVE is off\n"


def test_every_compiler_here_builds_it(tmp_path: Path) -> None:
    commands = build.compilers(dict(os.environ))
    for command in commands:
        built = build.build(tmp_path / "built.so", dict(os.environ) | {"CC": " ".join(command)})
        assert set(library.Library(built).functions) == set(native.FUNCTIONS)
        built.unlink()
    if not commands:
        need_native()


def test_a_program_says_whether_it_is_there() -> None:
    need_native()
    said = subprocess.run([sys.executable, "-m", "hostfuncs.native"], capture_output=True, text=True, check=True)
    assert said.stdout == "15 host functions of preview 1 run in C\n"
    broken = "import sys; from hostfuncs.native import library, __main__ as it; library.LIBRARY = library.SOURCE; "
    said = subprocess.run([sys.executable, "-c", broken + "sys.exit(it.main())"], capture_output=True, text=True)
    assert said.returncode == 1
    assert said.stdout.startswith("all host functions run in Python: ")
