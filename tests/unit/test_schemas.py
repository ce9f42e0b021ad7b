"""The JSON Schemas: current, valid, and never stricter than the server.

What a schema refuses, the server refuses. Not tested: the reverse, which a schema cannot promise.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft7Validator

from sandboxd.commands.reference import schemas
from sandboxd.components import load as load_components
from sandboxd.components.metadata import KEYS
from sandboxd.components.schema import component_schema
from sandboxd.config import read, render
from sandboxd.config.schema import settings_schema
from sandboxd.config.settings import settings as all_settings
from sandboxd.files.yamltext import Mapping, Node, Scalar, Sequence, parse
from sandboxd.limits import Limits
from sandboxd.limits.about import Kind
from sandboxd.limits.keys import LIMITS

ROOT = Path(__file__).parents[2]
SETTINGS = Draft7Validator(settings_schema())
COMPONENT = Draft7Validator(component_schema())
HIGHEST = Limits(**{field: about.high for field, about in LIMITS.items()})


def plain(node: Node | None) -> Any:
    """A document as an editor sees it, with the values that the server gives its scalars."""
    match node:
        case None:
            return None
        case Scalar(value=value):
            return value
        case Sequence(items=items):
            return [plain(item) for item in items]
        case Mapping(entries=entries):
            return {key: plain(value) for key, value in entries.items()}


def faults(validator: Draft7Validator, text: str) -> list[str]:
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(plain(parse(text).root))]


def is_read(folder: Path, text: str) -> bool:
    (folder / "sandboxd.yaml").write_text(text)
    return read(folder / "sandboxd.yaml", environ={"HOME": "/h"}).config is not None


def is_served(folder: Path, text: str) -> bool:
    (folder / "one.yaml").write_text(text)
    environ = {"POD_NAME": "p"}
    return len(load_components([folder], app_id="5s", environ=environ, limits=Limits(), ceilings=HIGHEST).bindings) == 1


@pytest.mark.parametrize("name", ["settings", "component"])
def test_the_committed_files_are_current(name: str) -> None:
    file = ROOT / "docs" / "schemas" / f"{name}.json"
    assert file.read_text(encoding="utf-8") == schemas()[name], "run: make docs"
    Draft7Validator.check_schema(json.loads(file.read_text(encoding="utf-8")))


# the repository's own files -----------------------------------------------------------------------------------------


def own_components() -> list[tuple[str, str]]:
    found = [(str(path.relative_to(ROOT)), path.read_text()) for path in ROOT.glob("deploy/**/components/*.yaml")]
    for document in yaml.safe_load_all((ROOT / "deploy/kubernetes/configmap.yaml").read_text()):
        found += [(name, text) for name, text in document["data"].items() if "kind: Component" in text]
    return found


def test_there_are_files_to_validate() -> None:
    assert len(own_components()) >= 7


@pytest.mark.parametrize(("name", "text"), own_components())
def test_components_of_this_repository(name: str, text: str) -> None:
    assert faults(COMPONENT, text) == []


def test_settings_of_this_repository(tmp_path: Path) -> None:
    (configmap, *_) = yaml.safe_load_all((ROOT / "deploy/kubernetes/configmap.yaml").read_text())
    config = read(None, environ={"HOME": "/h"}).config
    assert config is not None
    for text in (
        (ROOT / "deploy/systemd/sandboxd.yaml").read_text(),
        configmap["data"]["sandboxd.yaml"],
        render(config),  # every setting at its default
        "",
    ):
        assert faults(SETTINGS, text) == []
        assert is_read(tmp_path, text)


# sandboxd.yaml ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "pol: {workers: 1}", "pool: {worker: 1}", "pool: 3", "- 1", "pool: {workers: 0}", "pool: {workers: 4097}",
        "pool: {workers: '4'}", "pool: {workers: 1.5}", "pool: {workers: true}", "pool: {queueTimeout: 5}",
        "pool: {queueTimeout: fast}", "pool: {queueTimeout: -1s}", "listen: {maxBodySize: 4MX}",
        "listen: {maxBodySize: 0}",
        "listen: {host: 1}", "listen: {port: null}", "engine: {kind: nginx}", "engine: {http2: 1}",
        "strictSandbox: 'true'",
        "resourcesPaths: here", "resourcesPaths: [1]", "egress: {clientCertificates: [{origin: a, key: b}]}",
        "egress: {clientCertificates: [{origin: a, key: b, certificate: c, more: d}]}", "cache: {folder: ''}",
        "cache: {folder: null}", 'appId: "a\\tb"', "limits: {ceilings: {timeout: 1}}", "limits: {memoryLimit: 1}",
        "apiToken: secret",
    ],
)  # fmt: skip
def test_settings_that_the_schema_and_the_server_refuse(tmp_path: Path, text: str) -> None:
    assert faults(SETTINGS, text)
    assert not is_read(tmp_path, text)


@pytest.mark.parametrize(
    "text",
    [
        "pool:", "limits: {timeout: 1m30s, memoryLimit: 64Ki, argsLimit: 1000}", "limits: {stdoutLimit: 0}",
        "listen: {maxBodySize: ' 1.5 MiB '}", "drain: {timeout: 0}", "drain: {timeout: '+1.5h'}",
        "reload: {debounce: 0s}",
        "namespace: null", "egress: {defaultAllowedHosts: null, proxy: null}", "egress: {transport: null}",
        "engine: {kind: hypercorn, http2: off}",
        "egress: {clientCertificates: [{origin: 'https://a', key: b, certificate: c}]}", "pool: {workers: 0x10}",
    ],
)  # fmt: skip
def test_settings_that_both_accept(tmp_path: Path, text: str) -> None:
    assert faults(SETTINGS, text) == []
    assert is_read(tmp_path, text)


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 5_000),
    st.integers(0, 2**63),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(
        ["", "0", "5s", "+0", "1m30s", ".5h", "5.s", "µs", "4Mi", "64k", " 1.5 KiB", "1B", "1 b", "auto", "ü"]
    ),
    st.from_regex(r"\A\+?[0-9]{1,3}(\.[0-9]{0,2})?(ns|us|ms|s|m|h|Ki|MiB|kB|T)?\Z"),
    st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S", "Zs"]), max_size=6),
)
VALUES = st.one_of(
    SCALARS,
    st.lists(SCALARS, max_size=3),
    st.dictionaries(st.sampled_from(["origin", "certificate", "key", "a"]), SCALARS, max_size=3),
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from(all_settings()).map(lambda setting: setting.path), VALUES, max_size=3))
@pytest.mark.slow
def test_any_settings_that_the_schema_refuses_the_server_refuses(
    tmp_path_factory: pytest.TempPathFactory, values: dict[tuple[str, ...], object]
) -> None:
    tree: dict[str, Any] = {}
    for path, value in values.items():
        level = tree
        for key in path[:-1]:
            level = level.setdefault(key, {})
        level[path[-1]] = value
    text = json.dumps(tree)
    if faults(SETTINGS, text):
        assert not is_read(tmp_path_factory.mktemp("s"), text), text


@pytest.mark.parametrize("setting", all_settings(), ids=lambda setting: str(setting.key))
def test_the_bounds_of_every_number_are_in_the_schema(setting: Any) -> None:
    if setting.about.kind is not Kind.NUMBER or setting.about.unit.name == "DURATION":
        return
    for value, fits in ((setting.about.low, True), (setting.about.low - 1, False), (setting.about.high + 1, False)):
        tree: Any = value
        for key in reversed(setting.path):
            tree = {key: tree}
        assert SETTINGS.is_valid(tree) is fits, value


# components ---------------------------------------------------------------------------------------------------------


def component(metadata: str = "", spec: str = "", top: str = "") -> str:
    return (
        "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: one}\n"
        f"spec:\n  type: bindings.wasm\n  version: v1\n{spec}  metadata:\n"
        f"  - {{name: url, value: file://g.wasm}}\n{metadata}{top}"
    )


def item(key: str, value: str) -> str:
    return f"  - {{name: {key}, value: {value}}}\n"


@pytest.mark.parametrize(
    "text",
    [
        component(item("timeout", "30")), component(item("TIMEOUT", "fast")), component(item("memoryLimit", "4MX")),
        component(item("memoryLimit", "1")), component(item("hostEntries", "7")),
        component(item("hostEntries", "many")),
        component(item("sha256", "abc")), component(item("contentType", "json")),
        component(item("maxConcurrency", "-1")),
        component(item("stdoutLimit", "true")), component("  - text\n"), component("  - {name: a, secretKeyRef: b}\n"),
        component().replace("file://g.wasm", "g.wasm"), component().replace("name: url", "name: uri"),
        component().replace("v1alpha1", "v2"), component().replace("kind: Component", "kind: Other"),
        component().replace("name: one", "name: a/b"), component().replace("name: one", "name: ''"),
        component().replace("version: v1", "version: v2"), component(spec="  ignoreErrors: 'yes'\n"),
        component(top="scopes: here\n"), component(top="auth: here\n"), "- 1\n",
    ],
)  # fmt: skip
def test_components_that_the_schema_and_the_server_refuse(tmp_path: Path, text: str) -> None:
    assert faults(COMPONENT, text)
    assert not is_served(tmp_path, text)


@pytest.mark.parametrize(
    "text",
    [
        component(item("timeout", "' 1m30s '")), component(item("timeout", "'{appID}'")),
        component(item("hostEntries", "64")),
        component(item("HostEntries", "'64'")), component(item("hostEntries", "64.0")),
        component(item("maxConcurrency", "0")),
        component(item("memoryLimit", "65536") + item("env.A", "1") + item("unknown", "[1]")),
        component(item("strictSandbox", "maybe")), component(item("sha256", "SHA256:" + "0aF" * 21 + "0")),
        component(item("contentType", "text/plain; charset=utf-8")),
        component().replace("bindings.wasm", "Bindings.WASM"),
        component(item("allowedOutboundHosts", "['https://a', 'https://b']")), component().replace("v1\n", "V1\n"),
    ],
)  # fmt: skip
def test_components_that_both_accept(tmp_path: Path, text: str) -> None:
    assert faults(COMPONENT, text) == []
    assert is_served(tmp_path, text)


def test_components_of_other_types_are_left_alone() -> None:
    text = component(item("timeout", "whenever")).replace("bindings.wasm", "bindings.cron")
    assert faults(COMPONENT, text) == []


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from([entry.key for entry in KEYS]), VALUES, max_size=3))
@pytest.mark.slow
def test_any_metadata_that_the_schema_refuses_the_server_refuses(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, object]
) -> None:
    given_url = {} if "url" in values else {"url": "file://g.wasm"}
    document = {
        "apiVersion": "dapr.io/v1alpha1",
        "kind": "Component",
        "metadata": {"name": "one"},
        "spec": {
            "type": "bindings.wasm",
            "metadata": [{"name": name, "value": value} for name, value in {**given_url, **values}.items()],
        },
    }
    text = json.dumps(document)
    if faults(COMPONENT, text):
        assert not is_served(tmp_path_factory.mktemp("c"), text), text
