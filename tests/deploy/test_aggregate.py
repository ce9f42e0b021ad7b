"""The aggregation example, built as its README says and run against an origin with documents."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.files import DEPLOY
from tests.guests.cache import CACHE, ROOT, ToolMissingError, digest, made, skip_or_fail
from tests.guests.component.build import WIT
from tests.host.components import released_when
from tests.origins import Origin
from tests.running import RunningServer, component, write_components

pytestmark = pytest.mark.build

HERE = DEPLOY / "quickstart/aggregate"
README = (HERE / "README.md").read_text()
USERS = b'[{"id":1,"name":"Ada"},{"id":2,"name":"Grace"},{"id":3,"name":"Edsger"}]'
MONDAY = b'[{"user":1,"total":30},{"user":2,"total":5},{"user":9,"total":500}]'
TUESDAY = b'[{"user":2,"total":80},{"user":1,"total":12}]'
EXPECTED = '[{"name":"Grace","orders":1,"total":80},{"name":"Ada","orders":2,"total":42}]\n'


def build(name: str, tool: str, *, timeout_s: float = 300) -> Path:
    """Carries out the README's command for one guest in a copy of the repository's layout, kept by source."""
    if not (shutil.which(tool) or (ROOT / ".venv/bin" / tool).exists()):
        skip_or_fail(ToolMissingError(tool, "see deploy/quickstart/aggregate/README.md"))
    (command,) = re.findall(rf"^    (\(cd \S+/{name} &&.*\))$", README, re.MULTILINE)
    sources = sorted(file for folder in (HERE / name, WIT) for file in folder.rglob("*") if file.is_file())

    def make(fresh: Path) -> None:
        root = fresh.parent
        copy = root / "deploy/quickstart/aggregate"
        shutil.copytree(HERE / name, copy / name)
        (copy / "build").mkdir()
        (root / "tests/guests/component").mkdir(parents=True)
        (root / "tests/guests/component/wit").symlink_to(WIT)
        (root / ".venv").symlink_to(ROOT / ".venv")
        environ = os.environ | {"GOTOOLCHAIN": "local", "GOFLAGS": "-mod=mod", "GOPROXY": "off"}
        subprocess.run(["sh", "-c", command], cwd=root, env=environ, check=True, timeout=timeout_s)
        (copy / "build" / f"totals-{name}.wasm").replace(fresh)

    return made(CACHE / "aggregate" / f"totals-{name}-{digest(command, *sources)}.wasm", make)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    hosts = {"allowedOutboundHosts": '["http://127.0.0.0/8:*"]'}
    documents = [
        component("totals-go", f"file://{build('go', 'go')}", **hosts),
        component("totals-python", f"file://{build('python', 'componentize-py')}", **hosts),
    ]
    with RunningServer(write_components(tmp_path_factory.mktemp("resources"), documents), "--workers", "1") as running:
        yield running


@pytest.fixture
def shop() -> Iterator[Origin]:
    with Origin() as origin:
        origin.documents = {"/users.json": USERS, "/monday.json": MONDAY, "/tuesday.json": TUESDAY}
        yield origin


def question(shop: Origin, **changed: object) -> dict[str, object]:
    orders = [shop.url("/monday.json"), shop.url("/tuesday.json")]
    return {"users": shop.url("/users.json"), "orders": orders, "minimum": 10, **changed}


@pytest.mark.parametrize("binding", ["totals-go", "totals-python"])
def test_documents_are_fetched_at_once_filtered_and_joined(server: RunningServer, shop: Origin, binding: str) -> None:
    # No document is answered before all are asked for: one after the other, this would never end.
    with released_when(shop, 3):
        reply = server.invoke(binding, question(shop))
    assert (reply.status_code, reply.text) == (200, EXPECTED)


def test_the_component_answers_http_too(server: RunningServer, shop: Origin) -> None:
    with released_when(shop, 3), server.client() as client:
        response = client.post("/v1.0/http/totals-python/", json=question(shop))
        assert (response.status_code, response.text) == (200, EXPECTED)
        assert response.headers["content-type"] == "application/json"


def test_what_cannot_be_fetched_is_told(server: RunningServer, shop: Origin) -> None:
    shop.release()
    missing = question(shop, users=shop.url("/missing.json"))
    reply = server.invoke("totals-go", missing)
    assert reply.status_code == 500
    assert "an origin answered with status 404" in reply.json()["detail"]
    reply = server.invoke("totals-python", missing)
    assert (reply.status_code, reply.headers["metadata.statuscode"]) == (200, "502")
    assert "/missing.json answered with status 404" in json.loads(reply.text)["error"]


def test_the_component_files_name_what_the_readme_builds() -> None:
    for file in sorted((HERE / "components").glob("*.yaml")):
        assert f"file://deploy/quickstart/aggregate/build/{file.stem}.wasm" in file.read_text()
        assert f"../build/{file.stem}.wasm" in README
