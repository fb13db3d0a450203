"""The launch files are well formed, and call the command line with options that it has.

What the batch file does under a real SLURM: test_slurm.py.
"""

import json
import os
import re
import subprocess
from pathlib import Path

import jsonschema
import pytest
import yaml

LAUNCH = Path(__file__).parents[1] / "experiments" / "launch"
SCHEMAS = Path(__file__).parent / "launch_schemas"
OPTIONS = {
    "--workdir",
    "--distributed.coordinator",
    "--distributed.processes",
    "--distributed.process",
}


def test_the_batch_script_is_a_shell_script():
    path = LAUNCH / "slurm.sbatch"
    subprocess.run(["bash", "-n", str(path)], check=True)
    assert options(path.read_text()) == {"--workdir"}


def test_the_batch_script_hands_on_its_words_whole(tmp_path):
    (tmp_path / "srun").write_text('#!/bin/bash\nprintf "%s\\n" "$SRUN_CPUS_PER_TASK" "$@"\n')
    (tmp_path / "srun").chmod(0o755)

    def launch(*words):
        path = f"{tmp_path}:{os.environ['PATH']}"
        command = ["bash", str(LAUNCH / "slurm.sbatch"), *words]
        env = {"PATH": path, "SLURM_CPUS_PER_TASK": "3"}
        return subprocess.run(
            command, env=env, cwd=tmp_path, check=False, capture_output=True, text=True
        )

    done = launch("a.py")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)  # no environment here
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").touch()
    done = launch()
    assert done.returncode
    assert done.stderr.count("\n") == 1
    done = launch("my runs/a b.py", "--name", "$x *")
    assert done.stdout.splitlines() == [
        *("3", "--kill-on-bad-exit=1", "jaxcnn", "train", "my runs/a b.py"),
        *("--workdir", "runs/a b", "--name", "$x *"),
    ]


@pytest.mark.parametrize("name", ["kubernetes-jobset.yaml", "skypilot.yaml"])
def test_the_yaml_files_give_every_process_its_place(name):
    text = (LAUNCH / name).read_text()
    assert isinstance(yaml.safe_load(text), dict)
    assert options(text) == OPTIONS


def faults(name, content):
    """Where a launch file departs from the schema that its scheduler publishes."""
    schema = {"kubernetes-jobset.yaml": "jobset.json", "skypilot.yaml": "skypilot.json"}[name]
    validator = jsonschema.Draft202012Validator(json.loads((SCHEMAS / schema).read_text()))
    return [error.json_path for error in validator.iter_errors(content)]


@pytest.mark.parametrize("name", ["kubernetes-jobset.yaml", "skypilot.yaml"])
def test_the_yaml_files_are_as_their_published_schemas_want_them(name):
    assert faults(name, yaml.safe_load((LAUNCH / name).read_text())) == []


@pytest.mark.parametrize(
    ("name", "right", "wrong", "where"),
    [
        ("kubernetes-jobset.yaml", "maxRestarts:", "maxRestart:", "$.spec.failurePolicy"),
        ("kubernetes-jobset.yaml", "completions: 4", "completions: four", ".completions"),
        ("kubernetes-jobset.yaml", "- name: runs\n", "- mountpath: /\n", ".volumeMounts[0]"),
        ("skypilot.yaml", "num_nodes:", "nodes:", "$"),
        ("skypilot.yaml", "use_spot: true", "use_spot: always", "$.resources.use_spot"),
        ("skypilot.yaml", "MOUNT_CACHED", "CACHED", "$.file_mounts['/runs']"),
    ],
)
def test_the_schemas_see_a_slip(name, right, wrong, where):
    text = (LAUNCH / name).read_text()
    assert right in text
    found = faults(name, yaml.safe_load(text.replace(right, wrong, 1)))
    assert any(path.endswith(where) for path in found), found


def test_every_pod_is_a_process():
    job = yaml.safe_load((LAUNCH / "kubernetes-jobset.yaml").read_text())
    (train,) = job["spec"]["replicatedJobs"]
    spec = train["template"]["spec"]
    command = spec["template"]["spec"]["containers"][0]["command"]
    assert f"--distributed.processes={spec['completions']}" in command
    name = job["metadata"]["name"]
    host = f"{name}-{train['name']}-0-0.{name}"
    assert any(part.startswith(f"--distributed.coordinator={host}:") for part in command)


def options(text):
    """Options of jaxcnn train in a file."""
    called = text[re.search(r"^[^#]*jaxcnn train|- jaxcnn$", text, re.MULTILINE).start() :]
    return set(re.findall(r"--(?:workdir|distributed\.\w+)", called))
