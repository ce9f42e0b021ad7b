"""sandboxd.yaml: the settings of the server.

Keys are camelCase, as in Dapr's YAML. Each is also a variable (`pool.queueLimit` is SANDBOXD_POOL_QUEUE_LIMIT).
The command line wins over a variable, a variable over the file, the file over the default. Nothing is read at import.
"""

from sandboxd.config.load import CONFIG_VARIABLE, TOKEN_VARIABLE, Reading, load, read
from sandboxd.config.machine import cpu_count, may_poll
from sandboxd.config.model import (
    Cache,
    Config,
    Drain,
    Engine,
    Listen,
    Logging,
    MetricsConfig,
    Modules,
    PoolConfig,
    Reload,
)
from sandboxd.config.render import reference_table, render

__all__ = [
    "CONFIG_VARIABLE",
    "TOKEN_VARIABLE",
    "Cache",
    "Config",
    "Drain",
    "Engine",
    "Listen",
    "Logging",
    "MetricsConfig",
    "Modules",
    "PoolConfig",
    "Reading",
    "Reload",
    "cpu_count",
    "load",
    "may_poll",
    "read",
    "reference_table",
    "render",
]
