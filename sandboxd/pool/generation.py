"""A generation: one set of guests, and the zygote that loaded them and forks its workers.

A reload starts a new generation beside the serving one and then switches over; the old one finishes what it has begun.
"""

import asyncio
import logging
from collections.abc import Container, Mapping
from typing import Final, NamedTuple

from hostfuncs import texts
from sandboxd.limits import Limits
from sandboxd.log import fields
from sandboxd.pool import faults
from sandboxd.wall import Layer, Mode
from sandboxd.wire import messages as m
from sandboxd.zygote.client import ZygoteClient

log = logging.getLogger("sandboxd.pool")

SHORT_NS = 500_000
"""Invocations of a binding whose recent runs were shorter than this may be sent ahead to a busy worker."""
LONG_NS = 4 * SHORT_NS
"""One run of at least this length stops that at once."""


_AT_ONCE: Final = 64
"""Of many guests, the state of so many is made in one turn of the event loop: about a millisecond."""
_DEFAULT_RULES: Final = ("", "default")
"""The rules that a record of an outbound request names where no pattern of the operator's matched."""
_DEFAULT_LIMITS: Final = Limits()


class Holding(NamedTuple):
    """The workers and invocations that one binding may hold."""

    share: int
    """The workers while others wait."""
    limit: int
    """The workers at the most."""
    sent: int
    """The invocations that may be sent at once, look-ahead included."""


class GuestEntry:
    """The state of one binding in one generation.

    Parameters:
        index: its position in the zygote's list.
        binding: its name.
        limit: the most workers that it may hold.
        share: the workers that it may hold while others wait; 0 means `limit`. See `sandboxd.pool.spares`.
        why_failed: the reason why the zygote could not load it; empty if it has loaded.
        short_limit: the most invocations sent at once, look-ahead included; 0 means `limit`.
        limits: of one invocation.
        warm: how it is started warm; None if it is not.
        rules: what the records of its outbound requests may name.
    """

    __slots__ = (
        "average_ns",
        "binding",
        "frame_bytes",
        "held",
        "index",
        "limit",
        "limits",
        "rules",
        "running",
        "share",
        "short_limit",
        "warm",
        "why_failed",
    )

    def __init__(
        self,
        index: int,
        binding: str,
        limit: int,
        why_failed: str = "",
        short_limit: int = 0,
        *,
        share: int = 0,
        limits: Limits = _DEFAULT_LIMITS,
        rules: frozenset[str] = frozenset(),
        warm: m.GuestWarm | None = None,
    ) -> None:
        self.limits = limits
        self.warm = warm
        self.rules = rules
        self.frame_bytes = faults.frame_bytes(limits, rules)
        """The longest frame that an honest worker sends for it."""
        self.index = index
        self.binding = binding
        self.limit = limit
        self.short_limit = short_limit or limit
        self.share = share or limit
        self.why_failed = why_failed
        self.running = 0
        """The number of its invocations that are in flight."""
        self.held = 0
        """The number of workers at which they are."""
        self.average_ns = float(SHORT_NS)

    def __repr__(self) -> str:
        held = f"{self.held}/{self.share}/{self.limit}"
        return f"<GuestEntry {self.binding} held={held} average={self.average_ns / 1e3:.0f}us>"

    @property
    def short(self) -> bool:
        """Whether its recent runs were so short that waiting in a busy worker's socket is faster than in the queue."""
        return self.average_ns < SHORT_NS

    @property
    def free(self) -> int:
        """The number of further workers to which it may be sent."""
        return min(self.limit - self.held, self.short_limit - self.running)

    @property
    def below_limit(self) -> bool:
        """Whether it may be sent to one more worker."""
        return self.held < self.limit and self.running < self.short_limit

    @property
    def within_share(self) -> bool:
        """Whether it may be sent to one more worker even if others wait."""
        return self.held < self.share and self.running < self.short_limit

    def may_follow(self, holding: Container[str]) -> bool:
        """Return whether one more invocation may be sent ahead to a busy worker.

        A guest that was always fast may hang the next time, so it gets no worker beyond its share this way.

        Parameters:
            holding: the bindings whose invocations are at that worker.
        """
        if self.average_ns >= SHORT_NS or self.running >= self.short_limit:
            return False
        return self.held < self.share or self.binding in holding

    def observe(self, took_ns: int) -> None:
        """Add a run's duration to the average. One long run stops look-ahead at once; short runs restore it slowly."""
        if took_ns >= LONG_NS:
            self.average_ns = float(took_ns)
        else:
            self.average_ns += (took_ns - self.average_ns) * 0.2


class Generation:
    """One set of guests and its zygote.

    Parameters:
        number: 1 for the first; each reload increases it by one.
        load: what the zygote loads.
        limits: of each binding.
        client: the zygote's client, not started.
    """

    def __init__(self, number: int, load: m.Load, limits: dict[str, Holding], client: ZygoteClient) -> None:
        self.number = number
        self.entries: dict[str, GuestEntry] = {}
        self.client = client
        self.boot_failures = 0
        """The number of workers in a row that did not become ready."""
        self.wall: Mapping[Layer, bool] = dict.fromkeys(Layer, False)
        """By layer, whether it stands around the workers."""
        self.retiring = False
        self.brokered = False
        """Whether its workers connect by the egress broker."""
        self._load = load
        self._limits = limits

    def __repr__(self) -> str:
        return f"<Generation {self.number} guests={len(self.entries)}{' lost' if self.lost else ''}>"

    @property
    def lost(self) -> bool:
        """Whether its zygote has died."""
        return self.client.lost

    async def start(self, timeout_s: float) -> tuple[tuple[str, str], ...]:
        """Start the zygote and load the guests.

        Parameters:
            timeout_s: the time limit.

        Returns:
            (binding, reason) for each guest that could not be loaded.

        Raises:
            ZygoteError: no guest can run at all.
        """
        loaded = await self.client.start(self._load, timeout_s)
        self.brokered = loaded.brokered
        self._note_wall(dict(loaded.missing_layers))
        self._note_native(built=loaded.native)
        failed = {binding: texts.bounded(why) for binding, why in loaded.failed}
        for index, spec in enumerate(self._load.guests):
            if index % _AT_ONCE == 0:
                await asyncio.sleep(0)
            name = spec.binding
            holding = self._limits[name]
            patterns = spec.allowed_outbound_hosts
            if patterns is None:
                patterns = self._load.outbound.default_allowed_hosts or ()
            self.entries[name] = GuestEntry(
                index,
                name,
                holding.limit,
                failed.get(name, ""),
                holding.sent,
                share=holding.share,
                limits=spec.limits,
                rules=frozenset((*_DEFAULT_RULES, *patterns)),
                warm=spec.warm,
            )
        return tuple(failed.items())

    def _note_wall(self, missing: Mapping[str, str]) -> None:
        self.wall = {layer: layer not in missing for layer in Layer}
        standing = [layer for layer, stands in self.wall.items() if stands]
        if missing and self._load.confinement.wall != Mode.OFF:
            log.warning(
                "the wall around the workers lacks %s",
                "; ".join(f"{layer} ({why})" for layer, why in missing.items()),
                extra=fields(event="wall", detail=" ".join(standing) or "none"),
            )
        else:
            log.info("the wall around the workers: %s", " ".join(standing) or "none", extra=fields(event="wall"))

    def _note_native(self, *, built: bool) -> None:
        if not self._load.engine.native_functions:
            where = "in Python, as wasm.nativeFunctions is off"
        elif not built:
            where = "in Python, which takes twice as long for small guests: `python -m hostfuncs.native` says why"
        else:
            where = "in C"
        log.info("the host functions of preview 1 run %s", where, extra=fields(event="native"))

    def runs(self, binding: str) -> bool:
        """Return whether it has loaded this guest."""
        entry = self.entries.get(binding)
        return entry is not None and not entry.why_failed
