"""Every host function has a docstring, and one that can fail says how.

Not tested here: whether what the docstring says is true, which the tests in tests/host show function by function.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from hostfuncs import legacy_http, wasip1, wasip2
from hostfuncs.wasip2.types import List, Option, Result, Tuple, Type


def _docstring(function: Callable[..., Any]) -> str:
    """The docstring of a host function. A partial's own docstring would be that of `functools.partial`."""
    while isinstance(function, partial):
        function = function.func
    return function.__doc__ or ""


def _has_error_case(kind: Type | None) -> bool:
    match kind:
        case Result():
            return True
        case Option(inner) | List(inner):
            return _has_error_case(inner)
        case Tuple(items):
            return any(map(_has_error_case, items))
        case _:
            return False


COMPONENT = [
    pytest.param(signature.result, function, id=f"{interface.name} {name}")
    for interface in wasip2.INTERFACES.values()
    for name, (signature, function) in interface.functions.items()
]
PREVIEW1 = [pytest.param(function, id=function.name) for function in wasip1.FUNCTIONS.values()]
LEGACY = [
    pytest.param(function, id=f"{module}.{function.name}")
    for module, functions in legacy_http.MODULES.items()
    for function in functions
]


@pytest.mark.parametrize(("result", "function"), COMPONENT)
def test_a_component_function_names_its_errors(result: Type | None, function: Callable[..., Any]) -> None:
    text = _docstring(function)
    assert text.strip(), "no docstring"
    if _has_error_case(result):
        assert "Errors:" in text, "its result has an error case, and no 'Errors:' says which errors the guest gets"


@pytest.mark.parametrize("function", PREVIEW1)
def test_a_preview_1_function_names_its_error_numbers(function: wasip1.Function) -> None:
    text = _docstring(function.call)
    assert text.strip(), "no docstring"
    if function.result:
        assert "Errno:" in text, "it returns an error number, and no 'Errno:' says which"


@pytest.mark.parametrize("function", LEGACY)
def test_a_wasi_http_function_of_core_modules_names_its_traps(function: legacy_http.Function) -> None:
    text = _docstring(function.call)
    assert text.strip(), "no docstring"
    assert "Traps:" in text, "no 'Traps:' says what ends the guest"
