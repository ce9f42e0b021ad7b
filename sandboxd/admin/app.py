"""The ASGI application of the status page: the document, the page, trial runs and the log level."""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from sandboxd.admin.access import HEADERS, Access
from sandboxd.admin.component import shown_component
from sandboxd.admin.invoking import Trial
from sandboxd.admin.report import Guest
from sandboxd.admin.snapshots import Snapshots
from sandboxd.front.answering.failures import CallerGone
from sandboxd.front.http.bodies import BodyLate, read_body
from sandboxd.front.http.trace_headers import adding, tracing
from sandboxd.front.ports import Pace, Receive, Scope, Send
from sandboxd.log import LEVELS, level_now

STATUS_PATH: Final = "/v1.0/sandboxd/status"
LEVEL_PATH: Final = "/v1.0/sandboxd/log-level"
INVOKE_PATH: Final = "/v1.0/sandboxd/invoke/{name:path}"

_PAGE: Final = Path(__file__).parent / "page"
_FILES: Final = {
    "/ui": ("index.html", "text/html; charset=utf-8"),
    "/ui/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/ui/page.css": ("page.css", "text/css; charset=utf-8"),
    "/ui/icon.svg": ("icon.svg", "image/svg+xml"),
}
_OPEN: Final = frozenset((*_FILES, "/", "/ui/"))


class Guests(Protocol):
    """Knows the guests of the bindings."""

    @property
    def guests(self) -> Iterable[Guest]:
        """The guests that were prepared, each with its binding."""


class AdminApp:
    """The ASGI application of the status page.

    Parameters:
        access: decides which requests are answered.
        snapshots: makes the status document.
        catalog: knows the guests.
        trial: runs guests for the page; None refuses to.
        api: the address of the API, for the curl commands that the page shows. See `Trial.run`.
        max_body_bytes: the longest body of a request.
        set_level: sets the least severity that is logged, in all cells.
    """

    def __init__(
        self,
        access: Access,
        snapshots: Snapshots,
        catalog: Guests,
        trial: Trial | None,
        *,
        api: str,
        max_body_bytes: int,
        set_level: Callable[[str], None],
    ) -> None:
        self._access = access
        self._snapshots = snapshots
        self._catalog = catalog
        self._trial = trial
        self._api = api
        self._max_body = max_body_bytes
        self._set_level = set_level
        self._files = {path: ((_PAGE / name).read_bytes(), kind) for path, (name, kind) in _FILES.items()}
        self._rest = Starlette(
            routes=[
                Route("/", self._home),
                Route("/ui/", self._home),
                *(Route(path, self._file) for path in _FILES),
                Route(STATUS_PATH, self._status),
                Route(LEVEL_PATH, self._level, methods=["GET", "PUT"]),
                Route(INVOKE_PATH, self._invoke, methods=["POST"]),
            ]
        )
        self._rest.router.redirect_slashes = False

    def __repr__(self) -> str:
        return f"<AdminApp {self._access!r}>"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1000})
            return
        send = adding(tracing(scope, send), HEADERS)
        refused = self._access.refusal(scope, open_to_all=scope["path"] in _OPEN and scope["method"] in ("GET", "HEAD"))
        if refused is not None:
            await JSONResponse({"message": refused[1]}, refused[0])(scope, receive, send)
            return
        await self._rest({**scope, "root_path": ""}, receive, send)

    async def _home(self, _request: Request) -> Response:
        return RedirectResponse("/ui", 307)

    async def _file(self, request: Request) -> Response:
        content, kind = self._files[request.url.path]
        return Response(content, media_type=kind)

    async def _status(self, request: Request) -> Response:
        name = request.query_params.get("binding")
        try:
            if name is None:
                return _json((await self._snapshots.latest()).text)
            shown = await self._snapshots.of_binding(name)
        except TimeoutError:
            return JSONResponse({"message": "the cells do not answer"}, 503)
        if shown is None:
            return JSONResponse({"message": "there is no binding of this name"}, 404)
        return _json(msgspec.json.encode({**shown, **self._component(name), "canInvoke": self._trial is not None}))

    def _component(self, name: str) -> dict[str, Any]:
        guest = next((guest for guest in self._catalog.guests if guest.binding.name == name), None)
        if guest is None:
            return {"component": None, "load": None}
        return {
            "component": shown_component(guest.binding),
            "load": {"seconds": guest.seconds, "cached": guest.cached},
        }

    async def _level(self, request: Request) -> Response:
        if request.method == "GET":
            return JSONResponse({"level": level_now()})
        body = await self._object(request)
        level = body.get("level") if body is not None else None
        if level not in LEVELS:
            return JSONResponse({"message": f'the body must be {{"level": L}}, with L one of {", ".join(LEVELS)}'}, 400)
        self._set_level(level)
        return JSONResponse({"level": level})

    async def _invoke(self, request: Request) -> Response:
        if self._trial is None:
            return JSONResponse({"message": "guests cannot be tried here: set admin.invoke to true"}, 403)
        body = await self._object(request)
        if body is None or body.keys() - {"data", "metadata"} or not _is_metadata(body.get("metadata")):
            text = 'the body must be {"data": ..., "metadata": {...}}, with texts as the members of metadata'
            return JSONResponse({"message": text}, 400)
        answer = await self._trial.run(
            request.path_params["name"], body.get("data"), dict(body.get("metadata") or {}), self._api
        )
        return _json(msgspec.json.encode(answer))

    async def _object(self, request: Request) -> Mapping[str, Any] | None:
        """Return the JSON object of a body; None if the body is not an object, is too long, or did not come."""
        try:
            body = await read_body(request.receive, Pace(), limit=self._max_body)
            found = (
                json.loads(body, parse_float=_finite, parse_constant=_finite) if len(body) <= self._max_body else None
            )
        except (CallerGone, BodyLate, ValueError, RecursionError):
            return None
        return found if isinstance(found, dict) else None


def _finite(text: str) -> float:
    """Return a number. Python would read NaN, which is no JSON, and 1e999 as infinity, which cannot be written again.

    Raises:
        ValueError: it is none.
    """
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is not a number")
    return number


def _is_metadata(found: Any) -> bool:
    return found is None or (isinstance(found, dict) and all(isinstance(value, str) for value in found.values()))


def _json(text: bytes) -> Response:
    return Response(text, media_type="application/json")
