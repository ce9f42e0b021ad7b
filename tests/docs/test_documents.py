"""Checks of the documents that need no server: size, examples that parse, figures, names of metrics."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from sandboxd.components.loader import load
from sandboxd.config import load as load_settings
from sandboxd.limits.keys import DEFAULT_CEILINGS
from sandboxd.metrics import DaprLabels, Metrics
from sandboxd.metrics.pool import PoolCollector
from sandboxd.pool.stats import PoolStats
from sandboxd.server.translate import check_pattern
from tests.docs.links import ROOT, markdown_files

README = ROOT / "README.md"
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[tuple[str, str]]:
    """(name, text) of every fenced block of a language in all documents."""
    found = []
    for file in markdown_files(ROOT):
        texts = [text for kind, text in _BLOCK.findall(file.read_text(encoding="utf-8")) if kind == language]
        found += [(f"{file.relative_to(ROOT)} {number}", text) for number, text in enumerate(texts, 1)]
    return found


def components() -> list[tuple[str, str]]:
    """Every component file that a document shows: YAML blocks, and here-documents of shell blocks."""
    found = [
        (name, text) for name, text in blocks("yaml") if "kind: Component" in text or text.lstrip().startswith("- ")
    ]
    for name, text in blocks("sh"):
        found += [
            (name, body) for body in re.findall(r"<<'COMPONENT'\n(.*?)^COMPONENT$", text, re.MULTILINE | re.DOTALL)
        ]
    return found


def test_the_readme_is_at_most_a_page() -> None:
    assert len(README.read_bytes()) <= 8192


@pytest.mark.parametrize(("name", "text"), components(), ids=[name for name, _ in components()])
def test_component_files_load_without_a_remark(tmp_path: Path, name: str, text: str) -> None:
    if text.lstrip().startswith("- "):  # an extract of spec.metadata
        document = {
            "apiVersion": "dapr.io/v1alpha1",
            "kind": "Component",
            "metadata": {"name": "shown"},
            "spec": {"type": "bindings.wasm", "version": "v1", "metadata": yaml.safe_load(text)},
        }
        document["spec"]["metadata"].append({"name": "url", "value": "file://guest.wasm"})  # type: ignore[index]
        text = yaml.safe_dump(document)
    (tmp_path / "component.yaml").write_text(text)
    loaded = load([tmp_path], app_id="sandboxd", environ={}, ceilings=DEFAULT_CEILINGS, check_pattern=check_pattern)
    assert list(loaded.problems) == []
    assert len(loaded.bindings) == 1


@pytest.mark.parametrize(("name", "text"), blocks("yaml"), ids=[name for name, _ in blocks("yaml")])
def test_yaml_parses(name: str, text: str) -> None:
    assert yaml.safe_load(text)


def test_settings_files_are_read_without_a_remark(tmp_path: Path) -> None:
    shown = [text for _, text in blocks("yaml") if text.startswith("# sandboxd.yaml")]
    assert shown
    for text in shown:
        file = tmp_path / "sandboxd.yaml"
        file.write_text(text)
        _, problems = load_settings(file, environ={}, overrides={})
        assert list(problems) == []


@pytest.mark.parametrize(("name", "text"), blocks("sh"), ids=[name for name, _ in blocks("sh")])
def test_shell_parses_and_its_requests_are_json(name: str, text: str) -> None:
    subprocess.run(["bash", "-n"], input=text.encode(), check=True, timeout=20)
    for body in re.findall(r" -d '([^']*)'", text):
        assert json.loads(body)["operation"] == "execute"


@pytest.mark.parametrize("page", ["README.md", "docs/performance.md"])
def test_figures_are_those_of_the_last_run(page: str) -> None:
    figures = re.findall(r"\*\*(-?[\d.]+ ?[\w/%]*)\*\*", (ROOT / page).read_text(encoding="utf-8"))
    cells = {
        cell.strip()
        for line in (ROOT / "bench/README.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("|")
        for cell in line.split("|")
    }
    assert figures
    assert [figure for figure in figures if figure not in cells] == []


def test_operations_lists_the_metrics_the_server_has() -> None:
    metrics = Metrics(version="0", dapr=DaprLabels(app_id="sandboxd"))
    metrics.watch_process()
    metrics.registry.register(PoolCollector(lambda: {"default": PoolStats()}))
    families = {family.name + ("_total" if family.type == "counter" else "") for family in metrics.registry.collect()}
    section = (ROOT / "docs/operations.md").read_text(encoding="utf-8").split("## Metrics")[1].split("\n## ")[0]
    listed = set(
        re.findall(r"`(\w+)(?:\{[\w,]+\})?`", "\n".join(re.findall(r"^\|.*\|$|^`metrics.*", section, re.MULTILINE)))
    )
    ours = {name for name in families if name.startswith("sandboxd_")}
    of_the_supervisor = {"sandboxd_cell_up", "sandboxd_cell_restarts_total", "sandboxd_cell_requests_total"}
    assert {name for name in listed if name.startswith("sandboxd_")} == ours | of_the_supervisor
