"""Has the front of a server under test wait half a minute for a worker: to begin, and to end a guest at its deadline.

It waits for two seconds and for a fifth of one otherwise, and then kills the worker, which a busy machine may not have
let run since. Python reads this file at its start because the folder is on PYTHONPATH, which the tests set
(`tests.running.PATIENT`).
"""

import sys

if "serve" in sys.orig_argv:
    from sandboxd.pool import sweep, worker

    sweep.GRACE_NS = worker.STALLED_NS = 30 * 10**9
