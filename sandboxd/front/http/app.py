"""The ASGI application. It calls the binding endpoint directly. Starlette serves all paths that need not be fast."""

from collections.abc import Mapping
from typing import Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from sandboxd.front.answering.attributes import MAX_ATTRIBUTE_BYTES, TOO_MANY, Attributes
from sandboxd.front.answering.failures import CallerGone
from sandboxd.front.answering.outcomes import DIRECT_INVOKE, NO_APP_ID
from sandboxd.front.answering.runlog import tell_counted
from sandboxd.front.http.auth import TokenCheck
from sandboxd.front.http.binding import BindingEndpoint
from sandboxd.front.http.bodies import BODY_TIMEOUT, BodyLate, read_body
from sandboxd.front.http.cors import Cors
from sandboxd.front.http.direct import DirectEndpoint
from sandboxd.front.http.guest_http import HttpEndpoint
from sandboxd.front.http.raw import RawEndpoint, raw_name
from sandboxd.front.http.replies import reply, reply_plain_error
from sandboxd.front.http.routing import HTTP, binding_name, clean, first_value, origin_form, unescape_name
from sandboxd.front.http.scrapes import Parts, Scrapes, TextResponse, takes_gzip
from sandboxd.front.http.trace_headers import ECHOED, adding, baggage_of, echoed, refused, traceparent, tracing
from sandboxd.front.ports import Bindings, Cells, FrontSettings, Health, Invoker, Receive, Scope, Send
from sandboxd.gojson import error_body
from sandboxd.metrics import Metrics
from sandboxd.metrics.exposition import TextFormat, paced
from sandboxd.outcome import Outcome

_BINDING_METHODS: Final = frozenset(("POST", "PUT"))


class App:
    """The server's ASGI application. It runs on any HTTP server that speaks ASGI 3.

    Parameters:
        settings: the front's part of the configuration.
        invoker: runs guests.
        metrics: the server's metrics.
        health: tells the health endpoints what the server waits for.
        cells: the server's cells; None if it has only one.
    """

    def __init__(
        self,
        settings: FrontSettings,
        invoker: Invoker,
        metrics: Metrics,
        health: Health,
        *,
        cells: Cells | None = None,
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._health = health
        self._endpoint = BindingEndpoint(settings, invoker, metrics)
        self._http = HttpEndpoint(invoker, metrics)
        self._raw = RawEndpoint(settings, invoker, metrics, self._endpoint.gate, self._http)
        self._tokens = TokenCheck(settings.api_token) if settings.api_token else None
        self._cors = Cors(settings.allowed_origins) if settings.allowed_origins else None
        # Each answer has CORS headers where they are configured.
        direct = self._cors is None
        self.direct = DirectEndpoint(self._endpoint, invoker, self._tokens) if direct else None
        """Answers plain binding requests for HTTP servers that can do without ASGI; None where no request is plain."""
        self._guarded = self._tokens is not None or self._cors is not None
        self._cells = cells
        self.attributes = Attributes(cells)
        self._scrapes = Scrapes(self._render if cells is None else cells.expose)
        self._rest = self._starlette()

    def __repr__(self) -> str:
        return f"<App of {len(self.bindings.by_name)} bindings>"

    @property
    def bindings(self) -> Bindings:
        """The bindings that are served. A new snapshot takes effect for requests that begin afterwards."""
        return self._endpoint.bindings

    @bindings.setter
    def bindings(self, bindings: Bindings) -> None:
        self._endpoint.bindings = bindings
        self._http.bindings = bindings

    def close(self) -> None:
        """Release threads. The application must not be called any more."""
        self._endpoint.close()
        tell_counted()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection scope of ASGI 3: a request, the lifespan, or a WebSocket, which is refused."""
        if scope["type"] != "http":
            await self._not_http(scope, receive, send)
            return
        for header, _ in scope["headers"]:
            if header in ECHOED and (self._settings.dapr_only or not scope["raw_path"].startswith(HTTP)):
                baggage, fault = baggage_of(scope)
                if fault:
                    # Before every route, and before the token is looked at.
                    self._metrics.binding("").ended(Outcome.BAD_REQUEST, 0.0)
                    text = f"invalid baggage header: {fault}"
                    await reply_plain_error(send, 400, text, refused(scope, 400, text))
                    return
                send = adding(send, echoed(scope, baggage))
                break
        if self._guarded:
            if self._cors is not None:
                preflight = self._cors.preflight(scope)
                if preflight is not None:
                    headers = [*preflight, *traceparent(scope)]
                    await send({"type": "http.response.start", "status": 200, "headers": headers})
                    await send({"type": "http.response.body", "body": b""})
                    return
                send = self._cors.wrap(scope, send)
            if self._tokens is not None and not self._tokens.passes(scope):
                self._metrics.binding("").ended(Outcome.UNAUTHORIZED, 0.0)
                text = "invalid api token"
                await reply_plain_error(send, 401, text, refused(scope, 401, text))
                return
        served = self._endpoint.bindings.by_path.get(scope["raw_path"])
        if served is not None and scope["method"] in _BINDING_METHODS:
            await self._endpoint(served, served.binding.name, scope, receive, send)
        else:
            await self._route(scope, receive, send)

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        raw_path = scope["raw_path"]
        if raw_path.startswith(HTTP) and not self._settings.dapr_only:
            # The rest of the path belongs to the guest. Its slashes and dots are left as they are.
            await self._http(scope, receive, send)
            return
        path = clean(raw_path if raw_path.startswith(b"/") else origin_form(raw_path))
        if path is None:
            plain = (b"content-type", b"text/plain; charset=utf-8")
            trace = refused(scope, 400, "the path has a malformed percent escape")
            await reply(send, 400, b"400 Bad Request", [plain, *trace])
            return
        name = binding_name(path)
        raw = None if name is not None or self._settings.dapr_only else raw_name(path)
        if raw is not None and scope["method"] in _BINDING_METHODS:
            await self._raw(self.bindings, raw, scope, receive, send)
        elif name is not None and scope["method"] in _BINDING_METHODS:
            await self._endpoint(self.bindings.by_name.get(name), name, scope, receive, send)
        else:
            # Starlette matches the decoded path. A cleaned raw path has no escapes that it could decode differently.
            inner = {**scope, "path": path.decode("latin-1"), "root_path": ""}
            await self._rest(inner, receive, tracing(scope, send))

    async def _not_http(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            # The code that starts this server also ends it, so that nothing is done here.
            while True:
                message = await receive()
                await send({"type": f"{message['type']}.complete"})
                if message["type"] == "lifespan.shutdown":
                    return
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1000})

    # paths that need not be fast ------------------------------------------------------------------------------------

    def _starlette(self) -> Starlette:
        routes = [
            Route("/v1.0/healthz", self._healthz),
            Route("/v1.0/healthz/outbound", self._healthz_outbound),
            Route("/v1.0/metadata", self._metadata),
            Route("/v1.0/metadata/{key}", self._put_metadata, methods=["PUT"]),
            Route("/livez", self._livez),
            Route("/readyz", self._readyz),
            Route("/metrics", self._expose),
        ]
        for route in routes:
            assert route.methods is not None
            route.methods.discard("HEAD")  # Starlette adds it to GET, but Dapr's router has no HEAD for these paths
        handlers: Mapping[Any, Any] = {404: self._fallback, 405: self._fallback}
        app = Starlette(routes=routes, exception_handlers=handlers)
        app.router.redirect_slashes = False
        return app

    async def _fallback(self, _request: Request, _error: HTTPException) -> Response:
        return _json_error(404, DIRECT_INVOKE, NO_APP_ID)

    async def _healthz(self, request: Request) -> Response:
        app_id = first_value(request.scope["query_string"], b"appid")
        missing = self._health.not_ready()
        if missing:
            return _json_error(500, "ERR_HEALTH_NOT_READY", f"dapr is not ready: [{' '.join(missing)}]")
        if app_id is not None and app_id != self._settings.app_id:
            return _json_error(500, "ERR_HEALTH_APPID_NOT_MATCH", "dapr app-id does not match")
        return Response(status_code=204)

    async def _healthz_outbound(self, _request: Request) -> Response:
        if self._health.not_ready():
            return _json_error(500, "ERR_OUTBOUND_HEALTH_NOT_READY", "dapr outbound is not ready")
        return Response(status_code=204)

    async def _metadata(self, _request: Request) -> Response:
        components: list[dict[str, Any]] = [
            {
                "name": served.binding.name,
                "type": "bindings.wasm",
                "version": served.binding.version,
                "capabilities": ["OUTPUT_BINDING"],
            }
            for served in self.bindings.by_name.values()
        ]
        components += [
            {"name": found.name, "type": found.type, **({"version": found.version} if found.version else {})}
            for found in self.bindings.listed
        ]
        version = self._settings.version
        return JSONResponse(
            {
                "id": self._settings.app_id,
                "runtimeVersion": version,
                "enabledFeatures": [],
                "components": components,
                "extended": {**self.attributes.values, "daprRuntimeVersion": version, **self._health.remarks()},
            }
        )

    async def _put_metadata(self, request: Request) -> Response:
        key = unescape_name(request.path_params["key"].encode("latin-1"))
        try:
            value = await read_body(request.receive, self._settings.pace, limit=MAX_ATTRIBUTE_BYTES)
        except CallerGone:
            return Response(status_code=204)  # the caller has gone, so that nobody reads it
        except BodyLate as late:
            self._metrics.turned_away(BODY_TIMEOUT)
            answer = _json_error(408, "ERR_METADATA_LIMIT", str(late))
            if request.scope["http_version"].startswith("1"):
                answer.headers["connection"] = "close"
            return answer
        # read_body stops above the limit, so that a longer value is not complete.
        if len(value) > MAX_ATTRIBUTE_BYTES or not self.attributes.set(key, value.decode("utf-8", "replace")):
            return _json_error(400, "ERR_METADATA_LIMIT", TOO_MANY)
        return Response(status_code=204)

    async def _livez(self, _request: Request) -> Response:
        return PlainTextResponse("ok")

    async def _readyz(self, _request: Request) -> Response:
        missing = self._health.not_ready()
        text = f"not ready: {', '.join(missing)}" if missing else "ok"
        waits_for = self._health.waits_for() if missing else ""
        if waits_for:
            text += f"\nwaiting: {waits_for}"
        if self._cells is not None:
            text += f"\n{self._cells.summary()}"
        return PlainTextResponse(text, 503 if missing else 200)

    async def _expose(self, request: Request) -> Response:
        try:
            text = await self._scrapes.text(request.headers.get("accept", ""))
        except TimeoutError:
            # The metrics of this cell alone would look as if the counts of all others had been lost.
            return PlainTextResponse("the metrics of the other cells are not available", 503)
        headers = {"content-type": text.content_type, "vary": "accept, accept-encoding"}
        if not takes_gzip(request.headers.get("accept-encoding", "")):
            return TextResponse(text.parts, headers)
        return Response(await text.gzipped(), headers={**headers, "content-encoding": "gzip"})

    async def _render(self, accept: str, rest: float) -> Parts:
        form = TextFormat(accept)
        return [*await paced(self._metrics.text_pieces(form), rest), form.end], form.content_type


def _json_error(status: int, code: str, message: str) -> Response:
    return Response(error_body(code, message), status, headers={"content-type": "application/json"})
