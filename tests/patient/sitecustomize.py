"""Gives a server under test more patience than users want, for busy machines.

Its front waits half a minute for a worker to begin and to end a guest at its deadline, before it kills the worker
(otherwise two seconds and a fifth of one), and as long for a caller on a kept connection to ask once more at the end of
the server (otherwise two seconds). Python reads this file at its start because the folder is on PYTHONPATH, which the
tests set (`tests.running.PATIENT`).
"""

import sys

if "serve" in sys.orig_argv:
    from sandboxd.front.servers import serving
    from sandboxd.pool import sweep, worker

    sweep.GRACE_NS = worker.STALLED_NS = 30 * 10**9
    serving.IDLE_CLOSE_S = 30.0
