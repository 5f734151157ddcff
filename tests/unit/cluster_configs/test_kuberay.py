"""The files for KubeRay: their schema, what Ray's autoscaler makes of them, and the strings that they embed."""

from __future__ import annotations

import copy
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.util import validate_config
from ray.runtime_env import RuntimeEnv
from ray.serve.schema import ServeDeploySchema

import ray_pipelines as rp
from ray_pipelines.serve.application import _nested
from ray_pipelines.serve.config import validate_serving
from tests.unit.cluster_configs.files import FOLDER, ROOT, load_all, package_version, pins
from tests.unit.cluster_configs.kuberay_schema import check

FILES = ("kuberay/raycluster.yaml", "kuberay/rayjob.yaml", "kuberay/rayservice.yaml")
CLUSTER_OF = {"RayCluster": None, "RayJob": "rayClusterSpec", "RayService": "rayClusterConfig"}


def ray_resource(name: str) -> dict[str, Any]:
    [resource] = [each for each in load_all(name) if each["apiVersion"] == "ray.io/v1"]
    return resource


def cluster_spec(name: str) -> dict[str, Any]:
    resource = ray_resource(name)
    key = CLUSTER_OF[resource["kind"]]
    spec: dict[str, Any] = resource["spec"] if key is None else resource["spec"][key]
    return spec


def groups(name: str) -> dict[str, dict[str, Any]]:
    return {group["groupName"]: group for group in cluster_spec(name)["workerGroupSpecs"]}


@pytest.mark.parametrize("name", FILES)
def test_every_resource_is_as_its_api_has_it(name: str) -> None:
    resources = load_all(name)
    assert resources[0]["kind"] == "ServiceAccount"
    for resource in resources:
        check(resource)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("spec", "rayVersions"), "2.60.0"),
        (("spec", "authOptions", "mode"), "tokens"),
        (("spec", "headGroupSpec", "rayStartParams", "num-cpus"), 0),
        (("spec", "headGroupSpec", "template", "spec", "serviceAccount_Name"), "x"),
        (("spec", "headGroupSpec", "template", "spec", "containers", 0, "resource"), {}),
        (("spec", "workerGroupSpecs", 0, "minReplicas"), 9),
    ],
)
def test_a_mistake_is_found(place: tuple[Any, ...], value: Any) -> None:
    resource = copy.deepcopy(ray_resource(FILES[0]))
    inner: Any = resource
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    with pytest.raises(Exception, match=re.escape(str(place[-1])) if value != "tokens" else "mode"):
        check(resource)


@pytest.mark.parametrize("name", FILES)
def test_rays_autoscaler_sees_a_head_without_work_and_groups_that_grow(name: str) -> None:
    resource = {"metadata": {"name": "test", "namespace": "default"}, "spec": cluster_spec(name)}
    config = _derive_autoscaling_config_from_ray_cr(resource)
    validate_config(config)
    types = config["available_node_types"]
    head = types.pop(config["head_node_type"])
    assert head["resources"]["CPU"] == 0
    assert types["gpu"]["resources"] | {"memory": 0} == {"CPU": 7, "GPU": 1, "memory": 0}
    assert types["gpu"]["max_workers"] > types["gpu"]["min_workers"] == (1 if "service" in name else 0)
    if "cpu" in types:
        assert "GPU" not in types["cpu"]["resources"] and types["cpu"]["min_workers"] == 0
    assert config["idle_timeout_minutes"] == 5


@pytest.mark.parametrize("name", FILES)
def test_pods_are_of_our_image_without_rights_or_secrets(name: str) -> None:
    spec = cluster_spec(name)
    assert spec["rayVersion"] == pins()["ray"] and spec["authOptions"] == {"mode": "token"}
    for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
        pod = group["template"]["spec"]
        [container] = pod["containers"]
        variant = "gpu" if group.get("groupName") == "gpu" else "cpu"
        assert container["image"] == f"my-registry/ray-pipelines:{package_version()}-{variant}"
        assert pod["serviceAccountName"] == "ray-pipelines" and pod["securityContext"]["runAsNonRoot"]
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert "metrics" in [port["name"] for port in container["ports"]]
        for variable in container.get("env", ()):
            assert "value" not in variable, "values of variables may be secrets; these come from one"
    assert not [each for each in load_all(name) if each["kind"] == "Secret"]
    tolerations = groups(name)["gpu"]["template"]["spec"]["tolerations"]
    assert tolerations == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]


def test_the_job_that_is_submitted_exists_and_is_right() -> None:
    spec = ray_resource("kuberay/rayjob.yaml")["spec"]
    folder, command = spec["entrypoint"].split(" && ")
    assert folder == "cd /home/ray/app"
    python, flag, module, file, *settings = shlex.split(command)
    assert (python, flag, module) == ("python", "-m", "jobs.batch")
    assert (ROOT / "jobs/batch.py").exists()
    assert settings[::2] == ["--set"] * (len(settings) // 2)
    job = rp.read_job(ROOT / file, settings[1::2])
    assert job.workers.autoscaling and job.workers.num_gpus == 1
    assert job.workers.concurrency == (1, groups("kuberay/rayjob.yaml")["gpu"]["maxReplicas"])
    RuntimeEnv(**yaml.safe_load(spec["runtimeEnvYAML"]))
    assert spec["shutdownAfterJobFinishes"]


def test_the_endpoint_is_right_for_serve_and_for_this_package() -> None:
    config = ServeDeploySchema(**yaml.safe_load(ray_resource("kuberay/rayservice.yaml")["spec"]["serveConfigV2"]))
    [application] = config.applications
    assert application.import_path == "ray_pipelines.serve:app"
    serving = validate_serving(_nested(application.args))
    gpu = groups("kuberay/rayservice.yaml")["gpu"]
    assert serving.serve.replicas == (gpu["minReplicas"], gpu["maxReplicas"]) and serving.workers.num_gpus == 1
    [container] = gpu["template"]["spec"]["containers"]
    assert [variable["name"] for variable in container["env"]] == ["RAY_PIPELINES_API_KEYS"]
    assert not serving.serve.open_to_all


def test_the_commands_in_the_heads_of_the_files_name_what_is_in_them() -> None:
    for name in FILES:
        text = Path(FOLDER / name).read_text()
        head = text[: text.index("apiVersion")]
        assert f"kubectl apply -f cluster_configs/{name}" in head
        assert all(f"{variable}=" in head for variable in re.findall(r"\$([A-Z_]+)", head))
