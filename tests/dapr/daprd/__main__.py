"""`make daprd`: builds a daprd into the cache and prints its path."""

from tests.dapr.daprd import build

print(build())
