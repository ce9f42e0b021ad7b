"""The quickstart on a real server: its examples answer what its README says, and its metrics are those we alert on."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.deploy.files import DEPLOY
from tests.deploy.test_prometheus import expressions_of_dashboard, expressions_of_rules
from tests.guests.cache import ROOT
from tests.running import RunningServer

COMPONENTS = DEPLOY / "quickstart/components"


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with RunningServer(COMPONENTS, "--workers", "1", cwd=ROOT) as running:
        yield running


def curl(server: RunningServer, command: str) -> httpx.Response:
    """Carries out `curl -s localhost:3500/PATH -d BODY` against this server."""
    words = shlex.split(command)
    assert words[:2] == ["curl", "-s"]
    path = words[2].removeprefix("localhost:3500")
    assert words[3] == "-d"
    with server.client() as client:
        return client.post(path, content=words[4])


def examples() -> list[tuple[str, str]]:
    """(command, answer) of each example in the README: an indented curl command, the answer, an empty line."""
    text = (DEPLOY / "quickstart/README.md").read_text()
    blocks = re.findall(r"^    curl (.*?)\n\n", text, re.MULTILINE | re.DOTALL)
    found = []
    for block in blocks:
        lines = [line.removeprefix("    ") for line in f"curl {block}".split("\n")]
        end = next(n for n in range(1, len(lines) + 1) if "\n".join(lines[:n]).count("'") % 2 == 0)
        found.append(("\n".join(lines[:end]), "\n".join(lines[end:])))
    return found


def test_the_readme_has_an_example_of_each_binding() -> None:
    names = {re.sub(r".*/bindings/(\w+).*", r"\1", command, flags=re.DOTALL) for command, _ in examples()}
    assert names == {file.stem for file in COMPONENTS.parent.glob("*/*.yaml")}


# The one of `python` is in test_interpreter.
@pytest.mark.parametrize(("command", "answer"), [one for one in examples() if "/python " not in one[0]])
def test_the_examples_of_the_readme_answer_as_it_says(server: RunningServer, command: str, answer: str) -> None:
    reply = curl(server, command)
    assert (reply.status_code, reply.text.rstrip("\n")) == (200, answer)


@pytest.mark.parametrize("file", sorted(COMPONENTS.glob("*.yaml")), ids=lambda file: file.stem)
def test_the_lines_to_try_in_the_components_answer_too(server: RunningServer, file: Path) -> None:
    first = file.read_text().splitlines()[0]
    reply = curl(server, first.removeprefix("# try: "))
    assert reply.status_code == 200
    assert reply.content


def test_without_arguments_greet_is_an_error_that_says_why(server: RunningServer) -> None:
    reply = server.invoke("greet")
    assert reply.status_code == 500
    assert json.loads(reply.text)["errorCode"] == "ERR_INVOKE_OUTPUT_BINDING"
    assert "exit_code(2)" in reply.text


def test_rules_and_dashboard_use_metrics_the_server_has(server: RunningServer) -> None:
    with server.client() as client:
        families = list(text_string_to_metric_families(client.get("/metrics").text))
    samples = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}
    known = {family.name + suffix for family in families for suffix in samples.get(family.type, [""])}
    sources = [*expressions_of_rules().items(), *expressions_of_dashboard()]
    sources.append(("adapter", (DEPLOY / "kubernetes/prometheus-adapter-rules.yaml").read_text()))
    computed = {"sandboxd_pool_utilisation"}
    used = {name: set(re.findall(r"\bsandboxd_\w+", expression)) - computed for name, expression in sources}
    assert any(used.values())
    assert {name: unknown for name, names in used.items() if (unknown := names - known)} == {}


def test_the_labels_that_rules_select_by_are_the_servers(server: RunningServer) -> None:
    with server.client() as client:
        families = {f.name: f for f in text_string_to_metric_families(client.get("/metrics").text)}
    states = {sample.labels["state"] for sample in families["sandboxd_pool_workers"].samples}
    assert {"idle", "busy"} <= states
    assert {sample.labels["pool"] for sample in families["sandboxd_pool_busy_seconds"].samples}
    reasons = {sample.labels["reason"] for sample in families["sandboxd_pool_rejected"].samples}
    assert "draining" in reasons
    bindings = {sample.labels["binding"] for sample in families["sandboxd_binding_ready"].samples}
    assert bindings == {file.stem for file in COMPONENTS.glob("*.yaml")}
