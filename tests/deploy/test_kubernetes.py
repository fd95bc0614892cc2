"""deploy/kubernetes: fields, what must agree, and the hosts' own command as processes here."""

from __future__ import annotations

import contextlib
import copy
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.deploy import dockerfile
from tests.deploy.fields import problems
from tests.launch.commands import (
    Run,
    checkpoints_of,
    ends_of,
    environment,
    json_of,
    learner_rows,
    started_as,
)
from tests.ports import free_port
from tests.tables import named
from tests.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"

META = {"name!": str}
SELECTOR = {"matchLabels!": {str: str}}
CONTAINER = {
    "name!": str,
    "image!": str,
    "command": [str],
    "args": [str],
    "env": [{"name!": str, "value!": str}],
    "resources": {"requests": {str: str}, "limits": {"memory": str, "nvidia.com/gpu": int}},
    "securityContext": {"allowPrivilegeEscalation": bool, "capabilities": {"drop": [str]}},
    "volumeMounts": [{"name!": str, "mountPath!": str}],
}
POD = {
    "restartPolicy!": {"Never"},  # the one that podFailurePolicy allows
    "terminationGracePeriodSeconds": int,
    "automountServiceAccountToken": bool,
    "securityContext": {
        "runAsNonRoot": bool, "runAsUser": int, "runAsGroup": int, "fsGroup": int,
        "seccompProfile": {"type!": {"RuntimeDefault"}},
    },
    "tolerations": [{"key": str, "operator": {"Exists", "Equal"}, "effect": {"NoSchedule"}}],
    "containers!": [CONTAINER],
    "volumes": [
        {"name!": str, "persistentVolumeClaim": {"claimName!": str},
         "emptyDir": {"medium": {"Memory"}, "sizeLimit": str}}
    ],
}  # fmt: skip
JOB = {
    "completionMode": {"Indexed", "NonIndexed"},
    "completions": int,
    "parallelism": int,
    "backoffLimit": int,
    "podFailurePolicy": {
        "rules!": [
            {"action!": {"FailJob", "FailIndex", "Ignore", "Count"},
             "onExitCodes": {"operator!": {"In", "NotIn"}, "values!": [int]}}
        ]
    },
    "template!": {"spec!": POD},
}  # fmt: skip
# The fields that ours have, of Kubernetes 1.31 and of JobSet 0.12, api/jobset/v1alpha2 in
# https://github.com/kubernetes-sigs/jobset; of the latter all below `failurePolicy` and `network`.
KINDS = {
    "JobSet": {
        "apiVersion!": {"jobset.x-k8s.io/v1alpha2"}, "kind!": {"JobSet"}, "metadata!": META,
        "spec!": {
            "network": {
                "enableDNSHostnames": bool, "publishNotReadyAddresses": bool, "subdomain": str,
            },
            "failurePolicy": {
                "maxRestarts": int,
                "restartStrategy": {"Recreate", "BlockingRecreate", "InPlaceRestart"},
                "rules": [{
                    "name!": str,
                    "action!": {
                        "FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts",
                        "RestartJob", "RestartJobAndIgnoreMaxRestarts",
                    },
                    "onJobFailureReasons": [
                        {"BackoffLimitExceeded", "DeadlineExceeded", "FailedIndexes",
                         "MaxFailedIndexesExceeded", "PodFailurePolicy"}
                    ],
                    "onJobFailureMessagePatterns": [str],
                    "targetReplicatedJobs": [str],
                }],
            },
            "replicatedJobs!": [
                {"name!": str, "groupName": str, "replicas": int, "template!": {"spec!": JOB}}
            ],
        },
    },
    "NetworkPolicy": {
        "apiVersion!": {"networking.k8s.io/v1"}, "kind!": {"NetworkPolicy"}, "metadata!": META,
        "spec!": {
            "podSelector!": SELECTOR, "policyTypes": [{"Ingress", "Egress"}],
            "ingress": [{"from": [{"podSelector": SELECTOR}]}],
        },
    },
    "PersistentVolumeClaim": {
        "apiVersion!": {"v1"}, "kind!": {"PersistentVolumeClaim"}, "metadata!": META,
        "spec!": {
            "accessModes": [{"ReadWriteOnce", "ReadWriteMany"}],
            "resources": {"requests": {str: str}},
        },
    },
}  # fmt: skip


def load(name: str) -> dict:
    return yaml.safe_load((FOLDER / name).read_text())


def patched(document: dict, operations: list[dict]) -> dict:
    """What a JSON patch (RFC 6902) makes of a document."""
    document = copy.deepcopy(document)
    for operation in operations:
        *parts, last = operation["path"].split("/")[1:]
        at = document
        for part in parts:
            at = at[int(part) if isinstance(at, list) else part]
        if last == "-":
            at.append(operation["value"])
            continue
        last = int(last) if isinstance(at, list) else last
        if operation["op"] == "remove":
            del at[last]
            continue
        assert operation["op"] == "add" or isinstance(at, list) or last in at, operation
        at[last] = operation["value"]
    return document


def gpu() -> dict:
    """The JobSet of GPU hosts."""
    (patch,) = load("gpu/kustomization.yaml")["patches"]
    return patched(load("cpu/train.yaml"), yaml.safe_load(patch["patch"]))


def job_of(jobset: dict) -> dict:
    (job,) = jobset["spec"]["replicatedJobs"]
    return job


def container_of(jobset: dict) -> dict:
    (container,) = job_of(jobset)["template"]["spec"]["template"]["spec"]["containers"]
    return container


def variables_of(jobset: dict) -> dict[str, str]:
    return {one["name"]: one["value"] for one in container_of(jobset)["env"]}


def arguments_of(jobset: dict, index: int) -> list[str]:
    """The container's arguments, as the kubelet hands them over."""
    variables = {**variables_of(jobset), "JOB_COMPLETION_INDEX": str(index)}
    fill = lambda text: re.sub(r"\$\((\w+)\)", lambda found: variables[found[1]], text)  # noqa: E731
    return [fill(one) for one in container_of(jobset)["args"]]


@pytest.fixture(params=["cpu", "gpu"])
def jobset(request):
    return load("cpu/train.yaml") if request.param == "cpu" else gpu()


def test_the_checks_themselves():
    claim = load("runs.yaml")
    assert problems(claim, KINDS["PersistentVolumeClaim"]) == []
    wrong = {**claim, "kind": "Claim", "spec": {"accessMode": [], "resources": {"requests": 5}}}
    assert problems({**wrong, "metadata": {}}, KINDS["PersistentVolumeClaim"]) == [
        ".kind: 'Claim'", ".metadata.name: missing",
        ".spec.accessMode: unknown", ".spec.resources.requests: no object",
    ]  # fmt: skip
    assert problems([1, "a", True], [int]) == ["[1]: str", "[2]: bool"]
    operations = [
        {"op": "replace", "path": "/a/0", "value": 2},
        {"op": "add", "path": "/a/-", "value": 3},
        {"op": "remove", "path": "/b"},
    ]
    assert patched({"a": [1], "b": 0}, operations) == {"a": [2, 3]}


def test_every_field_is_known(jobset):
    assert problems(jobset, KINDS["JobSet"]) == []
    for name in ("runs.yaml", "cpu/network.yaml"):
        document = load(name)
        assert problems(document, KINDS[document["kind"]]) == []


def test_kustomize_makes_the_same_of_it():
    if not shutil.which("kubectl"):
        pytest.skip("no kubectl, whose kustomize puts the parts together")
    for name, expected in [("cpu", load("cpu/train.yaml")), ("gpu", gpu())]:
        command = ["kubectl", "kustomize", str(FOLDER / name)]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        assert list(yaml.safe_load_all(text)) == [expected, load("cpu/network.yaml")]


def test_what_must_agree_agrees(jobset):
    name, job = jobset["metadata"]["name"], job_of(jobset)
    spec = job["template"]["spec"]
    pod, container = spec["template"]["spec"], container_of(jobset)
    count = int(variables_of(jobset)["HOSTS"])
    assert spec["completions"] == spec["parallelism"] == count > 1
    assert (job["replicas"], spec["completionMode"]) == (1, "Indexed")
    first = f"{name}-{job['name']}-0-0.{name}"  # JobSet's name for host 0, in its subdomain
    for index in range(count):
        assert arguments_of(jobset, index)[:2] == [
            f"--hosts.count={count}", f"--hosts.index={index}"
        ]  # fmt: skip
    assert variables_of(jobset)["COORDINATOR"] == first
    mounted = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
    assert mounted.keys() == {one["name"] for one in pod["volumes"]}
    assert variables_of(jobset)["RUN"].startswith(f"{mounted['runs']}/")
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == load("runs.yaml")[
        "metadata"]["name"]  # fmt: skip
    network = load("cpu/network.yaml")["spec"]
    label = {"matchLabels": {"jobset.sigs.k8s.io/jobset-name": name}}
    assert network["podSelector"] == label and network["ingress"][0]["from"] == [
        {"podSelector": label}
    ]
    # The image's own user and its programs.
    text = (ROOT / "Dockerfile").read_text()
    final = dockerfile.stages_of(text)[-1]
    ids = [pod["securityContext"][x] for x in ("runAsUser", "runAsGroup")]
    assert final.last("USER") == ":".join(map(str, ids))
    assert pod["securityContext"]["fsGroup"] == ids[1] and mounted["runs"] == final.last("WORKDIR")
    assert f"--tag {container['image']} " in text and container["command"][:2] == ["tini", "--"]


def test_a_failure_starts_all_hosts_again_and_wrong_options_do_not(jobset):
    policy, spec = jobset["spec"]["failurePolicy"], job_of(jobset)["template"]["spec"]
    assert policy["restartStrategy"] == "BlockingRecreate" and policy["maxRestarts"] > 0
    assert spec["backoffLimit"] == 0, "the Job alone would start one host again"
    (final,) = spec["podFailurePolicy"]["rules"]
    assert (final["action"], final["onExitCodes"]) == ("FailJob", {"operator": "In", "values": [2]})
    (rule,) = policy["rules"]
    assert rule["action"] == "FailJobSet" and rule["onJobFailureReasons"] == ["PodFailurePolicy"]


@pytest.mark.launchpad
def test_bmg_accepts_the_options(command, jobset):
    """Also that batches can be shared, by devices that are CPUs here: there GPUs have a server."""
    limits = container_of(jobset)["resources"]["limits"]
    command.devices = limits.get("nvidia.com/gpu", 1)
    how = ["--actors.inference", "server"] if command.devices > 1 else []
    for index in range(2):
        with named(command.devices, index):
            options = [*arguments_of(jobset, index), "--workdir", f"run-{index}", *how]
            options += ["--hosts.coordinator", "10.0.0.1:8476"]
            config = command.config("train", *options)
            assert (config.hosts.count, config.hosts.index) == (2, index)
            assert config.preset == ("paper" if how else "local")


# It knows host 0's name when it is asked for the second time.
GETENT = """#!/bin/sh
[ "$*" = "ahostsv4 bmg-hosts-0-0.bmg" ] || exit 1
[ -e "$0-asked-$JOB_COMPLETION_INDEX" ] || {
  : >"$0-asked-$JOB_COMPLETION_INDEX"; exit 2; }
echo "127.0.0.1 STREAM bmg-hosts-0-0.bmg"
echo "127.0.0.1 DGRAM"
"""


def host(index: int, folder: Path, port: int, *more: str) -> contextlib.AbstractContextManager[Run]:
    """A host's container as a process here: its script, its arguments, and Catch in place of
    Pong."""
    jobset = load("cpu/train.yaml")
    code = "from bmg.launch.cli import main; main()"
    programs = {"bmg": f"#!/bin/sh\nexec {sys.executable} -c '{code}' \"$@\"\n", "getent": GETENT}
    for name, text in programs.items():
        (folder / "bin").mkdir(exist_ok=True)
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(0o755)
    env = {**environment(), **variables_of(jobset), "RUN": str(folder / "run")}
    env |= {"JAX_PLATFORMS": "cpu", "JOB_COMPLETION_INDEX": str(index)}
    env["PATH"] = f"{folder}/bin:{env['PATH']}"
    tini, dashes, *command = container_of(jobset)["command"]
    assert (tini, dashes) == ("tini", "--")
    command = [part.replace(":8476", f":{port}") for part in command]
    command += [one.replace("pong", "catch") for one in arguments_of(jobset, index)]
    return started_as([*command, *more], folder, env)


MORE = ["--learner.log-interval=0.5", "--evaluator.num-evaluators=0", "--hosts.timeout=30"]


def test_wrong_options_end_a_host_with_the_code_that_is_final(tmp_path):
    with host(0, tmp_path, free_port(), "--framez=3") as run:
        code, _, err = run.finish()
    assert code == 2 and "no option '--framez'" in err


@pytest.mark.slow
def test_hosts_start_fail_and_go_on(tmp_path):
    """As JobSet does it: one host is killed, the other fails, and both are started again."""
    workdir, port = tmp_path / "run", free_port()
    more = [*MORE, "--learner.checkpoint-interval=1"]
    with host(0, tmp_path, port, *more) as first, host(1, tmp_path, port, *more) as second:
        first.wait_for(lambda: len(learner_rows(workdir)) > 2 and len(checkpoints_of(workdir)) > 1)
        second.kill()
        assert first.finish()[0] == 1
        eventually(lambda: first.left() == [])
    reached = int(learner_rows(workdir)[-1]["learner/frames"])
    port = free_port()
    more = [*MORE, f"--frames={reached + 4000}"]
    with host(0, tmp_path, port, *more) as first, host(1, tmp_path, port, *more) as second:
        ends = ends_of(first, second)
    assert [code for code, _, _ in ends] == [0, 0], ends
    rows = learner_rows(workdir)
    assert rows[-1]["learner/frames"] >= reached + 4000
    assert json_of(workdir / "results.json")["complete"] is True
    assert "the run begins at frame 0 again" not in ends[0][1]
    assert all(not run.left() for run in (first, second))
