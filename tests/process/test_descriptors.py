"""A front that runs out of descriptors, and the workers that it cannot use."""

import os
import resource
import signal
from pathlib import Path

from tests.conftest import guest_component
from tests.process import tree
from tests.running import RunningServer, write_components
from tests.waiting import until


def test_a_front_without_descriptors_for_a_worker_has_the_next_one(tmp_path: Path) -> None:
    resources = write_components(tmp_path, [guest_component("echo")])
    with RunningServer(resources, "--workers", "2") as server, server.client() as client:
        front = server.process.pid
        soft, hard = resource.prlimit(front, resource.RLIMIT_NOFILE)
        until(lambda: server.metric("sandboxd_pool_workers", state="idle") == 2, "two workers")
        # On a connection of its own that stays: when it is answered the ones before have been closed.
        assert [client.get("/readyz").status_code for _ in range(3)] == [200] * 3
        victim = tree.workers(server)[0]
        # Three descriptors come with a worker. The only room is what the victim leaves: its socket, its pidfd.
        taken = {int(name) for name in os.listdir(f"/proc/{front}/fd")}
        lowest_free = next(number for number in range(len(taken) + 1) if number not in taken)
        resource.prlimit(front, resource.RLIMIT_NOFILE, (max(lowest_free, 3), hard))
        os.kill(victim, signal.SIGKILL)
        server.wait_for(
            lambda line: any(text in str(line) for text in ("without its descriptors", "Too many open files"))
        )
        resource.prlimit(front, resource.RLIMIT_NOFILE, (soft, hard))
        until(lambda: server.metric("sandboxd_pool_workers", state="idle") == 2, "two workers again")
        before = set(tree.workers(server))
        for worker in before:
            os.kill(worker, signal.SIGKILL)
        until(lambda: len(set(tree.workers(server)) - before) == 2, "two further workers")
        until(lambda: server.metric("sandboxd_pool_workers", state="idle") == 2, "both of them idle")
        assert server.invoke("echo", 2).content == b"2"
        assert "Traceback" not in server.text()
        assert server.metric("sandboxd_worker_exits_total", reason="boot_failed") >= 1
