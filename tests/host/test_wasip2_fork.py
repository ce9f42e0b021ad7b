"""Components linked before a fork, run after it; and callers that go away."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.guests.component.build import python_component
from tests.host.components import HERE, Components
from tests.origins import Origin

# In an interpreter of its own: this one has had threads.
PROGRAM = """
import json, os, sys, time
from sandboxd.limits import EngineSettings, OutboundSettings
from sandboxd.wire.messages import Call, GuestSpec, Invoke
from sandboxd.worker import engine, load
from sandboxd.worker.runtime import Runtime

built = engine.build(EngineSettings())
request, *paths = sys.argv[1:]
specs = [GuestSpec(binding=path, kind="component", artifact=path, argv0=b"g") for path in paths]
loaded = [load.load(built, spec) for spec in specs]
threads = len(os.listdir("/proc/self/task"))
readers = []
for _ in range(3):
    reader, writer = os.pipe()
    if os.fork() == 0:
        runtime = Runtime(built, loaded, OutboundSettings(default_allowed_hosts=("http://127.0.0.0/8:*",))).start()
        results = []
        for number in range(10):
            until = time.monotonic_ns() + 30 * 10**9
            results.append(runtime.run(Invoke(id=number, guest=0, call=Call(deadline_ns=until))))
            call = Call(deadline_ns=until, args=(b"requests",), stdin=request.encode())
            results.append(runtime.run(Invoke(id=100 + number, guest=1, call=call)))
        answer = [[result.outcome, len(result.stdout) > 0, [u.outcome for u in result.outbound]] for result in results]
        os.write(writer, json.dumps(answer).encode())
        os._exit(0)
    os.close(writer)
    readers.append(reader)
answers = [json.loads(os.read(reader, 65536)) for reader in readers]
statuses = [os.wait()[1] for _ in readers]
print(json.dumps([threads, statuses, answers]))
"""


@pytest.mark.build
def test_components_linked_before_a_fork_run_after_it(components: Components) -> None:
    paths = [
        str(components.compile(source.read_bytes()))
        for source in (HERE / "wat" / "hello.wat", python_component("client", "client"))
    ]
    with Origin() as origin:
        request = json.dumps([{"authority": origin.authority, "path": "/bytes/1000"}])
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, request, *paths],
            capture_output=True,
            timeout=120,
            check=True,
            cwd=Path(__file__).parents[2],
        )
        # One connection a worker, kept over its invocations.
        assert origin.connections == 3
    threads, statuses, answers = json.loads(done.stdout)
    assert threads == 1, "a thread made before the fork would be missing after it"
    assert statuses == [0] * 3
    assert answers == [[["completed", True, []], ["completed", True, ["ok"]]] * 10] * 3
