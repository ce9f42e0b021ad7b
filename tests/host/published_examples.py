"""The published wasi-http examples of dev-wasm, built from their own sources as their READMEs say.

None of their code is in this repository. PUBLISHED_EXAMPLES names a folder of git repositories (bare ones will do):
`dev-wasm-go`, `dev-wasm-c`, `dev-wasm-ts`, `wasi-http` (github.com/WebAssembly), `as-wasi` (github.com/jedisct1), and
`chicory` (github.com/dylibso), which holds a program that .NET built.
What a README fetches from the network is taken from there or from a package registry. Compilers are looked for in PATH.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.guests.cache import CACHE, ToolMissingError, digest, made

VARIABLE = "PUBLISHED_EXAMPLES"
_BUILD_S = 600


@dataclass(frozen=True)
class Example:
    """One example.

    Attributes:
        name: of the program.
        repository: where its sources are.
        build: builds it in a folder of its own, which holds the checkout.
        core: a core module for Dapr's wasi-http; otherwise a component.
        asks: method, scheme, path with query and body of the requests that it makes, by its source.
        prints: what it says of each response, made of the path; None for one that returns from `run` without a flush,
            of which a pipe has the first line only.
    """

    name: str
    repository: str
    build: Callable[[Path], Path]
    asks: tuple[tuple[str, str, str, bytes], ...] = ()
    core: bool = False
    prints: str | None = '{{"url": "{path}"}}'


def built(example: Example) -> Path:
    """The example's guest; kept in the cache. Raises ToolMissingError."""
    named = os.environ.get(VARIABLE)
    source = Path(named or "") / example.repository
    if not named or not source.is_dir():
        raise ToolMissingError(f"the repository {example.repository}", f"set {VARIABLE} to a folder that has it")
    commit = _output("git", "-C", str(source.resolve()), "rev-parse", "HEAD")

    def make(fresh: Path) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            shutil.copy(example.build(Path(scratch)), fresh)

    return made(CACHE / "published" / f"{example.name}-{digest(commit, Path(__file__))}.wasm", make)


def checkout(repository: str, folder: Path, commit: str = "HEAD") -> Path:
    """Lay a repository's files into a new folder."""
    source = Path(os.environ[VARIABLE]) / repository
    folder.mkdir(parents=True)
    _run("sh", "-c", f'git -C "$0" archive {commit} | tar -x', str(source.resolve()), cwd=folder)
    return folder


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()


def _run(*command: str, cwd: Path) -> None:
    tool = shutil.which(command[0])
    if tool is None:
        raise ToolMissingError(command[0], "install it; docs/guests.md says which example needs it")
    done = subprocess.run([tool, *command[1:]], cwd=cwd, capture_output=True, text=True, timeout=_BUILD_S, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}")


def _adapter(folder: Path) -> Path:
    """wasmtime's adapter for preview 1, as a crate carries it."""
    (folder / "src").mkdir(parents=True)
    (folder / "src" / "main.rs").write_text("fn main() {}\n")
    crate, version = "wasi-preview1-component-adapter-provider", "41.0.2"
    (folder / "Cargo.toml").write_text(
        f'[package]\nname = "adapter"\nversion = "0.0.0"\nedition = "2021"\n[dependencies]\n{crate} = "={version}"\n'
    )
    _run("cargo", "vendor", "--quiet", cwd=folder)
    return folder / "vendor" / crate / "artefacts" / "wasi_snapshot_preview1.reactor.wasm"


def _component(folder: Path, wit: Path, world: str, adapter: Path) -> Path:
    _run("wasm-tools", "component", "embed", str(wit), "-w", world, "main.wasm", "-o", "embed.wasm", cwd=folder)
    _run("wasm-tools", "component", "new", "embed.wasm", "-o", "out.wasm", "--adapt", str(adapter), cwd=folder)
    return folder / "out.wasm"


def go(folder: Path) -> Path:
    """dev-wasm-go/http: its Makefile, command by command."""
    root = checkout("dev-wasm-go", folder / "go")
    wit = checkout("wasi-http", folder / "wasi-http", "v0.2.0") / "wit"
    here = root / "http"
    shutil.copy(here / "client.wit", wit)
    _run("tinygo", "build", "-target=wasip1", "-o", "main.wasm", "-tags", "purego", "main.go", cwd=here)
    return _component(here, wit, "client", root / "lib" / "wasi_snapshot_preview1.reactor.0_2_0.wasm")


def c(folder: Path, program: str = "main", world: str = "client") -> Path:
    """dev-wasm-c/http: its Makefile, command by command, with zig's clang for that of wasi-sdk."""
    here = checkout("dev-wasm-c", folder / "c") / "http"
    wit = checkout("wasi-http", folder / "wasi-http", "v0.2.8") / "wit"
    shutil.copy(here / "client.wit", wit)
    for generated in ("client", "proxy"):
        _run("wit-bindgen", "c", str(wit), "-w", generated, cwd=here)
    sources = [f"{program}.c", "client.c", "wasi_http.c", "curl_shim.c", "client_component_type.o"]
    sources += ["proxy_component_type.o"] if world == "proxy" else []
    memory = ["-Wl,-z,stack-size=131072", "-Wl,--initial-memory=262144"]
    zig = [sys.executable, "-m", "ziglang", "cc", "-target", "wasm32-wasi", "-Oz", "-fno-sanitize=undefined"]
    # wit-bindgen of today names two types after the interface that has them; the example was written before.
    lines = "tuple2_field_name_field_value_t"
    renamed = [f"-Dclient_{kind}{lines}=wasi_http_types_{kind}{lines}" for kind in ("", "list_")]
    _run(*zig, *renamed, *memory, *sources, "-o", "main.wasm", cwd=here)
    return _component(here, wit, world, _adapter(folder / "adapter"))


def c_server(folder: Path) -> Path:
    """The server of dev-wasm-c/http, which exports wasi:cli/run as well."""
    return c(folder, "server", "proxy")


def typescript(folder: Path) -> Path:
    """dev-wasm-ts/http: `npm install` and `npm run build`. npm cannot fetch as-wasi by git here, so a folder has it."""
    here = checkout("dev-wasm-ts", folder / "ts") / "http"
    as_wasi = checkout("as-wasi", folder / "as-wasi")
    manifest = here / "package.json"
    manifest.write_text(manifest.read_text().replace("github:jedisct1/as-wasi", f"file:{as_wasi}"))
    (here / "package-lock.json").unlink()
    _run("npm", "install", "--no-audit", "--no-fund", cwd=here)
    _run("npm", "run", "build", cwd=here)
    return here / "build" / "main.wasm"


def dotnet(folder: Path) -> Path:
    """chicory's program by .NET 8 and its Wasi.Sdk, as that repository has it: no .NET for WASI can be had here."""
    return checkout("chicory", folder / "chicory") / "wasm-corpus/src/main/resources/compiled/basic.dotnet.wasm"


GO = Example(
    "go-http",
    "dev-wasm-go",
    go,
    (
        ("GET", "https", "/get", b""),
        ("POST", "https", "/post", b'{"foo": "bar"}'),
        ("PUT", "http", "/put", b'{"baz": "blah"}'),
    ),
)
C = Example(
    "c-http",
    "dev-wasm-c",
    c,
    (
        ("GET", "https", "/get?some=arg&goes=here", b""),
        ("POST", "https", "/post", b'{"foo": "bar"}'),
        ("PUT", "http", "/put", b""),
    ),
    prints=None,
)
DOTNET = Example("dotnet-hello", "chicory", dotnet, core=True)
C_SERVER = Example("c-server", "dev-wasm-c", c_server)
TYPESCRIPT = Example(
    "ts-http",
    "dev-wasm-ts",
    typescript,
    (
        ("GET", "https", "/get", b""),
        ("GET", "https", "/get?some=args&go=here", b""),
        ("POST", "https", "/post", b'{"some": "value", "goes": "here"}'),
    ),
    core=True,
)
