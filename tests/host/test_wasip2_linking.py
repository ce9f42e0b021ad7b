"""Components that cannot be linked or started, damaged artifacts, and components made of several."""

import subprocess
import sys
from pathlib import Path

import pytest

from sandboxd.worker.guests import GuestError
from tests.host.component_text import component
from tests.host.components import Components

OK = "(i32.const 0)"


# what is refused at load ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("imports", "message"),
    [
        ('(import "wasi:keyvalue/store@0.2.0" (instance))', "which this host does not provide"),
        (
            '(import "wasi:cli/environment@0.3.0" (instance))',
            "WASI 0.3 components cannot be run; build it for WASI 0.2",
        ),
        ('(import "wasi:cli/environment@0.1.0" (instance))', "only WASI 0.2 is supported"),
        ('(import "do-it" (func))', "which is not an interface of WASI 0.2"),
        (
            '(import "wasi:cli/environment@0.2.6" (instance (export "get-everything" (func (result string)))))',
            "'get-everything' of 'wasi:cli/environment@0.2.6', which this host does not provide",
        ),
        (
            '(import "wasi:cli/environment@0.2.6" (instance (export "get-arguments" (func (result (list u8))))))',
            "'get-arguments' of 'wasi:cli/environment@0.2.6' by another type than WASI 0.2 gives it",
        ),
        (
            '(import "wasi:cli/environment@0.2.6" (instance (export "get-arguments" (func (param "x" u8)))))',
            "by another type than WASI 0.2 gives it",
        ),
        (
            '(import "wasi:cli/terminal-input@0.2.6" (instance (export "thing" (type (sub resource)))))',
            "resource 'thing' of 'wasi:cli/terminal-input@0.2.6'",
        ),
    ],
)
def test_imports_that_cannot_be_met(components: Components, imports: str, message: str) -> None:
    with pytest.raises(GuestError) as caught:
        components.load(component(OK, imports=imports))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("exports", "message"),
    [
        ("", "exports neither wasi:cli/run nor wasi:http/incoming-handler of WASI 0.2"),
        (
            '(instance $i) (export "wasi:cli/run@0.2.6" (instance $i))',
            "exports wasi:cli/run@0.2.6 by another type",
        ),
        (
            '(instance $i) (export "wasi:cli/run@0.3.0" (instance $i))',
            "exports wasi:cli/run@0.3.0: WASI 0.3 components cannot be run",
        ),
        (
            '(instance $i) (export "wasi:http/handler@0.3.0" (instance $i))',
            "exports wasi:http/handler@0.3.0: WASI 0.3 components cannot be run",
        ),
    ],
)
def test_components_without_an_entrance(components: Components, exports: str, message: str) -> None:
    with pytest.raises(GuestError) as caught:
        components.load(component(OK, exports=exports))
    assert message in str(caught.value)


def test_a_damaged_artifact_is_refused(components: Components, tmp_path: Path) -> None:
    broken = tmp_path / "broken.cwasm"
    broken.write_bytes(b"not an artifact")
    with pytest.raises(GuestError, match="the artifact does not load"):
        components.load((Path(sys.modules[Components.__module__].HERE) / "wat" / "hello.wat"), artifact=str(broken))


# composition ----------------------------------------------------------------------------------------------------------

# The inner component has a memory of its own; what calls it has the outer one: the engine copies from one to the other.
INNER = """
  (component $inner
    (core module $m
      (memory (export "memory") 1)
      (global $next (mut i32) (i32.const 1024))
      (func (export "realloc") (param i32 i32 i32 i32) (result i32) (local $at i32)
        (local.set $at (global.get $next))
        (global.set $next (i32.add (local.get $at) (local.get 3)))
        (local.get $at))
      (func (export "last") (param i32 i32) (result i32)
        (i32.load8_u (i32.sub (i32.add (local.get 0) (local.get 1)) (i32.const 1)))))
    (core instance $i (instantiate $m))
    (alias core export $i "memory" (core memory $memory))
    (alias core export $i "realloc" (core func $realloc))
    (func (export "last") (param "text" string) (result u32)
      (canon lift (core func $i "last") (memory $memory) (realloc $realloc))))
  (instance $composed (instantiate $inner))
"""


# Compiled in a process of its own: an engine without multiple memories aborts on the copying code it makes itself.
COMPILE = """
import sys
import wasmtime
from wasmtime.component import Component
from sandboxd.limits import EngineSettings
from sandboxd.worker import engine
Component(engine.build(EngineSettings(), compiling=True), wasmtime.wat2wasm(sys.stdin.read()))
"""


def test_composed_components_run(components: Components) -> None:
    text = component("(i32.ne (call $last (i32.const 2048) (i32.const 5)) (i32.const 111))", imports=INNER)
    lowered = """
  (alias export $composed "last" (func $c-last))
  (core func $l-last (canon lower (func $c-last) (memory $memory) (realloc $realloc)))
  (core module $main
    (import "h" "last" (func $last (param i32 i32) (result i32)))
    (data (i32.const 2048) "hello")"""
    text = text.replace("\n  (core module $main", lowered, 1)
    text = text.replace('(with "h" (instance ', '(with "h" (instance (export "last" (func $l-last)) ', 1)
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", COMPILE], input=text, text=True, cwd=root, capture_output=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    with components.load(text) as guest:
        result = guest.run()
    assert (result.outcome, result.detail) == ("completed", "")
