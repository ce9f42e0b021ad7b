"""Fetches JSON documents at once, filters, joins and adds up. What it reads and answers is in ../README.md.

A wasi:http/proxy component, built with componentize-py: it is called with a request and answers with a response.
"""

import json
from urllib.parse import urlsplit

from componentize_py_types import Err, Ok
from wit_world import exports
from wit_world.imports import outgoing_handler
from wit_world.imports import types as http
from wit_world.imports.streams import StreamError_Closed


class UnansweredError(Exception):
    """A document could not be had."""


def start(url):
    """A GET request under way. Does not wait."""
    parts = urlsplit(url)
    request = http.OutgoingRequest(http.Fields())
    request.set_scheme(http.Scheme_Https() if parts.scheme == "https" else http.Scheme_Http())
    request.set_authority(parts.netloc)
    request.set_path_with_query((parts.path or "/") + ("?" + parts.query if parts.query else ""))
    return url, outgoing_handler.handle(request, None)


def read(body):
    """All bytes of an incoming body."""
    data = b""
    with body.stream() as stream:
        try:
            while True:
                data += stream.blocking_read(65536)
        except Err as error:
            if not isinstance(error.value, StreamError_Closed):
                raise
    http.IncomingBody.finish(body)
    return data


def document(started):
    """Waits for a JSON document."""
    url, future = started
    with future.subscribe() as pollable:
        pollable.block()
    answer = future.get().value
    if isinstance(answer, Err):
        raise UnansweredError(f"{url}: {type(answer.value).__name__.removeprefix('ErrorCode_')}")
    response = answer.value
    if response.status() != 200:
        raise UnansweredError(f"{url} answered with status {response.status()}")
    return json.loads(read(response.consume()))


def aggregate(question):
    # All are under way before the first is waited for.
    users, *orders = [start(url) for url in [question["users"], *question["orders"]]]
    rows = {user["id"]: {"name": user["name"], "orders": 0, "total": 0} for user in document(users)}
    for started in orders:
        for order in document(started):
            row = rows.get(order["user"])
            if row is not None and order["total"] >= question["minimum"]:
                row["orders"] += 1
                row["total"] += order["total"]
    return sorted((row for row in rows.values() if row["orders"]), key=lambda row: (-row["total"], row["name"]))


def respond(out, status, value):
    headers = http.Fields.from_list([("content-type", b"application/json")])
    response = http.OutgoingResponse(headers)
    response.set_status_code(status)
    body = response.body()
    http.ResponseOutparam.set(out, Ok(response))
    data = json.dumps(value, separators=(",", ":")).encode() + b"\n"
    with body.write() as stream:
        for at in range(0, len(data), 4096):
            stream.blocking_write_and_flush(data[at : at + 4096])
    http.OutgoingBody.finish(body, None)


class IncomingHandler(exports.IncomingHandler):
    def handle(self, request, response_out):
        try:
            answer = aggregate(json.loads(read(request.consume())))
        except UnansweredError as error:
            respond(response_out, 502, {"error": str(error)})
        except (ValueError, KeyError, TypeError) as error:
            respond(response_out, 400, {"error": f"not such a question: {error!r}"})
        else:
            respond(response_out, 200, answer)
