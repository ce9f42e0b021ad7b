"""One server that serves nothing but attacks, beside two guests that are none."""

import contextlib
import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx2 as httpx
import pytest

from tests.conftest import guest_component
from tests.guests import hostile
from tests.host.native import need_native
from tests.hostile import components, generated, hostfunctions
from tests.running import PATIENT, RunningServer, component, write_components

OVERDUE = "module closed with context deadline exceeded: more than 400ms (timeout)"
GUEST = "module[{name}-N] function[_start] failed: "
NO_BINDING = "couldn't find output binding {name}"


@dataclass(frozen=True)
class Attack:
    """The answer that a caller gets about one."""

    name: str
    outcome: str
    reason: str = ""
    """Message behind `error invoking output binding NAME: `; of an invocation that completed, nothing."""
    limit: str = ""
    """Label of sandboxd_limits_reached_total."""
    data: object = None
    timeout: str = "60s"

    def __str__(self) -> str:
        return self.name


def _overdue(name: str) -> Attack:
    return Attack(name, "deadline_exceeded", OVERDUE, "timeout", timeout="400ms")


def _trapped(name: str, text: str, limit: str = "") -> Attack:
    return Attack(name, "trapped", GUEST + "wasm error: " + text, limit)


def _exit(name: str, code: int, data: object = None) -> Attack:
    return Attack(name, "exit_nonzero", f"module closed with exit_code({code})", data=data)


def _memory(name: str, text: str, limit: str = "memoryLimit") -> Attack:
    return Attack(name, "memory_exceeded", GUEST + text, limit)


DEEP = "stack overflow: more than 1 MiB (wasm.stack) in use"
FAULT, INVAL, BADF = 21, 28, 8

ATTACKS = (
    *map(
        _overdue,
        (
            "endless_loop",
            "endless_start",
            "endless_tail_calls",
            "endless_host_calls",
            "endless_randomness",
            "endless_bulk",
            "empty_vectors",
            "naps",
            "sleeper",
            "c_endless_loop",
            "c_endless_host_calls",
            "c_blocked",
            "c_cyclic_poll",
        ),
    ),
    *(_trapped(name, DEEP, "wasm.stack") for name in ("recursion", "host_call_in_depth", "wide_recursion")),
    _memory("memory_bomb", "wasm error: unreachable; 64576 KiB of memory were in use of 64 MiB (memoryLimit)"),
    _memory("memory_from_birth", "needs 1 GiB of memory to begin with, more than 64 MiB (memoryLimit)"),
    _memory("hidden_memory", "the module needs more memory to begin with than 64 MiB (memoryLimit)"),
    _memory("garbage_bomb", "wasm error: out of memory for objects: more than 64 MiB (memoryLimit)"),
    _memory(
        "table_from_birth",
        "the module needs more table elements to begin with than 200000 (tableElements)",
        "tableElements",
    ),
    _trapped("memory_at_once", "out of bounds memory access"),
    _trapped("table_bomb", "unreachable"),
    *(
        Attack(name, "output_exceeded", GUEST + "wrote more than 1 MiB (stdoutLimit) to stdout", "stdoutLimit")
        for name in ("stdout_flood", "stdout_many_vectors")
    ),
    Attack("stderr_flood", "completed", limit="stderrLimit"),
    Attack("tiny_writes", "completed"),
    _trapped(
        "forged_handle", "types.incoming-response-status: response 1 is no handle of this invocation, not response"
    ),
    _trapped("reused_handle", "types.drop-fields: fields 1 is a handle that was dropped, not fields"),
    _trapped(
        "handle_flood",
        "types.new-fields: more than 4096 handles are alive; drop what is no longer needed (hostEntries)",
        "hostEntries",
    ),
    _memory(
        "body_hoard",
        "wasm error: the host would hold more than 64 MiB (hostMemory) for the guest; "
        "drop handles that are no longer needed, and read the bodies of responses",
        "hostMemory",
    ),
    _trapped("c_recursion", DEEP, "wasm.stack"),
    _trapped("c_long_poll", "a list of 65537 elements, at most 65536 are taken"),
    _trapped("c_empty_poll", "wasi:io/poll poll: empty list"),
    _trapped("c_forged_handle", "unknown handle index 77"),
    _trapped("c_reused_handle", "unknown handle index 1"),
    _trapped("c_handle_flood", "more than 4096 host resources alive at once (hostEntries)", "hostEntries"),
    Attack("c_stdout_flood", "output_exceeded", GUEST + "wrote more than 1 MiB (stdoutLimit) to stdout", "stdoutLimit"),
    _trapped("c_randomness", "wasi:random: 4294967295 bytes asked for at once, at most 1048576"),
    _exit("vectors_without_end", FAULT),
    _exit("poll_a_million", INVAL),
    _exit("randomness_4gib", FAULT),
    _exit("no_memory", FAULT),
    _exit("fd_churn", BADF),
    _exit("exit_in_start", 9),
    _exit("allocates_in_start", 7),
    *(_exit("exits", code, code) for code in (255, 256, 65_536, (1 << 31))),
    # wazero ends a cancelled guest with this code (sys/error.go), and Dapr cannot tell the two apart.
    Attack("exits", "exit_nonzero", "module closed with context canceled", data=(1 << 32) - 1),
    _trapped("trap_in_start", "unreachable"),
    _trapped("data_beyond_memory", "out of bounds memory access"),
    _trapped("large_data", "out of bounds memory access"),
    _trapped("elements_beyond_table", "invalid table access"),
    _trapped("wild_call", "indirect call type mismatch"),
    _trapped("thrower", "thrown Wasm exception"),
    *(
        Attack(name, "completed")
        for name in ("no_start", "many_exports", "many_functions", "deep_blocks", "deep_types")
    ),
    Attack("long_chain_of_values", "completed"),
)

REFUSED: Mapping[str, str] = {
    "start_with_parameters": 'the export "_start" is not a function without parameters',
    "many_imports": "12000 imports, at most 10000 are supported",
    "many_locals": "too many locals: locals exceed maximum",
    "giant_table_of_branches": "`br_table` has 7000000 targets, which exceeds the implementation limit",
    "many_memories": "memories and may have only one",
    "shared_memory": "threads must be enabled for shared memories",
}
"""Guests that are not loaded, and why, as the log says it."""


def binary(name: str) -> bytes:
    """The guest of an attack."""
    if name in components.BODIES:
        return components.binary(name)
    make = getattr(generated, name, None)
    return bytes(make()) if make is not None else hostile.attack(name)


@pytest.fixture(scope="session")
def hostile_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Two workers, small limits, every attack a binding of its name; `caller` calls host functions."""
    folder = tmp_path_factory.mktemp("hostile")
    documents = [guest_component("echo"), guest_component("args", argsLimit="1Ki", envLimit="1Ki")]
    timeouts = {attack.name: attack.timeout for attack in ATTACKS} | dict.fromkeys(REFUSED, "60s")
    for name, timeout in timeouts.items():
        (folder / f"{name}.wasm").write_bytes(binary(name))
        documents.append(
            component(
                name,
                f"file://{folder / name}.wasm",
                timeout=timeout,
                memoryLimit="64Mi",
                stdoutLimit="1Mi",
                stderrLimit="4Ki",
            ).replace("spec:\n", "spec:\n  ignoreErrors: true\n")
        )
    (folder / "caller.wasm").write_bytes(hostfunctions.forwarding())
    documents.append(component("caller", f"file://{folder / 'caller.wasm'}", timeout="20s"))
    resources = write_components(folder / "resources", documents)
    environ = {"SANDBOXD_CELLS": "1", "SANDBOXD_LISTEN_MAX_BODY_SIZE": "64Ki", **PATIENT}
    with Target(resources, "--workers", "2", environ=environ) as server:
        yield server


@pytest.fixture(scope="session", params=["native", "python"])
def caller_server(
    request: pytest.FixtureRequest, hostile_server: RunningServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """A server with `caller`, with the host functions in C and with those in Python only."""
    if request.param == "native":
        need_native()
        yield hostile_server
        return
    folder = tmp_path_factory.mktemp("in-python")
    (folder / "caller.wasm").write_bytes(hostfunctions.forwarding())
    documents = [component("caller", f"file://{folder / 'caller.wasm'}", timeout="20s")]
    resources = write_components(folder / "resources", documents)
    environ = {"SANDBOXD_CELLS": "1", "SANDBOXD_WASM_NATIVE_FUNCTIONS": "false"}
    with Target(resources, "--workers", "1", environ=environ) as server:
        yield server


class Target(RunningServer):
    """A server whose thousands of requests go through one client: making one takes longer than most invocations."""

    _kept: httpx.Client | None = None

    @contextlib.contextmanager
    def client(self, **options: Any) -> Iterator[httpx.Client]:
        assert not options
        if self._kept is None:
            self._kept = httpx.Client(base_url=self.base_url, trust_env=False, verify=False, timeout=120)
        yield self._kept

    def stop(self) -> None:
        if self._kept is not None:
            self._kept.close()
        super().stop()


FAMILIES = ("sandboxd_requests_total", "sandboxd_limits_reached_total", "sandboxd_worker_", "sandboxd_binding_ready")


@dataclass(frozen=True)
class Counts:
    """Return the values of the metrics that this folder tests."""

    samples: Mapping[tuple[str, frozenset[tuple[str, str]]], float]

    @classmethod
    def of(cls, server: RunningServer) -> "Counts":
        from prometheus_client.parser import text_string_to_metric_families

        with server.client() as client:
            text = client.get("/metrics").text
        # A hundred bindings have a hundred thousand buckets, whose parsing would be most of these tests' time.
        wanted = "\n".join(line for line in text.splitlines() if line.startswith(FAMILIES)) + "\n"
        samples = itertools.chain.from_iterable(family.samples for family in text_string_to_metric_families(wanted))
        return cls({(sample.name, frozenset(sample.labels.items())): sample.value for sample in samples})

    def total(self, name: str, **labels: str) -> float:
        wanted = set(labels.items())
        return sum(value for (found, has), value in self.samples.items() if found == name and wanted <= has)


def settled(message: str) -> str:
    """A message without the number of the invocation."""
    return re.sub(r"module\[([^\]]*)-\d+\]", r"module[\1-N]", message)
