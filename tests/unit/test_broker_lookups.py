"""Name look-ups of the egress broker, where the DNS of some bindings never answers."""

import _thread
import asyncio
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from hostfuncs.outbound import network
from hostfuncs.outbound.addresses import Address
from hostfuncs.outbound.inline_task import InlineTask
from sandboxd.broker import lookups
from tests.waiting import until

WITHIN_S = 30


class SilentNames:
    """A resolver that answers `localhost` at once, and any other name when it is told to."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answering = threading.Event()
        self._resolve = socket.getaddrinfo

    def __call__(self, host: bytes, port: int, **named: Any) -> Any:
        if host != b"localhost":
            self.asked.append(host.decode("ascii"))
            if not self.answering.wait(20 * WITHIN_S):
                raise AssertionError("the test has left this thread behind")
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return self._resolve("127.0.0.1", port, **named)

    async def were_asked(self, count: int) -> None:
        """Wait until this many names have threads of their own."""
        await asyncio.to_thread(until, lambda: len(self.asked) >= count, f"{count} names that are being looked up")


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[SilentNames]:
    names = SilentNames()
    monkeypatch.setattr(socket, "getaddrinfo", names)
    yield names
    names.answering.set()


def run(body: Callable[[lookups.LookUps], Coroutine[Any, Any, None]], silent: SilentNames) -> None:
    async def main() -> None:
        try:
            await body(lookups.LookUps())
        finally:
            silent.answering.set()

    asyncio.run(main())


def ask(names: lookups.LookUps, binding: str, count: int) -> list[asyncio.Task[list[Address]]]:
    """Ask for names that are not answered."""
    return [asyncio.create_task(names.resolve(binding, f"{number}.{binding}.example", 80)) for number in range(count)]


async def resolves(names: lookups.LookUps, binding: str) -> None:
    async with asyncio.timeout(WITHIN_S):
        assert [str(address) for address in await names.resolve(binding, "localhost", 80)] == ["127.0.0.1"]


@pytest.mark.parametrize("hostile", [8, 16, 40])
def test_bindings_whose_dns_is_silent_keep_no_other_from_its_own(silent: SilentNames, hostile: int) -> None:
    """However many they are, and also where their guests have given up: no look-up can be interrupted."""

    async def body(names: lookups.LookUps) -> None:
        for number in range(hostile):
            given_up = ask(names, f"hostile{number}", network.LOOK_UPS + 3)
            await silent.were_asked(len(silent.asked) + 1)
            for task in given_up[::2]:
                task.cancel()
        await resolves(names, "honest")
        # The honest one may go on, and others come.
        await resolves(names, "honest")
        await resolves(names, "another")

    run(body, silent)


def test_the_threads_are_bounded(silent: SilentNames) -> None:
    """Those in common, and one for each binding."""

    async def body(names: lookups.LookUps) -> None:
        for number in range(40):
            ask(names, f"hostile{number}", network.LOOK_UPS + 3)
        await silent.were_asked(lookups.COMMON)
        await resolves(names, "honest")
        assert len(silent.asked) <= lookups.COMMON + 40
        assert len({name.partition(".")[2] for name in silent.asked}) == 40

    run(body, silent)


def test_one_binding_has_its_part_and_no_more(silent: SilentNames) -> None:
    async def body(names: lookups.LookUps) -> None:
        tasks = ask(names, "hostile", network.LOOK_UPS + 3)
        await silent.were_asked(network.LOOK_UPS)
        for task in tasks[: network.LOOK_UPS]:
            task.cancel()
        # Those that were given up hold their threads, so what waits goes on waiting.
        await resolves(names, "honest")
        assert len(silent.asked) == network.LOOK_UPS
        silent.answering.set()
        async with asyncio.timeout(WITHIN_S):
            ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(error) for error in ended] == [asyncio.CancelledError] * network.LOOK_UPS + [socket.gaierror] * 3
        await resolves(names, "hostile")

    run(body, silent)


def test_what_was_given_up_while_it_waited_is_never_looked_up(silent: SilentNames) -> None:
    async def body(names: lookups.LookUps) -> None:
        tasks = ask(names, "hostile", network.LOOK_UPS + 3)
        await silent.were_asked(network.LOOK_UPS)
        for task in tasks[network.LOOK_UPS :]:
            task.cancel()
        silent.answering.set()
        async with asyncio.timeout(WITHIN_S):
            await asyncio.gather(*tasks, return_exceptions=True)
        await resolves(names, "hostile")
        assert len(silent.asked) == network.LOOK_UPS

    run(body, silent)


def test_an_inline_task_that_is_cancelled_leaves_no_place_behind(silent: SilentNames) -> None:
    """The broker's dials are such tasks. They are cancelled before, while and after their name has been answered."""

    async def body(names: lookups.LookUps) -> None:
        loop = asyncio.get_running_loop()

        async def dial(host: str) -> None:
            try:
                await names.resolve("caller", host, 80)
            except socket.gaierror:
                return

        for host in ("silent.example", "localhost") * (2 * network.LOOK_UPS):
            task = InlineTask(loop, dial(host))
            task.begin()
            await asyncio.sleep(0)
            task.cancel()
        silent.answering.set()
        for _ in range(2 * network.LOOK_UPS):
            await resolves(names, "caller")

    run(body, silent)


def test_a_look_up_without_a_thread_fails_and_keeps_no_place(
    silent: SilentNames, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(names: lookups.LookUps) -> None:
        def refuse(*_arguments: object, **_named: object) -> None:
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patch:
            patch.setattr(_thread, "start_new_thread", refuse)
            for _ in range(network.LOOK_UPS + 1):
                with pytest.raises(socket.gaierror, match="no thread for the look-up"):
                    async with asyncio.timeout(WITHIN_S):
                        await names.resolve("caller", "0.caller.example", 80)
        await resolves(names, "caller")
        assert not silent.asked

    run(body, silent)


def test_an_error_of_another_kind_reaches_whoever_asked_and_keeps_no_place(
    silent: SilentNames, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(names: lookups.LookUps) -> None:
        def fail(*_arguments: object, **_named: object) -> None:
            raise MemoryError

        with monkeypatch.context() as patch:
            patch.setattr(socket, "getaddrinfo", fail)
            for _ in range(network.LOOK_UPS + 1):
                with pytest.raises(MemoryError):
                    async with asyncio.timeout(WITHIN_S):
                        await names.resolve("caller", "0.caller.example", 80)
        await resolves(names, "caller")

    run(body, silent)
