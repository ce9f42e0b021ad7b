"""sandboxd under daprd: the socket in daprd's folder, and the properties of each component that daprd has initialised.

daprd sends a component's properties once, when it starts. They are kept as component files in a private folder, which
is all that a restarted sandboxd needs: it reads them like any others, and daprd's connection finds the socket again.
"""

import asyncio
import hashlib
import json
import logging
import os
import stat
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sandboxd.config import Config
from sandboxd.errors import ExitCode, SandboxdError
from sandboxd.front.answering.attributes import Attributes
from sandboxd.front.ports import Bindings, FrontSettings, Health, Invoker
from sandboxd.front.servers.connections import CallerLimits
from sandboxd.metrics import Metrics
from sandboxd.server.held_port import clear_socket
from sandboxd.server.sockets import listen_unix

if TYPE_CHECKING:
    from sandboxd.front.grpc.component import Component

log = logging.getLogger("sandboxd.component")

SOCKETS_FOLDER: Final = "/tmp/dapr-components-sockets"  # noqa: S108 - Dapr's documented default
MOST_COMPONENTS: Final = 256
MOST_BYTES: Final = 16 * 1024 * 1024
"""The most components that are kept, and the most bytes of their files together. Each is loaded at every reload."""
HIDDEN: Final = ".sandboxd"
"""The folder within daprd's where the socket is until calls are answered. daprd reads no subfolders."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ComponentSettings:
    """The options of `sandboxd component`."""

    sockets_folder: Path
    name: str
    """The socket's name, which makes the type `bindings.NAME`; `wasm` replaces the binding that daprd has built in."""
    state_folder: Path

    @property
    def socket(self) -> Path:
        """The path at which daprd finds the socket."""
        return self.sockets_folder / f"{self.name}.sock"


class Reloading:
    """The reloads of a server, as far as an Init needs them.

    Parameters:
        reload: reloads, and returns why that failed; empty if it did not.
        fault: returns why a binding is not served after a reload; empty if it is.
    """

    def __init__(self, reload: Callable[[], Awaitable[str]], fault: Callable[[str], str]) -> None:
        self.reload = reload
        self.fault = fault


class ComponentSide:
    """Serves daprd beside HTTP. It takes the place of `GrpcSide`.

    Parameters:
        config: of the server.
        settings: see `ComponentSettings`.
        reloading: loads what an Init has brought.
        check: returns what is wrong with the component files of a folder; empty if nothing is.

    Raises:
        SandboxdError: a process listens on the socket, or a folder cannot be used.
    """

    on = True
    ports: tuple[int, ...] = ()

    def __init__(
        self, config: Config, settings: ComponentSettings, reloading: Reloading, check: Callable[[Path], str]
    ) -> None:
        self._config = config
        self._settings = settings
        self._reloading = reloading
        self._check = check
        self._one_at_a_time = asyncio.Lock()
        self._component: Component | None = None
        self._bound = settings.sockets_folder / HIDDEN / settings.socket.name
        # daprd's folder may be anybody's, and the socket is made open to all users.
        make_private_folder(self._bound.parent, "--sockets-folder")
        for path in (settings.socket, self._bound):
            clear_socket(str(path))

    def __repr__(self) -> str:
        return f"<ComponentSide {self._settings.socket}>"

    def prepare(
        self, settings: FrontSettings, invoker: Invoker, metrics: Metrics, health: Health, attributes: Attributes
    ) -> None:
        """Make the service."""
        from sandboxd.front.grpc.component import Component

        self._component = Component(invoker, metrics, self.initialise)

    def serve_bindings(self, bindings: Bindings) -> None:
        """Serve another snapshot from now on."""
        if self._component is not None:
            self._component.bindings = bindings

    async def serve(
        self, metrics: Metrics, callers: CallerLimits, stop: asyncio.Event, answered: asyncio.Event
    ) -> None:
        """Serve until `stop` is set. Parameters as of `GrpcSide.serve`."""
        from sandboxd.front.grpc.server import GrpcConfig, GrpcServer

        assert self._component is not None
        listen = self._config.listen
        config = GrpcConfig(
            # daprd bounds what its callers send; a message of the longest `data` has metadata, too.
            max_message_bytes=max(listen.max_body_bytes, 4 << 20) + (1 << 20),
            max_header_bytes=listen.max_header_bytes,
            callers=callers,
        )
        await GrpcServer(self._component.methods(), config, metrics).serve(
            [listen_unix(str(self._bound), backlog=None)],
            stop,
            drain_s=self._config.drain.timeout_ms / 1000,
            answered=answered,
            accepting=self._show,
            released=self._hide,
        )

    def _show(self) -> None:
        # Only now: a socket on which nobody listens holds daprd up for ever. daprd may run as another user; who may
        # call is decided by who may enter the folder.
        self._bound.chmod(0o666)
        self._bound.rename(self._settings.socket)

    def _hide(self) -> None:
        self._settings.socket.unlink(missing_ok=True)

    async def initialise(self, name: str, properties: Mapping[str, str]) -> str:
        """Serve a component from now on.

        Parameters:
            name: of the component, as daprd calls it.
            properties: its metadata, with secrets and templates filled in.

        Returns:
            why it cannot be served; empty if it is. What was served under the name before still is, then.
        """
        async with self._one_at_a_time:
            document = _document(name, properties)
            with tempfile.TemporaryDirectory() as scratch:
                Path(scratch, "component.yaml").write_text(document, encoding="utf-8")
                fault = self._check(Path(scratch))
            if fault:
                return fault
            file = self._settings.state_folder / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.yaml"
            fault = self._fault_of_size(file, len(document))
            if fault:
                return fault
            former = file.read_text(encoding="utf-8") if file.exists() else None
            if former == document and not self._reloading.fault(name):
                return ""
            self._keep(file, document)
            fault = await self._reloading.reload() or self._reloading.fault(name)
            if fault:
                if former is None:
                    file.unlink(missing_ok=True)
                else:
                    self._keep(file, former)
                await self._reloading.reload()
            return fault

    def _fault_of_size(self, file: Path, size: int) -> str:
        """Return why a file of so many bytes cannot be kept besides the others; empty if it can be."""
        others = [other.stat().st_size for other in self._settings.state_folder.glob("*.yaml") if other != file]
        if len(others) < MOST_COMPONENTS and sum(others) + size <= MOST_BYTES:
            return ""
        return (
            f"{len(others)} components are kept in {self._settings.state_folder}, and at most {MOST_COMPONENTS} may be "
            f"kept, of {MOST_BYTES >> 20} MiB together; remove the files of those that daprd no longer has"
        )

    def _keep(self, file: Path, document: str) -> None:
        hidden = file.with_suffix(".new")
        descriptor = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(descriptor, "w", encoding="utf-8") as writing:
            writing.write(document)
            writing.flush()
            os.fsync(descriptor)
        hidden.rename(file)


def _document(name: str, properties: Mapping[str, str]) -> str:
    """Return a component file. JSON is YAML.

    With `ignoreErrors`, so that one component that can no longer be loaded does not take the others with it.
    """
    return json.dumps(
        {
            "apiVersion": "dapr.io/v1alpha1",
            "kind": "Component",
            "metadata": {"name": name},
            "spec": {
                "type": "bindings.wasm",
                "version": "v1",
                "ignoreErrors": True,
                # Longer than a compilation takes: it is daprd that watches the time of an Init.
                "initTimeout": "10m",
                "metadata": [{"name": key, "value": value} for key, value in sorted(properties.items())],
            },
        },
        indent=1,
    )


def make_private_folder(folder: Path, option: str) -> None:
    """Make a folder that only this user can enter.

    Parameters:
        folder: its path. What contains it may belong to anybody.
        option: the command line's, which chooses another one.

    Raises:
        SandboxdError: it cannot be made, is a link, or belongs to another user.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise SandboxdError(
                f"{folder} is a link, or belongs to another user",
                remedy=f"remove it, or choose another {option}",
                exit_code=ExitCode.LISTEN,
            )
        folder.chmod(0o700)
    except OSError as error:
        raise SandboxdError(
            f"cannot use {folder}: {error.strerror or error}",
            remedy=f"choose a folder that this user may write to with {option}",
            exit_code=ExitCode.LISTEN,
        ) from error
