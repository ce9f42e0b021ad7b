"""Hypercorn's requests tell of a caller that hung up, whether or not anybody receives."""

import asyncio

from sandboxd.front.hypercorn_inbox import Inbox

PIECE = {"type": "http.request", "body": b"x", "more_body": True}
LEFT = {"type": "http.disconnect"}


def test_a_departure_is_told_at_once_and_once() -> None:
    async def main() -> list[str]:
        told: list[str] = []
        inbox = Inbox(2)
        inbox.tell(lambda: told.append("gone"))
        await inbox.put(PIECE)
        assert told == []
        await inbox.put(LEFT)
        assert told == ["gone"]
        assert [await inbox.get(), await inbox.get()] == [PIECE, LEFT]
        return told

    assert asyncio.run(main()) == ["gone"]


def test_it_does_not_wait_for_what_nobody_has_received() -> None:
    async def main() -> None:
        told: list[str] = []
        inbox = Inbox(1)
        await inbox.put(PIECE)
        inbox.tell(lambda: told.append("gone"))
        putting = asyncio.create_task(inbox.put(LEFT))
        await asyncio.sleep(0)
        assert told == ["gone"]
        assert not putting.done()
        putting.cancel()

    asyncio.run(main())


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
