"""One hot binding among several: it is told as what it is, while workers are idle."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.conftest import guest_component
from tests.running import RunningServer, write_components
from tests.waiting import until


def test_a_hot_binding_is_shown_with_its_share_and_refused_for_it(tmp_path: Path) -> None:
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
        ThreadPoolExecutor(3) as callers,
    ):
        held = [callers.submit(server.invoke, "loop") for _ in range(3)]
        until(lambda: server.metric("sandboxd_binding_queue_depth", binding="loop") == 2, "two wait")
        assert server.metric("sandboxd_binding_in_flight", binding="loop") == 1
        assert server.metric("sandboxd_binding_in_flight_limit", binding="loop") == 1
        assert server.metric("sandboxd_pool_workers", state="idle") == 1
        assert server.metric("sandboxd_binding_in_flight", binding="echo") == 0
        assert server.invoke("loop").status_code == 503
        assert server.metric("sandboxd_pool_rejected_total", reason="binding_share") == 1
        assert server.metric("sandboxd_pool_rejected_total", reason="queue_full") == 0
        assert server.metric("sandboxd_pool_saturated_total") == 0, "a worker was idle all the time"
        assert server.invoke("echo", "x").status_code == 200
        server.terminate()
        for call in held:
            call.exception()
