"""WebAssembly/wasi-testsuite: where its files come from, and what each test wants.

The suite is not committed here. It is taken from the folder or git repository that WASI_TESTSUITE names, or fetched by
git, and kept in the cache. Source of the format: doc/specification.md of the suite.
"""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.guests.cache import CACHE, ToolMissingError, made

COMMIT = "9f80ca35"
"""Of the branch prod/testsuite-base, which holds the built tests."""
BRANCH = "prod/testsuite-base"
REPOSITORY = "https://github.com/WebAssembly/wasi-testsuite"
VARIABLE = "WASI_TESTSUITE"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One test of the suite."""

    file: Path
    args: tuple[str, ...]
    env: dict[str, str]
    root: Path | None
    """The folder that the guest finds as its root; None for none."""
    exit_code: int
    stdout: str | None
    """None: whatever it prints."""

    @property
    def name(self) -> str:
        """Unique, and possible as a binding's name."""
        return f"{self.file.parents[2].name}-{self.file.stem}".replace("_", "-").lower()

    def prepared(self, folder: Path) -> Path | None:
        """Copy the root, because tests leave files behind."""
        if self.root is None:
            return None
        copy = folder / self.name
        shutil.copytree(self.root, copy)
        return copy


def suite() -> Path:
    """The suite's folder `tests`.

    Raises:
        ToolMissingError: it cannot be had here.
    """
    named = os.environ.get(VARIABLE)
    if named and (Path(named) / "tests").is_dir():
        return Path(named) / "tests"

    def make(fresh: Path) -> None:
        if not shutil.which("git"):
            raise ToolMissingError("the WASI test suite", "install git")
        try:
            subprocess.run(
                ["git", "clone", "-q", "--depth", "1", "--branch", BRANCH, named or REPOSITORY, str(fresh)],
                check=True,
                capture_output=True,
                timeout=300,
                env={**os.environ, "GIT_TERMINAL_PROMPT": "0"},
            )
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            why = (error.stderr or b"").decode(errors="replace").strip().splitlines()[-1:]
            remedy = f"its repository cannot be fetched {why}; set {VARIABLE} to a copy of its branch {BRANCH}"
            raise ToolMissingError("the WASI test suite", remedy) from error

    return made(CACHE / f"wasi-testsuite-{COMMIT}", make) / "tests"


def cases(folder: Path, kind: str) -> list[Case]:
    """The tests of one kind, such as `wasm32-wasip1`."""
    found = [_case(file) for file in sorted(folder.glob(f"*/testsuite/{kind}/*.wasm"))]
    assert len({case.name for case in found}) == len(found)
    return found


def _case(file: Path) -> Case:
    spec: dict[str, Any] = {}
    if file.with_suffix(".json").exists():
        spec = json.loads(file.with_suffix(".json").read_text())
    return Case(
        file=file,
        args=tuple(spec.get("args", ())),
        env=dict(spec.get("env", {})),
        root=file.parent / spec["root"] if spec.get("root") else None,
        exit_code=spec.get("exit_code", 0),
        stdout=spec.get("stdout"),
    )
