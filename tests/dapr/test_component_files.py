"""Folders of component files to a real daprd and to the reader: the same components are served, listed and refused."""

from pathlib import Path

import pytest

from tests.dapr.daprd import Daprd, needed
from tests.guests import path
from tests.running import component
from tests.unit.test_components import load_folder

pytestmark = pytest.mark.slow  # a daprd is started for each folder

URL = f"file://{path('upper')}"
STORE = (
    "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: s}\n"
    "spec: {type: secretstores.local.env, version: v1}\n"
)
GOOD = component("good", URL)
ONE = component("one", URL)


def with_line(line: str) -> str:
    """The component `one` with a line in its metadata."""
    return ONE.replace("  name: one\n", f"  name: one\n  {line}\n")


FOLDERS: dict[str, dict[str, str | bytes]] = {
    "out of scope first": {"a.yaml": ONE + "scopes: [other]\n", "b.yaml": ONE},
    "out of scope second": {"a.yaml": ONE, "b.yaml": ONE + "scopes: [other]\n"},
    "twice": {"a.yaml": ONE, "b.yaml": ONE},
    "latin-1": {"a.yaml": ONE.replace("name: one", "name: one # \xe9").encode("latin-1"), "b.yaml": GOOD},
    "utf-16": {"a.yaml": ONE.encode("utf-16"), "b.yaml": GOOD},
    "utf-32": {"a.yaml": ONE.encode("utf-32"), "b.yaml": GOOD},
    "tabs": {"a.yaml": ONE.replace("name: one", "name:\tone\t# c").replace("spec:", "spec:\t")},
    "tab as indentation": {"a.yaml": ONE.replace("  name: one", "\tname: one"), "b.yaml": GOOD},
    "no direction": {"a.yaml": component("one", URL, direction="")},
    "input": {"a.yaml": component("one", URL, direction="input")},
    "input and output": {"a.yaml": component("one", URL, direction="input, Output")},
    "a secret store": {"a.yaml": ONE, "s.yaml": STORE},
    "labels in a list": {"a.yaml": with_line("labels: [a]"), "b.yaml": GOOD},
    "labels of all types": {"a.yaml": with_line("labels: {a: 1, b: true, c: null}"), "b.yaml": GOOD},
    "annotations of mappings": {"a.yaml": with_line("annotations: {a: {b: c}}"), "b.yaml": GOOD},
    "a text for finalizers": {"a.yaml": with_line("finalizers: a"), "b.yaml": GOOD},
    "no time to start": {"a.yaml": ONE.replace("  version: v1\n", "  version: v1\n  initTimeout: 0s\n")},
    "an initTimeout that is none": {"a.yaml": ONE.replace("  version: v1\n", "  version: v1\n  initTimeout: soon\n")},
    "a version that does not exist": {"a.yaml": ONE.replace("version: v1", "version: v2")},
    "a slash in the name": {"a.yaml": component("a/b", URL), "b.yaml": GOOD},
    "another kind": {"a.yaml": ONE.replace("kind: Component", "kind: Compnent"), "b.yaml": GOOD},
    "two documents": {"a.yaml": ONE + "\n---\n" + GOOD},
    "no yaml": {"a.txt": ONE, "b.yml": GOOD},
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder(name: str, tmp_path: Path) -> None:
    program = needed()
    for file, text in FOLDERS[name].items():
        (tmp_path / file).write_bytes(text if isinstance(text, bytes) else text.encode())
    loaded = load_folder(tmp_path, app_id="wasm")
    with Daprd(program, tmp_path, wait=False) as daprd:
        if loaded.errors:
            # It may say that it runs before it has looked at its components.
            assert daprd.process.wait(60) != 0
            return
        daprd.wait()
        with daprd.client() as client:
            shown = client.get("/v1.0/metadata").json().get("components", [])
    theirs = {(found["name"], "OUTPUT_BINDING" in found.get("capabilities", [])) for found in shown}
    assert theirs == {(found.name, True) for found in loaded.bindings} | {
        (found.name, False) for found in loaded.listed
    }
