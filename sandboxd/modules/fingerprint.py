"""The engine fingerprint: the compiled code that this process can run. With a guest's digest, it keys an artifact."""

import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from sandboxd.limits import EngineSettings

_NOT_IN_CODE = frozenset({"wasm_stack_bytes", "max_memories", "keep_resident_bytes", "native_functions"})
"""The settings that do not affect compiled code. Every other setting, even a future one, counts as affecting it."""

_CRANELIFT_X86 = frozenset(
    """pni ssse3 cx16 sse4_1 sse4_2 popcnt avx avx2 fma bmi1 bmi2 abm
    avx512f avx512dq avx512vl avx512_bitalg avx512vbmi""".split()  # noqa: SIM905 -- a line for each reads no better
)
"""The CPU features that Cranelift's x64 backend can use, by their names in /proc/cpuinfo."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The engine and the machine.

    Code that was compiled for a subset of this machine's CPU features runs on it too, so an image that was built
    elsewhere stays useful.
    """

    engine: str
    """A digest of wasmtime's version, the settings, and the file that makes wasmtime's configuration from them."""
    machine: str
    """platform.machine()."""
    features: frozenset[str]
    """The CPU features that Cranelift may use."""

    @property
    def cpu(self) -> str:
        """A short digest of machine and features, for file names."""
        text = "\n".join((self.machine, *sorted(self.features)))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def current(settings: EngineSettings) -> Fingerprint:
    """Return the fingerprint of an engine built with `settings` in this process."""
    parts = [f"wasmtime {importlib.metadata.version('wasmtime')}", f"builder {_builder_digest()}"]
    for name, value in sorted((f.name, getattr(settings, f.name)) for f in dataclasses.fields(settings)):
        if name not in _NOT_IN_CODE:
            parts.append(f"{name}={value!r}")
    engine = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
    return Fingerprint(engine=engine, machine=platform.machine(), features=cpu_features())


@cache
def _builder_digest() -> str:
    """Return a digest of the file that configures the engine. After a change of it, old artifacts are not found."""
    spec = importlib.util.find_spec("hostfuncs.running.engine")
    if spec is None or spec.origin is None:
        return "none"
    return hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()


@cache
def cpu_features(cpuinfo: str = "/proc/cpuinfo") -> frozenset[str]:
    """Return the features of the first processor that the compiler may use; empty if the kernel does not list them."""
    try:
        text = Path(cpuinfo).read_text()
    except OSError:
        return frozenset()
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "flags":
            return frozenset(value.split()) & _CRANELIFT_X86
        if name.strip() in ("Features", "isa", "features"):
            return frozenset(value.split())
    return frozenset()
