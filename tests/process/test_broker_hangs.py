"""An egress broker that hangs is replaced after a bounded time, and its last words are told."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sandboxd.broker import client as client_module
from sandboxd.broker.client import BrokerClient
from sandboxd.limits import EngineSettings
from sandboxd.wire import messages as m
from tests.process import tree
from tests.waiting import until

LOAD = m.Load(engine=EngineSettings(), outbound=m.OutboundSettings(), guests=())


class Nobody:
    """Events that do not come: there are no workers."""

    def __getattr__(self, name: str) -> object:
        raise AssertionError(name)


async def replaced(
    said: Callable[[], str], monkeypatch: pytest.MonkeyPatch, hang: Callable[[int], None]
) -> tuple[str, str]:
    """Start a broker, have it hang, and return what was logged until another one was started, and its state then."""
    client = BrokerClient(Nobody(), dict(os.environ))  # type: ignore[arg-type]
    client.learn(1, LOAD)
    first = client.pid
    assert first is not None
    try:
        await asyncio.to_thread(until, lambda: "egress broker serves" in said() or "stuck" in said(), "a broker")
        # From here on it is asked often. Before, on a slow machine, it would be killed before it has said a word.
        monkeypatch.setattr(client_module, "PING_S", 0.05)
        hang(first)
        await asyncio.to_thread(until, lambda: client.restarts and client.pid not in (None, first), "another broker")
    finally:
        await client.close(0.1)
    return said(), tree.state(first)


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """Everything logged so far."""
    caplog.set_level(logging.INFO, logger="sandboxd.broker")
    monkeypatch.setattr(client_module, "LAST_WORDS_S", 0.2)
    return lambda: "\n".join(record.getMessage() for record in caplog.records)


def test_a_stopped_one(said: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> None:
    told, state = asyncio.run(replaced(said, monkeypatch, lambda pid: os.kill(pid, signal.SIGSTOP)))
    assert "the egress broker did not answer for 0.25 s and was killed; it wrote nothing to standard error" in told
    assert state == ""


def test_one_that_never_answers_says_its_last_words(
    said: Callable[[], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "broker"
    program.write_text("#!/bin/sh\necho 'stuck here' >&2; exec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    told, state = asyncio.run(replaced(said, monkeypatch, lambda _: None))
    assert "the egress broker did not answer for 0.25 s and was killed; its last words: stuck here" in told
    assert state == ""
