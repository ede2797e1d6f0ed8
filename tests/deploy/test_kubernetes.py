"""The manifests hold together: what the API server would refuse, and what would only show when a pod ends."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

import llmgate
from llmgate.config import Config, from_data
from llmgate.wire.engines import ENGINES

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes"
FILES = sorted(FOLDER.glob("*.yaml"))

# Fields that the API knows of each thing that is used here (Kubernetes 1.29); the API server refuses any other.
CONTAINER = {
    *("name", "image", "command", "args", "env", "ports", "resources", "volumeMounts", "securityContext", "lifecycle"),
    *("startupProbe", "livenessProbe", "readinessProbe", "restartPolicy"),
}
PROBE = {"httpGet", "periodSeconds", "timeoutSeconds", "failureThreshold"}
POD = {"terminationGracePeriodSeconds", "initContainers", "containers", "volumes"}
DEPLOYMENT = {"replicas", "selector", "template"}


def load(file: Path) -> Mapping[str, Any]:
    """By kind."""
    documents = list(yaml.safe_load_all(file.read_text()))
    assert all(document["apiVersion"] and document["metadata"]["name"] for document in documents)
    assert [document["kind"] for document in documents] == ["ConfigMap", "Deployment", "Service"]
    return {document["kind"]: document for document in documents}


def pod(documents: Mapping[str, Any]) -> Any:
    return documents["Deployment"]["spec"]["template"]["spec"]


def configuration(documents: Mapping[str, Any]) -> Config:
    return from_data(yaml.safe_load(documents["ConfigMap"]["data"]["llmgate.yaml"]), "llmgate.yaml", {})


def test_there_is_one_for_each_engine_that_is_run_in_pods() -> None:
    assert [file.stem for file in FILES] == ["sglang", "tgi", "vllm"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
class TestEach:
    def test_every_field_is_one_of_the_api(self, file: Path) -> None:
        documents = load(file)
        assert documents["Deployment"]["spec"].keys() <= DEPLOYMENT
        assert pod(documents).keys() <= POD
        for container in (*pod(documents)["initContainers"], *pod(documents)["containers"]):
            assert container.keys() <= CONTAINER
            assert all(isinstance(word, str) for word in (*container.get("command", ()), *container["args"]))
            assert all(each.keys() == {"name", "valueFrom"} for each in container.get("env", ()))
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                assert container.get(probe, {}).keys() <= PROBE
            assert {*container["resources"]} == {"requests", "limits"}
            for amounts in container["resources"].values():
                assert all(isinstance(amount, str) for amount in amounts.values()), "quantities are strings"

    def test_names_point_at_what_is_there(self, file: Path) -> None:
        documents = load(file)
        deployment, service = documents["Deployment"]["spec"], documents["Service"]["spec"]
        labels = deployment["template"]["metadata"]["labels"]
        assert deployment["selector"]["matchLabels"].items() <= labels.items()
        assert service["selector"].items() <= labels.items()
        volumes = {volume["name"]: volume for volume in pod(documents)["volumes"]}
        assert volumes["config"]["configMap"]["name"] == documents["ConfigMap"]["metadata"]["name"]
        (engine,), (gateway,) = pod(documents)["initContainers"], pod(documents)["containers"]
        for container in (engine, gateway):
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes.keys()
            ports = {port["name"] for port in container["ports"]}
            probes = [container[name] for name in container if name.endswith("Probe")]
            assert {probe["httpGet"]["port"] for probe in probes} <= ports
        assert {port["targetPort"] for port in service["ports"]} <= {port["name"] for port in gateway["ports"]}

    def test_the_gateway_outlives_its_drain_and_the_engine_outlives_the_gateway(self, file: Path) -> None:
        documents = load(file)
        config = configuration(documents)
        (engine,), (gateway,) = pod(documents)["initContainers"], pod(documents)["containers"]
        before_signal = float(gateway["lifecycle"]["preStop"]["exec"]["command"][-1])
        needed = before_signal + config.timeouts.notice + config.timeouts.drain + 5
        assert pod(documents)["terminationGracePeriodSeconds"] >= needed + 10
        assert engine["restartPolicy"] == "Always", "a sidecar: it starts before and stops after the others"

    def test_probes_ask_the_right_pages(self, file: Path) -> None:
        documents = load(file)
        (engine,), (gateway,) = pod(documents)["initContainers"], pod(documents)["containers"]
        assert gateway["readinessProbe"]["httpGet"]["path"] == "/ready"
        assert gateway["livenessProbe"]["httpGet"]["path"] == "/health"
        loading = engine["startupProbe"]
        assert loading["periodSeconds"] * loading["failureThreshold"] >= 600, "weights take their time"
        assert engine["startupProbe"]["httpGet"]["path"] == ENGINES[file.stem].health_path

    def test_the_configuration_inside_finds_the_engine_beside_it(self, file: Path) -> None:
        documents = load(file)
        config = configuration(documents)
        (engine,), (gateway,) = pod(documents)["initContainers"], pod(documents)["containers"]
        (endpoint,) = config.endpoints
        port = engine["ports"][0]["containerPort"]
        assert endpoint.url == f"http://127.0.0.1:{port}"
        assert endpoint.engine == file.stem
        assert f"--port={port}" in engine["args"]
        assert gateway["ports"][0]["containerPort"] == config.server.port
        folder, _, name = gateway["args"][-1].rpartition("/")
        assert folder == gateway["volumeMounts"][0]["mountPath"]
        assert name in documents["ConfigMap"]["data"]
        assert gateway["image"] == f"llmgate:{llmgate.__version__}"

    def test_the_gateway_has_no_rights_that_it_does_not_need(self, file: Path) -> None:
        (gateway,) = pod(load(file))["containers"]
        context = gateway["securityContext"]
        assert context["runAsNonRoot"]
        assert context["runAsUser"] == 10001, "the user of the image, by number: Kubernetes cannot tell by name"
        assert context["readOnlyRootFilesystem"]
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["allowPrivilegeEscalation"] is False


def test_what_an_engine_must_be_told_to_switch_on_is_switched_on() -> None:
    (engine,) = pod(load(FOLDER / "sglang.yaml"))["initContainers"]
    assert "--enable-metrics" in engine["args"]
