"""Why an invocation was not taken. Three refusals with three names, and one for a binding that is not there."""


class Rejected(Exception):  # noqa: N818 - the name of what happened, as in the outcome
    """No worker could be had. `reason` is the label of `sandboxd_pool_rejected_total`."""

    reason = "rejected"
    retry_after_s = 1
    """What the caller is told to wait before the next try. Seconds."""


class QueueFull(Rejected):
    """As many invocations wait as may wait."""

    reason = "queue_full"


class QueueTimeout(Rejected):
    """No worker became free in the time an invocation may wait."""

    reason = "queue_timeout"


class PoolClosing(Rejected):
    """The server is shutting down."""

    reason = "draining"


class BindingUnavailable(Exception):  # noqa: N818 - likewise
    """The binding is configured but cannot run: it is still loading, or failed to load.

    Parameters:
        binding: its name.
        why: for the caller.
        loading: it may come up by itself; the caller should try again.
    """

    def __init__(self, binding: str, why: str, *, loading: bool) -> None:
        super().__init__(f"binding {binding} is not available: {why}")
        self.binding = binding
        self.why = why
        self.loading = loading
