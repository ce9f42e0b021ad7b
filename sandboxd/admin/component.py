"""The settings of a binding as the status page shows them: without values of variables and credentials in URLs."""

from typing import Any
from urllib.parse import urlsplit

from sandboxd.components.binding import Binding
from sandboxd.limits.about import Kind, described


def shown_url(url: str) -> str:
    """Return a URL without its user, password, query and fragment, each of which may be a secret."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        return url.partition("?")[0]
    host = parts.netloc.rpartition("@")[2]
    hidden = "?..." if parts.query else ""
    return f"{parts.scheme}://{host}{parts.path}{hidden}"


def shown_limits(binding: Binding) -> dict[str, str]:
    """Return a binding's limits by their keys, as an operator writes them."""
    return {
        about.key: about.unit.format(getattr(binding.limits, field.name))
        for field, about in described(type(binding.limits))
        if about.kind is Kind.NUMBER
    }


def shown_component(binding: Binding) -> dict[str, Any]:
    """Return the settings of a binding that are not secret."""
    return {
        "file": f"{binding.path}:{binding.line}",
        "url": shown_url(binding.url),
        "sha256": binding.sha256,
        "version": binding.version,
        "isolation": binding.isolation.value,
        "strictSandbox": binding.strict_sandbox,
        "maxConcurrency": binding.max_concurrency,
        "contentType": binding.content_type,
        "stdin": binding.stdin.value,
        "stdout": binding.stdout.value,
        "ignoreErrors": binding.ignore_errors,
        # Values may be secrets, so only names are shown.
        "env": [name for name, _ in binding.env],
        "allowedOutboundHosts": None
        if binding.allowed_outbound_hosts is None
        else list(binding.allowed_outbound_hosts),
        "mounts": [f"{mount.target} ({'ro' if mount.read_only else 'rw'})" for mount in binding.mounts],
        "tmp": binding.tmp.target if binding.tmp is not None else None,
        "limits": shown_limits(binding),
    }
