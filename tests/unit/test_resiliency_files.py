"""Resiliency resources: which policies a binding gets, and what is said of those that cannot be read.

Not tested here: what daprd does with them (test_resiliency.py).
"""

from pathlib import Path

import pytest

from sandboxd.components import Loaded, Severity
from sandboxd.resiliency import Policy
from tests.unit.test_components import load_folder
from tests.unit.test_resiliency import SECOND, told

COMPONENT = """apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: a}
spec: {type: bindings.wasm, version: v1, metadata: [{name: url, value: "file://g.wasm"}]}
"""
HEAD = "apiVersion: dapr.io/v1alpha1\nkind: Resiliency\nmetadata: {name: r}\n"


def load_with(folder: Path, *texts: str) -> Loaded:
    (folder / "a.yaml").write_text(COMPONENT)
    for number, text in enumerate(texts):
        (folder / f"r{number}.yaml").write_text(HEAD + text)
    return load_folder(folder)


def test_the_later_of_two_resources_counts(tmp_path: Path) -> None:
    first = "spec: {policies: {timeouts: {t: 1s}}, targets: {components: {a: {outbound: {timeout: t}}}}}\n"
    loaded = load_with(tmp_path, first, "spec: {policies: {timeouts: {t: 2s}}}\n")
    assert told(loaded) == []
    assert loaded.bindings[0].policy == Policy(timeout_ns=2 * SECOND)


def test_scopes_and_other_targets_are_left_to_daprd(tmp_path: Path) -> None:
    scoped = "scopes: [other]\nspec: {policies: {timeouts: {DefaultTimeoutPolicy: 1s}}}\n"
    apps = "spec: {policies: {timeouts: {t: 1s}}, targets: {apps: {x: {timeout: t}}, actors: {y: {timeout: t}}}}\n"
    loaded = load_with(tmp_path, scoped, apps)
    assert loaded.bindings[0].policy is None
    assert [problem.severity for problem in loaded.problems] == [Severity.NOTE] * 3


def test_a_broken_policy_that_nothing_uses_is_a_warning(tmp_path: Path) -> None:
    loaded = load_with(tmp_path, "spec: {policies: {timeouts: {t: soon}}}\n")
    assert [(str(p.severity), p.line) for p in loaded.problems] == [("warning", 4)]
    assert "invalid timeout 't': not a duration" in loaded.problems[0].message


@pytest.mark.parametrize(
    "policies_text",
    [
        "retries: {p: {policy: constant, maxRetries: 1.5}}",
        "retries: {p: {duration: never}}",
        "retries: {p: [1]}",
        "retries: {p: {matching: {httpStatusCodes: 500-}}}",
        "circuitBreakers: {p: {maxRequests: -1}}",
        "circuitBreakers: {p: {window: 5}}",
        "circuitBreakers: {p: {trip: 'a.b > 1'}}",
        "timeouts: {p: [1]}",
    ],
)
def test_what_is_not_supported_is_refused(tmp_path: Path, policies_text: str) -> None:
    kind = {"r": "retry", "c": "circuitBreaker", "t": "timeout"}[policies_text[0]]
    target = f"targets: {{components: {{a: {{outbound: {{{kind}: p}}}}}}}}"
    loaded = load_with(tmp_path, f"spec: {{policies: {{{policies_text}}}, {target}}}\n")
    assert len(loaded.errors) == 1
    assert "Could not read resiliency policy" in loaded.errors[0].message


def test_a_resource_of_another_shape_is_refused(tmp_path: Path) -> None:
    loaded = load_with(tmp_path, "spec: {policies: []}\n")
    assert "Could not parse resiliency file r0.yaml: policies is a list" in loaded.errors[0].message


def test_unknown_keys_and_too_long_timeouts_are_told(tmp_path: Path) -> None:
    text = (
        "spec: {policies: {retries: {r: {initialInterval: 1s}}, timeouts: {t: 1h}}, "
        "targets: {components: {a: {outbound: {retry: r, timeout: t}}}}}\n"
    )
    loaded = load_with(tmp_path, text)
    assert loaded.errors == ()
    first, second = told(loaded)
    assert first == "initialInterval is not a key of retries.r and has no effect"
    assert "of 30s, which covers all attempts together, is not longer" in second
