"""Installs Dapr's SDKs into the cache, each with its language's own client."""

import shutil
import subprocess
import sys
from pathlib import Path

from tests.guests.cache import CACHE, ToolMissingError, digest, made

PROGRAMS = Path(__file__).parent / "programs"
PYTHON_SDK = "dapr==1.19.0"
JS_SDK = "@dapr/dapr@3.18.0"
INSTALL_S = 400


def _tool(name: str, remedy: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise ToolMissingError(name, remedy)
    return found


def _run(what: str, *command: str, cwd: Path) -> None:
    """Run an installer.

    Raises:
        ToolMissingError: it failed: the registry cannot be reached, or no longer has the version.
    """
    try:
        done = subprocess.run(
            command, cwd=cwd, capture_output=True, text=True, timeout=INSTALL_S, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        raise ToolMissingError(what, f"{command[0]} did not end within {INSTALL_S} s") from None
    if done.returncode != 0:
        raise ToolMissingError(what, f"{' '.join(command)}: {(done.stdout + done.stderr)[-800:]}")


def python_sdk() -> list[str]:
    """Return the command that runs the program with the Python SDK."""

    def install(target: Path) -> None:
        pip = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        _run(PYTHON_SDK, *pip, "--target", str(target), PYTHON_SDK, cwd=target.parent)

    name = f"python-{digest(PYTHON_SDK, sys.version)}"
    folder = made(CACHE / "sdk" / name, install)
    start = f"import sys, runpy; sys.path.insert(0, {str(folder)!r}); runpy.run_path(sys.argv[1])"
    return [sys.executable, "-c", start, str(PROGRAMS / "python_sdk.py")]


def js_sdk(protocol: str) -> tuple[list[str], dict[str, str]]:
    """Return the command that runs the program with the JavaScript SDK, and its variables."""
    node = _tool("node", "install Node.js 18 or later with npm")

    def install(target: Path) -> None:
        target.mkdir()
        (target / "package.json").write_text('{"private": true}')
        npm = _tool("npm", "install Node.js 18 or later with npm")
        _run(JS_SDK, npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", JS_SDK, cwd=target)

    folder = made(CACHE / "sdk" / f"js-{digest(JS_SDK)}", install)
    return [node, str(PROGRAMS / "js_sdk.mjs"), protocol], {"SDK": str(folder)}


def go_sdk() -> list[str]:
    """Return the command that runs the program with the Go SDK."""
    go = _tool("go", "install Go 1.24 or later")
    sources = PROGRAMS / "go"

    def build(target: Path) -> None:
        folder = target.parent / "source"
        shutil.copytree(sources, folder)
        _run("the Go SDK", go, "mod", "tidy", cwd=folder)
        _run("the Go SDK", go, "build", "-o", str(target), ".", cwd=folder)

    return [str(made(CACHE / "sdk" / f"go-{digest(sources / 'main.go', sources / 'go.mod')}", build))]


def java_sdk() -> list[str]:
    """Return the command that runs the program with the Java SDK."""
    java = _tool("java", "install a JDK, 17 or later")
    sources = PROGRAMS / "java"

    def build(target: Path) -> None:
        target.mkdir()
        maven = _tool("mvn", "install Maven")
        shutil.copy(sources / "pom.xml", target)
        copy = ("dependency:copy-dependencies", f"-DoutputDirectory={target / 'lib'}")
        _run("the Java SDK", maven, "--quiet", "--batch-mode", *copy, cwd=target)
        javac = _tool("javac", "install a JDK, 17 or later")
        classpath = str(target / "lib" / "*")
        _run("the Java SDK", javac, "-cp", classpath, "-d", str(target), str(sources / "Main.java"), cwd=target)

    folder = made(CACHE / "sdk" / f"java-{digest(sources / 'Main.java', sources / 'pom.xml')}", build)
    return [java, "-XX:TieredStopAtLevel=1", "-cp", f"{folder}:{folder}/lib/*", "Main"]
