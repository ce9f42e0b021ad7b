"""The places of traps: wasmtime's message in wazero's form. The messages are wasmtime 50's own."""

import base64
import string
import urllib.parse

import pytest

import hostfuncs
from hostfuncs import texts
from hostfuncs.running import traps

CAUSE = "\n\nCaused by:\n    wasm trap: wasm `unreachable` instruction executed\n"
HEAD = "error while executing at wasm backtrace:\n"


def test_functions_have_names_or_numbers() -> None:
    text = f"{HEAD}    0:    0xf60 - app.wasm!main.run\n    1:    0x264 - <unknown>!<wasm function 75>{CAUSE}"
    assert traps.trace(text) == "\nwasm stack trace:\n\tapp.wasm.main.run(...)\n\t.$75(...)"


def test_lines_of_files_follow_their_functions() -> None:
    place = "                    at /src/app.c:5:68"
    text = f"{HEAD}    0:    0xf86 - __main_argc_argv\n{place}\n    1:    0x264 - app.wasm!_start{CAUSE}"
    assert traps.trace(text).split("\n")[2:] == [
        "\t.__main_argc_argv(...)",
        "\t\t/src/app.c:5:68",
        "\tapp.wasm._start(...)",
    ]


def test_a_trap_without_a_backtrace_has_no_trace() -> None:
    assert traps.trace("wasm trap: call stack exhausted") == ""
    assert traps.trace("") == ""


def test_what_a_guest_names_its_functions_is_bounded() -> None:
    frames = "".join(f"    {number}:    0x1 - m!{'n' * 5000}\n" for number in range(100))
    found = traps.trace(f"{HEAD}{frames}{CAUSE}")
    assert len(found.encode()) <= texts.TRACE_BYTES
    assert found.endswith("\t... maybe followed by omitted frames")
    assert "Caused by" not in found


def test_at_most_thirty_functions() -> None:
    frames = "".join(f"    {number}:    0x1 - m!f\n" for number in range(100))
    assert traps.trace(f"{HEAD}{frames}{CAUSE}").count("\tm.f(...)") == 30


@pytest.mark.parametrize("name", ["\u6f22" * 160, "\xe9" * 160, "%" * 160, "x" * 160, "\U0001f600" * 160])
def test_a_trace_of_any_names_fits_into_what_grpc_clients_take(name: str) -> None:
    """grpcio's clients refuse more than 8 KiB of metadata (`grpc.max_metadata_size`) and lose code and message."""
    from sandboxd.front.grpc import status

    listing = "\n".join(f"    {at}:    0x1 - app!{name}" for at in range(20))
    message = "wasm error: unreachable" + traps.trace(f"{HEAD}{listing}{CAUSE}")
    error = status.GrpcError(status.Code.INTERNAL, message, reason="ERR_INVOKE_OUTPUT_BINDING", detail=message)
    encoded = urllib.parse.quote(error.message, safe=string.printable.replace("%", ""))
    details = sum(len(base64.b64encode(value)) for _, value in error.trailers())
    assert len(encoded) + details < 8192 - 256
    assert error.message.startswith("wasm error: unreachable\nwasm stack trace:\n\tapp.")


def test_names_of_any_length_leave_the_beginning_of_a_trace() -> None:
    name = "n" * 4000
    result = hostfuncs.run(f'(module $app (func ${name} (export "_start") (call 0)))'.encode())
    assert result.trace.startswith("\nwasm stack trace:\n\tapp.nnn")
    assert "stack overflow" in result.message
