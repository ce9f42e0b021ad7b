"""Engine and guests made before a fork, run after it: what every worker relies on."""

import json
import subprocess
import sys
from pathlib import Path

import wasmtime

from sandboxd.limits import EngineSettings
from sandboxd.worker import engine

GUESTS = Path(__file__).parent.parent / "guests" / "bin"

# In an interpreter of its own: this one has had threads.
PROGRAM = """
import json, os, sys, time
from sandboxd.limits import EngineSettings, OutboundSettings
from sandboxd.wire.messages import Call, GuestSpec, Invoke
from sandboxd.worker import engine, load
from sandboxd.worker.runtime import Runtime

built = engine.build(EngineSettings())
specs = [GuestSpec(binding=path, kind="module", artifact=path, argv0=b"g") for path in sys.argv[1:]]
loaded = [load.load(built, spec) for spec in specs]
threads = len(os.listdir("/proc/self/task"))
readers = []
for _ in range(4):
    reader, writer = os.pipe()
    if os.fork() == 0:
        runtime = Runtime(built, loaded, OutboundSettings()).start()
        results = []
        for number in range(20):
            until = time.monotonic_ns() + 10**10
            results.append(runtime.run(Invoke(id=number, guest=0, call=Call(deadline_ns=until, stdin=b"abc"))))
        results.append(runtime.run(Invoke(id=20, guest=1, call=Call(deadline_ns=time.monotonic_ns() + 10**8))))
        answer = [[result.outcome, result.stdout.decode()] for result in results]
        os.write(writer, json.dumps(answer).encode())
        os._exit(0)
    os.close(writer)
    readers.append(reader)
answers = [json.loads(os.read(reader, 65536)) for reader in readers]
statuses = [os.wait()[1] for _ in readers]
print(json.dumps([threads, statuses, answers]))
"""


def test_guests_loaded_before_a_fork_run_after_it(tmp_path: Path) -> None:
    compiler = engine.build(EngineSettings(), compiling=True)
    paths = []
    for name in ("upper", "loop"):
        path = tmp_path / f"{name}.cwasm"
        path.write_bytes(wasmtime.Module(compiler, (GUESTS / f"{name}.wasm").read_bytes()).serialize())
        paths.append(str(path))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *paths],
        capture_output=True,
        timeout=60,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    threads, statuses, answers = json.loads(done.stdout)
    assert threads == 1, "a thread made before the fork would be missing after it"
    assert statuses == [0] * 4
    assert answers == [[["completed", "ABC"]] * 20 + [["deadline_exceeded", ""]]] * 4
