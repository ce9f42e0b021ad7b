"""Which compiled code this process can run: the part of an artifact's key that is not the guest."""

import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from sandboxd.limits import EngineSettings

_NOT_IN_CODE = frozenset({"wasm_stack_bytes", "max_memories", "keep_resident_bytes"})
"""Settings of the allocator and of execution. Every other one, a future one included, counts as affecting code."""

_CRANELIFT_X86 = frozenset(
    """pni ssse3 cx16 sse4_1 sse4_2 popcnt avx avx2 fma bmi1 bmi2 abm
    avx512f avx512dq avx512vl avx512_bitalg avx512vbmi""".split()  # noqa: SIM905 -- a line for each reads no better
)
"""The names in /proc/cpuinfo of what Cranelift's x64 backend can make use of."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The engine and the machine.

    Code compiled for a subset of this machine's CPU features runs on it as well: an image built elsewhere stays useful.
    """

    engine: str
    """Digest over wasmtime's version, the settings, and the text of the file that turns them into a configuration."""
    machine: str
    """platform.machine()."""
    features: frozenset[str]
    """CPU features Cranelift may use."""

    @property
    def cpu(self) -> str:
        """Short digest of machine and features, for file names."""
        text = "\n".join((self.machine, *sorted(self.features)))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def current(settings: EngineSettings) -> Fingerprint:
    """The fingerprint of an engine built with `settings` in this process."""
    parts = [f"wasmtime {importlib.metadata.version('wasmtime')}", f"builder {_builder_digest()}"]
    for name, value in sorted((f.name, getattr(settings, f.name)) for f in dataclasses.fields(settings)):
        if name not in _NOT_IN_CODE:
            parts.append(f"{name}={value!r}")
    engine = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
    return Fingerprint(engine=engine, machine=platform.machine(), features=cpu_features())


@cache
def _builder_digest() -> str:
    """A change to how the engine is configured must not find artifacts of the old configuration."""
    spec = importlib.util.find_spec("sandboxd.worker.engine")
    if spec is None or spec.origin is None:
        return "none"
    return hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()


@cache
def cpu_features(cpuinfo: str = "/proc/cpuinfo") -> frozenset[str]:
    """Features of the first processor that the compiler may use; empty if the kernel does not tell."""
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
