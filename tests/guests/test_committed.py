"""The committed guests are what their sources say. Does not test sandboxd: guests run in wasmtime's own WASI here."""

import tempfile
from pathlib import Path

import pytest
import wasmtime

from tests.guests import ToolMissingError, path, skip_or_fail
from tests.guests.recipes import GUESTS, ROOT, Recipe, build, committed_versions

SAMPLE_STDIN = b'[{"name":"the tea","price":3},\n{"name":"cake","price":12}]\nthe end of the text\n'


def run(guest: Path, *args: str, stdin: bytes = b"") -> tuple[int | str, bytes, bytes]:
    """Exit code (or the trap's last line), stdout and stderr of a run without a filesystem."""
    engine = wasmtime.Engine()
    with tempfile.TemporaryDirectory() as scratch:
        files = {name: Path(scratch) / name for name in ("in", "out", "err")}
        files["in"].write_bytes(stdin)
        wasi = wasmtime.WasiConfig()
        wasi.argv = [guest.stem, *args]
        wasi.env = [("GREETING", "Hello")]
        wasi.stdin_file, wasi.stdout_file, wasi.stderr_file = (str(file) for file in files.values())
        store = wasmtime.Store(engine)
        store.set_wasi(wasi)
        linker = wasmtime.Linker(engine)
        linker.define_wasi()
        ended: int | str = 0
        start = linker.instantiate(store, wasmtime.Module.from_file(engine, str(guest))).exports(store)["_start"]
        assert isinstance(start, wasmtime.Func)
        try:
            start(store)
        except wasmtime.ExitTrap as exit_:
            ended = exit_.code
        except (wasmtime.Trap, wasmtime.WasmtimeError) as trap:
            ended = str(trap).rstrip().splitlines()[-1].strip()
        store.close()
        return ended, files["out"].read_bytes(), files["err"].read_bytes()


def test_every_committed_guest_has_a_recipe() -> None:
    committed = {
        p.relative_to(ROOT) for folder in {r.output.parent for r in GUESTS} for p in (ROOT / folder).glob("*.wasm")
    }
    assert committed == {recipe.output for recipe in GUESTS}


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(FileNotFoundError, match=r"no committed guest 'ecoh'; there are: args, .*echo"):
        path("ecoh")


@pytest.mark.build
@pytest.mark.parametrize("recipe", GUESTS, ids=lambda recipe: str(recipe.output))
def test_a_rebuild_is_what_is_committed(recipe: Recipe, tmp_path: Path) -> None:
    fresh = tmp_path / recipe.output.name
    try:
        build(recipe, fresh)
    except ToolMissingError as missing:
        skip_or_fail(missing)
    committed = ROOT / recipe.output
    if recipe.toolchain.version() == committed_versions()[recipe.toolchain.name]:
        assert fresh.read_bytes() == committed.read_bytes()
    elif recipe.name != "loop":  # which never ends
        sample = {"stdin": SAMPLE_STDIN}
        assert run(fresh, *recipe.sample, **sample) == run(committed, *recipe.sample, **sample)


@pytest.mark.parametrize(
    ("name", "args", "stdin", "expected"),
    [
        ("args", ("a b", ""), b"", (0, b"args\na b\n\n", b"")),
        ("cat", ("7",), bytes(range(256)) * 40, (0, bytes(range(256)) * 40, b"")),
        ("count", (), b"one two\nthree", (0, b'{"lines":1,"words":3,"bytes":13}', b"")),
        ("echo", (), b"\x00\xff" * 70_000, (0, b"\x00\xff" * 70_000, b"")),
        ("env", (), b"", (0, b"GREETING=Hello\n", b"")),
        ("exit", ("7", "out", "err"), b"", (7, b"out", b"err")),
        ("exit", (), b"", (0, b"", b"")),
        ("flood", ("100001", "7"), b"", (0, b"x" * 100_001, b"")),
        ("grow", ("take", "3"), b"", (0, b"pages 3\n", b"")),
        ("recurse", ("1000",), b"", (0, b"1000\n", b"")),
        ("recurse", (), b"", ("wasm trap: call stack exhausted", b"", b"")),
        ("sort", ("-r",), b"a\nc\nb\n", (0, b"c\nb\na\n", b"")),
        ("stderr", ("x", "y"), b"", (0, b"done\n", b"x\ny\n")),
        ("tally", (), b"b a b", (0, b"2 b\n1 a\n", b"")),
        ("tiny", ("ignored",), b"az{`\xc3\xa9", (0, b"AZ{`\xc3\xa9", b"")),
        ("trap", (), b"", ("wasm trap: wasm `unreachable` instruction executed", b"before\n", b"")),
        ("trap", ("div",), b"", ("wasm trap: integer divide by zero", b"before\n", b"")),
        ("trap", ("memory",), b"", ("1: wasm trap: out of bounds memory access", b"before\n", b"")),
        ("trap", ("indirect",), b"", ("wasm trap: undefined element: out of bounds table access", b"before\n", b"")),
        ("upper", (), b"Hello", (0, b"HELLO", b"")),
    ],
)
def test_guests_do_what_their_first_lines_say(
    name: str, args: tuple[str, ...], stdin: bytes, expected: tuple[int | str, bytes, bytes]
) -> None:
    assert run(path(name), *args, stdin=stdin) == expected


QUICKSTART = ROOT / "deploy/quickstart/guests"
PRICES = b'[{"n":"a","price":1.5},{"n":"b \\"q","price":30, "x":[{"price":1}]},{"n":"c"},{"n":"d","price":"7"}]'


@pytest.mark.parametrize(
    ("args", "stdin", "ended", "stdout"),
    [
        (("price", "<", "10"), PRICES, 0, b'[{"n":"a","price":1.5}]'),
        (("price", ">=", "30"), PRICES, 0, b'[{"n":"b \\"q","price":30, "x":[{"price":1}]}]'),
        (("price", "=", "7"), PRICES, 0, b'[{"n":"d","price":"7"}]'),
        (("price", "!=", "7"), b'[ {"price":7} ,{}]', 0, b"[{}]"),
        (("price", "=", "7"), b"[]", 0, b"[]"),
        (("price",), b"[]", 2, b""),
        (("price", "~", "7"), b"[]", 2, b""),
        *(
            (("a", "=", "1"), bad, 3, b"")
            for bad in (b"", b"[", b"{}", b"[1]", b'[{"a":}]', b'[{"a":[\x01]}]', b"[] x")
        ),
        (("a", "=", "1"), b'[{"a":' + b"[" * 50_000, 3, b""),
    ],
)
def test_the_filter_of_the_quickstart(args: tuple[str, ...], stdin: bytes, ended: int, stdout: bytes) -> None:
    got = run(QUICKSTART / "filter.wasm", *args, stdin=stdin)
    assert got[:2] == (ended, stdout)
    assert bool(got[2]) == bool(ended), "an error is explained on stderr, and only an error"


def test_the_other_guests_of_the_quickstart() -> None:
    assert run(QUICKSTART / "upper.wasm", stdin=b'"hello"') == (0, b'"HELLO"', b"")
    assert run(QUICKSTART / "greet.wasm", "Ada", "Grace") == (0, b"Hello, Ada!\nHello, Grace!\n", b"")
    assert run(QUICKSTART / "greet.wasm")[0] == 2
