"""A binding: the settings of one `bindings.wasm` component."""

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from sandboxd.components.mounts import MountSettings, TmpSettings
from sandboxd.components.url import guest_name
from sandboxd.limits import Limits
from sandboxd.resiliency import Policy
from sandboxd.wire.streams import StdinKind, StdoutKind


class Isolation(StrEnum):
    """The values of `isolation`."""

    SHARED = "shared"
    """The binding's guest is loaded beside those of other bindings, and runs in the same workers."""
    OWN = "own"
    """The binding has a zygote and workers of its own, so that no other binding's process has its secrets."""


def init_error_prefix(name: str) -> str:
    """Return what daprd says before the type of a component that cannot be initialised (pkg/runtime/errors)."""
    return f"process component {name} error: [INIT_COMPONENT_FAILURE]: initialization error occurred for {name}"


@dataclass(frozen=True, kw_only=True, slots=True)
class ListedComponent:
    """A component that is loaded and listed in `GET /v1.0/metadata`, and that cannot be called."""

    name: str
    type: str
    """spec.type as written."""
    version: str
    """spec.version as written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Binding:
    """One component of type `bindings.wasm`, with its templates, secrets and defaults filled in."""

    name: str
    """metadata.name: the last path segment of its URL and the `binding` label of its metrics."""
    version: str
    """spec.version as written."""
    url: str
    """The guest's address: file://, http:// or https://."""
    sha256: str | None = None
    """The required digest of the guest's bytes, in lower-case hex; None requires none."""
    strict_sandbox: bool = False
    env: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """The operator's environment variables, in order. A request cannot override them. Values may be secrets."""
    limits: Limits = field(default_factory=Limits)
    max_concurrency: int = 0
    """The most concurrent invocations in the whole pool; 0 means the number of workers."""
    isolation: Isolation = Isolation.SHARED
    """Whether other bindings' guests run in the same processes."""
    content_type: str = "application/json"
    """Content-Type of successful replies."""
    stdin: StdinKind = StdinKind.JSON
    """The kind of text that the guest reads, unless a request asks for another."""
    stdout: StdoutKind = StdoutKind.RAW
    """The kind of reply that its stdout becomes, unless a request asks for another."""
    traceparent: bool = True
    """Whether the guest finds the trace context of its request in its environment."""
    warm_start: bool | None = None
    """Whether the guest is started ahead of requests; None leaves it to the server's settings."""
    warm_instances: int = 0
    """The parked children that are kept ready for each set of arguments; 0 adapts their number to the demand."""
    warm_templates: int = 8
    """The most sets of arguments that are started warm at once."""
    initialize: str = ""
    """The exported function that every run calls before `_start`; a guest is parked after it. Empty for none."""
    mounts: tuple[MountSettings, ...] = ()
    """Folders of the host that the guest finds."""
    tmp: TmpSettings | None = None
    """A folder in memory that each run finds empty."""
    allowed_outbound_hosts: tuple[str, ...] | None = None
    """Egress patterns; None means the server's default."""
    ignore_errors: bool = False
    """If the binding cannot be loaded, log it and serve the others."""
    init_timeout_s: float = 5.0
    """spec.initTimeout, which covers download and compilation. Dapr's default is 5 s."""
    policy: Policy | None = None
    """The policy of a Resiliency resource; None if no resource has one for it."""
    path: Path = Path()
    """The file from which it was read."""
    line: int = 0
    """The first line of its document, from 1."""
    url_line: int = 0
    """The line of its url, at which its guest is to blame; 0 if it was read from none."""

    @property
    def place(self) -> str:
        """`file:line` of what names its guest."""
        return f"{self.path}:{self.url_line or self.line}"

    def starts_warm(self, default: bool) -> bool:
        """Return whether the guest is started ahead of requests.

        A binding with a writable mount runs cold. What its guest writes to the mount before it needs input would
        otherwise be written once, and not once for each request.

        Parameters:
            default: the server's setting.
        """
        wanted = default if self.warm_start is None else self.warm_start
        return wanted and all(mount.read_only for mount in self.mounts)

    @property
    def argv0(self) -> str:
        """The guest's name, which it gets as argv[0]."""
        return guest_name(self.url)
