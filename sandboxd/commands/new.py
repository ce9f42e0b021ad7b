"""`sandboxd new`: begins a guest, with its component, a test and the commands to build, try and serve it."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sandboxd.errors import ExitCode, SandboxdError, one_line

_TEMPLATES: Final = Path(__file__).parent / "templates"
_SUFFIX: Final = ".template"
_NAME: Final = re.compile(r"[a-z][a-z0-9_-]{0,62}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Language:
    """The build of guests in one language."""

    build: str
    """The command, NAME standing for the guest's name."""
    needs: str
    """The tools that must be installed, and how."""
    memory: str = "64Mi"
    wit: bool = False
    """Whether it is built against the interfaces of WASI 0.2, which are then put beside it."""


LANGUAGES: Final = {
    "c": Language(
        build="python3 -m ziglang cc -target wasm32-wasi -Oz -s -Wl,-z,stack-size=65536 -o NAME.wasm NAME.c",
        needs="It is built with `zig cc` (`pip install ziglang`). Any C compiler with a WASI target will do.",
    ),
    "zig": Language(
        build="python3 -m ziglang build-exe -target wasm32-wasi -O ReleaseSmall -fstrip -femit-bin=NAME.wasm NAME.zig",
        needs="It is built with Zig 0.17 (`pip install ziglang==0.17.1`).",
    ),
    "go": Language(
        build='GOOS=wasip1 GOARCH=wasm go build -ldflags="-s -w" -o NAME.wasm .',
        needs="It is built with Go 1.21 or later.",
    ),
    "rust": Language(
        build="rustc --edition 2021 --target wasm32-wasip1 -C opt-level=z -C strip=symbols -o NAME.wasm NAME.rs",
        needs="It is built with Rust (`rustup target add wasm32-wasip1`).",
    ),
    "python": Language(
        build="componentize-py -d wit -w guest componentize app -o NAME.wasm",
        needs="It is built with componentize-py (`pip install componentize-py`), which adds CPython.",
        memory="256Mi",
        wit=True,
    ),
    "js": Language(
        build="npm install --silent && node componentize.mjs NAME.wasm",
        needs="It is built with Node.js 18 or later and componentize-js, which adds StarlingMonkey.",
        memory="256Mi",
        wit=True,
    ),
}


def new(language: str, name: str) -> int:
    """Make a folder with a guest.

    Parameters:
        language: one of LANGUAGES.
        name: of the folder and the binding.

    Returns:
        OK.

    Raises:
        SandboxdError: the name cannot be that of a binding, or the folder exists or cannot be made.
    """
    if not _NAME.fullmatch(name):
        raise SandboxdError(
            one_line(f"{name} cannot be the name of a guest"),
            remedy="use lower-case letters, digits, - and _, and begin with a letter",
            exit_code=ExitCode.USAGE,
        )
    about = LANGUAGES[language]
    build = re.sub(r"\bNAME\b", name, about.build)
    words = {"@NAME@": name, "@BUILD@": build, "@NEEDS@": about.needs, "@MEMORY@": about.memory}
    folder = Path(name)
    try:
        folder.mkdir()
        for part in ("every", language):
            _copy(_TEMPLATES / part, folder, words)
        if about.wit:
            _copy(_TEMPLATES / "wit-deps", folder / "wit" / "deps", {})
            (folder / "wit" / "world.wit").write_bytes((_TEMPLATES / "wit-world.wit").read_bytes())
    except OSError as error:
        raise SandboxdError(
            one_line(f"cannot make {error.filename or folder}: {error.strerror}"),
            remedy="choose another name, or another folder to work in",
            exit_code=ExitCode.USAGE,
        ) from error
    print(f"{name}/ has a guest, its component and a test. Next:\n")
    print(f"  cd {name}\n  {build}\n  echo '\"hello\"' | sandboxd run {name}.wasm\n")
    print(f"{about.needs} {name}/README.md has the other commands.")
    return ExitCode.OK


def _copy(source: Path, target: Path, words: dict[str, str]) -> None:
    for file in sorted(source.rglob("*")):
        if not file.is_file():
            continue
        text = file.read_text(encoding="utf-8")
        place = str(file.relative_to(source)).removesuffix(_SUFFIX)
        for word, value in words.items():
            text, place = text.replace(word, value), place.replace(word, value)
        (target / place).parent.mkdir(parents=True, exist_ok=True)
        (target / place).write_text(text, encoding="utf-8")
