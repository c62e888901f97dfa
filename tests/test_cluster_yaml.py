"""The cluster definitions, as far as that can be seen without a cloud: Ray's own schema, and what raydc promises."""

import json
import re
import tomllib
from pathlib import Path

import jsonschema
import pytest
import ray.autoscaler
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parent.parent
LAUNCHER, KUBERAY = ROOT / "cluster.yaml", ROOT / "cluster.kuberay.yaml"
LOCK = "\n".join((ROOT / ".ci" / name).read_text() for name in ("requirements.txt", "torch.txt"))
LOCKED = dict(re.findall(r"^([\w.-]+)==(\S+)", LOCK, re.MULTILINE))

TEXT, COUNT = {"type": "string"}, {"type": "integer", "minimum": 0}
CONTAINER = {
    "type": "object",
    "required": ["name", "image", "envFrom", "resources", "volumeMounts"],
    "properties": {
        "name": TEXT,
        "image": TEXT,
        "envFrom": {"type": "array", "minItems": 1},
        "resources": {"type": "object", "required": ["requests", "limits"]},
        "volumeMounts": {"type": "array", "items": {"type": "object", "required": ["name", "mountPath"]}},
    },
}
TEMPLATE = {
    "type": "object",
    "required": ["spec"],
    "properties": {
        "spec": {
            "type": "object",
            "required": ["containers", "volumes"],
            "properties": {"containers": {"type": "array", "items": CONTAINER, "minItems": 1, "maxItems": 1}},
        }
    },
}
START_PARAMETERS = {"type": "object", "additionalProperties": TEXT}
RAYJOB = {
    "type": "object",
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "additionalProperties": False,
    "properties": {
        "apiVersion": {"const": "ray.io/v1"},
        "kind": {"const": "RayJob"},
        "metadata": {"type": "object", "required": ["name"]},
        "spec": {
            "type": "object",
            "required": ["entrypoint", "rayClusterSpec", "shutdownAfterJobFinishes"],
            "additionalProperties": False,
            "properties": {
                "entrypoint": TEXT,
                "shutdownAfterJobFinishes": {"type": "boolean"},
                "ttlSecondsAfterFinished": COUNT,
                "backoffLimit": COUNT,
                "rayClusterSpec": {
                    "type": "object",
                    "required": ["rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs"],
                    "additionalProperties": False,
                    "properties": {
                        "rayVersion": TEXT,
                        "enableInTreeAutoscaling": {"const": True},
                        "autoscalerOptions": {"type": "object", "properties": {"idleTimeoutSeconds": COUNT}},
                        "authOptions": {"const": {"mode": "token"}},
                        "headGroupSpec": {
                            "type": "object",
                            "required": ["rayStartParams", "template"],
                            "additionalProperties": False,
                            "properties": {
                                "serviceType": {"const": "ClusterIP"},
                                "rayStartParams": START_PARAMETERS,
                                "template": TEMPLATE,
                            },
                        },
                        "workerGroupSpecs": {
                            "type": "array",
                            "minItems": 1,
                            "items": {
                                "type": "object",
                                "required": ["groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"],
                                "additionalProperties": False,
                                "properties": {
                                    "groupName": TEXT,
                                    "replicas": COUNT,
                                    "minReplicas": COUNT,
                                    "maxReplicas": COUNT,
                                    "rayStartParams": START_PARAMETERS,
                                    "template": TEMPLATE,
                                },
                            },
                        },
                    },
                },
            },
        },
    },
}
"""What is used of KubeRay's CRD (ray.io/v1), and what it must say."""


def launcher() -> dict:
    return yaml.safe_load(LAUNCHER.read_text())


def on_premise() -> dict:
    """The commented variant in its place."""
    comment = LAUNCHER.read_text().partition("# Machines of your own: replace")[2]
    lines = [line.removeprefix("#").removeprefix(" ") for line in comment.splitlines()]
    variant = yaml.safe_load("\n".join(lines[lines.index("provider:") :]))
    kept = {k: v for k, v in launcher().items() if k not in ("available_node_types", "head_node_type")}
    return kept | variant | {"max_workers": len(variant["provider"]["worker_ips"]), "initialization_commands": []}


def kuberay() -> dict:
    return next(d for d in yaml.safe_load_all(KUBERAY.read_text()) if d["kind"] == "RayJob")


@pytest.mark.parametrize("config", [launcher(), on_premise()], ids=["aws", "on premise"])
def test_ray_accepts_the_cluster_file(config):
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    jsonschema.validate(config, schema)
    validate_config(prepare_config(config))


@pytest.mark.parametrize("config", [launcher(), on_premise()], ids=["aws", "on premise"])
def test_nobody_gets_in_without_a_token(config):
    starts = [c for key in ("head_start_ray_commands", "worker_start_ray_commands") for c in config[key]]
    starts = [command for command in starts if "ray start" in command]
    assert len(starts) == 2 and all("RAY_AUTH_MODE=token ray start" in command for command in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0] and "--num-cpus=0" in starts[0]
    assert all(". ~/.raydc.env" in command for command in starts), "MLflow's address comes with the environment"
    token, environment = "/home/ray/.ray/auth_token", "/home/ray/.raydc.env"
    assert {token, environment} <= set(config["file_mounts"])
    assert config["setup_commands"][0] == "chmod 600 ~/.ray/auth_token ~/.raydc.env"


def test_versions_are_those_of_the_lock_file():
    wanted = f"rayproject/ray:{LOCKED['ray']}-py311-gpu"
    config = launcher()
    assert config["docker"]["image"] == wanted
    assert config["file_mounts"]["/home/ray/requirements.txt"] == ".ci/requirements.txt"
    assert config["file_mounts"]["/home/ray/torch.txt"] == ".ci/torch.txt"
    install = [command for command in config["setup_commands"] if command.startswith("pip install")]
    assert install == ["pip install --require-hashes -r ~/requirements.txt", "pip install -r ~/torch.txt"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {re.split(r"[\[<>=]", name)[0] for name in project["dependencies"]}
    assert needed <= {name.lower() for name in LOCKED}, "a dependency of raydc is not installed on the nodes"
    assert f'rayVersion: "{LOCKED["ray"]}"' in KUBERAY.read_text() and wanted in KUBERAY.read_text()


def test_kuberay_definition():
    job = kuberay()
    jsonschema.validate(job, RAYJOB)
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    workers = cluster["workerGroupSpecs"][0]
    assert workers["minReplicas"] <= workers["replicas"] <= workers["maxReplicas"]
    claims = {d["metadata"]["name"] for d in yaml.safe_load_all(KUBERAY.read_text()) if d["kind"] != "RayJob"}
    for group in (cluster["headGroupSpec"], workers):
        spec = group["template"]["spec"]
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in spec["containers"][0]["volumeMounts"]}
        assert mounts["/mnt/raydc"]["persistentVolumeClaim"]["claimName"] in claims
        assert mounts["/dev/shm"]["emptyDir"] == {"medium": "Memory"}
    assert workers["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"


@pytest.mark.parametrize(
    "change",
    [
        {"authOptions": {"mode": "disabled"}},
        {"rayVersion": 2.6},
        {"enableInTreeAutoscaling": False},
        {"workerGroups": []},
    ],
)
def test_the_schema_of_kuberay_refuses(change):
    job = kuberay()
    job["spec"]["rayClusterSpec"] |= change
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(job, RAYJOB)


def test_the_job_of_kuberay_is_a_command_of_raydc():
    from raydc.cli.parser import read_run

    program, command, *arguments = kuberay()["spec"]["entrypoint"].split()
    assert (program, command) == ("raydc", "train")
    config, dry, _ = read_run(arguments)
    assert config.data.path.startswith("/mnt/raydc/") and config.output.out.startswith("/mnt/raydc/") and not dry
