"""The ASGI application: the binding endpoint in front, Starlette for everything that is not hot."""

from collections.abc import Mapping
from typing import Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from sandboxd.front.auth import TokenCheck
from sandboxd.front.binding import BindingEndpoint
from sandboxd.front.cors import Cors
from sandboxd.front.gojson import error_body
from sandboxd.front.http import HttpEndpoint
from sandboxd.front.outcomes import DIRECT_INVOKE
from sandboxd.front.ports import Bindings, Cells, FrontSettings, Health, Invoker, Receive, Scope, Send
from sandboxd.front.replies import reply, reply_plain_error
from sandboxd.front.routing import HTTP, binding_name, clean
from sandboxd.metrics import Metrics
from sandboxd.outcome import Outcome

_NO_APP_ID: Final = "failed getting app id either from the URL path or the header dapr-app-id"
_BINDING_METHODS: Final = frozenset(("POST", "PUT"))

MAX_ATTRIBUTES: Final = 64
MAX_ATTRIBUTE_BYTES: Final = 4096
"""PUT /v1.0/metadata/{key}: how many attributes callers may leave, and how long a value may be. Dapr has no bounds."""


class App:
    """The server's ASGI application. It depends on no server.

    Parameters:
        settings: from the configuration.
        invoker: runs guests.
        metrics: the server's.
        health: asked by the health endpoints.
        cells: of the server, if it has several.
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
        self._tokens = TokenCheck(settings.api_token) if settings.api_token else None
        self._cors = Cors(settings.allowed_origins) if settings.allowed_origins else None
        self._guarded = self._tokens is not None or self._cors is not None
        self._cells = cells
        self._attributes: dict[str, str] = {} if cells is None else cells.attributes
        self._rest = self._starlette()

    def __repr__(self) -> str:
        return f"<App of {len(self.bindings.by_name)} bindings>"

    @property
    def bindings(self) -> Bindings:
        """What is served. Assigning a snapshot swaps it at once for all requests that begin afterwards."""
        return self._endpoint.bindings

    @bindings.setter
    def bindings(self, bindings: Bindings) -> None:
        self._endpoint.bindings = bindings
        self._http.bindings = bindings

    def close(self) -> None:
        """Release threads. The application must not be called any more."""
        self._endpoint.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI 3."""
        if scope["type"] != "http":
            await self._not_http(scope, receive, send)
            return
        if self._guarded:
            if self._cors is not None:
                preflight = self._cors.preflight(scope)
                if preflight is not None:
                    await send({"type": "http.response.start", "status": 200, "headers": preflight})
                    await send({"type": "http.response.body", "body": b""})
                    return
                send = self._cors.wrap(scope, send)
            if self._tokens is not None and not self._tokens.passes(scope):
                self._metrics.binding("").ended(Outcome.UNAUTHORIZED, 0.0)
                await reply_plain_error(send, 401, "invalid api token")
                return
        served = self._endpoint.bindings.by_path.get(scope["raw_path"])
        if served is not None and scope["method"] in _BINDING_METHODS:
            await self._endpoint(served, served.binding.name, scope, receive, send)
        else:
            await self._route(scope, receive, send)

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        raw_path = scope["raw_path"]
        if raw_path.startswith(HTTP):
            # What follows is the guest's, slashes and dots included.
            await self._http(scope, receive, send)
            return
        path = clean(raw_path)
        if path is None:
            await reply(send, 400, b"400 Bad Request", [(b"content-type", b"text/plain; charset=utf-8")])
            return
        name = binding_name(path)
        if name is not None and scope["method"] in _BINDING_METHODS:
            await self._endpoint(self.bindings.by_name.get(name), name, scope, receive, send)
        else:
            # Starlette matches the decoded path; a cleaned raw path has no escapes it could decode differently.
            await self._rest({**scope, "path": path.decode("latin-1"), "root_path": ""}, receive, send)

    async def _not_http(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            # Start and end of the server are the caller's affair: nothing to do here.
            while True:
                message = await receive()
                await send({"type": f"{message['type']}.complete"})
                if message["type"] == "lifespan.shutdown":
                    return
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1000})

    # everything that is not hot ---------------------------------------------------------------------------------------

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
            route.methods.discard("HEAD")  # Starlette adds it to GET; Dapr's router knows no HEAD here
        handlers: Mapping[Any, Any] = {404: self._fallback, 405: self._fallback}
        app = Starlette(routes=routes, exception_handlers=handlers)
        app.router.redirect_slashes = False
        return app

    async def _fallback(self, _request: Request, _error: HTTPException) -> Response:
        return _json_error(404, DIRECT_INVOKE, _NO_APP_ID)

    async def _healthz(self, request: Request) -> Response:
        app_id = request.query_params.get("appid", "")
        missing = self._health.not_ready()
        if missing:
            return _json_error(500, "ERR_HEALTH_NOT_READY", f"dapr is not ready: [{' '.join(missing)}]")
        if app_id and app_id != self._settings.app_id:
            return _json_error(500, "ERR_HEALTH_APPID_NOT_MATCH", "dapr app-id does not match")
        return Response(status_code=204)

    async def _healthz_outbound(self, _request: Request) -> Response:
        if self._health.not_ready():
            return _json_error(500, "ERR_OUTBOUND_HEALTH_NOT_READY", "dapr outbound is not ready")
        return Response(status_code=204)

    async def _metadata(self, _request: Request) -> Response:
        components = [
            {
                "name": served.binding.name,
                "type": "bindings.wasm",
                "version": served.binding.version,
                "capabilities": ["OUTPUT_BINDING"],
            }
            for served in self.bindings.by_name.values()
        ]
        version = self._settings.version
        return JSONResponse(
            {
                "id": self._settings.app_id,
                "runtimeVersion": version,
                "enabledFeatures": [],
                "components": components,
                "extended": {**self._attributes, "daprRuntimeVersion": version, **self._health.remarks()},
            }
        )

    async def _put_metadata(self, request: Request) -> Response:
        key = request.path_params["key"]
        value = b""
        try:
            async for part in request.stream():
                value += part
                if len(value) > MAX_ATTRIBUTE_BYTES:
                    break
        except ClientDisconnect:
            return Response(status_code=204)  # nobody is there to read it
        full = key not in self._attributes and len(self._attributes) >= MAX_ATTRIBUTES
        if full or len(value) > MAX_ATTRIBUTE_BYTES:
            text = f"at most {MAX_ATTRIBUTES} attributes of at most {MAX_ATTRIBUTE_BYTES} bytes can be set"
            return _json_error(400, "ERR_METADATA_LIMIT", text)
        self._attributes[key] = text = value.decode("utf-8", "replace")
        if self._cells is not None:
            self._cells.share_attribute(key, text)
        return Response(status_code=204)

    async def _livez(self, _request: Request) -> Response:
        return PlainTextResponse("ok")

    async def _readyz(self, _request: Request) -> Response:
        missing = self._health.not_ready()
        text = f"not ready: {', '.join(missing)}" if missing else "ok"
        if self._cells is not None:
            text += f"\n{self._cells.summary()}"
        return PlainTextResponse(text, 503 if missing else 200)

    async def _expose(self, request: Request) -> Response:
        accept = request.headers.get("accept", "")
        if self._cells is None:
            text, content_type = self._metrics.expose(accept)
        else:
            try:
                text, content_type = await self._cells.expose(accept)
            except TimeoutError:
                # This cell's alone would look as if everything the others counted had been lost.
                return PlainTextResponse("the metrics of the other cells cannot be had", 503)
        return Response(text, headers={"content-type": content_type})


def _json_error(status: int, code: str, message: str) -> Response:
    return Response(error_body(code, message), status, headers={"content-type": "application/json"})
