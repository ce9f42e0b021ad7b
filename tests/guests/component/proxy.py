"""A wasi:http/proxy component for tests. Built with componentize-py. The path says what it does."""

import json

from componentize_py_types import Err, Ok
from wit_world import exports
from wit_world.imports import types as http
from wit_world.imports.streams import StreamError_Closed


def method_of(method):
    return (
        method.value if isinstance(method, http.Method_Other) else type(method).__name__.removeprefix("Method_").upper()
    )


def read(request):
    parts = []
    body = request.consume()
    with body.stream() as stream:
        try:
            while True:
                parts.append(stream.blocking_read(65536))
        except Err as error:
            if not isinstance(error.value, StreamError_Closed):
                raise
    http.IncomingBody.finish(body)
    return b"".join(parts)


def respond(out, status, headers, data, *, finish=True, declared=None):
    lines = list(headers)
    if declared is not None:
        lines.append(("content-length", str(declared).encode()))
    response = http.OutgoingResponse(http.Fields.from_list(lines))
    response.set_status_code(status)
    body = response.body()
    http.ResponseOutparam.set(out, Ok(response))
    errors = []
    with body.write() as stream:
        for at in range(0, len(data), 4096):
            try:
                stream.blocking_write_and_flush(data[at : at + 4096])
            except Err as error:
                errors.append(type(error.value).__name__)
                break
    if finish:
        try:
            http.OutgoingBody.finish(body, None)
        except Err as error:
            errors.append([type(error.value).__name__, error.value.value])
    else:
        body.__exit__(None, None, None)
    if errors:
        print("errors", errors)


class IncomingHandler(exports.IncomingHandler):
    def handle(self, request, response_out):
        path = request.path_with_query()
        print("called with", path)
        if path.startswith("/describe"):
            described = {
                "method": method_of(request.method()),
                "path": path,
                "scheme": type(request.scheme()).__name__,
                "authority": request.authority(),
                "headers": [[n, v.decode()] for n, v in request.headers().entries()],
                "body": read(request).decode(),
            }
            respond(
                response_out,
                201,
                [("content-type", b"application/json"), ("x-two", b"a"), ("x-two", b"b")],
                json.dumps(described).encode(),
            )
        elif path == "/echo":
            respond(response_out, 200, [], read(request))
        elif path == "/empty":
            http.ResponseOutparam.set(response_out, Ok(http.OutgoingResponse(http.Fields())))
        elif path == "/error":
            http.ResponseOutparam.set(response_out, Err(http.ErrorCode_InternalError("not today")))
        elif path == "/silent":
            pass
        elif path == "/short":
            respond(response_out, 200, [], b"12345", declared=10)
        elif path == "/long":
            respond(response_out, 200, [], b"1234567890", declared=5)
        elif path == "/dropped":
            respond(response_out, 200, [], b"12345", finish=False)
        elif path.startswith("/status/"):
            respond(response_out, int(path.removeprefix("/status/")), [], b"")
        elif path == "/trap":
            raise ValueError("a guest's own error")
        else:
            respond(response_out, 200, [], b"hello from a proxy")
