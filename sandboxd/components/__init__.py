"""Reads Dapr component files: the bindings they configure, and the problems in them."""

from sandboxd.components.binding import Binding
from sandboxd.components.configuration import strict_sandbox
from sandboxd.components.loader import WASM_TYPE, Loaded, load
from sandboxd.components.metadata import metadata_table
from sandboxd.files.problems import Problem, Severity

__all__ = [
    "WASM_TYPE",
    "Binding",
    "Loaded",
    "Problem",
    "Severity",
    "load",
    "metadata_table",
    "strict_sandbox",
]
