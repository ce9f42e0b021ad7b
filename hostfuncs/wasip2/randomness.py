"""wasi:random. All three interfaces read the same source, also those that WASI allows to be insecure."""

from hostfuncs.ending import HostTrap
from hostfuncs.wasip2.host import Host
from hostfuncs.wasip2.interface import Interface
from hostfuncs.wasip2.types import BYTES, U64, Tuple

BYTES_MAX = 1 << 20
"""Most random bytes in one call. They are made in the host's memory, where each takes 32 bytes while it crosses."""

RANDOM = Interface("wasi:random/random")
INSECURE = Interface("wasi:random/insecure")
INSECURE_SEED = Interface("wasi:random/insecure-seed")


def _bytes(host: Host, size: int) -> bytes:
    """Return random bytes, of cryptographic quality except in the strict sandbox. Traps: more than 1 MiB at once."""
    if size > BYTES_MAX:
        raise HostTrap(f"wasi:random: {size} bytes asked for at once, at most {BYTES_MAX}")
    return host.sources.random(size)


def _u64(host: Host) -> int:
    """Return a random number, of cryptographic quality except in the strict sandbox."""
    return int.from_bytes(host.sources.random(8), "little")


RANDOM.define("get-random-bytes", _bytes, U64, result=BYTES)
RANDOM.define("get-random-u64", _u64, result=U64)
INSECURE.define("get-insecure-random-bytes", _bytes, U64, result=BYTES)
INSECURE.define("get-insecure-random-u64", _u64, result=U64)


@INSECURE_SEED.function("insecure-seed", result=Tuple((U64, U64)))
def insecure_seed(host: Host) -> tuple[int, int]:
    """Return a seed for hash maps. It stays the same for the whole invocation, as in wasmtime.

    The next invocation gets another seed, except in the strict sandbox.
    """
    if host.insecure_seed is None:
        host.insecure_seed = (_u64(host), _u64(host))
    return host.insecure_seed


INTERFACES = (RANDOM, INSECURE, INSECURE_SEED)
