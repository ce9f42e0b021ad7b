"""`spec.wasm` of a Dapr Configuration: pkg/config and components-contrib common/wasm."""

from pathlib import Path

from sandboxd.components import Severity, strict_sandbox
from tests.unit.test_components import component, load_text, only


def test_strict_sandbox_of_a_configuration(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    head = "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata: {name: c}\nspec:\n"
    for text, expected in [
        ("  wasm: {strictSandbox: true}", True),
        ("  wasm: {strictSandbox: false}", False),
        ("  x: 1", False),
    ]:
        path.write_text(head + text)
        assert strict_sandbox(path) == (expected, ())
    path.write_text(head + "  wasm: {strictSandbox: maybe}")
    found, problems = strict_sandbox(path)
    assert not found
    assert [(p.severity, p.line) for p in problems] == [(Severity.ERROR, 5)]


def test_strict_sandbox_is_forced(tmp_path: Path) -> None:
    loaded = load_text(tmp_path, component(metadata="  - {name: strictSandbox, value: false}\n"), strict_sandbox=True)
    assert only(loaded).strict_sandbox is True
