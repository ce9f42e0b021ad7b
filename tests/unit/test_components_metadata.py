"""Metadata of bindings.wasm, its limits and their ceilings, and the table in the documentation."""

import dataclasses
from pathlib import Path

import pytest

from sandboxd.components import metadata_table
from sandboxd.components.metadata import KEYS
from sandboxd.limits import Limits
from sandboxd.limits.keys import DEFAULT_CEILINGS, LIMITS
from tests.unit.test_components import component, init_failure, load_text, only, said

WASM = "wasm: failed to parse metadata: "


def with_value(key: str, value: str) -> str:
    text = component(metadata=f"  - name: {key}\n    value: {value}\n")
    return text if key != "url" else text.replace("  - {name: url, value: file://g.wasm}\n", "")


@pytest.mark.parametrize(
    "url",
    ["file://g.wasm", "file:///a b/ü.wasm", "http://h/g.wasm", "https://h:8443/r%2F3/g.wasm?x=1", "http://[::1]:80/g"],
)
def test_urls(tmp_path: Path, url: str) -> None:
    assert only(load_text(tmp_path, with_value("url", f'"{url}"'))).url == url


@pytest.mark.parametrize(
    ("url", "cause"),
    [
        ("''", "missing url"), ("null", "missing url"), ("g.wasm", "invalid URL: g.wasm"), ("oci://x", "TODO oci"),
        ("ftp://x", "unsupported URL scheme: ftp"), ("HTTP://x", "unsupported URL scheme: HTTP"),
        ("file:g.wasm", "invalid URL: file:g.wasm"), ("file://", "invalid URL: file://"), ("http:///g", "invalid URL: http:///g"),
        ("http://h:99999/g", "invalid URL: http://h:99999/g"), ("'http://h/a b'", "invalid URL: http://h/a b"),
        ("'http://[::1/g'", "invalid URL: http://[::1/g"), ('"file://a\\0"', "invalid URL: file://a\0"),
    ],
)  # fmt: skip
def test_urls_in_error(tmp_path: Path, url: str, cause: str) -> None:
    loaded = load_text(tmp_path, with_value("url", url))
    assert said(loaded) == [("error", 9, init_failure(WASM + cause))]
    assert all(p.remedy for p in loaded.problems)
    assert "\0" not in str(loaded.problems[0])


def test_a_component_without_url(tmp_path: Path) -> None:
    loaded = load_text(tmp_path, component().replace("  - {name: url, value: file://g.wasm}\n", ""))
    assert said(loaded) == [("error", 1, init_failure(WASM + "missing url"))]


@pytest.mark.parametrize("value", ["y", "YES", "t", "True", "on", "1", " true "])
def test_truthy(tmp_path: Path, value: str) -> None:
    assert only(load_text(tmp_path, with_value("strictSandbox", f"'{value}'"))).strict_sandbox


def test_a_flag_that_is_neither_is_false_and_this_is_said(tmp_path: Path) -> None:
    loaded = load_text(tmp_path, with_value("strictSandbox", "ture"))
    assert not loaded.bindings[0].strict_sandbox
    assert said(loaded) == [("warning", 10, "strictSandbox 'ture' is read as false, as in Dapr")]


@pytest.mark.parametrize(
    ("value", "served"), [("output", True), ("'input, Output'", True), ("''", False), ("input", False)]
)
def test_direction(tmp_path: Path, value: str, served: bool) -> None:
    loaded = load_text(tmp_path, with_value("direction", value))
    assert bool(loaded.bindings) is served
    assert [p.severity.value for p in loaded.problems] == ([] if served else ["warning"])


def test_sha256(tmp_path: Path) -> None:
    digest = "AB" * 32
    assert only(load_text(tmp_path, with_value("sha256", digest))).sha256 == "ab" * 32
    assert only(load_text(tmp_path, with_value("sha256", f"sha256:{digest}"))).sha256 == "ab" * 32


@pytest.mark.parametrize(
    ("key", "value", "cause"),
    [
        ("sha256", "abc", "sha256 'abc' is not 64 hexadecimal digits"),
        ("sha256", "''", "sha256 '' is not 64 hexadecimal digits"),
        ("timeout", "5", "timeout '5' is not a duration such as 250ms, 5s or 1m30s"),
        ("timeout", "''", "timeout '' is not a duration such as 250ms, 5s or 1m30s"),
        ("timeout", "0s", "timeout: 0s is below the least allowed, 1ms"),
        ("timeout", "2m", "timeout 2m is above the operator's ceiling of 1m"),
        ("memoryLimit", "2Gi", "memoryLimit 2Gi is above the operator's ceiling of 1Gi"),
        ("memoryLimit", "1Ki", "memoryLimit: 1Ki is below the least allowed, 64Ki"),
        ("hostEntries", "many", "hostEntries 'many' is not a whole number such as 64"),
        ("maxConcurrency", "-1", "maxConcurrency '-1' is not a whole number such as 64"),
        ("contentType", '"text/html\\r\\nX: 1"', "contentType 'text/html\\r\\nX: 1' is not a media type"),
        ("contentType", "html", "contentType 'html' is not a media type"),
        ("allowedOutboundHosts", "[1]", "allowedOutboundHosts is not a JSON list of texts"),
        ("env.A=B", "x", "'env.A=B' does not name an environment variable"),
        ("env.", "x", "'env.' does not name an environment variable"),
        ("env.A", '"\\0"', "env.A contains a NUL character, which an environment variable cannot have"),
    ],
)
def test_values_in_error(tmp_path: Path, key: str, value: str, cause: str) -> None:
    assert said(load_text(tmp_path, with_value(key, value))) == [("error", 10, init_failure(cause))]


def test_above_a_ceiling_both_and_the_way_out_are_named(tmp_path: Path) -> None:
    (problem,) = load_text(tmp_path, with_value("timeout", "2m")).problems
    assert problem.remedy == "lower it, or raise limits.ceilings.timeout in sandboxd.yaml"


def test_every_limit_has_a_key(tmp_path: Path) -> None:
    metadata = "".join(f"  - {{name: {row.key}, value: '{row.unit.format(row.low + 1)}'}}\n" for row in LIMITS.values())
    binding = only(load_text(tmp_path, component(metadata=metadata), ceilings=DEFAULT_CEILINGS))
    assert binding.limits == Limits(**{field: row.low + 1 for field, row in LIMITS.items()})
    assert set(LIMITS) == {field.name for field in dataclasses.fields(Limits)}


def test_numbers_need_no_quotes(tmp_path: Path) -> None:
    binding = only(
        load_text(
            tmp_path,
            component(metadata="  - {name: memoryLimit, value: 1048576}\n  - {name: maxConcurrency, value: 3}\n"),
        )
    )
    assert (binding.limits.memory_bytes, binding.max_concurrency) == (1048576, 3)


@pytest.mark.parametrize(
    ("value", "patterns"),
    [
        ("'https://a, http://b:8080'", ("https://a", "http://b:8080")),
        ("|\n      https://a\n      *\n", ("https://a", "*")),
        ("[https://a, '*']", ("https://a", "*")),
        ("'[\"https://a\"]'", ("https://a",)),
        ("''", ()),
        ("null", ()),
        ("[]", ()),
    ],
)
def test_allowed_outbound_hosts(tmp_path: Path, value: str, patterns: tuple[str, ...]) -> None:
    assert only(load_text(tmp_path, with_value("allowedOutboundHosts", value))).allowed_outbound_hosts == patterns


def test_no_list_of_hosts_is_not_an_empty_one(tmp_path: Path) -> None:
    assert only(load_text(tmp_path, component())).allowed_outbound_hosts is None


def test_patterns_are_checked_by_the_policy(tmp_path: Path) -> None:
    def refuse(pattern: str) -> None:
        if pattern == "bad":
            raise ValueError("no scheme")

    loaded = load_text(tmp_path, with_value("allowedOutboundHosts", "[good, bad]"), check_pattern=refuse)
    assert said(loaded) == [("error", 10, init_failure("allowedOutboundHosts: 'bad': no scheme"))]


def test_an_environment_over_its_limit(tmp_path: Path) -> None:
    metadata = "  - {name: envLimit, value: 10}\n  - {name: env.AB, value: '123456'}\n"
    assert only(load_text(tmp_path, component(metadata=metadata))).env == (("AB", "123456"),)
    loaded = load_text(tmp_path, component(metadata=metadata.replace("123456", "1234567")))
    cause = "the env.NAME entries have 11 bytes together, above envLimit 10"
    assert said(loaded) == [("error", 1, init_failure(cause))]


@pytest.mark.parametrize(
    ("key", "remedy"),
    [
        ("memorylimits", "did you mean memoryLimit?"),
        ("time-out", "did you mean timeout?"),
        ("variables", "an environment variable for the guest is written env.NAME"),
    ],
)
def test_unknown_keys_are_warned_about(tmp_path: Path, key: str, remedy: str) -> None:
    loaded = load_text(tmp_path, with_value(key, "x"))
    assert len(loaded.bindings) == 1
    assert said(loaded) == [("warning", 10, f"metadata {key} is unknown to bindings.wasm and has no effect")]
    assert loaded.problems[0].remedy == remedy


def test_all_faults_of_a_component_are_named(tmp_path: Path) -> None:
    metadata = "  - {name: timeout, value: x}\n  - {name: sha256, value: y}\n"
    assert len(load_text(tmp_path, component(metadata=metadata)).errors) == 2


def test_the_table_has_a_row_for_every_key() -> None:
    rows = metadata_table(Limits(), DEFAULT_CEILINGS).splitlines()
    assert len(rows) == 2 + len(KEYS) + 1
    assert all(row.count("|") == 6 for row in rows)
    assert "| `timeout` | `30s` | duration, from 1ms | `1h` |" in "\n".join(rows)


@pytest.mark.parametrize(
    ("value", "initialize"),
    [("stdin", ""), ('" stdin "', ""), ("wizer.initialize", "wizer.initialize"), ("_ready", "_ready")],
)
def test_the_function_that_comes_first(tmp_path: Path, value: str, initialize: str) -> None:
    assert only(load_text(tmp_path, with_value("warmUntil", value))).initialize == initialize


@pytest.mark.parametrize("value", ['""', '"two words"', '"\u00fc"', "true", "false", "1"])
def test_no_name_of_a_function(tmp_path: Path, value: str) -> None:
    ((_, _, message),) = said(load_text(tmp_path, with_value("warmUntil", value)))
    assert message.endswith("is neither stdin nor the name of a function")
