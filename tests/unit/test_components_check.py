"""`sandboxd check`, and component loading under arbitrary bytes."""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandboxd.commands.check import check, report
from sandboxd.components import Binding, Problem, Severity
from sandboxd.config import Config
from tests.unit.test_components import component, load_folder


def run(config: Path | None, resources: Path, **more: object) -> tuple[int, list[str]]:
    checked = check(config, environ={"HOME": "/h"}, overrides={"resourcesPaths": [str(resources)]}, **more)  # type: ignore[arg-type]
    out = io.StringIO()
    count = report(checked, out)
    return count, out.getvalue().splitlines()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all examples of a test; each writes c.yaml anew."""
    return tmp_path_factory.mktemp("components")


def test_nothing_wrong(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(component())
    assert run(None, tmp_path) == (0, ["0 problems; bindings that can be served: wasm"])


def test_notes_are_printed_and_not_counted(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(component("r", type_="state.redis"))
    (tmp_path / "d.yaml").write_text(component())
    assert run(None, tmp_path) == (
        0,
        [
            f"{tmp_path}/c.yaml:1: note: state.redis is not served by sandboxd "
            "(leave it to daprd, or remove it from this folder)",
            "0 problems; bindings that can be served: wasm",
        ],
    )


def test_every_problem_has_place_and_remedy(tmp_path: Path) -> None:
    config = tmp_path / "sandboxd.yaml"
    config.write_text("pool: {wrkers: 1}\nengine: {tlsCertificate: /absent/c.pem, tlsKey: /absent/k.pem}\n")
    folder = tmp_path / "components"
    folder.mkdir()
    (folder / "c.yaml").write_text(component(metadata="  - {name: timeout, value: 2h}\n  - {name: sha256, value: x}\n"))
    count, lines = run(config, folder)
    assert count == 4
    assert lines[0] == f"{config}:1: error: pool.wrkers is not a setting (did you mean workers?)"
    assert "engine.tlsCertificate: /absent/c.pem cannot be read: No such file or directory" in lines[1]
    assert "engine.tlsKey: /absent/k.pem" in lines[2]
    # With the settings wrong, the ceilings are not known and timeout is not held against them.
    assert lines[3].startswith(f"{folder}/c.yaml:11: error: component wasm: ")
    assert lines[4] == "4 problems; no binding can be served"


def test_modules_are_checked_by_the_callable(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(component("a") + "\n---\n" + component("b"))
    seen: list[str] = []

    def modules(bindings: Sequence[Binding], config: Config) -> Iterable[Problem]:
        assert isinstance(config, Config)
        for binding in bindings:
            seen.append(binding.name)
            yield Problem(severity=Severity.ERROR, message="no such module", file=binding.path, line=binding.line)

    count, lines = run(None, tmp_path, check_modules=modules)
    assert seen == ["a", "b"]
    assert count == 2
    assert f"{tmp_path}/c.yaml:1: error: no such module" in lines


def test_patterns_of_the_settings_are_checked(tmp_path: Path) -> None:
    config = tmp_path / "sandboxd.yml_"
    config.write_text("egress: {defaultAllowedHosts: [bad]}\n")

    def refuse(pattern: str) -> None:
        raise ValueError("no scheme")

    _, lines = run(config, tmp_path, check_pattern=refuse)
    assert any("egress.defaultAllowedHosts: 'bad': no scheme" in line for line in lines)


def test_no_folder_at_all() -> None:
    checked = check(None, environ={"HOME": "/h"})
    assert [p.message for p in checked.problems] == ["no folder of components is configured"]
    assert checked.count == 1


def test_a_file_cannot_forge_lines_of_the_report(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(component('"x\\n0 problems"', type_='"a\\e[2Jb"'))
    _, lines = run(None, tmp_path)
    assert len(lines) == 3
    assert "a\\x1b[2Jb is not served" in lines[0]


_ATOMS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(
        [
            "dapr.io/v1alpha1",
            "Component",
            "bindings.wasm",
            "secretstores.local.env",
            "v1",
            "url",
            "store",
            "file://g",
            "env.A",
            "timeout",
            "{uuid}",
            "{podName}",
            "5s",
            "[",
            "secretstores.local.file",
        ]
    ),
)
_KEYS = st.sampled_from(
    [
        "apiVersion",
        "kind",
        "metadata",
        "name",
        "namespace",
        "spec",
        "type",
        "version",
        "value",
        "envRef",
        "secretKeyRef",
        "key",
        "auth",
        "secretStore",
        "scopes",
        "ignoreErrors",
        "initTimeout",
        "x",
    ]
)
_TREES = st.recursive(
    _ATOMS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_KEYS, inner, max_size=6), max_leaves=25
)


@st.composite
def documents(draw: st.DrawFn) -> object:
    """Something near enough to a Component that the code behind the first checks is reached."""
    items = draw(
        st.lists(
            st.dictionaries(st.sampled_from(["name", "value", "envRef", "secretKeyRef"]), _TREES, max_size=4),
            max_size=4,
        )
    )
    spec = {
        "type": draw(st.sampled_from(["bindings.wasm", "secretstores.local.env", "secretstores.local.file"]) | _ATOMS),
        "version": draw(st.just("v1") | _ATOMS),
        "metadata": draw(st.just(items) | _TREES),
    }
    return {
        "apiVersion": "dapr.io/v1alpha1",
        "kind": "Component",
        "metadata": {"name": draw(_ATOMS)},
        "spec": spec,
        "auth": {"secretStore": draw(_ATOMS)},
        "scopes": draw(st.none() | _TREES),
    }


@settings(max_examples=80, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(documents() | _TREES, max_size=3))
@pytest.mark.slow
def test_any_trees_become_bindings_or_problems(folder: Path, trees: list[object]) -> None:
    import yaml

    text = "\n---\n".join(yaml.safe_dump(tree, allow_unicode=True) for tree in trees)
    (folder / "c.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))
    loaded = load_folder(folder)
    for problem in loaded.problems:
        assert problem.message
        assert "\n" not in str(problem)
    for binding in loaded.bindings:
        assert binding.url
        "".join(name + value for name, value in binding.env).encode()


@settings(max_examples=80)
@given(st.binary(max_size=300))
def test_any_bytes_become_bindings_or_problems(folder: Path, data: bytes) -> None:
    (folder / "c.yaml").write_bytes(data)
    assert not load_folder(folder).bindings


@settings(max_examples=60)
@given(st.data())
def test_a_component_with_bytes_changed_becomes_bindings_or_problems(folder: Path, data: st.DataObject) -> None:
    text = bytearray(
        (component(metadata="  - {name: env.A, value: &a [1, 2]}\n  - {name: timeout, value: 5s}\n") * 2).encode()
    )
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(text) - 1))
        text[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    (folder / "c.yaml").write_bytes(bytes(text))
    for problem in load_folder(folder).problems:
        assert problem.message
