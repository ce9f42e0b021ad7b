"""Binding requests for guests that handle HTTP: the HTTP request from the metadata, and metadata from the response.

Response metadata becomes headers as in Dapr (pkg/api/http/http.go, onOutputBindingMessage: `metadata.` and its key).
"""

import json
import re
from collections.abc import Mapping
from typing import Final

from sandboxd.front.answering.arguments import MetadataError
from sandboxd.front.ports import Headers
from sandboxd.wire.messages import HttpRequest, HttpResponse

NO_DATA: Final = b"null"
"""The stdin of a program if `data` is null or absent. A guest that handles HTTP gets an empty body instead."""
METHOD_KEY: Final = "http.method"
PATH_KEY: Final = "http.path"
HEADER_PREFIX: Final = "http.header."

HOP_BY_HOP: Final = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"http2-settings",
    )
)
"""The fields that belong to a connection and not to a message (RFC 9110, 7.6.1)."""
_SET_BY_SERVER: Final = frozenset((b"host", b"content-length", b"expect"))
MAX_FIELDS: Final = 128
MAX_FIELDS_BYTES: Final = 64 * 1024
_TRACE_KEYS: Final = ("tracestate", "baggage")

_token = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch
_method = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64}").fullmatch
_target = re.compile(r"/[\x21-\x22\x24-\x7e]*").fullmatch
# RFC 9110, 5.5, with obs-text, which is what UTF-8 looks like to it.
_value = re.compile(rb"[\x20\x09\x21-\x7e\x80-\xff]*").fullmatch


def is_target(text: str) -> bool:
    """Return whether a text is a path, with or without a query, as in a request line."""
    return _target(text) is not None


def http_request(metadata: Mapping[str, str] | None, binding: str, data: bytes, traceparent: bytes) -> HttpRequest:
    """Return the HTTP request that a binding request describes.

    Parameters:
        metadata: `http.method` (GET, or with data POST), `http.path` with query (`/`), `http.header.NAME`.
        binding: the binding's name, which becomes the authority.
        data: the body.
        traceparent: of the new span.

    Raises:
        MetadataError: something in it cannot be.
    """
    given = metadata or {}
    method = given.get(METHOD_KEY, "POST" if data else "GET")
    if not _method(method) or method == "CONNECT":
        raise MetadataError(f"metadata {METHOD_KEY} must be an HTTP method")
    path = given.get(PATH_KEY, "/")
    if not is_target(path):
        text = "must begin with '/', have no fragment, and be percent-encoded where it is not plain ASCII"
        raise MetadataError(f"metadata {PATH_KEY} {text}")
    headers: Headers = []
    size = 0
    for key, value in given.items():
        if key.startswith(HEADER_PREFIX):
            line = _field(key, value)
            headers.append(line)
            size += len(line[0]) + len(line[1])
    if len(headers) > MAX_FIELDS or size > MAX_FIELDS_BYTES:
        raise MetadataError(
            f"metadata {HEADER_PREFIX}*: at most {MAX_FIELDS} fields of {MAX_FIELDS_BYTES} bytes together"
        )
    if data or method in ("POST", "PUT", "PATCH"):
        headers.append((b"content-length", b"%d" % len(data)))
    names = {name for name, _ in headers}
    if b"traceparent" not in names:
        headers.append((b"traceparent", traceparent))
        headers += [
            (key.encode(), given[key].encode())
            for key in _TRACE_KEYS
            if key in given and key.encode() not in names and _value(given[key].encode())
        ]
    return HttpRequest(method=method, scheme="http", authority=_authority(binding), path=path, headers=tuple(headers))


def _field(key: str, text: str) -> tuple[bytes, bytes]:
    name = key[len(HEADER_PREFIX) :].lower().encode()
    shown = json.dumps(key)
    if not _token(name):
        raise MetadataError(f"metadata {shown}: not the name of an HTTP header")
    if name in HOP_BY_HOP or name in _SET_BY_SERVER:
        raise MetadataError(f"metadata {shown}: this header belongs to the connection and cannot be set")
    value = text.strip(" \t").encode()
    if not _value(value):
        raise MetadataError(f"metadata {shown}: a header must not contain control characters")
    return name, value


def _authority(binding: str) -> str:
    """Return the characters of a name that a host may have."""
    return binding if re.fullmatch(r"[0-9A-Za-z._~-]+", binding) else "localhost"


def response_metadata(response: HttpResponse) -> Headers:
    """Return the head of a guest's response as headers of the binding's reply."""
    headers = [(b"metadata.statuscode", b"%d" % response.status)]
    for name, value in response.headers:
        if name not in HOP_BY_HOP and _token(name) and _value(value):
            headers.append((b"metadata.header." + name.lower(), value))
    return headers
