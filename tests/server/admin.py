"""A server with its status page on a free port, and what tests ask of that."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx2 as httpx

from tests.running import RunningServer

ACTION = {"sandboxd-admin": "test"}


class AdminServer(RunningServer):
    """`sandboxd serve` with `admin.listen` on a free port."""

    def __init__(self, resources: Path, *options: str, environ: Mapping[str, str] | None = None, **rest: Any) -> None:
        listen = {"SANDBOXD_ADMIN_LISTEN": "127.0.0.1:0"}
        super().__init__(resources, *options, environ=listen | dict(environ or {}), **rest)
        try:
            self.page_url: str = self.wait_for(lambda line: line.get("event") == "admin")["url"]
        except BaseException:
            self.stop()
            raise
        self.admin_url = self.page_url.removesuffix("/ui")

    def admin(self, method: str, path: str, **options: Any) -> httpx.Response:
        """One request to the page's address."""
        with httpx.Client(base_url=self.admin_url, trust_env=False, verify=False, timeout=60) as client:
            return client.request(method, path, **options)

    def status(self, **query: str) -> dict[str, Any]:
        """The status document, or that of one binding."""
        reply = self.admin("GET", "/v1.0/sandboxd/status", params=query)
        assert reply.status_code == 200, reply.text
        found: dict[str, Any] = reply.json()
        return found

    def try_it(self, binding: str, data: Any, metadata: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Run a guest as the page does."""
        body = json.dumps({"data": data, "metadata": dict(metadata or {})})
        reply = self.admin("POST", f"/v1.0/sandboxd/invoke/{binding}", content=body, headers=ACTION)
        assert reply.status_code == 200, reply.text
        found: dict[str, Any] = reply.json()
        return found
