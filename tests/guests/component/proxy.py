"""A wasi:http/proxy component for tests. Built with componentize-py. The path says what it does."""

import json
import os

from componentize_py_types import Err, Ok
from wit_world import exports
from wit_world.imports import outgoing_handler, poll
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


class Flowing:
    """An answer whose head is out and whose body is written bit by bit."""

    def __init__(self, out, status=200, headers=()):
        response = http.OutgoingResponse(http.Fields.from_list(list(headers)))
        response.set_status_code(status)
        self.body = response.body()
        http.ResponseOutparam.set(out, Ok(response))
        self.stream = self.body.write()

    def write(self, data):
        for at in range(0, len(data), 65536):
            self.write_piece(data[at : at + 65536])

    def write_piece(self, data):
        while data:
            permit = self.stream.check_write()
            if not permit:
                with self.stream.subscribe() as pollable:
                    pollable.block()
                continue
            self.stream.write(data[:permit])
            data = data[permit:]

    def finish(self):
        self.stream.__exit__(None, None, None)
        http.OutgoingBody.finish(self.body, None)


def pieces(stream, size=65536):
    """Yield the parts of a body until its end."""
    try:
        while True:
            yield stream.blocking_read(size)
    except Err as error:
        if not isinstance(error.value, StreamError_Closed):
            raise


def fetch(authority, path):
    """The future of a GET."""
    request = http.OutgoingRequest(http.Fields())
    request.set_scheme(http.Scheme_Http())
    request.set_authority(authority)
    request.set_path_with_query(path)
    return outgoing_handler.handle(request, None)


def answer_of(future):
    with future.subscribe() as pollable:
        pollable.block()
    response = future.get().value.value
    body = response.consume()
    with body.stream() as stream:
        data = b"".join(pieces(stream))
    http.IncomingBody.finish(body)
    return data


def stream(request, out, what, argument):
    """Answers that flow."""
    if what == "generate":  # so many bytes
        flow = Flowing(out)
        left = int(argument)
        block = bytes(range(256)) * 256
        while left:
            flow.write_piece(block[:left])
            left -= min(left, len(block))
        flow.finish()
        return
    body = request.consume()
    with body.stream() as incoming:
        if what == "count":  # reads all, then tells how much it was
            size = total = 0
            for piece in pieces(incoming):
                size += len(piece)
                total = (total + sum(piece)) % 65521
            flow = Flowing(out)
            flow.write(json.dumps([size, total]).encode())
        elif what == "echo":  # each piece as it comes
            flow = Flowing(out, 200, [("content-type", b"application/octet-stream")])
            for piece in pieces(incoming):
                flow.write(piece)
        elif what == "splice":  # likewise, without taking the bytes: componentize-py frees them only at the very end
            flow = Flowing(out, 200, [("content-type", b"application/octet-stream")])
            try:
                while True:
                    flow.stream.blocking_splice(incoming, 65536)
            except Err as error:
                if not isinstance(error.value, StreamError_Closed):
                    raise
        elif what == "then":  # answers, waits for the request's end, then does it
            flow = Flowing(out)
            flow.write(b"first ")
            for _ in pieces(incoming):
                pass
            if argument == "trap":
                raise ValueError("a guest's own error")
            if argument == "return":
                return
            while argument == "loop":
                pass
            flow.write(b"second")
        elif what == "gateway":  # for each line N of the request: fetch /echo?N there at once, answer in order
            flow = Flowing(out)
            waiting = []
            rest = b""
            for piece in pieces(incoming):
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    waiting.append(fetch(argument, "/headers?" + line.decode()))
                    if len(waiting) == 4:
                        flow.write(b"%d\n" % len(answer_of(waiting.pop(0))))
            for future in waiting:
                flow.write(b"%d\n" % len(answer_of(future)))
        elif what == "both":  # one poll over a request's body and an outbound request that is held
            flow = Flowing(out)
            future = fetch(argument, "/hold")
            with incoming.subscribe() as body_ready, future.subscribe() as answer_ready:
                first = poll.poll([body_ready, answer_ready])
            flow.write(b"body" if first == [0] else b"answer")
            for piece in pieces(incoming):
                flow.write(piece)
            flow.write(answer_of(future))
    http.IncomingBody.finish(body)
    flow.finish()


def count_lines(source, target):
    """Count the lines of every file in a folder, write the sum into another and read it back."""
    lines = 0
    for entry in os.scandir(source):
        if entry.is_file():
            with open(entry.path) as file:
                lines += sum(1 for _ in file)
    place = os.path.join(target, "python")
    if os.path.exists(place):
        raise RuntimeError("an earlier request left a file")
    with open(place, "w") as file:
        print(lines, file=file)
    with open(place) as file:
        return file.read()


class IncomingHandler(exports.IncomingHandler):
    def handle(self, request, response_out):
        path = request.path_with_query()
        print("called with", path)
        if path.startswith("/stream/"):
            _, _, what, *argument = path.split("/")
            stream(request, response_out, what, "/".join(argument))
        elif path.startswith("/describe"):
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
        elif path.startswith("/files?"):  # FROM,TO
            try:
                told, status = count_lines(*path.removeprefix("/files?").split(",")), 200
            except OSError as error:
                told, status = f"{error.strerror}\n", 403
            respond(response_out, status, [], told.encode())
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
