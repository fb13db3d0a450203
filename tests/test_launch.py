"""The launch files are well formed, and call the command line with options that it has."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

LAUNCH = Path(__file__).parents[1] / "experiments" / "launch"
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


@pytest.mark.parametrize("name", ["kubernetes-jobset.yaml", "skypilot.yaml"])
def test_the_yaml_files_give_every_process_its_place(name):
    text = (LAUNCH / name).read_text()
    assert isinstance(yaml.safe_load(text), dict)
    assert options(text) == OPTIONS


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
