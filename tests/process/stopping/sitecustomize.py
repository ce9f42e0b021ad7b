"""Stops every zygote of a server under test at its start, while there is a file that an environment variable names.

A test that stopped it from outside would have to be faster than the zygote. Python reads this file at its start because
the folder is on PYTHONPATH, which the tests set.
"""

import os
import signal
import sys

if any("sandboxd.zygote.main" in word for word in sys.orig_argv) and os.path.exists(os.environ["PYTHON_STOPS_IF"]):
    os.kill(os.getpid(), signal.SIGSTOP)
