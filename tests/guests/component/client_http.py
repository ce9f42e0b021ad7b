"""The outbound requests of the guest in client.py, and its look at header fields."""

import asyncio
import hashlib
from urllib.parse import urlsplit

import poll_loop
from componentize_py_types import Err, Ok
from wit_world.imports import (
    outgoing_handler,
    poll,
)
from wit_world.imports import (
    types as http,
)
from wit_world.imports.streams import StreamError_Closed, StreamError_LastOperationFailed


def name_of(code):
    return type(code).__name__.removeprefix("ErrorCode_").removeprefix("HeaderError_").removeprefix("StreamError_")


def described(code):
    value = getattr(code, "value", None)
    return [name_of(code), vars(value) if hasattr(value, "__dict__") else value]


def stream_error(error):
    if isinstance(error, StreamError_LastOperationFailed):
        with error.value as failure:
            code = http.http_error_code(failure)
            return ["LastOperationFailed", described(code) if code is not None else None]
    assert isinstance(error, StreamError_Closed)
    return ["Closed"]


def method_of(text):
    known = getattr(http, f"Method_{text.capitalize()}", None)
    return known() if known is not None and text.isupper() else http.Method_Other(text)


def scheme_of(text):
    if text is None:
        return None
    return (
        {"http": http.Scheme_Http, "https": http.Scheme_Https}[text]()
        if text in ("http", "https")
        else http.Scheme_Other(text)
    )


class StoppedError(Exception):
    pass


def start(spec):
    """{method, scheme, authority, path, headers, options: {connect, first, between}, body: {size, ...}}"""
    try:
        fields = http.Fields.from_list([(name, value.encode("latin-1")) for name, value in spec.get("headers", [])])
    except Err as error:
        raise StoppedError({"headers": name_of(error.value)}) from None
    request = http.OutgoingRequest(fields)
    for what, value in (
        ("method", method_of(spec.get("method", "GET"))),
        ("scheme", scheme_of(spec.get("scheme", "http"))),
        ("authority", spec.get("authority")),
        ("path_with_query", spec.get("path")),
    ):
        try:
            getattr(request, f"set_{what}")(value)
        except Err:
            raise StoppedError({"set": what}) from None
    options = None
    if "options" in spec:
        options = http.RequestOptions()
        for key, setter in (("connect", "connect"), ("first", "first_byte"), ("between", "between_bytes")):
            if key in spec["options"]:
                getattr(options, f"set_{setter}_timeout")(spec["options"][key])
    body = None
    plan = spec.get("body")
    out = {}
    if plan is not None:
        try:
            body = request.body()
        except Err:
            raise StoppedError({"body": "refused"}) from None
        if plan.get("before"):
            write(body, plan, out)
            body = None
    try:
        future = outgoing_handler.handle(request, options)
    except Err as error:
        raise StoppedError({"refused": described(error.value), **out}) from None
    if body is not None:
        write(body, plan, out)
    return future, out


def write(body, plan, out):
    data = bytes(range(251)) * (plan["size"] // 251 + 1)
    data = data[: plan["size"]]
    try:
        with body.write() as stream:
            if plan.get("blocking"):
                for at in range(0, len(data), 4096):
                    stream.blocking_write_and_flush(data[at : at + 4096])
            else:
                at = 0
                while at < len(data):
                    permit = stream.check_write()
                    if not permit:
                        with stream.subscribe() as pollable:
                            pollable.block()
                        continue
                    stream.write(data[at : at + permit])
                    at += permit
    except Err as error:
        out["write"] = stream_error(error.value)
    if plan.get("drop"):
        body.__exit__(None, None, None)
        return
    trailers = None
    if "trailers" in plan:
        trailers = http.Fields.from_list([(name, value.encode()) for name, value in plan["trailers"]])
    try:
        http.OutgoingBody.finish(body, trailers)
    except Err as error:
        out["finish"] = described(error.value)


def finish(future, out, spec):
    with future:
        with future.subscribe() as pollable:
            pollable.block()
        answer = future.get()
        assert isinstance(answer, Ok)
        again = future.get()
        assert isinstance(again, Err), again
    if isinstance(answer.value, Err):
        return {"error": described(answer.value.value), **out}
    response = answer.value.value
    with response:
        out["status"] = response.status()
        with response.headers() as fields:
            out["headers"] = [[name, value.decode("latin-1")] for name, value in fields.entries()]
            try:
                fields.append("x", b"y")
                out["immutable"] = False
            except Err as error:
                out["immutable"] = name_of(error.value)
        if spec.get("read") == "no":
            return out
        body = response.consume()
    digest, size, begin = hashlib.sha256(), 0, b""
    limit = spec.get("read", 1 << 40)
    with body.stream() as stream:
        while size < limit:
            try:
                data = stream.blocking_read(65536)
            except Err as error:
                if not isinstance(error.value, StreamError_Closed):
                    out["read"] = stream_error(error.value)
                break
            digest.update(data)
            size += len(data)
            begin += data[: 200 - len(begin)]
    out |= {"size": size, "sha256": digest.hexdigest(), "begin": begin.decode("latin-1")}
    if spec.get("trailers"):
        with http.IncomingBody.finish(body) as later:
            with later.subscribe() as pollable:
                pollable.block()
            got = later.get().value
            if isinstance(got, Err):
                out["trailers"] = described(got.value)
            else:
                out["trailers"] = None if got.value is None else [[n, v.decode()] for n, v in got.value.entries()]
    else:
        body.__exit__(None, None, None)
    return out


def requests(specs):
    results = []
    for spec in specs:
        try:
            future, out = start(spec)
            results.append(finish(future, out, spec))
        except StoppedError as failure:
            results.append(failure.args[0])
    return results


def spec_of(url):
    parts = urlsplit(url)
    return {
        "scheme": parts.scheme,
        "authority": parts.netloc,
        "path": parts.path + (f"?{parts.query}" if parts.query else ""),
    }


def fanout(url, count):
    spec = spec_of(url)
    open_ = {at: start(spec) for at in range(count)}
    results = [None] * count
    rounds = 0
    while open_:
        pollables = {at: future.subscribe() for at, (future, _) in open_.items()}
        order = list(pollables)
        ready = poll.poll([pollables[at] for at in order])
        rounds += 1
        for pollable in pollables.values():
            pollable.__exit__(None, None, None)
        for place in ready:
            future, out = open_.pop(order[place])
            results[order[place]] = finish(future, out, spec)["begin"]
    return {"results": results, "rounds": rounds}


async def gather(url, count):
    spec = spec_of(url)

    async def one():
        request = http.OutgoingRequest(http.Fields())
        request.set_scheme(scheme_of(spec["scheme"]))
        request.set_authority(spec["authority"])
        request.set_path_with_query(spec["path"])
        response = await poll_loop.send(request)
        stream = poll_loop.Stream(response.consume())
        parts = []
        while (chunk := await stream.next()) is not None:
            parts.append(chunk)
        return b"".join(parts).decode()

    return await asyncio.gather(*(one() for _ in range(count)))


def unsent(count):
    kept, written = [], []
    for _ in range(count):
        request = http.OutgoingRequest(http.Fields())
        body = request.body()
        stream = body.write()
        total = 0
        while permit := stream.check_write():
            stream.write(b"x" * permit)
            total += permit
        kept.append((request, body, stream))
        written.append(total)
    return written


def attempt(call, *arguments):
    try:
        return call(*arguments)
    except Err as error:
        return name_of(error.value)


def fields():
    f = http.Fields()
    out = [
        attempt(f.append, "X-One", b"1"),
        attempt(f.append, "x-one", b"2"),
        attempt(f.append, "bad name", b"1"),
        attempt(f.append, "", b"1"),
        attempt(f.append, "x-bad", b"a\nb"),
        attempt(f.append, "Host", b"x"),
        attempt(f.set, "Transfer-Encoding", [b"x"]),
        attempt(f.delete, "connection"),
        [v.decode() for v in f.get("X-ONE")],
        [v.decode() for v in f.get("bad name")],
        f.has("x-ONE"),
        f.has("nope"),
        attempt(f.set, "x-two", [b"a", b"b"]),
        attempt(f.set, "x-one", [b"3"]),
        [[n, v.decode()] for n, v in f.entries()],
        attempt(f.delete, "x-two"),
        attempt(f.delete, "x-absent"),
        [[n, v.decode()] for n, v in f.entries()],
        attempt(http.Fields.from_list, [("ok", b"1"), ("host", b"x")]),
        attempt(http.Fields.from_list, [("no good", b"1")]),
    ]
    request = http.OutgoingRequest(f)
    with request.headers() as kept:
        out += [attempt(kept.set, "x-one", [b"4"]), attempt(kept.append, "a", b"b"), attempt(kept.delete, "x-one")]
        with kept.clone() as copy:
            out += [attempt(copy.append, "a", b"b"), [[n, v.decode()] for n, v in copy.entries()]]
    options = http.RequestOptions()
    out.append(options.connect_timeout())
    options.set_connect_timeout(5)
    options.set_first_byte_timeout(6)
    out += [options.connect_timeout(), options.first_byte_timeout(), options.between_bytes_timeout()]
    out += [type(request.method()).__name__, request.path_with_query(), request.scheme(), request.authority()]
    first = request.body()
    out.append(attempt(request.body) is not None)
    response = http.OutgoingResponse(http.Fields())
    out.append(response.status_code())
    out += [
        attempt(response.set_status_code, 42) is not None,
        attempt(response.set_status_code, 404),
        response.status_code(),
    ]
    first.__exit__(None, None, None)
    return out
