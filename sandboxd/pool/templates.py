"""The table of templates: which arguments are started warm, from which template, and how many children are kept ready.

There is no I/O here: `Actions` does what is decided. Everything happens in synchronous steps, under one clock that the
caller reads. Whatever the answer is, an invocation can always run cold, so nothing here makes a caller wait or fail.
"""

from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Final, Generic, Protocol

from sandboxd.pool.template import Child, Key, Miss, Template, TemplateEvent, TemplateState
from sandboxd.wire.messages import GuestWarm

SEEN_MIN: Final = 2
"""The sighting of a key at which its template is started. What comes once needs none."""
COUNTED_MAX: Final = 1_000
"""The most keys that are counted; the least recently seen is forgotten."""
KEEP_NS: Final = 5_000_000_000
"""A template that was used so recently is not ended for another key's: many keys in turn would boot for ever."""
BACKOFF_FIRST_NS: Final = 100_000_000
BACKOFF_MAX_NS: Final = 60_000_000_000
"""The bounds of the time after which a template that failed is started again. It doubles with each failure in a row."""
HOPELESS_NS: Final = 600_000_000_000
"""The same for a guest that cannot be parked."""
WORTH_WAITING: Final = 3
"""An invocation waits for a child only if the guest took so many times the processor time to start as a child takes."""
WORTH_STARTING: Final = 6
"""A template is kept only if its guest took so many times the processor time to start as a child takes to be ready. The
fork before that, the pages that the child copies while it runs and its end cost about three times as much again."""
LOST_MAX: Final = 3
"""So many children in a row that do not become ready are a failure of their template."""
WINDOW_NS: Final = 10_000_000_000
"""If a child was to spare for so long, one fewer is kept ready."""


class Actions(Protocol[Child]):
    """Does what the table has decided. Nothing here calls back at once."""

    def boot(self, template: Template[Child]) -> None:
        """Start the template's process."""

    def fork(self, template: Template[Child]) -> None:
        """Have the template fork one child."""

    def end(self, template: Template[Child]) -> None:
        """End the template's process, if it has one."""

    def end_child(self, child: Child) -> None:
        """End a parked child."""


class Templates(Generic[Child]):
    """The templates of one generation.

    Parameters:
        actions: see there.
        memory_bytes: what all templates together may touch.
    """

    def __init__(self, actions: Actions[Child], memory_bytes: int) -> None:
        self._actions = actions
        self._memory_bytes = memory_bytes
        self._templates: OrderedDict[Key, Template[Child]] = OrderedDict()
        """The least recently used first."""
        self._seen: OrderedDict[int, int] = OrderedDict()
        self._retired = False

    def __repr__(self) -> str:
        return f"<Templates {[template.state.name for template in self._templates.values()]}>"

    def __iter__(self) -> Iterator[Template[Child]]:
        return iter(list(self._templates.values()))

    def take(self, key: Key, warm: GuestWarm, most: int, now_ns: int) -> "Child | Miss":
        """Take a parked child for an invocation, or say why there is none.

        Parameters:
            key: of the invocation.
            warm: the settings of its binding.
            most: the most workers that the binding may hold.
            now_ns: CLOCK_MONOTONIC.
        """
        template = self._templates.get(key)
        if template is None:
            return self._consider(key, warm, most, now_ns)
        self._templates.move_to_end(key)
        template.used_ns = now_ns
        if template.state is TemplateState.FAILED:
            if now_ns < template.retry_ns or template.starting:
                return template.why
            template.advance(TemplateEvent.RETRY)
            self._actions.boot(template)
        if template.state is TemplateState.BOOTING:
            return Miss.BOOTING
        if not template.ready:
            if not template.warm.instances:
                template.wanted = min(template.wanted + 1, template.most)
            self._fill(template)
            return Miss.NO_CHILD
        # The one that has waited longest: all are alike, and it is certainly ready.
        child = template.ready.popleft()
        self._adapt(template, now_ns)
        self._fill(template)
        return child

    def expects_child(self, key: Key) -> bool:
        """Return whether a child for this key is being forked, and a cold run would cost more than to wait for it.

        Processor times are compared: on a busy machine a child takes as long as a cold start did on an idle one, and
        cold runs would make it busier.

        Parameters:
            key: of the invocation.
        """
        template = self._templates.get(key)
        if template is None or template.state is not TemplateState.PARKED or not template.starting:
            return False
        return template.boot_cpu_ns >= WORTH_WAITING * template.child_cpu_ns

    def on_parked(self, template: Template[Child], private_bytes: int, boot_cpu_ns: int) -> bool:
        """Take note that a template can be forked.

        Parameters:
            template: the template.
            private_bytes: what it has touched.
            boot_cpu_ns: the processor time that its guest took.

        Returns:
            False if it takes more memory than all may. The caller then calls `on_failed`.
        """
        if template.state is not TemplateState.BOOTING:
            return True
        if private_bytes > self._memory_bytes:
            return False
        template.advance(TemplateEvent.PARKED)
        template.private_bytes = private_bytes
        template.boot_cpu_ns = boot_cpu_ns
        for other in list(self._templates.values()):
            if self.private_bytes <= self._memory_bytes:
                break
            if other is not template:
                self._retire(other)
        self._fill(template)
        return True

    @property
    def private_bytes(self) -> int:
        """The memory that the templates have touched, in bytes."""
        return sum(template.private_bytes for template in self._templates.values())

    def pays(self, template: Template[Child], child_cpu_ns: int) -> bool:
        """Return whether a start by a fork costs less than an ordinary start. If not, the caller calls `on_failed`.

        The first child of a template decides, or the operator: where the number of children is configured, it pays.

        Parameters:
            template: the template.
            child_cpu_ns: the processor time that a child of it took to be ready.
        """
        if not template.proven:
            template.child_cpu_ns = child_cpu_ns
            template.proven = bool(template.warm.instances) or template.boot_cpu_ns >= WORTH_STARTING * child_cpu_ns
        return template.proven

    def on_failed(
        self, template: Template[Child], now_ns: int, *, hopeless: bool = False, why: Miss = Miss.FAILED
    ) -> None:
        """Take note that a template has ended, or is to be given up for a while.

        Parameters:
            template: its process is ended if it is still there.
            now_ns: CLOCK_MONOTONIC.
            hopeless: whether it will most likely fail again.
            why: the reason for which its invocations run cold meanwhile.
        """
        if template.state in (TemplateState.FAILED, TemplateState.RETIRED):
            return
        template.advance(TemplateEvent.FAILED)
        template.why, template.proven, template.child_cpu_ns = why, False, 0
        delay_ns = HOPELESS_NS if hopeless else min(BACKOFF_FIRST_NS << min(template.failures, 16), BACKOFF_MAX_NS)
        template.failures += 1
        template.lost = 0
        template.retry_ns = now_ns + delay_ns
        self._empty(template)

    def on_child_ready(self, template: Template[Child], child: Child) -> bool:
        """Take over a child that is parked. Return False if nobody needs it any more."""
        template.starting = max(0, template.starting - 1)
        if template.state is not TemplateState.PARKED:
            return False
        template.lost = 0
        template.ready.append(child)
        return True

    def on_child_lost(self, template: Template[Child], child: Child, *, started: bool) -> bool:
        """Take note of a child that ends. One that was taken is no longer the table's.

        Parameters:
            template: its template.
            child: the child.
            started: whether it was ready.

        Returns:
            whether so many in a row did not become ready that the template is of no use. The caller then calls
            `on_failed`.
        """
        if started:
            if child in template.ready:
                template.ready.remove(child)
                self._fill(template)
            return False
        template.starting = max(0, template.starting - 1)
        if template.state is not TemplateState.PARKED:
            return False
        template.lost += 1
        if template.lost >= LOST_MAX:
            return True
        self._fill(template)
        return False

    def on_served(self, template: Template[Child]) -> None:
        """Take note of a result: the template does what it should."""
        template.failures = 0

    def retire_all(self) -> None:
        """Give up all templates, for good."""
        self._retired = True
        for template in list(self._templates.values()):
            self._retire(template)

    # ------------------------------------------------------------------------------------------------------------------

    def _consider(self, key: Key, warm: GuestWarm, most: int, now_ns: int) -> Miss:
        """Count a key that has no template, and start one if it comes often enough and there is room."""
        if self._retired:
            return Miss.FAILED
        name = hash(key)
        seen = self._seen.pop(name, 0) + 1
        self._seen[name] = seen
        if len(self._seen) > COUNTED_MAX:
            self._seen.popitem(last=False)
        if seen < SEEN_MIN:
            return Miss.NEW
        if not self._make_room(key.binding, warm.templates, now_ns):
            return Miss.NO_ROOM
        del self._seen[name]
        template: Template[Child] = Template(
            key, warm, max(1, most), wanted=warm.instances or 1, used_ns=now_ns, window_ns=now_ns
        )
        self._templates[key] = template
        self._actions.boot(template)
        return Miss.BOOTING

    def _make_room(self, binding: str, most: int, now_ns: int) -> bool:
        own = [template for template in self._templates.values() if template.key.binding == binding]
        if len(own) < most:
            return True
        if not own or now_ns - own[0].used_ns < KEEP_NS:
            return False
        self._retire(own[0])
        return True

    def _fill(self, template: Template[Child]) -> None:
        while len(template.ready) + template.starting < template.wanted:
            template.starting += 1
            self._actions.fork(template)

    def _adapt(self, template: Template[Child], now_ns: int) -> None:
        """Keep fewer children ready if some were to spare all the time."""
        template.spare = min(template.spare, len(template.ready))
        if now_ns - template.window_ns < WINDOW_NS:
            return
        if template.spare and not template.warm.instances and template.wanted > 1:
            template.wanted -= 1
            self._actions.end_child(template.ready.pop())
        template.window_ns = now_ns
        template.spare = len(template.ready)

    def _retire(self, template: Template[Child]) -> None:
        template.advance(TemplateEvent.RETIRE)
        del self._templates[template.key]
        self._empty(template)

    def _empty(self, template: Template[Child]) -> None:
        template.private_bytes = 0
        children, template.ready = template.ready, deque()
        self._actions.end(template)
        for child in children:
            self._actions.end_child(child)
