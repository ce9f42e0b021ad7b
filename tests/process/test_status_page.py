"""The status page under a writer and a reader that do not wait for each other."""

import os

from sandboxd.wire.page import PAGE_BYTES, StatusPage

FRAMES = 300_000


def test_the_number_begun_never_falls() -> None:
    """A reader that saw an older number, or 0, would take an honest worker for a liar."""
    fd = os.memfd_create("status", os.MFD_CLOEXEC)
    os.ftruncate(fd, PAGE_BYTES)
    front = StatusPage(fd)
    pid = os.fork()
    if pid == 0:
        worker = StatusPage(fd)
        for number in range(1, FRAMES + 1):
            worker.begin(number)
        os._exit(0)
    last = fallen = 0
    while last < FRAMES:
        now = front.begun()
        fallen += now < last
        last = max(last, now)
    assert os.waitpid(pid, 0)[1] == 0
    front.close()
    os.close(fd)
    assert fallen == 0
