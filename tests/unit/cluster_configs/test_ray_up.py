"""The files for `ray up`, through Ray's own schema and, for AWS, through its launcher against moto's EC2."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from unittest import mock

import boto3
import cfnlint
import jsonschema
import pytest
from moto import mock_aws
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.unit.cluster_configs.files import FOLDER, ROOT, load

CLOUDS = ("aws.yaml", "gcp.yaml")
AMI = "resolve:ssm:"


@pytest.mark.parametrize("name", CLOUDS)
def test_ray_accepts_the_file_and_fills_in_what_is_left(name: str) -> None:
    validate_config(prepare_config(load(name)))


@pytest.mark.parametrize("name", CLOUDS)
def test_ray_refuses_what_is_not_in_its_schema(name: str) -> None:
    wrong = prepare_config({**load(name), "max_worker": 3})
    with pytest.raises(jsonschema.ValidationError, match="max_worker"):
        validate_config(wrong)


@pytest.mark.parametrize("name", CLOUDS)
def test_workers_come_and_go_between_none_and_a_bound(name: str) -> None:
    config = load(name)
    types = dict(config["available_node_types"])
    head = types.pop(config["head_node_type"])
    assert head["resources"] == {"CPU": 0}
    assert set(types) == {"gpu", "cpu"}
    assert all(kind["min_workers"] == 0 < kind["max_workers"] for kind in types.values())
    assert sum(kind["max_workers"] for kind in types.values()) == config["max_workers"]
    assert config["idle_timeout_minutes"] <= 5
    assert config["provider"]["cache_stopped_nodes"] is False
    assert types["gpu"]["resources"]["GPU"] == 1 and "GPU" not in types["cpu"]["resources"]


@pytest.mark.parametrize("name", CLOUDS)
def test_files_and_commands_install_this_package_and_demand_a_token(name: str) -> None:
    config = load(name)
    mounts = config["file_mounts"]
    assert mounts.pop("/home/ray/.ray/auth_token") == "~/.ray/auth_token"
    for place, path in mounts.items():
        assert (ROOT / path).exists() and place == f"/home/ray/app/{path}"
    assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    assert any("--constraint constraints.txt '.[all]'" in command for command in config["setup_commands"])
    starts = [config["head_start_ray_commands"][-1], *config["worker_start_ray_commands"][-1:]]
    assert all("--metrics-export-port=8080" in start for start in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]


def test_roles_are_what_cloudformation_takes() -> None:
    problems = cfnlint.lint_file(FOLDER / "aws-iam.yaml")
    assert not [str(problem) for problem in problems]


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An account of moto's with the stack of aws-iam.yaml, and a home directory for the key that Ray makes."""
    home = str(tmp_path_factory.mktemp("home"))
    variables = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_PROFILE": "", "HOME": home}
    with mock.patch.dict(os.environ, variables), mock_aws():
        del os.environ["AWS_PROFILE"]
        boto3.client("cloudformation", "us-east-1").create_stack(
            StackName="ray-pipelines",
            TemplateBody=(FOLDER / "aws-iam.yaml").read_text(),
            Parameters=[{"ParameterKey": "Bucket", "ParameterValue": "my-bucket"}],
            Capabilities=["CAPABILITY_NAMED_IAM"],
        )
        yield


@pytest.mark.usefixtures("aws")
def test_rays_launcher_starts_every_kind_of_machine() -> None:
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
    from ray.autoscaler.tags import TAG_RAY_NODE_NAME, TAG_RAY_USER_NODE_TYPE

    config = bootstrap_aws(prepare_config(copy.deepcopy(load("aws.yaml"))))
    provider = AWSNodeProvider(config["provider"], config["cluster_name"])
    ec2 = boto3.client("ec2", "us-east-1")
    image = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    for kind, settings in config["available_node_types"].items():
        node = settings["node_config"]
        assert node.pop("ImageId").startswith(AMI)
        tags = {TAG_RAY_NODE_NAME: kind, TAG_RAY_USER_NODE_TYPE: kind}
        provider.create_node({**node, "ImageId": image}, tags, 1)
    found = [machine for group in ec2.describe_instances()["Reservations"] for machine in group["Instances"]]
    by_kind = {
        tag["Value"]: machine for machine in found for tag in machine["Tags"] if tag["Key"] == "ray-user-node-type"
    }
    assert {kind: machine["InstanceType"] for kind, machine in by_kind.items()} == {
        "head": "m7i.xlarge",
        "gpu": "g6.2xlarge",
        "cpu": "m7i.2xlarge",
    }
    profiles = {kind: machine["IamInstanceProfile"]["Arn"].rpartition("/")[2] for kind, machine in by_kind.items()}
    assert profiles == {"head": "ray-pipelines-head", "gpu": "ray-pipelines-worker", "cpu": "ray-pipelines-worker"}
    assert {kind for kind, machine in by_kind.items() if machine.get("InstanceLifecycle") == "spot"} == {"gpu", "cpu"}
    [group] = [
        group for group in ec2.describe_security_groups()["SecurityGroups"] if group["GroupName"] == "ray-pipelines"
    ]
    opened = [(rule["FromPort"], rule["ToPort"]) for rule in group["IpPermissions"] if rule["IpRanges"]]
    assert opened == [(22, 22)]


@pytest.mark.usefixtures("aws")
def test_roles_may_reach_the_bucket_and_only_the_head_starts_machines() -> None:
    iam = boto3.client("iam")
    [policy] = [each for each in iam.list_policies(Scope="Local")["Policies"] if each["PolicyName"].endswith("storage")]
    version = iam.get_policy_version(PolicyArn=policy["Arn"], VersionId=policy["DefaultVersionId"])
    storage = version["PolicyVersion"]["Document"]["Statement"]
    assert {statement["Resource"] for statement in storage} == {"arn:aws:s3:::my-bucket", "arn:aws:s3:::my-bucket/*"}
    assert iam.list_role_policies(RoleName="ray-pipelines-worker")["PolicyNames"] == []
    [name] = iam.list_role_policies(RoleName="ray-pipelines-head")["PolicyNames"]
    head = str(iam.get_role_policy(RoleName="ray-pipelines-head", PolicyName=name)["PolicyDocument"])
    assert "ec2:RunInstances" in head and "role/ray-pipelines-worker" in head
    cluster_name = load("aws.yaml")["cluster_name"]
    assert f"'aws:ResourceTag/ray-cluster-name': '{cluster_name}'" in head


def test_machines_of_google_have_an_account_and_spot_prices() -> None:
    config = load("gcp.yaml")
    zone, project = config["provider"]["availability_zone"], config["provider"]["project_id"]
    for kind, settings in config["available_node_types"].items():
        node = settings["node_config"]
        role = "head" if kind == "head" else "worker"
        [account] = node["serviceAccounts"]
        assert account["email"] == f"ray-pipelines-{role}@{project}.iam.gserviceaccount.com"
        [disk] = node["disks"]
        assert disk["autoDelete"] and disk["initializeParams"]["diskType"].startswith(f"zones/{zone}/")
        # An object, as Compute Engine has it; Ray's own examples have a list.
        is_spot = node.get("scheduling", {}).get("provisioningModel") == "SPOT"
        assert is_spot == (kind != "head")
        assert set(node) <= {"machineType", "disks", "serviceAccounts", "scheduling"}
    assert config["available_node_types"]["gpu"]["node_config"]["scheduling"]["onHostMaintenance"] == "TERMINATE"
