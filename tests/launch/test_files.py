"""The files for other launchers are what their own validators accept; these are no part of the tests' requirements."""

from pathlib import Path

import pytest
import yaml

LAUNCH = Path(__file__).parents[2] / "examples" / "launch"


def documents(name):
    return list(yaml.safe_load_all((LAUNCH / name).read_text(encoding="utf-8")))


def words_of(name):
    """The command of the first container."""
    found = documents(name)[-1]["spec"]
    container = found["trainer"] if "trainer" in found else found["template"]["spec"]["containers"][0]
    return [*container["command"], *container["args"]]


@pytest.mark.parametrize("version", ["1.31", "1.34", "1.37"])
def test_the_job_is_one_of_kubernetes(version):
    validate = pytest.importorskip("kubernetes_validate").validate
    for document in documents("kubernetes.yaml"):
        validate(document, version, strict=True)


def test_as_many_pods_as_launchers_that_wait_for_each_other():
    service, job = documents("kubernetes.yaml")
    nodes, pod = job["spec"]["completions"], job["spec"]["template"]["spec"]
    words = words_of("kubernetes.yaml")
    assert job["spec"]["parallelism"] == nodes
    assert f"--nnodes={nodes}" in words
    assert f"--nproc-per-node={pod['containers'][0]['resources']['limits']['nvidia.com/gpu']}" in words
    assert f"--rdzv-endpoint={job['metadata']['name']}-0.{service['metadata']['name']}:29400" in words
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    assert {mount["name"] for mount in pod["containers"][0]["volumeMounts"]} == {one["name"] for one in pod["volumes"]}


def test_the_train_job_is_one_of_kubeflow():
    models = pytest.importorskip("kubeflow_trainer_api.models")
    (document,) = documents("kubeflow.yaml")
    read = models.TrainerV1alpha1TrainJob.from_dict(document)
    assert read.to_dict() == document  # a key that is not known would be left out


def test_the_task_is_one_of_skypilot(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SKYPILOT_DISABLE_USAGE_COLLECTION", "1")
    task = pytest.importorskip("sky").Task.from_yaml(str(LAUNCH / "skypilot.yaml"))
    assert task.num_nodes == 2
    assert task.volumes == {"/shared": "shared"}
    assert "-m thetahat train" in task.run
