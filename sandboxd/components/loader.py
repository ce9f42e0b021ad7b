"""Component folders to bindings.

Source: dapr pkg/runtime/components.go (order, ignoreErrors), pkg/internal/loader/disk/components.go (namespace,
duplicates), pkg/runtime/authorizer (scopes), pkg/runtime/errors (wording of failures).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sandboxd.components.binding import Binding
from sandboxd.components.manifest import Findings, Manifest, ManifestError, decode, read_folder
from sandboxd.components.metadata import Fault, PatternCheck, build, serves_output
from sandboxd.components.resolve import Property, Surroundings, UnresolvedError, check_unique, resolve
from sandboxd.components.secrets import EnvStore, FileStore, SecretError, SecretStore
from sandboxd.limits import Limits
from sandboxd.problems import Problem, Severity

WASM_TYPE: Final = "bindings.wasm"
_FILE_STORE = "secretstores.local.file"
_ENV_STORE = "secretstores.local.env"
_STORE_CATEGORY = "secretstores."
_INITIAL_VERSIONS = ("", "v0", "v1")
_TRUTHY = ("y", "yes", "true", "t", "on", "1")


@dataclass(frozen=True, kw_only=True, slots=True)
class Component:
    """A component that was seen: what /v1.0/metadata lists of it."""

    name: str
    type: str
    version: str
    capabilities: tuple[str, ...] = ()
    """`OUTPUT_BINDING` for bindings."""
    served: bool
    """It became a binding, or an open secret store."""
    path: Path
    line: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Loaded:
    """The outcome of reading component folders."""

    bindings: tuple[Binding, ...]
    components: tuple[Component, ...]
    problems: tuple[Problem, ...]

    @property
    def errors(self) -> tuple[Problem, ...]:
        """The problems because of which the server must not start."""
        return tuple(problem for problem in self.problems if problem.severity is Severity.ERROR)


def load(
    directories: Sequence[Path],
    *,
    app_id: str,
    namespace: str | None = None,
    environ: Mapping[str, str],
    limits: Limits | None = None,
    ceilings: Limits | None = None,
    strict_sandbox: bool = False,
    known_types: Collection[str] = (WASM_TYPE,),
    check_pattern: PatternCheck | None = None,
) -> Loaded:
    """Read all components of the given folders.

    Nothing raises: what is wrong is a Problem with its place. Dapr's files work unchanged.

    Parameters:
        directories: folders, in order; their subfolders are not looked into.
        app_id: compared with `scopes`, and `{appID}`.
        namespace: components of other namespaces are skipped; None compares nothing.
        environ: for envRef, secretstores.local.env, POD_NAME and DAPR_ENV_KEYS.
        limits: limits of bindings that set none; the defaults of Limits if None.
        ceilings: the most a binding may set; nothing above `limits` unless given.
        strict_sandbox: run every binding with strictSandbox.
        known_types: types that become bindings, all with the metadata of bindings.wasm.
        check_pattern: raises ValueError for what is no egress pattern; None accepts all.
    """
    defaults = limits or Limits()
    loading = _Loading(
        app_id=app_id,
        namespace=namespace,
        environ=environ,
        defaults=defaults,
        ceilings=ceilings or defaults,
        strict_sandbox=strict_sandbox,
        types=frozenset(name.lower() for name in known_types),
        check_pattern=check_pattern,
    )
    return loading.run(directories)


class _Loading:
    def __init__(
        self,
        *,
        app_id: str,
        namespace: str | None,
        environ: Mapping[str, str],
        defaults: Limits,
        ceilings: Limits,
        strict_sandbox: bool,
        types: frozenset[str],
        check_pattern: PatternCheck | None,
    ) -> None:
        self._app_id = app_id
        self._namespace = namespace
        self._environ = environ
        self._defaults = defaults
        self._ceilings = ceilings
        self._strict = strict_sandbox
        self._types = types
        self._check_pattern = check_pattern
        self._findings = Findings()
        self._stores: dict[str, SecretStore] = {}
        self._bindings: list[Binding] = []
        self._served: set[str] = set()

    def run(self, directories: Sequence[Path]) -> Loaded:
        manifests = self._select(self._read(directories))
        # Secret stores first, so that no component waits for one that a later file brings.
        for manifest in manifests:
            if manifest.type.lower().startswith(_STORE_CATEGORY):
                self._open_store(manifest)
        for manifest in manifests:
            if not manifest.type.lower().startswith(_STORE_CATEGORY):
                self._bind(manifest)
        components = tuple(
            Component(
                name=manifest.name,
                type=manifest.type,
                version=manifest.version,
                capabilities=("OUTPUT_BINDING",) if manifest.type.lower() in self._types else (),
                served=manifest.name in self._served,
                path=manifest.path,
                line=manifest.line,
            )
            for manifest in manifests
        )
        return Loaded(bindings=tuple(self._bindings), components=components, problems=tuple(self._findings.problems))

    def _read(self, directories: Sequence[Path]) -> list[Manifest]:
        manifests = []
        for directory in directories:
            for resource in read_folder(directory, "Component", self._findings):
                try:
                    manifests.append(decode(resource))
                except ManifestError as error:
                    self._findings.add(
                        Severity.WARNING,
                        "load Component error when parsing manifests yaml resource in "
                        f"{resource.path.name}: {error.message}",
                        "the document is left out; repair it",
                        path=resource.path,
                        line=error.line,
                    )
        return manifests

    def _select(self, manifests: list[Manifest]) -> list[Manifest]:
        """Those of this namespace and in scope. Names are compared before scopes are, as in Dapr."""
        selected = []
        seen: dict[str, Manifest] = {}
        for manifest in manifests:
            if self._namespace and manifest.namespace and manifest.namespace != self._namespace:
                self._note(manifest, f"skipped: its namespace {manifest.namespace} is not {self._namespace}")
                continue
            existing = seen.setdefault(manifest.name, manifest)
            if existing is not manifest:
                self._findings.add(
                    Severity.ERROR,
                    f"duplicate definition of Component name {manifest.log_name} with existing {existing.log_name}",
                    f"rename one; the other is at {existing.path}:{existing.line}",
                    path=manifest.path,
                    line=manifest.line,
                    component=manifest.name,
                )
                continue
            if manifest.scopes and self._app_id not in manifest.scopes:
                self._note(manifest, f"skipped: its scopes do not list the app id {self._app_id}")
                continue
            selected.append(manifest)
        return selected

    def _note(self, manifest: Manifest, message: str, remedy: str = "") -> None:
        self._findings.add(
            Severity.NOTE, message, remedy, path=manifest.path, line=manifest.line, component=manifest.name
        )

    def _fail(self, manifest: Manifest, fault: Fault) -> None:
        """A failure of initialisation, in Dapr's words."""
        message = (
            f"process component {manifest.name} error: [INIT_COMPONENT_FAILURE]: "
            f"initialization error occurred for {manifest.log_name}: {fault.message}"
        )
        severity = Severity.ERROR
        if manifest.ignore_errors:
            severity = Severity.IGNORED
            message = f"Ignoring error processing component: {message}"
        self._findings.add(
            severity, message, fault.remedy, path=manifest.path, line=fault.line, component=manifest.name
        )

    def _properties(self, manifest: Manifest) -> list[Property] | None:
        around = Surroundings(
            app_id=self._app_id,
            namespace=self._namespace or "default",
            pod_name=self._environ.get("POD_NAME", ""),
            environ=self._environ,
            stores=self._stores,
        )
        try:
            properties = resolve(manifest, around, self._findings)
            check_unique(properties)
        except UnresolvedError as error:
            self._fail(manifest, Fault(error.message, error.remedy, error.line))
            return None
        return properties

    def _open_store(self, manifest: Manifest) -> None:
        kind = manifest.type.lower()
        if kind not in (_FILE_STORE, _ENV_STORE):
            self._note(
                manifest,
                f"{manifest.type} is not served by sandboxd",
                f"secrets come from {_FILE_STORE} and {_ENV_STORE}",
            )
            return
        if manifest.version.lower() not in _INITIAL_VERSIONS:
            message = f"couldn't find secret store {manifest.type}/{manifest.version}"
            self._fail(manifest, Fault(message, "the version is v1", manifest.line))
            return
        properties = self._properties(manifest)
        if properties is None:
            return
        values = {prop.name.lower(): prop.value for prop in properties}
        try:
            self._stores[manifest.name] = self._store(kind, values)
        except SecretError as error:
            self._fail(manifest, Fault(str(error), "", manifest.line))
            return
        self._served.add(manifest.name)

    def _store(self, kind: str, values: Mapping[str, str]) -> SecretStore:
        if kind == _ENV_STORE:
            return EnvStore(self._environ, values.get("prefix", ""))
        path = values.get("secretsfile", "")
        if not path:
            raise SecretError("missing local secrets file in metadata")
        return FileStore(
            Path(path),
            separator=values.get("nestedseparator", "") or ":",
            multi_valued=values.get("multivalued", "").strip().lower() in _TRUTHY,
        )

    def _bind(self, manifest: Manifest) -> None:
        if manifest.type.lower() not in self._types:
            self._note(
                manifest,
                f"{manifest.type or 'a component without spec.type'} is not served by sandboxd",
                "leave it to daprd, or take it out of this folder",
            )
            return
        if manifest.version.lower() not in _INITIAL_VERSIONS:
            message = f"couldn't find output binding {manifest.type}/{manifest.version}"
            self._fail(manifest, Fault(message, "the version is v1", manifest.line))
            return
        properties = self._properties(manifest)
        if properties is None:
            return
        if not serves_output(properties):
            self._findings.add(
                Severity.WARNING,
                "direction does not name output: the binding is not served",
                "bindings.wasm is an output binding; write output or leave direction out",
                path=manifest.path,
                line=manifest.line,
                component=manifest.name,
            )
            return
        binding, faults = build(
            manifest,
            properties,
            defaults=self._defaults,
            ceilings=self._ceilings,
            strict_sandbox=self._strict,
            check_pattern=self._check_pattern,
            findings=self._findings,
        )
        for fault in faults:
            self._fail(manifest, fault)
        if binding is not None:
            self._bindings.append(binding)
            self._served.add(manifest.name)
