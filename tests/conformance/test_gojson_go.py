"""sandboxd.gojson against Go's encoding/json itself, on generated and mutated request bodies."""

import base64
import json
import random
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sandboxd import gojson
from sandboxd.gojson import exact as gojson_exact
from sandboxd.gojson import scan as gojson_scan
from sandboxd.gojson import text as gojson_text
from tests.guests.cache import CACHE, digest, go_version, made

SOURCE = Path(__file__).parent / "gojson"
GOLDEN = Path(__file__).parents[1] / "golden" / "dapr-binding.jsonl"
GO = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")

pytestmark = [
    pytest.mark.build,
    pytest.mark.skipif(GO is None, reason="compares with Go's standard library; needs a Go toolchain"),
]

Case = tuple[bytes, bool]


@pytest.fixture(scope="session")
def go_program() -> Path:
    assert GO is not None

    def make(fresh: Path) -> None:
        subprocess.run([GO, "build", "-o", str(fresh), "."], cwd=SOURCE, check=True, timeout=300)

    sources = sorted(file for file in SOURCE.rglob("*") if file.is_file())
    return made(CACHE / "gojson" / f"gojson-{digest(go_version(GO), *sources)}", make)


def ask_go(program: Path, cases: list[Case]) -> Iterator[dict[str, object]]:
    frames = b"".join(struct.pack("<BI", cut, len(body)) + body for body, cut in cases)
    reply = subprocess.run([program], input=frames, stdout=subprocess.PIPE, check=True, timeout=110).stdout
    at = 0
    while at < len(reply):
        (size,) = struct.unpack_from("<I", reply, at)
        yield json.loads(reply[at + 4 : at + 4 + size])
        at += 4 + size


def by_front(body: bytes, cut: bool) -> gojson.Request:
    return gojson.decode(body, cut=cut)


def by_exact_path(body: bytes, cut: bool) -> gojson.Request:
    try:
        return gojson.Request(*gojson_exact.decode(body, cut=cut))
    except (gojson_scan.JsonSyntaxError, gojson_exact.TypeMismatchError, gojson_exact.StreamError) as fault:
        raise gojson.MalformedError(str(fault)) from None


def compare(program: Path, cases: list[Case]) -> tuple[int, int]:
    """Return how many bodies both accepted and how many both refused. Fail on the first difference."""
    accepted = refused = 0
    answers = list(ask_go(program, cases))
    assert len(answers) == len(cases)
    for (body, cut), want in zip(cases, answers, strict=True):
        for decode in (by_front, by_exact_path):
            got: dict[str, object]
            try:
                request = decode(body, cut)
                encoded = base64.b64encode(request.data).decode()
                got = {"error": "", "operation": request.operation, "metadata": request.metadata, "data": encoded}
            except gojson.MalformedError as error:
                got = {"error": str(error), "operation": "", "metadata": None, "data": None}
            assert got == want, f"{decode.__name__}, cut={cut}, body {body[:2000]!r}"
        accepted += not want["error"]
        refused += bool(want["error"])
    return accepted, refused


TEXT_PIECES = [
    b"a", b"execute", b"data", b" ", b"<", b">", b"&", b"'", b"/", b"\\/", b'\\"', b"\\\\", b"\\n", b"\\b", b"\\f",
    b"\\r", b"\\t", b"\\u0000", b"\\u001f", b"\\u0061", b"\\u007f", b"\\u2028", b"\\u2029", b"\\uD83D\\uDE00",
    b"\\ud83d", b"\\ude00", b"\\ud83d\\ud83d\\ude00", b"\\ud83d\\u0041", b"\xe2\x80\xa8", b"\xe2\x80\xa9", b"\x7f",
    "é".encode(), "漢".encode(), "😀".encode(), b"\xff", b"\xc3", b"\xe2\x80", b"\xed\xa0\x80", b"\xf0\x9f\x98",
    b"\xf4\x90\x80\x80", b"\xc0\x80", b"\xe0\x80\x80", b"\\ud83d\xed\xb8\x80", "\ufffd".encode(),
    "ſ".encode(), b"\xe2\x84\xaa",
]  # fmt: skip
NUMBERS = [
    b"0", b"-0", b"1", b"-1", b"0.0", b"-0.0", b"1.0", b"1.5", b"1e2", b"1E+2", b"1e-6", b"1e-7", b"9.999999e-7",
    b"1e20", b"1e21",
    b"999999999999999999999", b"1e400", b"-1e400", b"1e-400", b"-1e-400", b"5e-324", b"1.7976931348623157e308",
    b"1.7976931348623159e308", b"9007199254740993", b"999999999999999", b"9999999999999999",
    b"123456789012345678901234567890",
    b"0.1", b"0.30000000000000004", b"100000000000000000000", b"1e15", b"1e16", b"123456789e13", b"4.35", b"2.5e-5",
    b"0e0",
    b"0e400",
    b"01", b"-", b"1.", b".5", b"+1", b"1e", b"1e+", b"1.5.5", b"--1", b"0x10", b"1_0", b"NaN", b"Infinity",
]  # fmt: skip
WORDS = [b"true", b"false", b"null", b"tru", b"True", b"nul", b"nulll", b"falsy", b"fals"]
KEYS = [
    b"operation", b"metadata", b"data", b"Operation", b"METADATA", b"Data", b"dat\\u0061", b"m\\u0065tadata", b"other",
    "dată".encode(), b"", b"data\xff", b"\xff", b"\xfe", b"operat\xc4\xb1on",
]  # fmt: skip
SPACES = [b"", b"", b"", b" ", b"\n", b"\t\r", b"\x0b", b"\x00", b"\xef\xbb\xbf"]


class Generator:
    """Bodies that are mostly well-formed, with what is odd in JSON sprinkled over them."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.pick: Callable[[list[bytes]], bytes] = self.random.choice

    def space(self) -> bytes:
        return self.pick(SPACES) if self.random.random() < 0.02 else self.pick(SPACES[:6])

    def string(self) -> bytes:
        return b'"' + b"".join(self.pick(TEXT_PIECES) for _ in range(self.random.randrange(5))) + b'"'

    def number(self) -> bytes:
        if self.random.random() < 0.5:
            return self.pick(NUMBERS if self.random.random() < 0.1 else NUMBERS[:37])
        value = struct.unpack("<d", self.random.randbytes(8))[0]
        return repr(value).encode() if value == value and abs(value) != float("inf") else b"7"

    def value(self, depth: int = 0) -> bytes:
        kind = self.random.randrange(8 if depth < 4 else 5)
        if kind < 2:
            return self.string()
        if kind < 4:
            return self.number()
        if kind == 4:
            return self.pick(WORDS if self.random.random() < 0.1 else WORDS[:3])
        items = range(self.random.randrange(4))
        if kind == 5:
            return b"[" + b",".join(self.space() + self.value(depth + 1) + self.space() for _ in items) + b"]"
        members = (self.key() + self.space() + b":" + self.space() + self.value(depth + 1) for _ in items)
        return b"{" + b",".join(members) + self.space() + b"}"

    def key(self) -> bytes:
        return self.string() if self.random.random() < 0.5 else b'"' + self.pick(KEYS) + b'"'

    def metadata(self) -> bytes:
        if self.random.random() < 0.1:
            return self.value()
        value = self.string if self.random.random() < 0.7 else self.value
        return b"{" + b",".join(self.key() + b":" + value() for _ in range(self.random.randrange(4))) + b"}"

    def member(self) -> bytes:
        name = self.pick(KEYS[:3] if self.random.random() < 0.8 else KEYS)
        folded = name.lower()
        if folded.endswith(b"etadata"):
            value = self.metadata()
        elif folded == b"operation":
            value = self.pick([b'"execute"', b'"get"', b"null", b'""']) if self.random.random() < 0.8 else self.value()
        else:
            value = self.value()
        return self.space() + b'"' + name + b'"' + self.space() + b":" + self.space() + value + self.space()

    def body(self) -> bytes:
        if self.random.random() < 0.05:
            return self.space() + self.value() + self.space()
        members = b",".join(self.member() for _ in range(self.random.randrange(5)))
        tail = self.pick([b"", b"", b"", b"\n", b"{}", b"x", b","])
        return self.space() + b"{" + members + b"}" + tail

    def mutated(self, body: bytes) -> bytes:
        out = bytearray(body)
        for _ in range(self.random.randrange(1, 4)):
            if not out:
                break
            at = self.random.randrange(len(out))
            change = self.random.randrange(5)
            if change == 0:
                del out[at]
            elif change == 1:
                out[at] = self.random.randrange(256)
            elif change == 2:
                out.insert(at, self.random.choice(b'{}[]",:\\/0-.eEtfn \n\x00\xff'))
            elif change == 3:
                del out[at:]
            else:
                to = self.random.randrange(at, len(out))
                out[at:at] = out[at:to]
        return bytes(out)


@pytest.mark.parametrize("seed", range(4))
def test_generated_bodies(go_program: Path, seed: int) -> None:
    generator = Generator(seed)
    bodies = [generator.body() for _ in range(5000)]
    accepted, refused = compare(go_program, [(body, generator.random.random() < 0.1) for body in bodies])
    assert accepted > 1000
    assert refused > 500


@pytest.mark.parametrize("seed", range(100, 104))
def test_mutated_bodies(go_program: Path, seed: int) -> None:
    generator = Generator(seed)
    golden = [base64.b64decode(json.loads(line)["body_b64"]) for line in GOLDEN.read_bytes().splitlines()]
    origins = golden + [generator.body() for _ in range(2000)]
    cases = [(generator.mutated(body), generator.random.random() < 0.1) for body in origins for _ in range(2)]
    accepted, refused = compare(go_program, cases)
    assert accepted > 100
    assert refused > 500


def test_every_byte_where_a_token_is_expected(go_program: Path) -> None:
    places = [
        b"%c", b"{%c", b'{"a"%c', b'{"a":%c', b'{"a":1%c', b'{"a":1,%c', b'{"a":[%c', b'{"a":[1%c', b'{"a":[1,%c',
        b'{"a":"%c', b'{"a":"\\%c', b'{"a":"\\u%c', b'{"a":"\\u00%c', b'{"a":-%c', b'{"a":0%c', b'{"a":1.%c',
        b'{"a":1.0%c',
        b'{"a":1e%c', b'{"a":1e+%c', b'{"a":1e5%c', b'{"a":t%c', b'{"a":tru%c', b'{"a":f%c', b'{"a":n%c', b'{"a":nul%c',
        b'{"operation":"%c"}', b'{"metadata":{"%c":"%c"}}', b'{"data":"%c"}', b'{"data":{"%c":0}}',
    ]  # fmt: skip
    bodies = [place.replace(b"%c", bytes([byte])) for place in places for byte in range(256)]
    compare(go_program, [(body, cut) for body in bodies for cut in (False, True)])


def test_depth_limit(go_program: Path) -> None:
    bodies = []
    frames = [b"%s", b'{"metadata":{"a":%s}}'] + [b'{"' + key + b'":%s}' for key in [*KEYS[:3], b"other"]]
    for frame in frames:
        for depth in (500, 999, 1000, 1001, 9999, 10000, 10001):
            for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
                inner = b"1" if closing == b"}" else b""
                bodies.append(frame.replace(b"%s", opening * depth + inner + closing * depth))
                bodies.append(frame.replace(b"%s", opening * depth))
    compare(go_program, [(body, False) for body in bodies])


def test_floats_and_long_numbers(go_program: Path) -> None:
    rng = random.Random(7)
    literals = [repr(struct.unpack("<d", struct.pack("<Q", rng.getrandbits(64) & ~(1 << 62)))[0]) for _ in range(1500)]
    literals += [f"{rng.randrange(10 ** rng.randrange(1, 30))}e{rng.randrange(-340, 320)}" for _ in range(2000)]
    literals += [f"{rng.randrange(10**6)}.{rng.randrange(10 ** rng.randrange(1, 25))}" for _ in range(1000)]
    literals += [f"{10**k + d}" for k in range(14, 24) for d in (-1, 0, 1)]
    literals += ["1" * 5000, "0." + "0" * 5000 + "1", "1" * 308 + "." + "9" * 3000, "1" * 310]
    bodies = [b'{"data":' + text.encode() + b"}" for text in literals if "n" not in text]
    bodies += [b'{"data":[' + text.encode() + b"]}" for text in literals if "n" not in text]
    accepted, _ = compare(go_program, [(body, False) for body in bodies])
    assert accepted > 5000


def test_error_messages_are_marshalled_as_go_does(go_program: Path) -> None:
    texts = ["".join(map(chr, range(0x300))), "\u2027\u2028\u2029\u202a", "😀\U0010ffff", "</script>&amp;"]
    bodies = [json.dumps({"data": text}).encode() for text in texts]
    for text, want in zip(texts, ask_go(go_program, [(body, False) for body in bodies]), strict=True):
        assert gojson_text.quote(text).encode() == base64.b64decode(str(want["data"]))
