"""Dapr component files: which bindings there are, and what is wrong with the files."""

from sandboxd.components.binding import Binding
from sandboxd.components.check import Checked, check, report
from sandboxd.components.loader import WASM_TYPE, Component, Loaded, load
from sandboxd.components.manifest import strict_sandbox
from sandboxd.components.metadata import metadata_table
from sandboxd.problems import Problem, Severity

__all__ = [
    "WASM_TYPE",
    "Binding",
    "Checked",
    "Component",
    "Loaded",
    "Problem",
    "Severity",
    "check",
    "load",
    "metadata_table",
    "report",
    "strict_sandbox",
]
