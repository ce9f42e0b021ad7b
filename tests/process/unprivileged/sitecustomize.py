"""Takes every capability from the Python processes of a test, so that root can do no more than any other user.

Python reads this file at its start because the folder is on PYTHONPATH, which the test sets.
"""

import ctypes
import struct

_PR_CAPBSET_DROP = 24
_VERSION_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)
for _capability in range(64):
    _libc.prctl(_PR_CAPBSET_DROP, _capability, 0, 0, 0)
_libc.capset(struct.pack("=Ii", _VERSION_3, 0), bytes(24))
