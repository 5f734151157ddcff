"""What the files for KubeRay may say: the part of its `ray.io/v1` API that they use, and Kubernetes' own schemas.

Names and types are those of KubeRay's API reference (version 1.6). KubeRay's resource definitions hold all of
Kubernetes' pods several times over, 900 kB each; here a pod template is checked as a pod, by the strict schemas of the
package `kubernetes-validate`, and what is KubeRay's own by these models. Neither accepts a field that it does not know.
"""

from __future__ import annotations

from typing import Any, Literal

import kubernetes_validate
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

KUBERNETES = "1.33"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Resources(_Strict):
    requests: dict[str, str]
    limits: dict[str, str]


class AuthOptions(_Strict):
    mode: Literal["disabled", "token"]


class AutoscalerOptions(_Strict):
    version: Literal["v1", "v2"]
    upscalingMode: Literal["Default", "Aggressive", "Conservative"]
    idleTimeoutSeconds: int = Field(ge=0)
    resources: Resources


class _Group(_Strict):
    rayStartParams: dict[str, str]
    template: dict[str, Any]

    @field_validator("template")
    @classmethod
    def _pod(cls, template: dict[str, Any]) -> dict[str, Any]:
        check_kubernetes({"apiVersion": "v1", "kind": "Pod", **template})
        return template


class HeadGroup(_Group):
    """`spec.headGroupSpec`."""


class WorkerGroup(_Group):
    groupName: str = Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
    replicas: int = Field(ge=0)
    minReplicas: int = Field(ge=0)
    maxReplicas: int = Field(ge=0)

    @model_validator(mode="after")
    def _in_bounds(self) -> WorkerGroup:
        if not self.minReplicas <= self.replicas <= self.maxReplicas:
            raise ValueError("expected minReplicas <= replicas <= maxReplicas")
        return self


class RayClusterSpec(_Strict):
    rayVersion: str
    authOptions: AuthOptions
    enableInTreeAutoscaling: bool
    autoscalerOptions: AutoscalerOptions
    headGroupSpec: HeadGroup
    workerGroupSpecs: list[WorkerGroup]


class RayJobSpec(_Strict):
    entrypoint: str
    runtimeEnvYAML: str
    submissionMode: Literal["K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode"]
    backoffLimit: int = Field(ge=0)
    activeDeadlineSeconds: int = Field(gt=0)
    shutdownAfterJobFinishes: bool
    ttlSecondsAfterFinished: int = Field(ge=0)
    rayClusterSpec: RayClusterSpec


class RayServiceSpec(_Strict):
    serveConfigV2: str
    rayClusterConfig: RayClusterSpec


SPECS: dict[str, type[_Strict]] = {"RayCluster": RayClusterSpec, "RayJob": RayJobSpec, "RayService": RayServiceSpec}


def check_kubernetes(resource: dict[str, Any]) -> None:
    """Fails unless a resource of Kubernetes itself is as its strict schema has it."""
    kubernetes_validate.validate(resource, KUBERNETES, strict=True)


def check(resource: dict[str, Any]) -> None:
    """Fails unless a resource, of KubeRay or of Kubernetes, is as its API has it."""
    if resource["apiVersion"] != "ray.io/v1":
        check_kubernetes(resource)
        return
    assert set(resource) == {"apiVersion", "kind", "metadata", "spec"}
    check_kubernetes({"apiVersion": "v1", "kind": "ConfigMap", "metadata": resource["metadata"]})
    SPECS[resource["kind"]].model_validate(resource["spec"])
