"""wasi:random. All three interfaces have the same source; none of them is weaker than it must be."""

from hostfuncs.abi.ending import HostTrap
from hostfuncs.wasip2.host import Host
from hostfuncs.wasip2.interface import Interface
from hostfuncs.wasip2.types import BYTES, U64, Tuple

BYTES_MAX = 1 << 20
"""Most random bytes in one call; they are made in the host's memory, at 32 bytes each while they cross. More traps."""

RANDOM = Interface("wasi:random/random")
INSECURE = Interface("wasi:random/insecure")
INSECURE_SEED = Interface("wasi:random/insecure-seed")


def _bytes(host: Host, size: int) -> bytes:
    if size > BYTES_MAX:
        raise HostTrap(f"wasi:random: {size} bytes asked for at once, at most {BYTES_MAX}")
    return host.sources.random(size)


def _u64(host: Host) -> int:
    return int.from_bytes(host.sources.random(8), "little")


RANDOM.define("get-random-bytes", _bytes, U64, result=BYTES)
RANDOM.define("get-random-u64", _u64, result=U64)
INSECURE.define("get-insecure-random-bytes", _bytes, U64, result=BYTES)
INSECURE.define("get-insecure-random-u64", _u64, result=U64)


@INSECURE_SEED.function("insecure-seed", result=Tuple((U64, U64)))
def insecure_seed(host: Host) -> tuple[int, int]:
    """For hash maps; differs in every invocation, but for `strictSandbox`."""
    return _u64(host), _u64(host)


INTERFACES = (RANDOM, INSECURE, INSECURE_SEED)
