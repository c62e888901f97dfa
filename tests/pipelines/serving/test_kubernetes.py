"""The RayService of the manual is one that Ray Serve and raydc understand."""

import re
from importlib import import_module
from pathlib import Path

import yaml

from raydc.core.settings import build
from raydc.pipelines.serving.settings import Serving

PAGE = Path(__file__).parents[3] / "docs" / "serving.md"


def test_the_ray_service_of_the_manual():
    from ray.serve.schema import ServeDeploySchema

    service = yaml.safe_load(re.search(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)[1])
    assert (service["apiVersion"], service["kind"]) == ("ray.io/v1", "RayService")
    config = ServeDeploySchema.model_validate(yaml.safe_load(service["spec"]["serveConfigV2"]))
    (application,) = config.applications
    module, _, name = application.import_path.partition(":")
    assert callable(getattr(import_module(module), name))
    serving = build(Serving, application.args)
    (pod,) = service["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]["containers"]
    assert serving.token_file and serving.token_file.startswith(pod["volumeMounts"][0]["mountPath"])
    assert service["spec"]["rayClusterConfig"]["authOptions"] == {"mode": "token"}
    assert config.http_options.port in [port["containerPort"] for port in pod["ports"]]
    assert config.http_options.request_timeout_s > serving.timeout
