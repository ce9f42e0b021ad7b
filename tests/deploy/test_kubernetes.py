"""The manifests are valid Kubernetes, hang together, and start sandboxd with options and settings it has."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from sandboxd.cli import _parser
from sandboxd.commands.component import PORT
from sandboxd.config import Config, load
from sandboxd.limits.units import parse_duration_ms
from sandboxd.server.component_side import SOCKETS_FOLDER
from tests.deploy.files import DEPLOY
from tests.guests.cache import ROOT

FOLDER = DEPLOY / "kubernetes"
OLDEST = "1.29"
NEWEST = "1.34"
OWN_SCHEMA = {"Kustomization", "PodMonitor"}
"""Not among Kubernetes' own kinds: read by kustomize and by the Prometheus operator."""


def documents() -> list[tuple[Path, dict[str, Any]]]:
    names = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["resources"]
    return [(FOLDER / name, document) for name in names for document in yaml.safe_load_all((FOLDER / name).read_text())]


def one(kind: str, name: str = "sandboxd") -> dict[str, Any]:
    (found,) = (d for _, d in documents() if d["kind"] == kind and d["metadata"]["name"] == name)
    return found


def pod() -> dict[str, Any]:
    spec: dict[str, Any] = one("Deployment")["spec"]["template"]["spec"]
    return spec


def settings(tmp_path: Path) -> Config:
    file = tmp_path / "sandboxd.yaml"
    file.write_text(one("ConfigMap")["data"]["sandboxd.yaml"])
    config, problems = load(file, environ={})
    assert not problems
    return config


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_kubernetes_accepts_every_manifest(version: str) -> None:
    validated = 0
    for file, document in documents():
        if document["kind"] not in OWN_SCHEMA:
            kubernetes_validate.validate(document, version, strict=True)
            validated += 1
        assert document["apiVersion"], file
        assert document["kind"] == "Namespace" or document["metadata"]["namespace"] == "sandboxd", file
    assert validated >= 9


def test_every_file_is_in_the_kustomization() -> None:
    kustomization = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    files = {file.name for file in FOLDER.glob("*.yaml")} - {
        "kustomization.yaml", "prometheus-adapter-rules.yaml", "under-daprd.yaml"
    }  # fmt: skip
    assert set(kustomization["resources"]) == files
    assert {image["name"] for image in kustomization["images"]} == {c["image"] for c in containers()}


def containers() -> list[dict[str, Any]]:
    return [*pod()["initContainers"], *pod()["containers"]]


def test_every_container_is_confined() -> None:
    assert pod()["securityContext"]["runAsNonRoot"] is True
    assert "fsGroup" not in pod()["securityContext"], "a group-writable cache is not trusted by the server"
    assert pod()["automountServiceAccountToken"] is False
    for container in containers():
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["limits"]["memory"]


def test_names_of_volumes_ports_and_configmaps_resolve() -> None:
    volumes = {volume["name"]: volume for volume in pod()["volumes"]}
    for container in containers():
        assert {mount["name"] for mount in container["volumeMounts"]} <= set(volumes)
    for volume in volumes.values():
        if "configMap" in volume:
            one("ConfigMap", volume["configMap"]["name"])
    (server,) = pod()["containers"]
    port = {"http": 3500, "grpc": 50001}
    assert {p["name"]: p["containerPort"] for p in server["ports"]} == port
    assert f"--port={port['http']}" in server["args"]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert server[probe]["httpGet"]["port"] in port
    assert {p["targetPort"] for p in one("Service")["spec"]["ports"]} == set(port)
    assert {e["port"] for e in one("PodMonitor")["spec"]["podMetricsEndpoints"]} == {"http"}
    labels = one("Deployment")["spec"]["template"]["metadata"]["labels"]
    for selector in (
        one("Deployment")["spec"]["selector"]["matchLabels"],
        one("Service")["spec"]["selector"],
        one("PodMonitor")["spec"]["selector"]["matchLabels"],
        one("NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        one("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items()


def test_the_probes_ask_for_what_the_server_has() -> None:
    (server,) = pod()["containers"]
    assert server["livenessProbe"]["httpGet"]["path"] == "/livez"
    assert server["readinessProbe"]["httpGet"]["path"] == "/readyz"


def test_the_command_lines_are_understood() -> None:
    (server,) = pod()["containers"]
    arguments = _parser().parse_args(server["args"])
    assert arguments.resources_path == ["/etc/sandboxd/components"]
    (compiling,) = pod()["initContainers"]
    (line,) = (line for line in compiling["command"][-1].splitlines() if "sandboxd compile" in line)
    same = _parser().parse_args(line.removeprefix("exec sandboxd ").split())
    assert (same.config, same.resources_path) == (arguments.config, arguments.resources_path)
    assert compiling["env"] == server["env"][: len(compiling["env"])], "both must use the same cache"


def test_the_pod_is_given_more_time_than_the_server_takes_to_drain(tmp_path: Path) -> None:
    (server,) = pod()["containers"]
    command, pre_stop = server["lifecycle"]["preStop"]["exec"]["command"]
    assert command == "sleep"
    drain_ms = settings(tmp_path).drain.timeout_ms
    assert pod()["terminationGracePeriodSeconds"] * 1000 > drain_ms + parse_duration_ms(f"{pre_stop}s")


def test_the_memory_limit_holds_every_worker_with_a_full_guest(tmp_path: Path) -> None:
    config = settings(tmp_path)
    (server,) = pod()["containers"]
    assert server["resources"]["limits"]["memory"] == "2Gi"
    assert config.pool.workers * config.limits.memory_bytes <= 2 * 1024**3


def test_the_autoscaler_scales_the_deployment_by_the_adapters_metric() -> None:
    spec = one("HorizontalPodAutoscaler")["spec"]
    assert spec["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "sandboxd"}
    assert "replicas" not in one("Deployment")["spec"], "the autoscaler owns the number"
    rules = yaml.safe_load((FOLDER / "prometheus-adapter-rules.yaml").read_text())["rules"]["custom"]
    wanted = {metric["pods"]["metric"]["name"] for metric in spec["metrics"] if metric["type"] == "Pods"}
    assert wanted == {rule["name"]["as"] for rule in rules}


def as_the_kubelet_mounts(config_map: dict[str, Any], folder: Path) -> Path:
    """A ConfigMap volume: files are links into `..data`, itself a link to a folder that each update replaces."""
    version = folder / "..2026_01_01"
    version.mkdir(parents=True)
    (folder / "..data").symlink_to(version.name)
    for name, text in config_map["data"].items():
        (version / name).write_text(text)
        (folder / name).symlink_to(f"..data/{name}")
    return folder


def test_the_server_accepts_configuration_and_components_as_they_are_mounted(tmp_path: Path) -> None:
    components = as_the_kubelet_mounts(one("ConfigMap", "sandboxd-components"), tmp_path / "components")
    config = as_the_kubelet_mounts(one("ConfigMap"), tmp_path / "etc") / "sandboxd.yaml"
    done = subprocess.run(
        [sys.executable, "-m", "sandboxd", "check", "--config", str(config), "--resources-path", str(components)],
        cwd=ROOT,
        env=os.environ | {"SANDBOXD_CACHE_FOLDER": str(tmp_path / "cache/store"), "NAMESPACE": "sandboxd"},
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for name in one("ConfigMap", "sandboxd-components")["data"]:
        assert f"{name.removesuffix('.yaml')}: ready" in done.stdout + done.stderr


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_the_pod_under_daprd(version: str) -> None:
    document = yaml.safe_load((FOLDER / "under-daprd.yaml").read_text())
    kubernetes_validate.validate(document, version, strict=True)
    template = document["spec"]["template"]
    (container,) = (c for c in template["spec"]["containers"] if c["name"] == "sandboxd")
    assert template["metadata"]["annotations"]["dapr.io/pluggable-components"] == container["name"]
    arguments = _parser().parse_args(container["args"])
    assert f"[ -S {SOCKETS_FOLDER}/{arguments.name}.sock ]" in container["lifecycle"]["postStart"]["exec"]["command"][2]
    assert [port["containerPort"] for port in container["ports"]] == [PORT]
    for probe in ("livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["port"] == container["ports"][0]["name"]
    # The injector mounts the folder of sockets within /tmp, which the root file system would not let it.
    assert "/tmp" in {mount["mountPath"] for mount in container["volumeMounts"]}
