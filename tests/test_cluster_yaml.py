import json
from pathlib import Path

import jsonschema
import ray.autoscaler
import yaml

FILE = Path(__file__).parent.parent / "cluster.yaml"


def test_ray_accepts_the_cluster_file():
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    jsonschema.validate(yaml.safe_load(FILE.read_text()), schema)


def test_nobody_gets_in_without_a_token():
    config = yaml.safe_load(FILE.read_text())
    starts = [c for key in ("head_start_ray_commands", "worker_start_ray_commands") for c in config[key]]
    starts = [command for command in starts if "ray start" in command]
    assert len(starts) == 2 and all(command.startswith("RAY_AUTH_MODE=token ") for command in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]
