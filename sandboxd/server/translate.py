"""Translates the configuration and the resolved guests into the settings of each package."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sandboxd import components
from sandboxd.components.mounts import MountPolicy, policy_for
from sandboxd.config import Config
from sandboxd.config.users import worker_ids
from sandboxd.files.problems import Severity
from sandboxd.limits import OutboundSettings
from sandboxd.modules.compiler import CompileSettings
from sandboxd.modules.download import FetchSettings
from sandboxd.modules.prepare import ModuleSettings, PreparedGuest, Progress
from sandboxd.wire import messages as m

Report = Callable[[Progress], None]
"""Called at each step of a download or compilation."""


def module_settings(config: Config) -> ModuleSettings:
    """Return the settings of `sandboxd.modules`."""
    modules = config.modules
    return ModuleSettings(
        cache=config.cache.folder,
        engine=config.wasm,
        fetch=FetchSettings(
            max_bytes=modules.max_download_bytes,
            connect_timeout_s=modules.connect_timeout_ms / 1000,
            total_timeout_s=modules.download_timeout_ms / 1000,
            attempts=modules.retries + 1,
            backoff_s=modules.retry_backoff_ms / 1000,
        ),
        compile=CompileSettings(
            timeout_s=modules.compile_timeout_ms / 1000,
            memory_bytes=modules.compile_memory_bytes,
            parallel=modules.compile_parallelism,
            wall=config.pool.wall,
        ),
    )


def outbound_settings(config: Config) -> OutboundSettings:
    """Return the settings of outbound HTTP in workers, with absolute paths of files."""
    egress = config.egress
    return dataclasses.replace(
        egress,
        ca_files=tuple(str(Path(file).absolute()) for file in egress.ca_files),
        client_certificates=tuple(
            (origin, str(Path(certificate).absolute()), str(Path(key).absolute()))
            for origin, certificate, key in egress.client_certificates
        ),
    )


def guest_spec(guest: PreparedGuest, own_ports: tuple[int, ...] = (), *, warm_start: bool = False) -> m.GuestSpec:
    """Return what a worker needs to know of one resolved binding.

    Parameters:
        guest: the binding and its guest.
        own_ports: the ports the server listens on.
        warm_start: whether a binding that does not say is started warm.
    """
    binding = guest.binding
    return m.GuestSpec(
        binding=binding.name,
        kind=guest.kind,
        artifact=str(guest.artifact.path),
        argv0=binding.argv0.encode(),
        env=tuple((name.encode(), value.encode()) for name, value in binding.env),
        strict_sandbox=binding.strict_sandbox,
        limits=binding.limits,
        allowed_outbound_hosts=binding.allowed_outbound_hosts,
        own_ports=own_ports,
        mounts=tuple(
            m.GuestMount(
                anchor=mount.anchor,
                source=mount.source,
                target=mount.target,
                read_only=mount.read_only,
                reach=mount.reach,
            )
            for mount in binding.mounts
        ),
        tmp=None
        if binding.tmp is None
        else m.GuestTmp(target=binding.tmp.target, size=binding.tmp.size, files=binding.tmp.files),
        warm=m.GuestWarm(instances=binding.warm_instances, templates=binding.warm_templates)
        if binding.starts_warm(warm_start)
        else None,
        initialize=binding.initialize,
    )


def load_message(config: Config, guests: list[PreparedGuest], own_ports: tuple[int, ...] = ()) -> m.Load:
    """Return the message that tells a zygote what to load.

    Parameters:
        config: the server's settings.
        guests: the bindings and their guests.
        own_ports: the ports the server listens on.

    Raises:
        ConfigError: workers cannot run as the configured user or group.
    """
    uid, gid = worker_ids(config.pool.user, config.pool.group)
    return m.Load(
        engine=config.wasm,
        outbound=outbound_settings(config),
        guests=tuple(guest_spec(guest, own_ports, warm_start=config.pool.warm_start) for guest in guests),
        confinement=m.Confinement(
            uid=uid, gid=gid, host_memory_bytes=config.pool.host_memory_bytes, wall=config.pool.wall
        ),
    )


def first_fault(config: Config, environ: Mapping[str, str], folder: Path) -> str:
    """Return what is wrong with the components of a folder, as the first of its problems; empty if nothing is."""
    loaded = read_components(config, environ, (str(folder),))
    lost = (problem.message for problem in loaded.problems if problem.severity in (Severity.ERROR, Severity.IGNORED))
    fault = next(lost, "" if loaded.bindings else "it is not a component of type bindings.wasm")
    return fault.removeprefix("Ignoring error processing component: ")


def read_components(
    config: Config, environ: Mapping[str, str], folders: Sequence[str] | None = None
) -> components.Loaded:
    """Read the components of all resources paths, or of other folders."""
    return components.load(
        [Path(folder) for folder in (config.resources_paths if folders is None else folders)],
        app_id=config.app_id,
        namespace=config.namespace,
        environ=environ,
        limits=config.limits,
        ceilings=config.ceilings,
        strict_sandbox=config.strict_sandbox,
        check_pattern=check_pattern,
        mounts=mount_policy(config),
    )


def mount_policy(config: Config) -> MountPolicy:
    """Return which folders components may mount."""
    return policy_for(config.mounts.allowed_sources, config.resources_paths, config.mounts.max_tmp_bytes)


def check_pattern(pattern: str) -> None:
    """Raise ValueError if `pattern` is not an egress pattern."""
    # Imported here: it loads the HTTP client, which takes a tenth of a warm start.
    from hostfuncs.outbound.policy import Policy

    Policy.parse([pattern])
