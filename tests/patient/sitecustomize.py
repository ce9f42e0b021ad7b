"""Has the front of a server under test wait half a minute for a guest to end at its deadline.

It waits a fifth of a second otherwise, and then kills the worker, which a busy machine may not have let run since.
Python reads this file at its start because the folder is on PYTHONPATH, which the tests set (`tests.running.PATIENT`).
"""

import sys

if "serve" in sys.orig_argv:
    from sandboxd.pool import sweep

    sweep.GRACE_NS = 30 * 10**9
