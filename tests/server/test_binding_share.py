"""One hot binding among several: it has what is idle, and others have the next worker."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.conftest import guest_component
from tests.running import RunningServer, write_components
from tests.waiting import until


def test_a_hot_binding_uses_every_worker_and_keeps_nobody_waiting(tmp_path: Path) -> None:
    documents = [guest_component("loop", timeout="30s"), guest_component("echo")]
    resources = write_components(tmp_path / "resources", documents)
    # Of two workers and four places, half is one worker and two places.
    environ = {
        "SANDBOXD_POOL_MAX_BINDING_SHARE": "50",
        "SANDBOXD_POOL_QUEUE_LIMIT": "4",
        "SANDBOXD_DRAIN_TIMEOUT": "0s",
    }
    with (
        RunningServer(resources, "--workers", "2", environ=environ) as server,
        ThreadPoolExecutor(4) as callers,
    ):
        held = [callers.submit(server.invoke, "loop") for _ in range(4)]
        until(lambda: server.metric("sandboxd_binding_queue_depth", binding="loop") == 2, "two wait")
        assert server.metric("sandboxd_binding_in_flight", binding="loop") == 2
        assert server.metric("sandboxd_binding_in_flight_limit", binding="loop") == 1
        assert server.metric("sandboxd_pool_workers", state="idle") == 0
        assert server.metric("sandboxd_pool_workers_spare") == 0, "nobody else waits"
        assert server.invoke("loop").status_code == 503
        assert server.metric("sandboxd_pool_rejected_total", reason="binding_share") == 1
        assert server.metric("sandboxd_pool_rejected_total", reason="queue_full") == 0
        for _ in range(3):
            assert server.invoke("echo", "x").status_code == 200
        assert server.metric("sandboxd_pool_workers_spare") == 1
        assert server.metric("sandboxd_pool_spare_starts_total") == 1, "it was kept for the next"
        assert server.metric("sandboxd_binding_in_flight", binding="loop") == 2, "and not lent"
        server.terminate()
        for call in held:
            call.exception()
