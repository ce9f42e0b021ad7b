"""Reads `spec.wasm` of a Dapr Configuration."""

from pathlib import Path

from sandboxd.components import fields
from sandboxd.components.documents import read_file
from sandboxd.components.fields import ManifestError
from sandboxd.files.problems import Findings, Problem, Severity


def strict_sandbox(path: Path) -> tuple[bool, tuple[Problem, ...]]:
    """Return whether a Dapr Configuration file sets `spec.wasm.strictSandbox: true`, and the file's problems.

    Source: dapr pkg/config/configuration.go, WasmSpec; pkg/runtime/meta/meta.go, AddWasmStrictSandbox.
    """
    findings = Findings()
    found = False
    for resource in read_file(path, "Configuration", findings):
        try:
            found = fields.flag(fields.mapping(fields.mapping(resource.root, "spec"), "wasm"), "strictSandbox") or found
        except ManifestError as error:
            message = f"spec.wasm.strictSandbox cannot be read: {error.message}"
            findings.add(Severity.ERROR, message, "write true or false", path=path, line=error.line)
    return found, tuple(findings.problems)
