"""Component files. Expected words are Dapr's: pkg/internal/loader/disk, pkg/runtime, components-contrib common/wasm."""

import codecs
import os
from pathlib import Path
from typing import Any

import pytest

from sandboxd.components import Binding, Loaded, Severity, documents, load
from sandboxd.components.binding import ListedComponent
from sandboxd.limits import Limits

CEILINGS = Limits(timeout_ms=60_000, memory_bytes=1 << 30)


def component(
    name: str = "wasm", metadata: str = "", *, type_: str = "bindings.wasm", spec: str = "", top: str = ""
) -> str:
    url = (
        ""
        if "name: url" in metadata or not type_.lower().startswith("bindings")
        else "  - {name: url, value: file://g.wasm}\n"
    )
    return (
        f"apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata:\n  name: {name}\n"
        f"spec:\n  type: {type_}\n  version: v1\n{spec}  metadata:\n{url}{metadata}{top}"
    )


def load_text(folder: Path, text: str | bytes, name: str = "c.yaml", **more: Any) -> Loaded:
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_folder(folder, **more)


def load_folder(*folders: Path, **more: Any) -> Loaded:
    options: dict[str, Any] = {"app_id": "app", "environ": {}, "limits": Limits(), "ceilings": CEILINGS} | more
    return load(list(folders), **options)


def only(loaded: Loaded) -> Binding:
    assert [str(p) for p in loaded.problems] == []
    assert len(loaded.bindings) == 1
    return loaded.bindings[0]


def said(loaded: Loaded) -> list[tuple[str, int, str]]:
    return [(str(p.severity), p.line, p.message) for p in loaded.problems]


def init_failure(cause: str, name: str = "wasm", kind: str = "bindings.wasm/v1") -> str:
    return (
        f"process component {name} error: [INIT_COMPONENT_FAILURE]: "
        f"initialization error occurred for {name} ({kind}): {cause}"
    )


# folders and documents ------------------------------------------------------------------------------------------------


def test_the_example_of_daprs_documentation(tmp_path: Path) -> None:
    text = """apiVersion: dapr.io/v1alpha1
kind: Component
metadata:
  name: wasm
spec:
  type: bindings.wasm
  version: v1
  metadata:
  - name: url
    value: "file://uppercase.wasm"
  - name: direction
    value: "output"
"""
    binding = only(load_text(tmp_path, text))
    assert binding == Binding(
        name="wasm", version="v1", url="file://uppercase.wasm", path=tmp_path / "c.yaml", line=1, url_line=9
    )


def test_files_in_order_of_names_and_documents_in_order(tmp_path: Path) -> None:
    (tmp_path / "b.yml").write_text(component("b1") + "\n---\n" + component("b2") + "\n--- # and\n" + component("b3"))
    (tmp_path / "a.YAML").write_text("---\n" + component("a1"))
    (tmp_path / "Z.yaml").write_text(component("z1"))
    (tmp_path / "folder.yaml").mkdir()
    loaded = load_folder(tmp_path)
    assert [b.name for b in loaded.bindings] == ["z1", "a1", "b1", "b2", "b3"]
    assert [b.line for b in loaded.bindings] == [1, 2, 1, 12, 23]
    assert not loaded.problems


def test_reading_again_parses_only_what_has_changed(tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.yaml" for number in range(5)]
    for number, file in enumerate(files):
        file.write_text(component(f"n{number}"))
    first = load_folder(tmp_path)
    before = documents.remembered.cache_info()
    files[3].write_text(component("n3", "  - {name: url, value: file://other.wasm}\n"))
    second = load_folder(tmp_path)
    after = documents.remembered.cache_info()
    assert (after.hits - before.hits, after.misses - before.misses) == (4, 1)
    assert [a == b for a, b in zip(first.bindings, second.bindings, strict=True)] == [True, True, True, False, True]
    assert second.bindings[3].url.endswith("other.wasm")


def test_a_mounted_configmap(tmp_path: Path) -> None:
    (tmp_path / "..2024").mkdir()
    (tmp_path / "..2024" / "c.yaml").write_text(component())
    (tmp_path / "..data").symlink_to("..2024")
    (tmp_path / "c.yaml").symlink_to("..data/c.yaml")
    assert only(load_folder(tmp_path)).name == "wasm"


def test_other_kinds_versions_and_files_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("hello")
    text = "\n---\n".join(
        [
            "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata: {name: c}",
            "apiVersion: dapr.io/v2\nkind: Component\nmetadata: {name: wasm}",
            "apiVersion: v1\nkind: Secret",
            "# nothing",
            component(),
        ]
    )
    loaded = load_text(tmp_path, text)
    assert [b.name for b in loaded.bindings] == ["wasm"]
    unread = "the document is not read: its"
    assert said(loaded) == [
        ("note", 0, "A non-YAML Component file README.md was detected, it will not be loaded"),
        ("warning", 5, f'{unread} apiVersion is "dapr.io/v2", not dapr.io/v1alpha1'),
        ("note", 10, f'{unread} kind is "Secret", not Component'),
    ]


@pytest.mark.parametrize(
    ("broken", "line", "cause"),
    [
        ("a: [", 1, "not YAML"),
        ("just text", 1, "the document is text, not a mapping"),
        (component("a/b"), 4, 'invalid name "a/b" for "Component": may not contain \'/\''),
        (component("'..'"), 4, "may not be '..'"),
        (component("a%b/c"), 4, "may not contain '/'; may not contain '%'"),
        (component("''"), 4, "may not be empty"),
        (
            "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: []\n",
            3,
            "metadata is a list where a mapping is expected",
        ),
        (component("x", spec="  ignoreErrors: 'yes'\n"), 8, "ignoreErrors is text where true or false is expected"),
        (component("x", top="scopes: app\n"), 10, "scopes is text where a list is expected"),
        (component("x", "  - {name: a, value: .inf}\n"), 10, "+Inf cannot be written as JSON"),
        (component("x", "  - just\n"), 10, "an entry of spec.metadata is text, not a mapping"),
        ("apiVersion: dapr.io/v1alpha1\nkind: !!python/name:os.system x", 2, "not allowed"),
        (component("x", "  - {name: a, value: " + "[" * 100 + "]" * 100 + "}\n"), 10, "nested deeper"),
    ],
)
def test_a_broken_document_is_warned_about_and_the_others_load(
    tmp_path: Path, broken: str, line: int, cause: str
) -> None:
    loaded = load_text(tmp_path, broken + "\n---\n" + component("good"))
    assert [b.name for b in loaded.bindings] == ["good"]
    (problem,) = loaded.problems
    assert problem.severity is Severity.WARNING
    assert problem.line == line
    assert problem.message.startswith("load Component error when parsing manifests yaml resource in c.yaml: ")
    assert cause in problem.message


def test_a_document_daprd_hangs_on_is_read(tmp_path: Path) -> None:
    loaded = load_text(tmp_path, component() + "# " + "x" * 65536)
    assert [b.name for b in loaded.bindings] == ["wasm"]
    assert said(loaded) == [("note", 1, "the document is over 65536 bytes; sandboxd reads it, but daprd hangs on it")]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "1.yaml").write_bytes(b"x" * (1024 * 1024 + 1))
    (tmp_path / "2.yaml").write_bytes(b"a: \xff")
    (tmp_path / "3.yaml").symlink_to("absent")
    os.mkfifo(tmp_path / "4.yaml")
    loaded = load_folder(tmp_path, tmp_path / "absent")
    assert [(p.severity, p.file and p.file.name) for p in loaded.problems] == [
        (Severity.ERROR, "1.yaml"), (Severity.WARNING, "2.yaml"), (Severity.WARNING, "3.yaml"),
        (Severity.WARNING, "4.yaml"), (Severity.ERROR, "absent"),
    ]  # fmt: skip
    assert "not UTF-8: byte 0xff" in loaded.problems[1].message


def test_a_document_that_is_not_utf8_costs_that_document_only(tmp_path: Path) -> None:
    latin = component("bad").replace("name: bad", "name: bad # \xe9").encode("latin-1")
    loaded = load_text(
        tmp_path, component("good").encode() + b"\n---\n" + latin + b"\n---\n" + component("too").encode()
    )
    assert [binding.name for binding in loaded.bindings] == ["good", "too"]
    (problem,) = loaded.problems
    assert (problem.severity, problem.line, problem.lost) == (Severity.WARNING, 15, True)


@pytest.mark.parametrize("bom", [codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF8])
def test_byte_order_marks_tell_the_encoding(tmp_path: Path, bom: bytes) -> None:
    encoding = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}.get(bom, "utf-8")
    assert only(load_text(tmp_path, bom + component("wide").encode(encoding))).name == "wide"
    odd = load_text(tmp_path, bom + component("wide").encode(encoding) + b"\xd8")
    assert odd.bindings == ()


def test_text_behind_a_separator_is_not_read_and_this_is_said(tmp_path: Path) -> None:
    loaded = load_text(tmp_path, component() + "\n--- {a: 1}\n" + component("b"))
    assert [b.name for b in loaded.bindings] == ["wasm", "b"]
    assert said(loaded) == [("warning", 11, "text after --- on the same line is not read")]


def test_repeated_keys_are_told(tmp_path: Path) -> None:
    loaded = load_text(tmp_path, component(spec="  version: v0\n"))
    assert loaded.bindings[0].version == "v0"
    assert said(loaded) == [("warning", 8, "version is set twice in one mapping; the last one counts")]


# which components count -----------------------------------------------------------------------------------------------


def test_a_name_out_of_scope_may_come_again(tmp_path: Path) -> None:
    text = component("abc", top="scopes: [other]\n") + "\n---\n" + component("abc", top="scopes: [app]\n")
    loaded = load_text(tmp_path, text)
    assert not loaded.errors
    assert [binding.line for binding in loaded.bindings] == [13]


def test_duplicate_names_are_fatal_even_out_of_scope(tmp_path: Path) -> None:
    text = component("abc") + "\n---\n" + component("abc", type_="state.in-memory", top="scopes: [other]\n")
    loaded = load_text(tmp_path, text)
    message = "duplicate definition of Component name abc (state.in-memory/v1) with existing abc (bindings.wasm/v1)"
    assert said(loaded) == [("error", 12, message)]
    assert loaded.problems == loaded.errors


def test_scopes(tmp_path: Path) -> None:
    text = component("in", top="scopes: [other, app]\n") + "\n---\n" + component("out", top="scopes: [other]\n")
    loaded = load_text(tmp_path, text)
    assert [b.name for b in loaded.bindings] == ["in"]
    assert said(loaded) == [("note", 13, "skipped: its scopes do not list the app id app")]


def test_namespaces_count_only_if_there_is_one(tmp_path: Path) -> None:
    text = component("a\n  namespace: prod") + "\n---\n" + component("b\n  namespace: dev") + "\n---\n" + component("c")
    assert [b.name for b in load_text(tmp_path, text).bindings] == ["a", "b", "c"]
    assert [b.name for b in load_folder(tmp_path, namespace="prod").bindings] == ["a", "c"]


def test_other_types_are_noted_and_not_served(tmp_path: Path) -> None:
    text = component("kafka", type_="bindings.kafka") + "\n---\n" + component("store", type_="state.redis")
    text += (
        "\n---\n"
        + component("vault", type_="secretstores.hashicorp.vault")
        + "\n---\n"
        + component(type_="Bindings.WASM")
    )
    loaded = load_text(tmp_path, text)
    assert [b.name for b in loaded.bindings] == ["wasm"]

    assert sorted(p.message for p in loaded.problems) == [
        f"{name} is not served by sandboxd"
        for name in ("bindings.kafka", "secretstores.hashicorp.vault", "state.redis")
    ]
    assert {p.severity for p in loaded.problems} == {Severity.NOTE}


def test_a_version_there_is_not(tmp_path: Path) -> None:
    loaded = load_text(tmp_path, component().replace("version: v1", "version: v2"))
    cause = "couldn't find output binding bindings.wasm/v2"
    assert said(loaded) == [("error", 1, init_failure(cause, kind="bindings.wasm/v2"))]


def test_names_and_versions_that_look_like_numbers(tmp_path: Path) -> None:
    loaded = load_text(tmp_path, component("123").replace("version: v1", "version: 1.0"))
    assert said(loaded)[0][2].endswith("123 (bindings.wasm/1): couldn't find output binding bindings.wasm/1")


def test_ignore_errors(tmp_path: Path) -> None:
    loaded = load_text(tmp_path, component(metadata="  - {name: url}\n", spec="  ignoreErrors: true\n"))
    message = "Ignoring error processing component: " + init_failure("wasm: failed to parse metadata: missing url")
    assert said(loaded) == [("ignored", 10, message)]
    assert not loaded.errors
    assert not loaded.bindings


@pytest.mark.parametrize(
    ("text", "seconds", "warned"),
    [("30s", 30.0, False), ("1m", 60.0, False), ("1ms", 0.001, False), ("5", 5.0, True)],
)
def test_init_timeout(tmp_path: Path, text: str, seconds: float, warned: bool) -> None:
    loaded = load_text(tmp_path, component(spec=f"  initTimeout: {text}\n"))
    assert loaded.bindings[0].init_timeout_s == seconds
    assert bool(loaded.problems) is warned


@pytest.mark.parametrize("text", ["0s", "'0'", "-1s", "1ns", "10us"])
def test_an_init_timeout_that_nothing_can_keep(tmp_path: Path, text: str) -> None:
    loaded = load_text(tmp_path, component(spec=f"  initTimeout: {text}\n"))
    assert [problem.message for problem in loaded.errors] == [
        init_failure("init timeout for component wasm (bindings.wasm/v1)")
    ]


def test_secret_stores_and_inputs_are_listed(tmp_path: Path) -> None:
    store = "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: s}\nspec: {type: secretstores.local.env}\n"
    inward = component("in", "  - {name: direction, value: input}\n")
    loaded = load_text(tmp_path, component() + "\n---\n" + inward + "\n---\n" + store)
    assert loaded.listed == (
        ListedComponent(name="s", type="secretstores.local.env", version=""),
        ListedComponent(name="in", type="bindings.wasm", version="v1"),
    )


@pytest.mark.parametrize(
    ("field", "good"),
    [
        ("labels: {a: 1, b: true, c: null}", True),
        ("labels: [a]", False),
        ("labels: a", False),
        ("annotations: {a: {b: c}}", False),
        ("finalizers: a", False),
        ("generation: x", False),
        ("generation: 1", True),
        ("uid: [a]", False),
    ],
)
def test_the_other_fields_of_metadata_have_their_types(tmp_path: Path, field: str, good: bool) -> None:
    text = component().replace("  name: wasm\n", f"  name: wasm\n  {field}\n")
    loaded = load_text(tmp_path, text)
    assert bool(loaded.bindings) is good
    assert [problem.severity for problem in loaded.problems] == ([] if good else [Severity.WARNING])


# values ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("text", "text"),
        ("'quoted'", "quoted"),
        ("true", "true"),
        ("yes", "true"),
        ("'yes'", "yes"),
        ("1", "1"),
        ("0x10", "16"),
        ("1.0", "1"),
        ("1e21", "1e+21"),
        ("null", ""),
        ("''", ""),
        ("[b, {z: 1, a: '<'}]", '["b",{"a":"\\u003c","z":1}]'),
        ("2001-01-01", "2001-01-01"),
        ("|\n      a\n      b\n", "a\nb\n"),
    ],
)
def test_values_of_all_types(tmp_path: Path, written: str, value: str) -> None:
    loaded = load_text(tmp_path, component(metadata=f"  - name: env.X\n    value: {written}\n"))
    assert only(loaded).env == (("X", value),)


def test_keys_are_the_same_in_any_case(tmp_path: Path) -> None:
    metadata = (
        "  - {name: STRICTsandbox, value: 'On'}\n  - {name: ENV.Path, value: p}\n  - {name: env.PATH, value: q}\n"
    )
    text = component(metadata=metadata).replace("name: url, value: file://g.wasm", "name: URL, value: file://x.wasm")
    binding = only(load_text(tmp_path, text))
    assert (binding.url, binding.strict_sandbox) == ("file://x.wasm", True)
    assert binding.env == (("Path", "p"), ("PATH", "q"))


def test_keys_that_differ_in_case_only_are_duplicates(tmp_path: Path) -> None:
    loaded = load_text(tmp_path, component(metadata="  - {name: Url, value: file://x.wasm}\n"))
    cause = "failed to resolve aliases: key url is duplicate in the metadata"
    assert said(loaded) == [("error", 10, init_failure(cause))]


def test_of_equal_keys_the_last_counts_and_this_is_said(tmp_path: Path) -> None:
    loaded = load_text(tmp_path, component(metadata="  - {name: env.A, value: 1}\n  - {name: env.A, value: 2}\n"))
    assert loaded.bindings[0].env == (("A", "2"),)
    assert said(loaded) == [("warning", 11, "metadata env.A is set twice; the last one counts")]


def test_templates(tmp_path: Path) -> None:
    metadata = "  - {name: env.A, value: '{uuid} {uuid} {podName} {namespace} {appID}'}\n"
    environ = {"POD_NAME": "pod-1"}
    first, second, *rest = only(load_text(tmp_path, component(metadata=metadata), environ=environ)).env[0][1].split(" ")
    assert rest == ["pod-1", "default.app", "app"]
    assert len(first) == 36
    assert first != second
    named = load_folder(tmp_path, environ=environ, namespace="prod").bindings[0].env[0][1]
    assert named.endswith(" pod-1 prod.app app")


def test_a_pod_name_that_is_not_known(tmp_path: Path) -> None:
    loaded = load_text(tmp_path, component(metadata="  - {name: env.A, value: '{podName}'}\n"))
    cause = "failed to parse metadata: property env.A refers to {podName} but podName is not set"
    assert said(loaded) == [("error", 10, init_failure(cause))]
