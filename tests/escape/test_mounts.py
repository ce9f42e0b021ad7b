"""Which folders code reaches that has escaped into a worker: those of all bindings that share its pool, and no others.

Each attempt is openat2 without any flag that bounds it: by the path's name, and from every descriptor that the worker
has.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import guest_component
from tests.escape.test_escape import HOOK
from tests.escape.test_escape import pytestmark as needs_the_wall
from tests.running import RunningServer, write_components

pytestmark = [needs_the_wall, pytest.mark.slow]  # a server of its own

CODE = """#!escaped
def reached(path):
    how = bytes(24)
    found = {{}}
    for at in (-100, *range(3, 200)):
        name = {path!r} if at == -100 else {path!r}[len({folder!r}) + 1:]
        got = syscall({openat2}, at, name.encode(), how, 24)
        found[str(at)] = got if got < 0 else bytes(os.read(got, 100)).decode()
    return found
print(json.dumps(sorted({{str(end) for end in reached({path!r}).values()}})))
"""
ENOENT, EBADF, EACCES, ENOTDIR, EPERM = "-2", "-9", "-13", "-20", "-1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mounts")
    for name in ("shared", "private", "nobody"):
        (folder / name).mkdir()
        (folder / name / "file").write_text(f"of {name}")
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[RunningServer]:
    def mounts(source: str) -> str:
        return json.dumps([{"source": source, "target": "/data"}])

    documents = [
        guest_component("upper"),
        guest_component("echo", mounts=mounts("shared")),
        guest_component("env", mounts=mounts("private"), isolation="own", maxConcurrency="1"),
    ]
    environ = {"PYTHONPATH": str(HOOK), "SANDBOXD_POOL_WALL": "required"}
    with RunningServer(write_components(folder, documents), "--workers", "1", environ=environ) as running:
        yield running


@pytest.mark.parametrize(("binding", "reaches"), [("upper", {"shared"}), ("echo", {"shared"}), ("env", {"private"})])
def test_an_escape_reaches_the_mounts_of_its_pool(
    server: RunningServer, folder: Path, binding: str, reaches: set[str]
) -> None:
    for name in ("shared", "private", "nobody"):
        code = CODE.format(path=f"{folder}/{name}/file", folder=str(folder), openat2=437)
        reply = server.invoke(binding, code)
        assert reply.status_code == 200, reply.text
        ends = set(json.loads(reply.content))
        assert ends - {ENOENT, EBADF, EACCES, ENOTDIR, EPERM} == ({f"of {name}"} & {f"of {at}" for at in reaches})
        assert EACCES in ends or name in reaches
