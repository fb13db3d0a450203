"""Workers as jobs of SLURM: an array where several share runs, else one job of one node or many."""

import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from jaxcnn.errors import InputError
from jaxcnn.launching import Job, Say
from jaxcnn.launching import filled as filled
from jaxcnn.learning import files

SECONDS_TO_SAVE = 120
"""A worker hears so long before its time is over that it is to save and end."""

SCRIPT = """\
#!/bin/bash
# Written by jaxcnn launch; `sbatch` of this file submits it once more.
{options}
# SIGTERM, sent before the time is over or on preemption, saves and ends with exit code 143; the job
# then queues again and goes on where it was saved.
set -uo pipefail
{setup}if [ ! -e {script} ]; then
  echo {folder}": is not seen from $(hostname); it must be on storage that all nodes share" >&2
  exit 2
fi
# Since SLURM 22.05 srun does not take this over by itself, and a process would get one core.
export SRUN_CPUS_PER_TASK=${{SLURM_CPUS_PER_TASK:-1}}
srun --kill-on-bad-exit=1 {command}
code=$?
if [ $code -eq 143 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit $code
"""


def place(folder: Path) -> str:
    """Returns what the workers call a folder."""
    return str(folder.absolute())


def written(job: Job) -> str:
    """Returns the file that sbatch gets."""
    given = [f"--{option}" for option in job.resources.sbatch]
    options = [f"#SBATCH {_quoted(option)}" for option in (*_options(job), *given)]
    return SCRIPT.format(
        options="\n".join(options),
        setup="".join(f"{line}\n" for line in job.resources.setup),
        script=shlex.quote(str(_script(job))),
        folder=shlex.quote(str(job.folder)),
        command=job.shell,
    )


def _quoted(option: str) -> str:
    """Returns an option as a line of #SBATCH takes it.

    Raises:
        InputError: it holds what no such line can.
    """
    name, equals, value = option.partition("=")
    if re.fullmatch(r"[\w./:@%+,~-]*", value):
        return option
    if re.search(r"[\"\\$`\n]", value):
        raise InputError(
            f"{option}: must hold no quotes, backslashes or $, which sbatch would read"
        )
    return f'{name}{equals}"{value}"'


def _script(job: Job) -> Path:
    return job.files.absolute() / "job.sbatch"


def _options(job: Job) -> Iterator[str]:
    """Yields the options of sbatch."""
    asked, log = job.resources, "%A_%a" if job.workers > 1 else "%j"
    # JAX takes the processes of a job over several nodes to have one device each.
    tasks = max(1, asked.devices) if asked.nodes > 1 else 1
    yield f"--job-name={job.name}"
    yield f"--chdir={Path.cwd()}"
    yield f"--output={str(job.files.absolute()).replace('%', '%%')}/{log}.log"
    yield "--open-mode=append"
    if job.workers > 1:
        yield f"--array=0-{job.workers - 1}"
    yield f"--nodes={asked.nodes}"
    yield f"--ntasks-per-node={tasks}"
    if asked.devices:
        yield f"--gpus-per-node={asked.card + ':' if asked.card else ''}{asked.devices}"
    if asked.cpus:
        yield f"--cpus-per-task={max(1, asked.cpus // tasks)}"
    if asked.memory:
        yield f"--mem={asked.memory}G"
    minutes = max(1, round(60 * asked.hours))
    yield f"--time={minutes // 60}:{minutes % 60:02}:00"
    if asked.partition:
        yield f"--partition={asked.partition}"
    yield f"--signal=TERM@{SECONDS_TO_SAVE}"
    yield "--requeue"


def submit(job: Job, say: Say, accepted: Callable[[], None]) -> int:
    """Submits the job and returns the exit code.

    Raises:
        InputError: there is no SLURM here, the folder is of this machine alone, or SLURM refuses
            the job.
    """
    if shutil.which("sbatch") is None:
        raise InputError("--on slurm: there is no sbatch here; call it where jobs are submitted")
    script, content = _script(job), written(job)
    made = [folder for folder in (job.files, job.folder) if not folder.exists()]
    job.files.mkdir(parents=True, exist_ok=True)
    try:
        _require_shared(job.folder)
        files.write_text(script, content)
        command = ["sbatch", "--parsable", str(script)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = [re.sub("^sbatch: (error: )?", "", line) for line in done.stderr.splitlines()]
            script.unlink()
            raise InputError(f"--on slurm: sbatch refused the job ({'; '.join(lines)})")
    except InputError:
        for folder in made:
            folder.rmdir()
        raise
    accepted()
    number = done.stdout.strip().partition(";")[0]
    workers = f", {job.workers} workers" if job.workers > 1 else ""
    say(f"job {number} of SLURM{workers}: `jaxcnn status {job.folder}` shows how far it is")
    return 0


def _require_shared(folder: Path) -> None:
    """Refuses a folder that lies in the memory of this machine, which no other one sees."""
    command = ["stat", "--file-system", "--format=%T", str(folder)]
    kind = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    if kind in ("tmpfs", "ramfs"):
        raise InputError(
            f"--workdir {folder}: must be on storage that all nodes share, is in the memory of "
            f"this machine ({kind})"
        )
