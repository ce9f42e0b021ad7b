"""Decides whether a binding that a reload would lose was taken away, or lost by a mistake in its file.

Dapr drops a component whose file no longer parses, also while it runs. Here a reload must not take a binding down that
nobody removed, so such a reload is refused and the former bindings are served on.
"""

from collections.abc import Iterable
from pathlib import Path

from sandboxd.components import Loaded
from sandboxd.components.binding import Binding
from sandboxd.errors import ComponentError


def check(former: Iterable[Binding], loaded: Loaded) -> None:
    """Refuse a reload that would lose a binding by mistake.

    A binding may go: with its file, with its document while the file keeps another binding, or by its own scopes,
    namespace or direction.

    Parameters:
        former: the bindings that are served now.
        loaded: the components as they were read for the reload.

    Raises:
        ComponentError: the file of a former binding is still there but cannot be read, no longer parses, or holds no
            component of type bindings.wasm; the error names the file and the line.
    """
    kept = {binding.name for binding in loaded.bindings}
    named = kept | loaded.declined | {problem.component for problem in loaded.errors}
    files = {binding.path for binding in loaded.bindings}
    for binding in former:
        if binding.name in named or not _is_there(binding.path):
            continue
        fault = next(
            (
                problem
                for problem in loaded.problems
                if problem.file == binding.path
                and (problem.component == binding.name or (not problem.component and problem.lost))
            ),
            None,
        )
        if fault is not None:
            raise ComponentError(
                f"{fault.place}: binding {binding.name} would be lost: {fault.message}",
                remedy=f"repair {binding.path.name}, or remove it to take the binding away",
                bindings=(binding.name,),
            )
        if binding.path not in files:
            raise ComponentError(
                f"{binding.path}: binding {binding.name} would be lost: the file holds no component of type "
                "bindings.wasm any more",
                remedy="repair the file, or remove it to take the binding away",
                bindings=(binding.name,),
            )


def _is_there(path: Path) -> bool:
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return True
