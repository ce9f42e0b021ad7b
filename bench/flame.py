"""Flame graphs of the front and of a worker under load, by py-spy (the `bench` extra), into bench/pictures.

python -m bench.flame [--seconds 10]
"""

import argparse
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

from bench import load, targets
from bench.measure import GUESTS, ROOT

PICTURES = Path(__file__).parent / "pictures"
CONNECTIONS = 16


def profiler() -> Path | None:
    """py-spy of this environment, if it is installed."""
    program = Path(sysconfig.get_path("scripts")) / "py-spy"
    return program if program.is_file() else None


def portable(svg: str) -> str:
    """Without this machine's paths."""
    places = {str(ROOT), sysconfig.get_path("purelib"), sysconfig.get_path("stdlib"), sys.prefix, sys.base_prefix}
    for place in sorted(places, key=len, reverse=True):
        svg = svg.replace(place + os.sep, "")
    return re.sub(r"/(?:[\w.+-]+/)+(?=[\w.+-]+)", "", svg) if str(Path.home()) in svg else svg


def main() -> int:
    """Record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=int, default=10)
    given = parser.parse_args()
    program = profiler()
    if program is None:
        print("py-spy is not installed (pip install -e '.[bench]')", file=sys.stderr)
        return 0
    PICTURES.mkdir(exist_ok=True)
    body = targets.wrapped("hello")
    with targets.sandboxd({"tiny": GUESTS / "tiny.wasm"}, "--engine", targets.engines()[0]) as target:
        load.saturate(target, body, connections=CONNECTIONS, seconds=1)
        roles = {role: pid for pid, role in target.processes()}
        recorders = []
        for role, name in (("front", "front"), ("workers", "worker")):
            command = [str(program), "record", "--native", "--pid", str(roles[role]), "--rate", "400"]
            command += ["--duration", str(given.seconds), "--output", str(PICTURES / f"{name}.svg")]
            recorders.append((name, subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)))
        load.saturate(target, body, connections=CONNECTIONS, seconds=given.seconds + 2)
        failed = 0
        for name, recorder in recorders:
            _, said = recorder.communicate(timeout=60)
            picture = PICTURES / f"{name}.svg"
            if recorder.returncode:
                failed = 1
                print(f"{name}: {said.decode(errors='replace')}", file=sys.stderr)
            else:
                picture.write_text(portable(picture.read_text()))
    return failed


if __name__ == "__main__":
    sys.exit(main())
