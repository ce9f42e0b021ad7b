"""Does what a script says with one outgoing message, step by step. Built with componentize-py; runs in tests only.

As a command: the arguments are an authority, a method, a path and the script's steps; one line of JSON on stdout for
each step, so that what was done before a trap is known. As an HTTP handler: the steps stand in the path, separated by
commas (`/walk?body,set`), and the lines go to stderr.

Steps of both directions:

length N        the message's headers have this Content-Length (before any other step)
body            open the body
write           open the body's stream
put N           blocking-write-and-flush of N bytes
fill N          check-write, then write of N bytes at most; what was written
fill-up         the same until check-write gives 0
check           check-write, whether it is positive
block           wait for the stream's pollable
flush           flush
blocking-flush  blocking-flush
drop-stream, drop-body, finish
finish-trailers with `x-sum: 1`

Of a request: `handle`, `wait` (the response's status, or its error code), `read` (its body; the size), `drop-future`,
`drop-request`.
Of a response: `status N`, `set` (response-outparam.set), `await` (the end of the request's body), `throw` (a Python
exception, that is a trap).
"""

import json
import sys

from componentize_py_types import Err, Ok
from wit_world import exports
from wit_world.imports import outgoing_handler
from wit_world.imports import types as http
from wit_world.imports.streams import StreamError_Closed, StreamError_LastOperationFailed


def name_of(code):
    return type(code).__name__.removeprefix("ErrorCode_")


def error_of(value):
    if value is None:
        return "refused"
    if isinstance(value, StreamError_LastOperationFailed):
        with value.value as failure:
            code = http.http_error_code(failure)
            return "failed: " + (failure.to_debug_string() if code is None else name_of(code))
    return "closed" if "Closed" in type(value).__name__ else name_of(value)


class Message:
    """The message that the steps work on."""

    def __init__(self):
        self.headers = []
        self.message = self.open_body = self.stream = self.future = None

    def step_length(self, size):
        self.headers = [("content-length", size.encode())]

    def step_body(self):
        self.open_body = self.made().body()

    def step_write(self):
        self.stream = self.open_body.write()

    def step_put(self, size):
        self.stream.blocking_write_and_flush(b"x" * int(size))

    def step_fill(self, size):
        if permit := min(self.stream.check_write(), int(size)):
            self.stream.write(b"x" * permit)
        return permit

    def step_fill_up(self):
        total = 0
        while permit := self.stream.check_write():
            self.stream.write(b"x" * permit)
            total += permit
        return total

    def step_block(self):
        with self.stream.subscribe() as pollable:
            pollable.block()

    def step_check(self):
        return self.stream.check_write() > 0

    def step_flush(self):
        self.stream.flush()

    def step_blocking_flush(self):
        self.stream.blocking_flush()

    def step_drop_stream(self):
        self.stream.__exit__(None, None, None)

    def step_drop_body(self):
        self.open_body.__exit__(None, None, None)

    def step_finish(self):
        http.OutgoingBody.finish(self.open_body, None)

    def step_finish_trailers(self):
        http.OutgoingBody.finish(self.open_body, http.Fields.from_list([("x-sum", b"1")]))

    def walk(self, steps, out):
        for step in steps:
            name, *arguments = step.split(" ")
            print(json.dumps([step]), file=out, flush=True)
            try:
                told = getattr(self, "step_" + name.replace("-", "_"))(*arguments)
            except Err as error:
                told = error_of(error.value)
            print(json.dumps([step, told]), file=out, flush=True)


class Request(Message):
    """An outgoing request."""

    def __init__(self, authority, method, path):
        super().__init__()
        self.authority, self.method, self.path = authority, method, path

    def made(self):
        if self.message is None:
            self.message = http.OutgoingRequest(http.Fields.from_list(self.headers))
            self.message.set_method(getattr(http, "Method_" + self.method.capitalize())())
            self.message.set_scheme(http.Scheme_Http())
            self.message.set_authority(self.authority)
            self.message.set_path_with_query(self.path)
        return self.message

    def step_handle(self):
        self.future = outgoing_handler.handle(self.made(), None)

    def step_wait(self):
        with self.future.subscribe() as pollable:
            pollable.block()
        answer = self.future.get().value
        if isinstance(answer, Err):
            return name_of(answer.value)
        # Kept until the end: dropping a response may end what is left of the request.
        self.answer = answer.value
        return self.answer.status()

    def step_read(self):
        size = 0
        with self.answer.consume() as body, body.stream() as stream:
            try:
                while True:
                    size += len(stream.blocking_read(65536))
            except Err as error:
                if not isinstance(error.value, StreamError_Closed):
                    raise
        return size

    def step_drop_future(self):
        self.future.__exit__(None, None, None)

    def step_drop_request(self):
        self.made().__exit__(None, None, None)


class Response(Message):
    """An outgoing response."""

    def __init__(self, request, place):
        super().__init__()
        self.request, self.place = request, place

    def made(self):
        if self.message is None:
            self.message = http.OutgoingResponse(http.Fields.from_list(self.headers))
        return self.message

    def step_status(self, status):
        self.made().set_status_code(int(status))

    def step_await(self):
        with self.request.consume() as body, body.stream() as stream:
            try:
                while True:
                    stream.blocking_read(65536)
            except Err as error:
                if not isinstance(error.value, StreamError_Closed):
                    raise

    def step_set(self):
        http.ResponseOutparam.set(self.place, Ok(self.made()))

    def step_throw(self):
        raise ValueError("a guest's own error")


KEPT = []
"""What is in here is never dropped: a guest that returns leaves it to the host."""


class Run(exports.Run):
    def run(self) -> None:
        authority, method, path, *steps = sys.argv[1:]
        KEPT.append(Request(authority, method, path))
        KEPT[-1].walk(steps, sys.stdout)


class IncomingHandler(exports.IncomingHandler):
    def handle(self, request, response_out):
        steps = request.path_with_query().partition("?")[2].replace("+", " ")
        KEPT.append(Response(request, response_out))
        KEPT[-1].walk(steps.split(","), sys.stderr)
