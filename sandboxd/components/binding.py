"""A configured binding: what one `bindings.wasm` component asks for."""

from dataclasses import dataclass, field
from pathlib import Path

from sandboxd.limits import Limits


@dataclass(frozen=True, kw_only=True, slots=True)
class Binding:
    """One component of type `bindings.wasm`, its templates, secrets and defaults resolved."""

    name: str
    """metadata.name: the last path segment of its URL and the `binding` label of its metrics."""
    version: str
    """spec.version as written."""
    url: str
    """Where the guest comes from: file://, http:// or https://."""
    sha256: str | None = None
    """Digest the guest's bytes must have, lower-case hex."""
    strict_sandbox: bool = False
    env: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """Environment fixed by the operator, in order; a request cannot override these names. Its values may be secrets."""
    limits: Limits = field(default_factory=Limits)
    max_concurrency: int = 0
    """Invocations at once over the whole pool; 0 means as many as there are workers."""
    content_type: str = "application/json"
    """Content-Type of successful replies."""
    allowed_outbound_hosts: tuple[str, ...] | None = None
    """Egress patterns; None means the server's default."""
    ignore_errors: bool = False
    """A failure to load is logged and the server goes on without this binding."""
    init_timeout_s: float = 5.0
    """spec.initTimeout. Dapr's default is 5 s; compiling and downloading count."""
    path: Path = Path()
    """The file it was read from."""
    line: int = 0
    """The line its document begins at, from 1."""
