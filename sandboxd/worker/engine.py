"""The server's engine: `hostfuncs.running.engine` with the settings and the errors of sandboxd.yaml."""

import wasmtime

from hostfuncs import limits
from hostfuncs.running import engine
from hostfuncs.running.errors import EngineError
from sandboxd.errors import SandboxdError
from sandboxd.limits import EngineSettings
from sandboxd.limits.keys import converted, key_of


def build(settings: EngineSettings, *, compiling: bool = False) -> wasmtime.Engine:
    """Make an engine for modules and components alike.

    Parameters:
        settings: equal on both sides of an artifact.
        compiling: True in the compile subprocess: may use all cores, and reserves no address space, so that its
            memory can be limited. False wherever guests run.

    Raises:
        SandboxdError: the machine cannot give what the settings ask for.
    """
    try:
        return engine.build(
            converted(settings, limits.EngineSettings), parallel_compilation=compiling, pooling=not compiling
        )
    except EngineError as error:
        remedy = error.remedy.replace(error.setting, key_of(error.setting)) if error.setting else error.remedy
        raise SandboxdError(error.args[0], remedy=remedy) from error
