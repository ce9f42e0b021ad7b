"""The examples in docs/outbound.md do what the page says, as they stand there."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import httpx2 as httpx
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

import hostfuncs
from hostfuncs import Policy
from tests.host.legacy_guests import c_client
from tests.origins import Origin
from tests.running import RunningServer, component, write_components

pytestmark = pytest.mark.build

PAGE = Path(__file__).parents[2] / "docs/outbound.md"


def example(name: str) -> str:
    found = re.search(rf"<!-- example: {name} -->\n```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


def loaded(folder: Path, name: str) -> ModuleType:
    file = folder / f"{name}.py"
    file.write_text(example(name))
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_signing(tmp_path: Path) -> None:
    code = tmp_path / "code"
    code.mkdir()
    (code / "acme_egress.py").write_text(example("signing").replace("api.example.com", "127.0.0.1"))
    (code / "token").write_text("hunter2\n")
    hosts = {"allowedOutboundHosts": '["http://127.0.0.1:*", "http://localhost:*"]'}
    files = write_components(tmp_path / "components", [component("client", f"file://{c_client()}", **hosts)])
    environ = {"PYTHONPATH": str(code), "SANDBOXD_EGRESS_TRANSPORT": "acme_egress:sign"}
    with Origin() as origin, RunningServer(files, "--workers", "1", environ=environ) as server:
        for url in (origin.url("/status/200"), origin.url("/status/200").replace("127.0.0.1", "localhost")):
            assert "hunter2" not in server.invoke("client", "x", {"args": url}).text
        assert [seen.get("authorization") for seen in origin.seen] == ["Bearer hunter2", None]


def test_tracing(tmp_path: Path) -> None:
    spans = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    module = loaded(tmp_path, "tracing")
    module.TRACER = provider.get_tracer("acme_tracing")
    with Origin() as origin:
        urls = [origin.url("/status/418"), origin.url("/close-silently")]
        for url in urls:
            hostfuncs.run(c_client(), args=[url], policy=Policy.parse([origin.url("")]), transport=module.traced)
        (answered, failed) = spans.get_finished_spans()
        assert (answered.name, answered.attributes["http.response.status_code"]) == ("GET", 418)
        assert [span.attributes["url.full"] for span in (answered, failed)] == urls
        assert failed.status.status_code is StatusCode.ERROR
        # W3C Trace Context, section 3.2: version, trace, parent, flags.
        trace_id, span_id = answered.context.trace_id, answered.context.span_id
        assert str(origin.seen[0].get("traceparent")).startswith(f"00-{trace_id:032x}-{span_id:016x}-")


def test_record_and_replay(tmp_path: Path) -> None:
    replay = loaded(tmp_path, "replay").Replay
    tape = tmp_path / "tape.json"
    with Origin() as origin:
        url = origin.url("/repeated")
        policy = Policy.parse([origin.url("")])
        first = hostfuncs.run(c_client(), args=[url], policy=policy, transport=lambda inner: replay(tape, inner))
        assert first.ok, first
    # The origin is gone.
    again = hostfuncs.run(c_client(), args=[url], policy=policy, transport=replay(tape))
    assert (again.stdout, again.outbound[0].outcome) == (first.stdout, "ok")
    other = hostfuncs.run(c_client(), args=[url + "?x"], policy=policy, transport=replay(tape))
    assert [record.outcome for record in other.outbound] == ["destination-unavailable"]


def test_the_extensions_have_the_names_of_the_page() -> None:
    from hostfuncs.outbound import transport

    page = PAGE.read_text(encoding="utf-8")
    for name in ("RULE", "TRAILERS", "FIRST_BYTE_TIMEOUT", "BETWEEN_BYTES_TIMEOUT"):
        assert f"`{getattr(transport, name)}`" in page
    assert issubclass(transport.PolicyTransport, httpx.AsyncBaseTransport)
