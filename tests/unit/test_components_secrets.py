"""envRef, secretKeyRef and the two local secret stores.

Rules and expected values: components-contrib secretstores/local/file/filestore_test.go and local/env/envstore.go,
dapr pkg/runtime/processor/secret/secret.go.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from sandboxd.components.properties import is_env_allowed
from sandboxd.components.secrets import EnvStore, FileStore, SecretError
from tests.unit.test_components import component, init_failure, load_text, only, said

SECRET = "hunter2"


def store_file(folder: Path, content: Any) -> Path:
    path = folder / "secrets.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def file_store(path: Path, more: str = "", spec: str = "") -> str:
    return component(
        "store", f"  - {{name: secretsFile, value: {path}}}\n{more}", type_="secretstores.local.file", spec=spec
    )


def referring(reference: str, key: str = "env.X", store: str = "store", spec: str = "") -> str:
    return component(metadata=f"  - name: {key}\n    {reference}\n", top=f"auth: {{secretStore: {store}}}\n", spec=spec)


# the stores -----------------------------------------------------------------------------------------------------------


def test_nested_names_are_joined(tmp_path: Path) -> None:
    path = store_file(
        tmp_path, {"root": {"key1": "v1", "deep": {"k": "v2"}, "list": ["a", {"b": "c"}]}, "n": 1, "t": True}
    )
    store = FileStore(path)
    assert store.get("root:key1") == {"root:key1": "v1"}
    assert store.get("root:deep:k") == {"root:deep:k": "v2"}
    assert store.get("root:list:0") == {"root:list:0": "a"}
    assert store.get("root:list:1:b") == {"root:list:1:b": "c"}
    assert (store.get("n"), store.get("t")) == ({"n": "1"}, {"t": "true"})
    assert FileStore(path, separator=".").get("root.deep.k") == {"root.deep.k": "v2"}
    with pytest.raises(SecretError, match="secret root not found"):
        store.get("root")


def test_multi_valued_secrets(tmp_path: Path) -> None:
    content = {
        "parent": {"child1": "12345", "child2": {"child3": "67890", "child4": "00000"}},
        "plain": "x",
        "number": 1,
    }
    store = FileStore(store_file(tmp_path, content), multi_valued=True)
    assert store.get("parent") == {"child1": "12345", "child2:child3": "67890", "child2:child4": "00000"}
    assert store.get("plain") == {"plain": "x"}
    with pytest.raises(SecretError, match="secret number not found"):
        store.get("number")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "not a JSON object"),
        ("{", "line 1: not JSON"),
        ('{"a": NaN}', "not JSON"),
        ("{}}", "not JSON"),
        ('{"a": 1e999}', "a number out of range"),
        ('{"a": ' + "9" * 5000 + "}", "out of range"),
        ('{"a:b": "1", "a": {"b": "2"}}', "duplicate key a:b"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a": "' + "x" * 1024 * 1024 + '"}', "longer than"),
    ],
)
def test_files_that_are_no_store(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(SecretError, match=message):
        FileStore(store_file(tmp_path, content))


def test_a_missing_secrets_file(tmp_path: Path) -> None:
    with pytest.raises(SecretError, match="No such file"):
        FileStore(tmp_path / "absent")


def test_variables_as_secrets() -> None:
    store = EnvStore({"APP_KEY": SECRET, "DAPR_API_TOKEN": "t", "APP_API_TOKEN": "t"}, "APP_")
    assert store.get("KEY") == {"KEY": SECRET}
    assert store.get("UNSET") == {"UNSET": ""}
    with pytest.raises(SecretError, match="Access to env var API_TOKEN is forbidden"):
        store.get("API_TOKEN")
    with pytest.raises(SecretError, match="forbidden"):
        EnvStore({}, "").get("dapr_api_token")


@pytest.mark.parametrize(
    ("variable", "listed", "allowed"),
    [
        ("HOME", "", True), ("", "", False), ("APP_API_TOKEN", "", False), ("app_api_token", "", False),
        ("DAPR_API_TOKEN", "", False), ("dapr_x", "", False), ("A B", "", False), ("HOME", "HOME PATH", True),
        ("path", "HOME PATH", True), ("HOM", "HOME PATH", False), ("OTHER", "HOME PATH", False),
    ],
)  # fmt: skip
def test_variables_envref_may_name(variable: str, listed: str, allowed: bool) -> None:
    assert is_env_allowed(variable, {"DAPR_ENV_KEYS": listed}) is allowed


# references -----------------------------------------------------------------------------------------------------------


def test_env_ref_counts_only_without_a_value(tmp_path: Path) -> None:
    environ = {"V": SECRET}
    for reference, expected in [
        ("envRef: V", SECRET),
        ("{envRef: V, value: ''}", ""),
        ("{envRef: V, value: null}", SECRET),
    ]:
        body = reference if reference.startswith("envRef") else reference[1:-1].replace(", ", "\n    ")
        assert only(load_text(tmp_path, referring(body), environ=environ)).env == (("X", expected),)


def test_env_refs_that_are_denied_or_unset(tmp_path: Path) -> None:
    loaded = load_text(tmp_path, referring("envRef: DAPR_API_TOKEN"), environ={"DAPR_API_TOKEN": SECRET})
    assert loaded.bindings[0].env == (("X", ""),)
    assert said(loaded) == [
        ("warning", 10, "Component wasm references an env variable that isn't allowed: DAPR_API_TOKEN")
    ]
    loaded = load_text(tmp_path, referring("envRef: NOWHERE"))
    assert loaded.bindings[0].env == (("X", ""),)
    assert said(loaded) == [("warning", 10, "Component wasm references an env variable that isn't set: NOWHERE")]


def test_secrets_reach_components_whatever_the_order_of_files(tmp_path: Path) -> None:
    path = store_file(tmp_path, {"a": {"b": SECRET}, "name": "n"})
    (tmp_path / "z.yaml").write_text(file_store(path, "  - {name: nestedSeparator, value: .}\n"))
    loaded = load_text(tmp_path, referring("secretKeyRef: {name: a.b}"), "a.yaml")
    assert [p for p in loaded.problems if "non-YAML" not in p.message] == []
    assert loaded.bindings[0].env == (("X", SECRET),)


def test_the_key_of_a_multi_valued_secret(tmp_path: Path) -> None:
    path = store_file(tmp_path, {"db": {"user": "u", "pass": SECRET}})
    text = (
        file_store(path, "  - {name: multiValued, value: true}\n")
        + "\n---\n"
        + referring("secretKeyRef: {name: db, key: pass}")
    )
    assert load_text(tmp_path, text).bindings[0].env == (("X", SECRET),)


def test_secrets_from_the_environment(tmp_path: Path) -> None:
    text = component("store", "  - {name: prefix, value: APP_}\n", type_="secretstores.local.env")
    text += "\n---\n" + referring("secretKeyRef: {name: KEY}")
    assert only(load_text(tmp_path, text, environ={"APP_KEY": SECRET})).env == (("X", SECRET),)


def test_a_secret_that_is_not_there_leaves_the_value(tmp_path: Path) -> None:
    text = (
        file_store(store_file(tmp_path, {})) + "\n---\n" + referring("value: fallback\n    secretKeyRef: {name: gone}")
    )
    loaded = load_text(tmp_path, text)
    assert loaded.bindings[0].env == (("X", "fallback"),)
    assert ("warning", 21, "Error getting secret: secret gone not found") in said(loaded)


@pytest.mark.parametrize("ignored", [False, True])
def test_a_store_that_is_not_loaded_is_an_error_instead_of_waiting_for_ever(tmp_path: Path, ignored: bool) -> None:
    spec = "  ignoreErrors: true\n" if ignored else ""
    loaded = load_text(tmp_path, referring("secretKeyRef: {name: a}", store="kubernetes", spec=spec))
    message = init_failure("Component wasm references a secret store that isn't loaded: kubernetes")
    prefix = "Ignoring error processing component: " if ignored else ""
    assert said(loaded) == [("ignored" if ignored else "error", 10 + ignored, prefix + message)]
    assert not loaded.bindings


def test_a_store_that_fails(tmp_path: Path) -> None:
    loaded = load_text(tmp_path, file_store(tmp_path / "gone.json"))
    cause = f"secrets file {tmp_path}/gone.json: No such file or directory"
    assert said(loaded) == [("error", 1, init_failure(cause, "store", "secretstores.local.file/v1"))]
    loaded = load_text(tmp_path, component("store", type_="secretstores.local.file"))
    cause = "missing local secrets file in metadata"
    assert said(loaded) == [("error", 1, init_failure(cause, "store", "secretstores.local.file/v1"))]


@pytest.mark.parametrize(
    "key",
    [
        "url",
        "sha256",
        "timeout",
        "memoryLimit",
        "maxConcurrency",
        "contentType",
        "allowedOutboundHosts",
        "direction",
        "strictSandbox",
        "unknown",
    ],
)
@pytest.mark.parametrize(
    "secret", ["hunter2", "9h", "[hunter2", "oci:hunter2", "hunter2://x", "http://hunter2:x@h:99999", "9999Gi"]
)
def test_no_message_shows_a_secret(tmp_path: Path, key: str, secret: str) -> None:
    def refuse(pattern: str) -> None:
        raise ValueError(f"cannot read {pattern}")

    text = referring("secretKeyRef: {name: s}", key=key)
    if key == "url":
        text = text.replace("  - {name: url, value: file://g.wasm}\n", "")
    text = file_store(store_file(tmp_path, {"s": secret})) + "\n---\n" + text
    loaded = load_text(tmp_path, text, check_pattern=refuse)
    assert loaded.problems
    for problem in loaded.problems:
        assert "store" not in problem.component  # the secret store itself has loaded
        assert secret not in str(problem)
        assert "hunter2" not in str(problem)
