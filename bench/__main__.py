"""The suite: every question in a process of its own, then tables and pictures of all records.

    python -m bench [--quick] [--only NAME ...] [--timeout SECONDS]

Runs unattended; the full suite records flame graphs at its end. A question that fails or takes too long is reported,
and the others go on. The exit status is 1 if one failed, 2 if a bar was missed, else 0.
"""

import argparse
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from bench import report
from bench.measure import RESULTS, ROOT, python_module

TIMEOUT_S = 1200


@dataclass(frozen=True)
class Question:
    """One file of this folder, and its arguments beside `--json FILE`."""

    name: str
    full: tuple[str, ...] = ()
    quick: tuple[str, ...] = ("--quick",)

    @property
    def there(self) -> bool:
        """Whether the file is."""
        return (Path(__file__).parent / f"{self.name}.py").is_file()


QUESTIONS = (
    Question("invoke"),
    Question("spawn"),
    Question("files"),
    Question("warm"),
    Question("warm_chaos"),
    Question("server"),
    Question("grpc"),
    Question("peer"),
    Question("tail"),
    Question("scaling"),
    Question("outbound", quick=("--rounds", "2", "--requests", "100")),
    Question("overload"),
    Question("fairness"),
    Question("many"),
    Question("reload"),
    Question("chaos"),
    Question("soak"),
)


def run(question: Question, *, quick: bool, timeout_s: float) -> str:
    """Ask one; empty, or what went wrong."""
    record = RESULTS / f"{question.name}.json"
    record.unlink(missing_ok=True)
    arguments = question.quick if quick else question.full
    print(f"== {question.name}", flush=True)
    began = time.monotonic()
    process = subprocess.Popen(
        python_module(f"bench.{question.name}", *arguments, "--json", str(record)),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
    )
    try:
        status = process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        # Its servers end with the sockets it holds.
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
        return f"did not end within {timeout_s:.0f} s"
    print(f"   {time.monotonic() - began:.0f} s", flush=True)
    if status:
        return f"exited with {status}"
    # Beside a peer that is not there nothing is measured.
    return "" if record.is_file() or question.name == "peer" else "left no record"


def main() -> int:
    """Ask all that were asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="short runs, for a look; figures are noisy")
    parser.add_argument(
        "--only", action="append", choices=[q.name for q in QUESTIONS], help="may be given several times"
    )
    parser.add_argument("--timeout", type=float, default=TIMEOUT_S, help="of one question, in seconds")
    given = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    wanted = [q for q in QUESTIONS if q.there and (not given.only or q.name in given.only)]
    failed = {}
    for question in wanted:
        wrong = run(question, quick=given.quick, timeout_s=given.timeout)
        if wrong:
            failed[question.name] = wrong
            print(f"FAILED {question.name}: {wrong}", flush=True)
    missed = report.verdict([question.name for question in wanted])
    if not given.quick:
        subprocess.run(python_module("bench.flame"), cwd=ROOT, stdin=subprocess.DEVNULL, timeout=120, check=False)
        report.write()
    for name, wrong in failed.items():
        print(f"FAILED {name}: {wrong}")
    return 1 if failed else 2 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
