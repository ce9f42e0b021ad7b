"""`sandboxd component`: serves daprd as a pluggable output binding, over a socket in daprd's folder."""

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from sandboxd.config import Config
from sandboxd.errors import ExitCode, SandboxdError
from sandboxd.files.problems import Problem
from sandboxd.server.component_side import SOCKETS_FOLDER, ComponentSettings, make_private_folder
from sandboxd.server.serve import serve

FOLDER_VARIABLES: Final = ("DAPR_COMPONENTS_SOCKETS_FOLDER", "DAPR_COMPONENT_SOCKETS_FOLDER")
"""The variable that daprd reads (pkg/components/pluggable/discovery.go), and the variable that its injector sets in
Kubernetes (pkg/injector/consts)."""
PORT: Final = 3501
"""The default port for health and metrics: Dapr's own is daprd's here."""

_name = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}").fullmatch


def serve_component(
    config: Config, problems: tuple[Problem, ...], sockets_folder: Path | None, name: str, state_folder: Path | None
) -> int:
    """Serve until SIGTERM or SIGINT.

    Parameters:
        config: all settings. Components come from daprd, not from `resourcesPaths`.
        problems: the warnings from reading the settings, to be logged.
        sockets_folder: daprd's folder; None takes Dapr's variable, or else Dapr's default.
        name: the last part of the components' type.
        state_folder: where properties are kept; None takes a folder within `cache.folder`.

    Returns:
        the exit status.

    Raises:
        SandboxdError: a folder cannot be used, or the name cannot be one.
    """
    if not _name(name):
        raise SandboxdError(
            f"--name {name}: not a name that daprd can use",
            remedy="lower-case letters, digits, - and _, beginning with a letter or digit",
            exit_code=ExitCode.USAGE,
        )
    sockets = sockets_folder or folder_from(os.environ)
    state = (state_folder or config.cache.folder / "components" / name).absolute()
    make_private_folder(state, "--state-folder")
    listen = replace(config.listen, grpc_port=0, grpc_unix_socket=None)
    if listen.port == type(listen)().port:
        listen = replace(listen, port=PORT)
    mounts = config.mounts
    if mounts.allowed_sources is None:
        # The folder of component files is that of all properties here, secrets included.
        mounts = replace(mounts, allowed_sources=())
    config = replace(config, resources_paths=(str(state),), listen=listen, mounts=mounts, cells=1)
    settings = ComponentSettings(sockets_folder=sockets.absolute(), name=name, state_folder=state)
    return serve(config, problems, fd=None, component=settings)


def folder_from(environ: Mapping[str, str]) -> Path:
    """Return daprd's folder of sockets as the environment has it."""
    named = (environ[name] for name in FOLDER_VARIABLES if environ.get(name))
    return Path(next(named, SOCKETS_FOLDER))
