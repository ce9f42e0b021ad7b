"""Hypercorn's requests tell of a caller that hung up, whether or not anybody receives."""

import asyncio

from sandboxd.front.servers.hypercorn_inbox import Inbox

PIECE = {"type": "http.request", "body": b"x", "more_body": True}
LEFT = {"type": "http.disconnect"}


def test_a_disconnect_is_told_at_once_and_once() -> None:
    async def main() -> list[str]:
        told: list[str] = []
        inbox = Inbox(2)
        await inbox.put(PIECE)
        assert await inbox.get() == PIECE
        inbox.tell(lambda: told.append("gone"))
        assert told == []
        await inbox.put(LEFT)
        await inbox.put(LEFT)
        return told

    assert asyncio.run(main()) == ["gone"]


def test_who_asks_too_late_is_told_and_who_asks_no_more_is_not() -> None:
    async def main() -> None:
        told: list[str] = []
        inbox = Inbox(3)
        inbox.tell(lambda: told.append("first"))
        inbox.tell(None)
        await inbox.put(LEFT)
        assert told == []
        inbox.tell(lambda: told.append("late"))
        assert told == ["late"]

    asyncio.run(main())


def test_what_still_comes_of_a_body_that_nobody_reads_holds_nothing_up() -> None:
    """The body is longer than the limit. Hypercorn reads nothing, not even the end, while it waits for room."""

    async def main() -> list[str]:
        told: list[str] = []
        inbox = Inbox(1)
        await inbox.put(PIECE)
        putting = asyncio.create_task(inbox.put(PIECE))
        await asyncio.sleep(0)
        assert not putting.done()
        inbox.tell(lambda: told.append("gone"))
        await asyncio.wait_for(putting, 60)
        for _ in range(20):
            await asyncio.wait_for(inbox.put(PIECE), 60)
        await asyncio.wait_for(inbox.put(LEFT), 60)
        return told

    assert asyncio.run(main()) == ["gone"]
