"""Settings that several rooms share, each with its key, unit, bounds, default and meaning."""

from sandboxd.limits.model import EngineSettings, Limits
from sandboxd.limits.outbound import OutboundSettings
from sandboxd.limits.units import KIB, MIB

__all__ = ["KIB", "MIB", "EngineSettings", "Limits", "OutboundSettings"]
