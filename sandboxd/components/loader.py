"""Loads the bindings of component folders.

Source: dapr pkg/runtime/components.go (order, ignoreErrors), pkg/internal/loader/disk/components.go (namespace,
duplicates), pkg/runtime/authorizer (scopes), pkg/runtime/errors (wording of failures).
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from sandboxd.components.binding import Binding, ListedComponent, init_error_prefix
from sandboxd.components.build import Fault, build, init_timeout_passed, serves_output
from sandboxd.components.documents import read_folder, skipped
from sandboxd.components.fields import ManifestError
from sandboxd.components.manifest import COMPONENT_KEYS, Manifest, decode
from sandboxd.components.metadata import PatternCheck
from sandboxd.components.mounts import MountPolicy, policy_for
from sandboxd.components.properties import TRUTHY, Context, Property, UnresolvedError, check_unique, read_properties
from sandboxd.components.resiliency import KIND, Resiliency
from sandboxd.components.secrets import EnvStore, FileStore, SecretError, SecretStore
from sandboxd.files.problems import Findings, Problem, Severity, did_you_mean
from sandboxd.limits import Limits

WASM_TYPE: Final = "bindings.wasm"
_FILE_STORE = "secretstores.local.file"
_ENV_STORE = "secretstores.local.env"
_STORE_CATEGORY = "secretstores."
INITIAL_VERSIONS = ("", "v0", "v1")


@dataclass(frozen=True, kw_only=True, slots=True)
class Loaded:
    """The result of reading component folders."""

    bindings: tuple[Binding, ...]
    problems: tuple[Problem, ...]
    declined: frozenset[str] = frozenset()
    """The names of components that, by their scopes, namespace or direction, are not for this server."""
    listed: tuple[ListedComponent, ...] = ()
    """The components that daprd shows beside the bindings: secret stores, and bindings that serve no output."""

    @property
    def errors(self) -> tuple[Problem, ...]:
        """The problems that must keep the server from starting."""
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
    check_pattern: PatternCheck | None = None,
    mounts: MountPolicy | None = None,
) -> Loaded:
    """Read all components of the given folders. Dapr's files work unchanged.

    It raises no error: every fault becomes a Problem with its place.

    Parameters:
        directories: the folders, in order; subfolders are not read.
        app_id: the id that `scopes` must list, and the value of `{appID}`.
        namespace: components of other namespaces are skipped; None skips none.
        environ: the environment, for envRef, secretstores.local.env, POD_NAME and DAPR_ENV_KEYS.
        limits: the limits of a binding that sets none; None means the defaults of Limits.
        ceilings: the highest limits that a binding may set; None means `limits`.
        strict_sandbox: run every binding with strictSandbox.
        check_pattern: raises ValueError if its argument is not an egress pattern; None accepts every text.
        mounts: which folders bindings may mount; None means those beneath `directories`.
    """
    defaults = limits or Limits()
    loading = _Loading(
        app_id=app_id,
        namespace=namespace,
        environ=environ,
        defaults=defaults,
        ceilings=ceilings or defaults,
        strict_sandbox=strict_sandbox,
        check_pattern=check_pattern,
        mounts=mounts or policy_for(None, directories, MountPolicy(allowed=()).max_tmp_bytes),
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
        check_pattern: PatternCheck | None,
        mounts: MountPolicy,
    ) -> None:
        self._app_id = app_id
        self._namespace = namespace
        self._environ = environ
        self._defaults = defaults
        self._ceilings = ceilings
        self._strict = strict_sandbox
        self._check_pattern = check_pattern
        self._mounts = mounts
        self._findings = Findings()
        self._stores: dict[str, SecretStore] = {}
        self._bindings: list[Binding] = []
        self._declined: set[str] = set()
        self._listed: list[ListedComponent] = []
        self._resiliency = Resiliency(app_id, self._findings)

    def run(self, directories: Sequence[Path]) -> Loaded:
        manifests = self._select(self._read(directories))
        # Secret stores are opened first: a component may refer to a store that a later file configures.
        for manifest in manifests:
            if manifest.type.lower().startswith(_STORE_CATEGORY):
                self._open_store(manifest)
        for manifest in manifests:
            if not manifest.type.lower().startswith(_STORE_CATEGORY):
                self._bind(manifest)
        bindings = [
            replace(binding, policy=self._resiliency.policy(binding.name, binding.limits.timeout_ms))
            for binding in self._bindings
        ]
        self._resiliency.finish()
        return Loaded(
            bindings=tuple(bindings),
            problems=tuple(self._findings.problems),
            declined=frozenset(self._declined),
            listed=tuple(self._listed),
        )

    def _read(self, directories: Sequence[Path]) -> list[Manifest]:
        manifests = []
        for directory in directories:
            for resource in read_folder(directory, "Component", self._findings, also=(KIND,)):
                if resource.kind == KIND:
                    self._resiliency.add(resource)
                    continue
                try:
                    manifests.append(decode(resource))
                except ManifestError as error:
                    skipped("Component", error, resource.path, self._findings)
        return manifests

    def _select(self, manifests: list[Manifest]) -> list[Manifest]:
        """Return the components of this namespace that are in scope.

        As in Dapr (disk.go, filterManifests), a component that is out of scope may have the name of a later component,
        but not that of an earlier one.
        """
        selected = []
        seen: dict[str, Manifest] = {}
        for manifest in manifests:
            if self._namespace and manifest.namespace and manifest.namespace != self._namespace:
                self._note(manifest, f"skipped: its namespace {manifest.namespace} is not {self._namespace}")
                self._declined.add(manifest.name)
                continue
            existing = seen.get(manifest.name)
            if existing is not None:
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
                self._declined.add(manifest.name)
                continue
            seen[manifest.name] = manifest
            selected.append(manifest)
        return selected

    def _note(self, manifest: Manifest, message: str, remedy: str = "") -> None:
        self._findings.add(
            Severity.NOTE, message, remedy, path=manifest.path, line=manifest.line, component=manifest.name
        )

    def _fail(self, manifest: Manifest, fault: Fault) -> None:
        """Record a failure of initialisation, in Dapr's words."""
        kind = manifest.log_name.removeprefix(manifest.name)
        message = f"{init_error_prefix(manifest.name)}{kind}: {fault.message}"
        severity = Severity.ERROR
        if manifest.ignore_errors:
            severity = Severity.IGNORED
            message = f"Ignoring error processing component: {message}"
        self._findings.add(
            severity, message, fault.remedy, path=manifest.path, line=fault.line, component=manifest.name
        )

    def _properties(self, manifest: Manifest, kind: str) -> list[Property] | None:
        """Return a component's properties; None if it fails.

        Parameters:
            kind: what daprd calls such a component where it has none of the version.
        """
        if manifest.version.lower() not in INITIAL_VERSIONS:
            message = f"couldn't find {kind} {manifest.type}/{manifest.version}"
            self._fail(manifest, Fault(message, "the version is v1", manifest.line))
            return None
        context = Context(
            app_id=self._app_id,
            namespace=self._namespace or "default",
            pod_name=self._environ.get("POD_NAME", ""),
            environ=self._environ,
            stores=self._stores,
        )
        try:
            properties = read_properties(manifest, context, self._findings)
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
        properties = self._properties(manifest, "secret store")
        if properties is None:
            return
        values = {prop.name.lower(): prop.value for prop in properties}
        try:
            self._stores[manifest.name] = self._store(kind, values)
        except SecretError as error:
            self._fail(manifest, Fault(str(error), "", manifest.line))
            return
        self._list(manifest)

    def _list(self, manifest: Manifest) -> None:
        self._listed.append(ListedComponent(name=manifest.name, type=manifest.type, version=manifest.version))

    def _store(self, kind: str, values: Mapping[str, str]) -> SecretStore:
        if kind == _ENV_STORE:
            return EnvStore(self._environ, values.get("prefix", ""))
        path = values.get("secretsfile", "")
        if not path:
            raise SecretError("missing local secrets file in metadata")
        return FileStore(
            Path(path),
            separator=values.get("nestedseparator", "") or ":",
            multi_valued=values.get("multivalued", "").strip().lower() in TRUTHY,
        )

    def _report_other_type(self, manifest: Manifest) -> None:
        """Report a component of another type: as a note, unless it was probably meant to be a bindings.wasm."""
        if not manifest.type:
            remedy = "write spec.type: bindings.wasm"
            if manifest.unknown:
                key, line = manifest.unknown[0]
                remedy = f"{key} is not a key of a component; {did_you_mean(key, COMPONENT_KEYS)}"
            else:
                line = manifest.line
            self._findings.add(
                Severity.WARNING,
                "the component has no spec.type and is not served",
                remedy,
                path=manifest.path,
                line=line,
            )
        elif difflib.get_close_matches(manifest.type.lower(), [WASM_TYPE], cutoff=0.85):
            self._findings.add(
                Severity.WARNING,
                f"{manifest.name} is not served: there is no component type {manifest.type}",
                f"did you mean {WASM_TYPE}?",
                path=manifest.path,
                line=manifest.line,
                component=manifest.name,
            )
        else:
            self._note(
                manifest,
                f"{manifest.type} is not served by sandboxd",
                "leave it to daprd, or remove it from this folder",
            )

    def _bind(self, manifest: Manifest) -> None:
        if manifest.type.lower() != WASM_TYPE:
            self._report_other_type(manifest)
            return
        properties = self._properties(manifest, "output binding")
        if properties is None:
            return
        if init_timeout_passed(manifest.init_timeout):
            text = f"init timeout for component {manifest.log_name}"
            self._fail(manifest, Fault(text, "write an initTimeout such as 60s", manifest.line))
            return
        if not serves_output(properties):
            self._declined.add(manifest.name)
            self._list(manifest)
            self._findings.add(
                Severity.WARNING,
                "the binding is not served, because its direction does not name output",
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
            mounts=self._mounts,
            findings=self._findings,
        )
        for fault in faults:
            self._fail(manifest, fault)
        if binding is not None:
            self._bindings.append(binding)
