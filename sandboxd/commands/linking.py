"""Links guests as `serve` does, for `sandboxd check`: finds the faults that only linking or instantiating shows."""

from collections.abc import Iterable, Sequence

import msgspec

from sandboxd.components.binding import Binding
from sandboxd.config import Config
from sandboxd.files.problems import Problem, Severity
from sandboxd.modules.artifact import open_verified
from sandboxd.modules.prepare import NO_START, NO_START_REMEDY, PreparedGuest
from sandboxd.server.translate import guest_spec

_REMEDY = "raise the limit in the component, or build the guest for less"


def faults(config: Config, guests: Sequence[PreparedGuest]) -> Iterable[Problem]:
    """Yield a problem for each guest that cannot be linked, or that its limits allow no run. No guest code runs.

    Parameters:
        config: all settings.
        guests: compiled.

    Raises:
        SandboxdError: the machine cannot give what an engine needs.
    """
    # Imported here, so that only this command loads wasmtime into the process of the command line.
    from sandboxd.worker import engine, load
    from sandboxd.worker.guests import GuestError

    built = engine.build(config.wasm) if guests else None
    for guest in guests:
        assert built is not None
        try:
            with open_verified(guest.artifact.path) as path:
                loaded = load.load(built, msgspec.structs.replace(guest_spec(guest), artifact=path), config.wasm)
        except GuestError as error:
            text = f"binding {guest.binding.name} cannot be loaded: {error}"
            yield _problem(guest.binding, text, "build the guest against what sandboxd provides, see docs/guests.md")
            continue
        if fault := loaded.fault():
            yield _problem(guest.binding, f"no request can succeed: {fault}", _REMEDY)
        elif not loaded.runs:
            yield _problem(guest.binding, NO_START, NO_START_REMEDY, Severity.WARNING)


def _problem(binding: Binding, message: str, remedy: str, severity: Severity = Severity.ERROR) -> Problem:
    if binding.ignore_errors and severity is Severity.ERROR:
        severity = Severity.IGNORED
    return Problem(
        severity=severity,
        message=message,
        remedy=remedy,
        file=binding.path,
        line=binding.url_line,
        component=binding.name,
    )
