"""WIT interfaces that the host implements, as tables of functions and resources."""

from collections.abc import Callable
from typing import Any, TypeVar

from hostfuncs.wasip2.table import Entry
from hostfuncs.wasip2.types import Signature, Type

HostFunction = Callable[..., Any]
"""(host, argument, ...) -> result. `hostfuncs.wasip2.types` says which Python value stands for which WIT value."""

F = TypeVar("F", bound=HostFunction)


class Interface:
    """One WIT interface.

    Parameters:
        name: `package/interface` without the version, as in `wasi:io/poll`.
        resources: every resource that the interface defines or uses, by the name it has there.
        unreachable: why no guest can call a function that is not defined here: each needs a handle that no function
            returns. Such functions link, whatever their type, and trap. Empty for complete interfaces.
    """

    def __init__(self, name: str, resources: dict[str, type[Entry]] | None = None, *, unreachable: str = "") -> None:
        self.name = name
        self.resources = resources or {}
        self.unreachable = unreachable
        self.functions: dict[str, tuple[Signature, HostFunction]] = {}

    def __repr__(self) -> str:
        return f"<Interface {self.name}, {len(self.functions)} functions>"

    def function(self, name: str, *params: Type, result: Type | None = None) -> Callable[[F], F]:
        """Return a decorator that defines the host's side of a function.

        Parameters:
            name: as in the component model: `poll`, `[method]pollable.ready`, `[static]fields.from-list`,
                `[constructor]fields`.
            params, result: the function's type, `self` included.
        """

        def decorate(function: F) -> F:
            self.define(name, function, *params, result=result)
            return function

        return decorate

    def define(self, name: str, function: HostFunction, *params: Type, result: Type | None = None) -> None:
        """Define a function without the decorator. Parameters as for `function`.

        Raises:
            ValueError: the interface has a function of that name already.
        """
        if name in self.functions:
            raise ValueError(f"{self.name} has {name} already")
        self.functions[name] = (Signature(params, result), function)
