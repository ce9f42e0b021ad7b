"""The TLS settings of outbound requests: the trusted authorities, and the client certificate for each origin."""

import encodings.idna  # noqa: F401 - ssl loads it for the first server name; loaded before the fork, its pages are shared
import ssl
from functools import lru_cache

from hostfuncs.outbound.authority import parse_authority
from hostfuncs.outbound.policy import Policy
from hostfuncs.outbound.values import Settings


class Contexts:
    """The TLS contexts of a worker: one for all origins, and one per client certificate.

    Parameters:
        settings: the settings. `ca_files`, `client_certificates` and `http2` are used.

    Raises:
        ValueError: a file cannot be read or is not a PEM file, or a pattern is wrong. The message names it.
    """

    def __init__(self, settings: Settings) -> None:
        self.common = _context(settings)
        """The context for origins without a client certificate."""
        self._special: list[tuple[Policy, ssl.SSLContext]] = []
        for pattern, chain, key in settings.client_certificates:
            policy = Policy.parse([pattern])
            context = _context(settings)
            try:
                context.load_cert_chain(chain, key)
            except (OSError, ssl.SSLError) as exc:
                raise ValueError(
                    f"client certificate for {pattern}: {chain} with key {key} cannot be loaded: {exc}; "
                    "give a PEM chain and its unencrypted PEM key"
                ) from exc
            self._special.append((policy, context))

    def for_origin(self, scheme: str, host: str, port: int) -> ssl.SSLContext:
        """Return the context for an origin: that of the first matching client certificate, or the common one."""
        if self._special:
            shown = f"[{host}]" if ":" in host else host
            authority = parse_authority(f"{shown}:{port}", scheme)
            for policy, context in self._special:
                assert policy.rules is not None
                if policy.rules[0].matches(scheme, authority):
                    return context
        return self.common


def _context(settings: Settings) -> ssl.SSLContext:
    context = ssl.create_default_context()
    # RFC 9525, section 6.3: a server's names are its certificate's subjectAltNames. Go and rustls require them, too.
    context.hostname_checks_common_name = False
    # Otherwise an origin could make a guest's worker compute handshakes without end.
    context.options |= ssl.OP_NO_RENEGOTIATION
    for path in settings.ca_files:
        try:
            context.load_verify_locations(cafile=path)
        except (OSError, ssl.SSLError) as exc:
            raise ValueError(f"CA file {path} cannot be loaded: {exc}; give a file of PEM certificates") from exc
    context.set_alpn_protocols(["h2", "http/1.1"] if settings.http2 else ["http/1.1"])
    return context


@lru_cache(maxsize=4)
def contexts(settings: Settings) -> Contexts:
    """Return the contexts for these settings. They are made once per process.

    Reading the system's certificate store takes tens of milliseconds, and a context survives a fork. So this is called
    before workers are forked. Raises ValueError, see `Contexts`.
    """
    return Contexts(settings)
