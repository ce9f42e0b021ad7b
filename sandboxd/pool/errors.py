"""The reasons why the pool refuses an invocation: three rejections for lack of a worker, and an unavailable binding."""

from enum import StrEnum


class RejectReason(StrEnum):
    """The reason of a rejection: the `reason` label of `sandboxd_pool_rejected_total`."""

    QUEUE_FULL = "queue_full"
    BINDING_SHARE = "binding_share"
    QUEUE_TIMEOUT = "queue_timeout"
    DRAINING = "draining"


class Rejected(Exception):  # noqa: N818 - named as the outcome is
    """No worker was available. It is the base of the three rejections, each of which has its `reason`."""

    reason: RejectReason
    retry_after_s = 1
    """The delay after which the caller may retry, in seconds."""


class QueueFull(Rejected):
    """The queue holds as many invocations as it may."""

    reason = RejectReason.QUEUE_FULL


class BindingShareReached(QueueFull):
    """The binding has as many invocations running and waiting as its share allows; there is room for others."""

    reason = RejectReason.BINDING_SHARE


class QueueTimeout(Rejected):
    """No worker became free before the queue timeout."""

    reason = RejectReason.QUEUE_TIMEOUT


class PoolClosing(Rejected):
    """The server is shutting down."""

    reason = RejectReason.DRAINING


class BindingUnavailable(Exception):  # noqa: N818 - likewise
    """The binding is configured but cannot run: it is still loading, or failed to load.

    Parameters:
        binding: its name.
        why: the reason, for the caller.
        loading: whether it is still loading, so that the caller should retry.
    """

    def __init__(self, binding: str, why: str, *, loading: bool) -> None:
        super().__init__(f"binding {binding} is not available: {why}")
        self.binding = binding
        self.why = why
        self.loading = loading
