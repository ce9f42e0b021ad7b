"""What is left after many warm runs with mixed outcomes, and is every caller answered while templates and children die?

CPython is started warm, and each answer is checked (`bench/callers.py`).

    python -m bench.warm_chaos [--quick] [--json FILE]
"""

import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from bench import census
from bench.callers import Asking, Callers
from bench.measure import Bar, Record, end, options
from bench.warm import Asked, Server, asked, binding, settled

MIXED_RUNS = 20_000
CALLERS = 4
CHAOS_S = 60.0
KILLS_PER_S = 10.0


def add(record: Record, what: str, callers: Callers) -> None:
    """Add the row of some callers."""
    counts = callers.counts
    record.add(
        what=what,
        runs=sum(counts[name] for name in ("right", "wrong", "lost", "hung up")),
        right=counts["right"],
        wrong=counts["wrong"],
        **{"never answered": counts["lost"], "callers that left": counts["hung up"]},
    )
    statuses = ", ".join(f"{name} {counts[name]} times" for name in sorted(counts) if name.startswith("status"))
    record.notes.append(f"{what}: {statuses}")


def mixed(number: int) -> Asking:
    """Return one of many requests: it traps, fails, ends with an exit code or answers, or its caller leaves at once."""
    code = (
        "import os, sys\nn = int(sys.stdin.read().strip(chr(34)))\nif n % 7 == 0: os.abort()\nif n % 5 == 0: 1 / 0\n"
        "print(n)\nsys.exit(n % 3)"
    )

    def right(status: int, body: bytes) -> bool:
        if number % 7 == 0:
            return status == 500 and b"unreachable" in body
        if number % 5 == 0:
            return status == 500 and b"exit_code(1)" in body and b"ZeroDivisionError" in body
        if number % 3:
            return status == 500 and b"exit_code(%d)" % (number % 3) in body
        return (status, body) == (200, b"%d\n" % number)

    asked = Asked(name="mixed", file=Path(), argv=("-I", "-c", code), data=str(number))
    return Asking(body=asked.body(), right=right, hang_up=number % 40 == 39)


def leftovers(record: Record, server: Server, runs: int) -> None:
    """Many warm runs with mixed outcomes: each answer is checked, and then everything is as before."""
    target = server.target(0, warm=True)

    def hits() -> float:
        return server.running.metric("sandboxd_warm_invocations_total", binding=binding(0, warm=True))

    # Enough that as many children are kept ready as at the end.
    Callers(target.url, CALLERS, lambda number: mixed(number) if number < 200 else None).run()
    before, warm = settled(server), hits()
    callers = Callers(target.url, CALLERS, lambda number: mixed(number) if number < runs else None)
    callers.run()
    after = settled(server)
    add(record, f"mixed outcomes, {hits() - warm:.0f} runs of them warm", callers)
    record.notes.append(f"before the mixed runs {before.asdict()}, after them {after.asdict()}")
    record.notes += callers.wrong
    for what, got in (
        ("mixed runs: requests never answered", callers.counts["lost"]),
        ("mixed runs: wrong answers", callers.counts["wrong"]),
        ("processes left over", after.workers - before.workers + after.zombies),
        ("descriptors of the front left over", after.front_fds - before.front_fds),
        ("descriptors of the zygote left over", after.zygote_fds - before.zygote_fds),
    ):
        record.bars.append(Bar(what=what, want=0, got=got))
    for what, grown in (
        ("the front has grown", after.front_kib - before.front_kib),
        ("the zygote has grown", after.zygote_kib - before.zygote_kib),
    ):
        record.bars.append(Bar(what=what, want=8, got=round(grown / 1024, 1), unit="MiB"))


def chaos(record: Record, server: Server, one: Asked, seconds: float) -> None:
    """Kill templates and children while callers ask. Who was being served is told so; nobody waits for ever."""
    killed: Counter[str] = Counter()
    chance = random.Random(1)
    end = time.monotonic() + seconds
    answer = json.dumps(one.data).encode() + b"\n"

    def kill() -> None:
        while time.monotonic() < end:
            time.sleep(chance.expovariate(KILLS_PER_S))
            # Templates lead process groups, which their children are in; workers are in the zygote's.
            with contextlib.suppress(ProcessLookupError):
                zygotes = census.zygotes(server.front)
                groups = {pid: os.getpgid(pid) for pid in census.workers(server.front)}
                below = [pid for pid in groups if groups[pid] not in zygotes]
                # Mostly children: a template that is killed again and again is started later each time.
                kind = chance.choices(("template", "child"), (1, 9))[0]
                chosen = [pid for pid in below if (groups[pid] == pid) == (kind == "template")]
                if chosen:
                    os.kill(chance.choice(chosen), signal.SIGKILL)
                    killed[kind] += 1

    def right(status: int, body: bytes) -> bool:
        return (status, body) == (200, answer) or (status == 500 and b"worker process running it" in body)

    asking = Asking(body=one.body(), right=right)
    killer = threading.Thread(target=kill)
    killer.start()
    callers = Callers(server.target(0, warm=True).url, CALLERS, lambda _: asking if time.monotonic() < end else None)
    callers.run()
    killer.join()
    add(record, f"{killed['template']} templates and {killed['child']} children killed in {seconds:g} s", callers)
    record.notes += callers.wrong
    for what, got in (("never answered", callers.counts["lost"]), ("answered wrongly", callers.counts["wrong"])):
        record.bars.append(Bar(what=f"kills of templates and children: {what}", want=0, got=got))


def main() -> int:
    """Ask both."""
    given = options(__doc__)
    record = Record(
        question="warm_chaos",
        title="Many warm runs, and kills of templates and children",
        columns=("what", "runs", "right", "wrong", "never answered", "callers that left"),
    )
    one = asked()[0]
    with tempfile.TemporaryDirectory() as folder:
        server = Server([one], Path(folder))
        with server.running:
            leftovers(record, server, 300 if given.quick else MIXED_RUNS)
            server.warm_up(0, one)
            chaos(record, server, one, 10.0 if given.quick else CHAOS_S)
    return end(record, given)


if __name__ == "__main__":
    sys.exit(main())
