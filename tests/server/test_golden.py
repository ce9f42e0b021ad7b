"""Every golden case against the running server and a guest that echoes its stdin."""

import base64
import json
from pathlib import Path
from typing import Any, Protocol

import httpx2 as httpx
import pytest

GOLDEN = Path(__file__).parents[1] / "golden" / "dapr-binding.jsonl"
CASES: list[dict[str, Any]] = [json.loads(line) for line in GOLDEN.read_bytes().splitlines()]


class Server(Protocol):
    base_url: str


def check(base_url: str, case: dict[str, Any]) -> None:
    """Send the case's body and compare the whole answer."""
    answer = httpx.post(
        f"{base_url}/v1.0/bindings/echo", content=base64.b64decode(case["body_b64"]), timeout=120, verify=False
    )
    assert answer.headers["content-type"] == "application/json"
    if "error_message" in case:
        assert answer.status_code == case["status"]
        assert answer.json() == {"errorCode": "ERR_MALFORMED_REQUEST", "message": case["error_message"]}
        assert not answer.content.endswith(b"\n")
    elif case["operation"] == "":
        assert answer.status_code == 500
        assert answer.json() == {
            "errorCode": "ERR_INVOKE_OUTPUT_BINDING",
            "message": "error invoking output binding echo: operation field is missing from request",
        }
    else:
        assert answer.status_code == 200
        assert answer.content == base64.b64decode(case["stdin_b64"])


@pytest.mark.parametrize("case", CASES, ids=[case["case"] for case in CASES])
def test_golden(server: Server, case: dict[str, Any]) -> None:
    check(server.base_url, case)
