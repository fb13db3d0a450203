"""A node on a cloud, through SkyPilot, whose workers share runs as they do on this machine."""

import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from jaxcnn.errors import InputError
from jaxcnn.launching import Job, Say
from jaxcnn.launching import filled as filled
from jaxcnn.learning import files

TASK = """\
# Written by jaxcnn launch. A managed job (`sky jobs launch`) starts again after preemption, and
# goes on where it was saved in the bucket.
name: {name}

resources:
{resources}
  use_spot: true

workdir: .

file_mounts:
  /runs:
    name: {bucket}
    mode: MOUNT_CACHED # files can be renamed, which saving all or nothing needs

setup: |
  python3 -m venv .venv
  .venv/bin/pip install --quiet {package}

run: |
{run}
"""
BUCKET = "jaxcnn-runs"
"""Where the runs lie; the node sees it as /runs."""


def place(folder: Path) -> str:
    """Returns what the workers call a folder, which is in the bucket."""
    return f"/runs/{folder.name}"


def written(job: Job) -> str:
    """Returns the task.

    Raises:
        InputError: resources that a single node with a bucket cannot give.
    """
    asked = job.resources
    if asked.nodes > 1:
        raise InputError(
            f"resources.nodes={asked.nodes}: must be 1 with --on skypilot, whose bucket is for one "
            "node; for more, mount a file system as experiments/launch/skypilot.yaml says"
        )
    if asked.devices and asked.card is None:
        raise InputError("resources.card=None: must be given with --on skypilot, as in --card h100")
    all_devices = job.workers * asked.devices
    lines = [f"  accelerators: {asked.card.upper()}:{all_devices}"] if asked.card else []
    lines += [f"  cpus: {asked.cpus * job.workers}+"] if asked.cpus else []
    lines += [f"  memory: {asked.memory * job.workers}+"] if asked.memory else []
    words = [*job.words]
    if job.workers > 1:
        words = ["launch", "--workers", f"{job.workers}", "--devices", f"{asked.devices}"]
        words += ["--", *job.words]
    extras = [*job.extras, *(["cuda"] if asked.devices else [])]
    extra = f"[{','.join(extras)}]" if extras else ""
    package = f"--editable '.{extra}'" if Path("pyproject.toml").exists() else f"'jaxcnn{extra}'"
    run = [*asked.setup, shlex.join([".venv/bin/jaxcnn", *words])]
    return TASK.format(
        name=job.name.replace("_", "-").replace(".", "-"),
        resources="\n".join([*lines, "  disk_size: 512"]),
        bucket=BUCKET,
        package=package,
        run="\n".join(f"  {line}" for line in run),
    )


def submit(job: Job, say: Say, accepted: Callable[[], None]) -> int:
    """Writes the task and, where SkyPilot is installed, hands it over; returns the exit code.

    The runs are in the bucket, so that nothing here tells how they stand.
    """
    path, content = job.files / "task.yaml", written(job)
    job.files.mkdir(parents=True, exist_ok=True)
    files.write_text(path, content)
    command = ["sky", "jobs", "launch", "--yes", "--detach-run", str(path)]
    if shutil.which("sky") is None:
        say(f"{path}: written; SkyPilot is not installed here, {shlex.join(command)} hands it over")
        return 0
    return subprocess.run(command, check=False).returncode
