"""The shipped batch file under a real SLURM: two processes, ended in every way it ends them."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from jaxcnn import cli
from jaxcnn.learning import run_folder as folder
from jaxcnn.learning.checkpoint import MANIFEST
from jaxcnn.runs import group
from tests import test_processes as pair

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

BATCH_FILE = Path(__file__).parents[1] / "experiments" / "launch" / "slurm.sbatch"
SCRIPT = Path(__file__).parent / "slurm" / "cluster.sh"
ONE_NODE = ("--nodes=1", "--ntasks-per-node=2", "--cpus-per-task=2", "--gpus-per-node=0")
EPOCHS = 12
EXPERIMENT = pair.EXPERIMENT.replace("epochs=10", f"epochs={EPOCHS}")
# What `jaxcnn` is in a job: where a file `slow` lies, it dawdles before every chunk of steps.
COMMAND = f"""\
#!{sys.executable}
import pathlib, sys, time
from jaxcnn import cli
from jaxcnn.learning import processes

def slowly(*args, agree=processes.agree):
    time.sleep(4 * pathlib.Path("slow").exists())
    return agree(*args)

processes.agree = slowly
sys.exit(cli.main())
"""


@dataclass(frozen=True)
class Job:
    """A batch job that trains in a run folder."""

    number: str
    workdir: Path

    @property
    def log(self) -> str:
        return self.workdir.with_suffix(".log").read_text()

    @property
    def state(self) -> str:
        return self.shown("JobState")

    def shown(self, field: str) -> str:
        return re.search(rf"\b{field}=(\S+)", call("scontrol", "show", "job", self.number))[1]

    def wait(self, reached: Callable[[], object]) -> None:
        """Waits until something is so, and fails where the job ends before."""
        deadline = time.monotonic() + 300
        while True:
            alive = self.state in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING")
            if reached():
                return
            assert alive, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.1)

    def sealed(self) -> int:
        """The newest step whose checkpoint has its manifest."""
        manifests = (self.workdir / "checkpoints" / "latest").glob(f"[0-9]*/{MANIFEST}")
        return max((int(path.parent.name) for path in manifests), default=0)

    def said(self, pattern: str) -> list[int]:
        return [int(step) for step in re.findall(pattern, self.log)]


def call(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder like the repository, from which jobs are submitted."""
    place = tmp_path_factory.mktemp("repository")
    (place / "pair.py").write_text(EXPERIMENT)
    (place / "runs").mkdir()
    binaries = place / ".venv" / "bin"
    binaries.mkdir(parents=True)
    (binaries / "activate").write_text(f'PATH="{binaries}:$PATH"\n')
    (binaries / "jaxcnn").write_text(COMMAND)
    (binaries / "jaxcnn").chmod(0o755)
    return place


@pytest.fixture(scope="module")
def submit(slurm, place):
    """Submits the batch file as it is, with options for one node without GPUs."""

    def submit(name, *options):
        workdir = place / "runs" / name
        options = (f"--output={workdir}.log", *ONE_NODE, *options)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(place)
            patch.setenv("WORKDIR", str(workdir))
            number = call("sbatch", "--parsable", *options, str(BATCH_FILE), "pair.py")
        return Job(number.strip(), workdir)

    return submit


@pytest.fixture(scope="module")
def whole(submit):
    """A run that nothing interrupts."""
    job = submit("whole")
    job.wait(lambda: job.state == "COMPLETED")
    return job


def summary(job):
    return json.loads((job.workdir / "summary.json").read_text())


def test_two_tasks_find_one_another(whole):
    assert summary(whole)["epochs"] == EPOCHS
    environment = json.loads((whole.workdir / "env.json").read_text())
    assert environment["processes"] == 2
    assert environment["devices"] == ["cpu", "cpu"]


def ends_as_if_uninterrupted(job, whole):
    """The job is queued again by itself, and ends with the bits of one that nothing interrupted."""
    job.wait(lambda: job.state == "COMPLETED")
    for key in ("params_sha256", "state_sha256"):
        assert summary(job)[key] == summary(whole)[key]
    assert len(folder.read_metrics(job.workdir)) == EPOCHS
    assert "Traceback" not in job.log


def saved_and_went_on(job):
    """Both processes saved at the step at which the run then went on."""
    (step,) = job.said(r"going on from step (\d+)")
    assert job.said(r"SIGTERM at step (\d+)") == [step, step]
    assert 0 < step < 2 * EPOCHS
    assert job.shown("Restarts") == "1"


@pytest.mark.parametrize(
    "command",
    [("scancel", "--signal=TERM"), ("scontrol", "requeue")],
    ids=lambda command: command[0],
)
def test_a_notice_and_a_requeue_save_and_go_on(submit, whole, command):
    job = submit(command[0])
    job.wait(job.sealed)
    call(*command, job.number)
    ends_as_if_uninterrupted(job, whole)
    saved_and_went_on(job)


def test_before_its_time_limit_a_job_saves_and_goes_on(submit, place, whole):
    """SLURM looks at limits every 30 seconds, and sends the signal by the look before it is due."""
    (place / "slow").touch()
    job = submit("limited", "--time=60", "--signal=TERM@580")
    job.wait(job.sealed)
    call("scontrol", "update", f"JobId={job.number}", "TimeLimit=10")
    job.wait(lambda: job.shown("Restarts") == "1")
    (place / "slow").unlink()
    call("scontrol", "update", f"JobId={job.number}", "TimeLimit=60")
    ends_as_if_uninterrupted(job, whole)
    saved_and_went_on(job)


def test_a_cancelled_job_saves_and_is_not_queued_again(submit):
    job = submit("cancelled")
    job.wait(job.sealed)
    call("scancel", job.number)
    job.wait(lambda: len(job.said(r"SIGTERM at step (\d+)")) == 2)
    while job.state == "COMPLETING":
        time.sleep(0.1)
    assert (job.state, job.shown("Restarts")) == ("CANCELLED", "0")
    assert job.said(r"SIGTERM at step (\d+)") == [job.sealed()] * 2


def test_no_sealed_checkpoint_is_lost_with_its_node(slurm, submit, place, whole):
    """A node that comes back without a job has it queued again, once it is 20 seconds old."""
    (place / "slow").touch()
    job = submit("killed")
    job.wait(lambda: job.sealed() and job.shown("RunTime") > "00:00:25")
    slurm("crash")
    sealed = job.sealed()
    (place / "slow").unlink()
    slurm("start")
    ends_as_if_uninterrupted(job, whole)
    (step,) = job.said(r"going on from step (\d+)")
    assert step >= sealed
    assert not job.said(r"SIGTERM at step (\d+)")


def test_the_script_starts_once_and_leaves_no_process_behind(slurm, tmp_path, monkeypatch):
    def processes():
        """Those that have to do with the folder, by their numbers."""
        named = {}
        for path in Path("/proc").glob("[0-9]*"):
            try:
                text = (path / "cmdline").read_bytes() + (path / "environ").read_bytes()
                if os.fsencode(tmp_path) in text or (path / "cwd").readlink() == tmp_path:
                    named[int(path.name)] = (path / "comm").read_text().strip()
            except OSError:  # it has ended, or is the system's
                continue
        return named

    monkeypatch.chdir(tmp_path)  # so that this process is found too
    before = processes()
    call(str(SCRIPT), "start", str(tmp_path))
    started = processes()
    assert {"munged", "slurmctld", "slurmd"} <= set(started.values())
    call(str(SCRIPT), "start", str(tmp_path))
    assert processes() == started
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
    call("sbatch", "--wrap", "touch runs; sleep 1000")
    while not (tmp_path / "runs").exists():
        time.sleep(0.1)
    assert "sleep" in processes().values()
    for _ in range(2):
        call(str(SCRIPT), "stop", str(tmp_path))
        assert processes() == before


COMPARISON = """
from dataclasses import replace
from jaxcnn import Comparison, Resources
import pair

def config():
    arms = tuple(replace(pair.config(), name=name) for name in ("one", "other"))
    return Comparison(arms, seeds=2)

def resources():
    return Resources(cpus=2)
"""


def launched(capsys, *words):
    assert cli.main(["launch", "--on", "slurm", *words]) == 0
    return re.search(r"job (\d+) of SLURM", capsys.readouterr().out)[1]


def test_an_array_shares_a_comparison_and_goes_on_where_a_worker_was_stopped(
    slurm, place, capsys, monkeypatch
):
    monkeypatch.chdir(place)
    (place / "four.py").write_text(COMPARISON)
    number = launched(capsys, "--", "compare", "four.py", "--workdir", "runs/the four")
    workdir = place / "runs" / "the four"
    logs = [workdir / "launch" / f"{number}_{task}.log" for task in range(4)]
    deadline = time.monotonic() + 400
    while not [*workdir.glob("*/*/metrics.jsonl")]:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    call("scancel", "--signal=TERM", f"{number}_0")
    while call("squeue", "--noheader", f"--jobs={number}").strip():
        assert time.monotonic() < deadline, "\n".join(log.read_text() for log in logs)
        time.sleep(0.5)
    runs = sorted(path.parent for path in workdir.glob("*/*/summary.json"))
    assert [str(path.relative_to(workdir)) for path in runs] == [
        *("one/seed0", "one/seed1", "other/seed0", "other/seed1")
    ]
    assert len(json.loads((workdir / "comparison.json").read_text())["results"]) == 2
    said = "".join(log.read_text() for log in logs)
    assert said.count("report.html, comparison.json, comparison.png") == 1
    assert "SIGTERM" in logs[0].read_text()
    assert "Restarts=1" in call("scontrol", "show", "job", f"{number}_0")
    for path in runs[::3]:
        alone = group.train_one(folder.read_config(path), place / "alone" / path.name)
        assert (
            json.loads((path / "summary.json").read_text())["state_sha256"]
            == (alone["state_sha256"])
        )


def test_slurm_says_what_is_wrong_with_a_job(slurm, place, capsys, monkeypatch):
    monkeypatch.chdir(place)
    words = ("--partition", "tpu", "--", "train", "pair.py", "--workdir", "runs/none")
    assert cli.main(["launch", "--on", "slurm", *words]) == 2
    err = capsys.readouterr().err
    assert "--on slurm: sbatch refused the job (invalid partition specified: tpu; " in err
    assert not call("squeue", "--noheader").strip()


def test_one_run_over_two_processes_is_launched(slurm, place, capsys, monkeypatch, whole):
    """Two tasks of the one node that is here stand for two nodes."""
    monkeypatch.chdir(place)
    words = ("--nodes", "2", "--cpus", "2", "--sbatch", "nodes=1", "ntasks-per-node=2")
    number = launched(capsys, *words, "--", "train", "pair.py", "--workdir", "runs/launched")
    job = Job(number, place / "runs" / "launched")
    while (state := job.state) != "COMPLETED":
        assert state in ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING")
        time.sleep(0.2)
    assert summary(job)["state_sha256"] == summary(whole)["state_sha256"]
    log = (place / "runs" / "launched" / "launch" / f"{number}.log").read_text()
    assert log.count("2 processes, found by SLURM\n") == 1
