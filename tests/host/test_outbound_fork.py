"""The engine in a plain script that forks: imports and certificates before, loop and connections after.

What only HTTP/2 and proxies need is loaded where they are asked for, and then before the fork too.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.origins import Authority, Http2Origin, Origin

SCRIPT = """
import os, sys, time
from hostfuncs.outbound import Options, Outbound, OutboundLimits, Policy, Request, Settings, warm

settings = Settings(ca_files=(sys.argv[2],), http2=sys.argv[3] == "h2")
warm(settings)
policy = Policy.parse(["https://localhost:*"])
loaded = set(sys.modules)
assert not any(name.partition(".")[0] in ("sandboxd", "wasmtime") for name in loaded), "knows the server"
http2_libraries = {name for name in loaded if name.partition(".")[0] in ("httpcore2", "h2", "anyio")}
assert bool(http2_libraries) == settings.http2, http2_libraries
for _ in range(2):
    if (child := os.fork()) == 0:
        code = 1
        try:
            outbound = Outbound(settings)
            for _ in range(2):
                exchanges = outbound.begin(policy, OutboundLimits(), time.monotonic_ns() + 20 * 10**9)
                exchange = exchanges.start(
                    Request(method="GET", scheme="https", authority="localhost:" + sys.argv[1], path_with_query="/echo")
                )
                exchanges.wait(exchange.body.complete)
                assert exchange.result().status == 200
                assert [record.outcome for record in exchanges.close()] == ["ok"]
            late = {name for name in set(sys.modules) - loaded if not name.startswith(("encodings.", "_"))}
            assert late <= {"concurrent.futures.thread", "queue"}, late
            outbound.close()
            code = 0
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.parametrize(("protocol", "kind"), [("h1", Origin), ("h2", Http2Origin)])
def test_forked_children_each_have_their_own_loop_and_connections(
    tmp_path: Path, protocol: str, kind: type[Origin | Http2Origin]
) -> None:
    authority = Authority(tmp_path)
    with kind(authority.server_context("localhost", http2=protocol == "h2")) as origin:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", SCRIPT, str(origin.port), str(authority.ca_file), protocol],
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        # Name resolution made nothing shared; each child connected once and kept it.
        assert origin.connections == 2
        assert len(origin.seen) == 4
