"""The Go-JSON codec: golden cases, both paths, and hostile bodies. Conformance over many bodies: tests/conformance."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from sandboxd import gojson
from sandboxd.gojson import exact as gojson_exact
from sandboxd.gojson import scan as gojson_scan
from sandboxd.gojson import text as gojson_text

GOLDEN = Path(__file__).parents[1] / "golden" / "dapr-binding.jsonl"
CASES: list[dict[str, Any]] = [json.loads(line) for line in GOLDEN.read_bytes().splitlines()]
PREFIX = "failed deserializing HTTP body: "


@pytest.mark.parametrize("case", CASES, ids=[case["case"] for case in CASES])
def test_golden(case: dict[str, Any]) -> None:
    body = base64.b64decode(case["body_b64"])
    if "error_message" in case:
        with pytest.raises(gojson.MalformedError) as caught:
            gojson.decode(body)
        assert PREFIX + str(caught.value) == case["error_message"]
    else:
        request = gojson.decode(body)
        assert request == (case["operation"], case["metadata"], base64.b64decode(case["stdin_b64"]))
        assert gojson_exact.decode(body, cut=False) == request


@pytest.mark.parametrize(
    "body",
    [
        b'{"operation":"execute","data":"salaboy"}',
        b'{"operation":"execute","metadata":{"args":"a,b"},"data":{"b":[1.5,-3,true],"a":"<\\u00e9>"}}',
        b'{"operation":"execute","metadata":null}',
        b' {"data": "caf\xc3\xa9" , "operation" : "execute" } \n',
    ],
)
def test_ordinary_bodies_take_the_fast_path(body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = gojson_exact.decode(body, cut=False)
    monkeypatch.setattr(gojson_exact, "decode", lambda *_, **__: pytest.fail("took the exact path"))
    assert gojson.decode(body) == expected


@pytest.mark.parametrize(
    ("body", "cut", "message"),
    [
        (b'{"data":"' + b"x" * 100, True, "stream too large"),
        (b'{"data":"' + b"x" * 100, False, "unexpected EOF"),
        (b"   ", True, "stream too large"),
        (b"null", True, "stream too large"),
    ],
)
def test_end_of_the_body(body: bytes, cut: bool, message: str) -> None:
    with pytest.raises(gojson.MalformedError, match=f"^{message}$"):
        gojson.decode(body, cut=cut)


def test_a_value_that_ends_at_the_limit_is_whole() -> None:
    assert gojson.decode(b'{"data":1}', cut=True).data == b"1"


def test_a_syntax_error_behind_a_type_error_wins() -> None:
    with pytest.raises(gojson.MalformedError, match=r"^invalid character 'x' after object key:value pair$"):
        gojson.decode(b'{"operation":1,"metadata":"a" x}')


def test_the_first_type_error_is_reported() -> None:
    with pytest.raises(gojson.MalformedError, match=r"OutputBindingRequest\.data of type float64$"):
        gojson.decode(b'{"data":[1e400],"operation":1}')


HALF = 1 << 18
HOSTILE = {
    "deep": b'{"data":' + b"[" * 9_999 + b'"' + b"x" * HALF + b'"' + b"]" * 9_999 + b"}",
    "deep objects": b'{"data":' + b'{"a":' * 9_000 + b"[" + b"1," * (HALF // 2) + b"1]" + b"}" * 9_000 + b"}",
    "escapes": b'{"data":"' + b"\\ud800" * (HALF // 6) + b'"}',
    "invalid bytes": b'{"data":"' + b"\xff" * HALF + b'"}',
    "long number": b'{"data":' + b"9" * 300 + b"." + b"9" * HALF + b"}",
    "many numbers": b'{"data":[' + b"-0," * (HALF // 3) + b"0]}",
    "empty lists": b'{"data":[-0' + b",[]" * (HALF // 3) + b"]}",
    "many members": b"{" + b",".join(b'"data":-0' for _ in range(HALF // 10)) + b"}",
    "many keys": b'{"data":{' + b",".join(b'"%d":-0' % n for n in range(HALF // 12)) + b"}}",
    "unknown members": b"{" + b",".join(b'"%d":{}' % n for n in range(HALF // 12)) + b"}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bodies_are_decoded_without_recursion(name: str) -> None:
    # The outcome is Go's (compared in tests/conformance); here: no RecursionError, no quadratic work to sit through.
    request = gojson.decode(HOSTILE[name])
    assert request == gojson_exact.decode(HOSTILE[name], cut=False)


def test_nesting_beyond_the_limit() -> None:
    with pytest.raises(gojson.MalformedError, match=r"^invalid character '\[' exceeded max depth$"):
        gojson.decode(b'{"data":' + b"[" * 10_000)


def test_error_body() -> None:
    assert gojson.error_body("E", 'a<b>&"c"\n\u2028é') == (
        b'{"errorCode":"E","message":"a\\u003cb\\u003e\\u0026\\"c\\"\\n\\u2028\xc3\xa9"}'
    )
    assert gojson.error_body("E", "m", "d") == b'{"errorCode":"E","message":"m","detail":"d"}'


@pytest.mark.parametrize(
    ("byte", "shown"),
    [
        (0x00, r"'\x00'"),
        (0x07, r"'\a'"),
        (0x0A, r"'\n'"),
        (0x22, "'\"'"),
        (0x27, r"'\''"),
        (0x5C, r"'\\'"),
        (0x7F, r"'\x7f'"),
        (0x80, r"'\u0080'"),
        (0xA0, r"'\u00a0'"),
        (0xAD, r"'\u00ad'"),
        (0xEF, "'ï'"),
    ],
)
def test_quote_char(byte: int, shown: str) -> None:
    assert gojson_text.quote_char(byte) == shown


def test_repr_of_a_scanner() -> None:
    assert repr(gojson_scan.Scanner(b"{}")) == "<Scanner of 2 bytes>"


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        # Go's strconv/quote_test.go.
        ("\a\b\f\r\n\t\v", r'"\a\b\f\r\n\t\v"'),
        ("\\", r'"\\"'),
        ("\u263a", '"\u263a"'),
        ("\U0010ffff", r'"\U0010ffff"'),
        ("\x04", r'"\x04"'),
        ("!\u00a0!\u2000!\u3000!", r'"!\u00a0!\u2000!\u3000!"'),
        ("\x7f", r'"\x7f"'),
        ("a'b\"c", '"a\'b\\"c"'),
    ],
)
def test_texts_as_strconv_quotes_them(text: str, quoted: str) -> None:
    assert gojson_text.go_quote(text) == quoted
