"""Nothing an honest worker does is refused by the wall: real guests, with every system call that fails traced.

A new libc, Python or engine that makes a new call shows here first.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.certificates import Authority
from tests.conftest import guest_component
from tests.guests.cache import ToolMissingError, skip_or_fail
from tests.guests.component.build import python_component
from tests.host.legacy_guests import c_client
from tests.origins import Origin
from tests.process import tree
from tests.running import RunningServer, component, write_components
from tests.waiting import until

PROGRAMS = ("echo", "upper", "args", "env", "exit", "trap", "stderr", "flood", "loop")


@contextlib.contextmanager
def traced(pid: int, output: Path) -> Iterator[None]:
    """Trace the failed calls of a process and of all that it forks from now on."""
    if shutil.which("strace") is None:
        skip_or_fail(ToolMissingError("strace", "apt-get install strace"))
    command = ["strace", "-f", "-Z", "-qq", "-o", str(output), "-p", str(pid)]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        # It says nothing with -qq once it stands; the kernel does.
        status = Path(f"/proc/{pid}/status")
        deadline = time.monotonic() + 60
        while f"TracerPid:\t{tracer.pid}" not in status.read_text():
            if tracer.poll() is not None or time.monotonic() > deadline:
                assert tracer.stderr is not None
                tracer.kill()
                skip_or_fail(ToolMissingError("tracing", tracer.stderr.read().strip() or "strace does not attach"))
            os.sched_yield()
        yield
    finally:
        tracer.send_signal(signal.SIGINT)
        tracer.communicate(timeout=60)


def refusals(output: Path) -> list[str]:
    """The traced calls that the wall may have refused."""
    return [line for line in output.read_text().splitlines() if re.search(r"= -1 (EPERM|EACCES|ENOSYS)", line)]


@pytest.mark.build
@pytest.mark.slow
def test_no_call_of_an_honest_worker_is_refused(tmp_path: Path) -> None:
    hosts = {"allowedOutboundHosts": '["http://127.0.0.0/8:*", "https://127.0.0.0/8:*", "http://localhost:*"]'}
    documents = [guest_component(name, timeout="1s") for name in PROGRAMS]
    documents += [
        component("legacy", f"file://{c_client()}", **hosts),
        component("web", f"file://{python_component('proxy', 'proxy')}", **hosts),
    ]
    resources = write_components(tmp_path / "resources", documents)
    output, names = tmp_path / "calls", tmp_path / "calls of the broker"
    authority = Authority(tmp_path)
    environ = {"SANDBOXD_POOL_WALL": "required", "SANDBOXD_EGRESS_CA_FILES": str(authority.ca_file)}
    with (
        Origin() as plain,
        Origin(tls=authority.server_context("127.0.0.1")) as secure,
        RunningServer(resources, "--workers", "1", environ=environ) as server,
    ):
        zygote = tree.zygote(server)
        (first,) = tree.workers(server)
        server.wait_for(lambda line: line.get("event") == "broker")
        broker = tree.broker(server)
        with traced(zygote, output), traced(broker, names):
            os.kill(first, signal.SIGKILL)
            until(lambda: tree.workers(server) not in ([], [first]), "a worker that is traced")
            for name in PROGRAMS:
                server.invoke(name, "x", {"args": "3"})
            named = plain.url("/echo").replace("127.0.0.1", "localhost")
            for url in (plain.url("/headers"), secure.url("/headers"), named, "http://xn--nope.invalid/"):
                server.invoke("legacy", "x", {"args": url})
            with server.client() as client:
                assert client.post("/v1.0/http/web/describe", content=b"x" * 100_000).status_code == 201
                url = f"/v1.0/http/web/stream/gateway/{plain.authority}"
                assert client.post(url, content=b"1\n2\n").status_code == 200
                client.post("/v1.0/http/web/trap")
        assert {seen.target for seen in plain.seen} >= {"/headers", "/echo", "/headers?1"}
        assert [seen.target for seen in secure.seen] == ["/headers"]
    refused = refusals(output)
    # glibc tries clone3 first, and makes threads by clone where there is none.
    assert [line for line in refused if "clone3(" not in line] == []
    refused = refusals(names)
    # For a name glibc asks nscd by a Unix socket, and the kernel for the addresses of the machine by a netlink socket,
    # which it binds. It goes on without either.
    known = ("clone3(", "socket(AF_UNIX, ", "{sa_family=AF_NETLINK, ")
    assert [line for line in refused if not any(call in line for call in known)] == []
