"""What `jaxcnn launch` hands to each engine, and that workers on one folder train each run once."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import yaml

from jaxcnn import cli
from jaxcnn.config import to_dict
from jaxcnn.config.machines import Resources
from jaxcnn.errors import InputError, Stopped
from jaxcnn.launching import Job, local
from jaxcnn.learning import standing
from jaxcnn.runs import group
from tests.test_sharing import SMALL
from tests.test_sweep import file_of

RESOURCES = """
from jaxcnn import Resources
def resources():
    return Resources(devices=4, hours=1.5, partition="gpu", setup=("module load cuda",))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("small.py").write_text(file_of(SMALL))
    Path("asking.py").write_text(file_of(SMALL) + RESOURCES)
    Path("two.py").write_text(several_of(SMALL, 3))
    return tmp_path


def several_of(experiment, seeds):
    values = [to_dict(replace(experiment, name=name)) for name in ("one", "other")]
    return (
        "from jaxcnn.config import Comparison, from_dict\n"
        f"def config(): return Comparison(tuple(map(from_dict, {values!r})), seeds={seeds})\n"
    )


def dry(capsys, *words):
    assert cli.main(["launch", "--dry-run", *words]) == 0
    return capsys.readouterr().out


ONE = ("--", "train", "small.py")
CASES = {
    "one run": (ONE, {"nodes": "1", "ntasks-per-node": "1", "time": "24:00:00"}),
    "an array of as many workers as runs": (("--", "compare", "two.py"), {"array": "0-5"}),
    "seeds": (("--", "train", "small.py", "--seeds", "40"), {"array": "0-15"}),
    "so many workers": (("--workers", "2", "--", "compare", "two.py"), {"array": "0-1"}),
    "a process for each device of many nodes": (
        ("--nodes", "2", "--devices", "8", "--cpus", "64", *ONE),
        {"nodes": "2", "ntasks-per-node": "8", "gpus-per-node": "8", "cpus-per-task": "8"},
    ),
    "one process for the devices of a node": (
        ("--devices", "8", "--card", "h100", "--memory", "64", *ONE),
        {"ntasks-per-node": "1", "gpus-per-node": "h100:8", "mem": "64G"},
    ),
    "what the file asks for": (
        ("--", "train", "asking.py"),
        {"gpus-per-node": "4", "time": "1:30:00", "partition": "gpu"},
    ),
    "options before the file": (
        ("--hours", "0.1", "--sbatch", "account=vision", "qos=high", "--", "train", "asking.py"),
        {"gpus-per-node": "4", "time": "0:06:00", "account": "vision", "qos": "high"},
    ),
}


@pytest.mark.parametrize(("words", "expected"), CASES.values(), ids=CASES)
def test_slurm_gets_what_was_asked_for(folder, capsys, words, expected):
    script = dry(capsys, "--on", "slurm", *words)
    given = dict(re.findall(r"^#SBATCH --([\w-]+)=(.*)$", script, re.MULTILINE))
    assert expected.items() <= given.items()
    assert ("array" in given) == ("array" in expected)
    assert ("--shared" in script) == ("array" in expected)
    assert ("module load cuda" in script) == ("asking.py" in words)
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    assert not (folder / "runs").exists()


def test_the_words_of_the_command_stay_whole(folder, capsys):
    words = ["train", "small.py", "--data.dir", "a b", "--workdir", "my runs", "--train.epochs=3"]
    kept = "train --workdir 'my runs' small.py --data.dir 'a b' --train.epochs=3"
    assert dry(capsys, "--", *words) == f"{sys.executable} -m jaxcnn.cli {kept}\n"


def test_a_node_of_a_cloud_shares_its_accelerators_out(folder, capsys):
    asked = ("--on", "skypilot", "--devices", "2", "--card", "h100", "--workers", "4")
    task = yaml.safe_load(dry(capsys, *asked, "--", "compare", "two.py"))
    assert task["resources"] == {"accelerators": "H100:8", "disk_size": 512, "use_spot": True}
    words = task["run"].split()
    assert words[1:] == [
        *("launch", "--workers", "4", "--devices", "2"),
        *("--", "compare", "--shared", "--workdir", "/runs/two", "two.py"),
    ]
    task = yaml.safe_load(dry(capsys, *asked[:-2], "--", "train", "small.py"))
    assert task["run"].strip() == ".venv/bin/jaxcnn train --workdir /runs/small-seed0 small.py"


@pytest.mark.parametrize(
    ("platform", "before", "seen"),
    [
        ("gpu", "", ["0,1", "2,3"]),
        ("gpu", "4,5,6,7", ["4,5", "6,7"]),
        ("rocm", "", ["0,1", "2,3"]),
        ("tpu", "", ["0,1", "2,3"]),
    ],
)
def test_each_worker_sees_accelerators_of_its_own(folder, monkeypatch, platform, before, seen):
    names = {"gpu": "CUDA_VISIBLE_DEVICES", "rocm": "ROCR_VISIBLE_DEVICES"}
    name = names.get(platform, "TPU_VISIBLE_CHIPS")
    monkeypatch.setattr(local, "accelerators", lambda: (platform, 4))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", before)
    asked = local.filled(Resources(devices=2), runs=6)
    assert asked.workers == 2
    job = Job(folder, ("train",), asked.workers, asked)
    lines = local.written(job).splitlines()
    assert [line.split()[0] for line in lines] == [f"{name}={ids}" for ids in seen]


def test_by_default_each_accelerator_has_a_worker(monkeypatch):
    monkeypatch.setattr(local, "accelerators", lambda: ("gpu", 8))
    assert local.filled(Resources(), runs=40).workers == 8
    assert local.filled(Resources(), runs=3).workers == 3
    monkeypatch.setattr(local, "accelerators", lambda: ("cpu", 0))
    assert local.filled(Resources(), runs=40).workers == 1


BAD = {
    "no command": ((), "give COMMAND ..., what follows"),
    "another command": (("--", "bench"), "launch -- bench: must be one of train, compare, sweep"),
    "an unknown field": (("--pods", "3", *ONE), "unknown option --pods"),
    "an unknown option behind": ((*ONE, "--epochz", "3"), "unknown option --epochz"),
    "no file": (("--", "train", "none.py"), "none.py: no such file"),
    "no workers": (("--workers", "0", *ONE), "resources.workers=0: must be a positive"),
    "many workers for one run": (("--workers", "3", *ONE), "resources.workers=3: must be 1"),
    "many nodes here": (("--nodes", "2", *ONE), "resources.nodes=2: must be 1 with --on local"),
    "dashes": (
        ("--sbatch=--x", *ONE),
        "resources.sbatch=('--x',): must be a tuple of options of sbatch",
    ),
    "no time": (("--hours", "nan", *ONE), "resources.hours=nan: must be a number of hours"),
    "nodes to share runs": (
        ("--on", "slurm", "--nodes", "2", "--", "compare", "two.py"),
        "resources.nodes=2: must be 1, since 6 runs are shared",
    ),
    "a batch that is not divided": (
        ("--on", "slurm", "--nodes", "2", "--devices", "3", *ONE),
        "data.batch_size=256: must be a multiple of 6",
    ),
    "no scheduler": (("--on", "slurm", *ONE), "--on slurm: there is no sbatch here"),
    "a cloud's card": (("--on", "skypilot", "--devices", "1", *ONE), "resources.card=None: must"),
    "many nodes on a cloud": (
        ("--on", "skypilot", "--nodes", "2", *ONE),
        "must be 1 with --on sky",
    ),
    "no such accelerators": (("--devices", "1", *ONE), "1 worker must have at most 0 in all"),
    "no such model": ((*ONE, "--model.name", "lenet6"), "lenet6"),
    "what is no window": ((*ONE, "--profile", "x"), "--profile x: must be FIRST:LAST"),
    "one run that is shared": ((*ONE, "--shared"), "--shared: shares out several seeds"),
    "a folder of another run": ((*ONE, "--workdir", "taken"), "taken: belongs to another run"),
    "a folder that sbatch would read": (
        ("--on", "slurm", "--dry-run", *ONE, "--workdir", 'a "b'),
        "must hold no quotes",
    ),
    "no resources": (
        ("--", "train", "wrong.py"),
        "resources() must return a jaxcnn.config.machines.Resources",
    ),
}


@pytest.mark.parametrize(("words", "said"), BAD.values(), ids=BAD)
def test_what_cannot_be_launched_is_one_line(folder, capsys, monkeypatch, words, said):
    (folder / "wrong.py").write_text(file_of(SMALL) + "def resources(): return 3\n")
    if "taken" in words:
        other = replace(SMALL, data=replace(SMALL.data, batch_size=128))
        group.train_one(other, folder / "taken")
    monkeypatch.setenv("PATH", "/bin")
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr(local, "accelerators", lambda: ("cpu", 0))
    assert cli.main(["launch", *words]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert not (folder / "runs").exists()


def test_lines_of_set_up_come_first_here_too(tmp_path):
    asked = Resources(setup=("export SAID=hello",))
    job = Other(tmp_path, (), 1, asked, code="import os; print(os.environ['SAID'])")
    assert local.submit(job, lambda line: None, lambda: None) == 0
    assert (tmp_path / "launch" / "worker-0.log").read_text() == "hello\n"


def test_a_second_launch_into_a_folder_is_refused(tmp_path):
    (tmp_path / "launch").mkdir()
    job = Other(tmp_path, (), 1, Resources(), code="")
    with standing.take(tmp_path / "launch"), pytest.raises(InputError, match="is launching there"):
        local.submit(job, lambda line: None, lambda: None)


def test_a_folder_with_blanks_and_signs_is_one_word_of_the_script(folder, capsys):
    script = dry(capsys, "--on", "slurm", *ONE, "--workdir", "my 100% runs")
    assert f'--output="{folder}/my 100%% runs/launch/%j.log"' in script
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    (said,) = re.findall(r"^  echo (.*) >&2$", script, re.MULTILINE)
    echoed = subprocess.run(["bash", "-c", f"echo {said}"], capture_output=True, text=True)
    assert echoed.stdout.startswith("my 100% runs: is not seen from ")


def stand_in(folder, script):
    """Puts a program of the user's in the place of sbatch."""
    (folder / "bin").mkdir()
    (folder / "bin" / "sbatch").write_text(f"#!/bin/bash\n{script}\n")
    (folder / "bin" / "sbatch").chmod(0o755)
    return f"{folder / 'bin'}:{os.environ['PATH']}"


def test_what_slurm_says_against_a_job_is_said(folder, capsys, monkeypatch):
    said = "sbatch: error: invalid partition specified: tpu"
    monkeypatch.setenv("PATH", stand_in(folder, f"echo '{said}' >&2; exit 1"))
    assert cli.main(["launch", "--on", "slurm", "--partition", "tpu", *ONE]) == 2
    assert "refused the job (invalid partition specified: tpu)" in capsys.readouterr().err
    assert not [*(folder / "runs").iterdir()]


def test_a_job_of_slurm_is_submitted_as_it_is_shown(folder, capsys, monkeypatch):
    monkeypatch.setenv("PATH", stand_in(folder, 'cp "${@: -1}" submitted; echo "42;cluster"'))
    words = ("--on", "slurm", "--", "compare", "two.py")
    shown = dry(capsys, *words)
    assert cli.main(["launch", *words]) == 0
    assert "job 42 of SLURM, 6 workers: `jaxcnn status runs/two`" in capsys.readouterr().out
    assert (folder / "submitted").read_text() == shown
    assert cli.main(["status", "runs/two"]) == 0
    assert "6 runs: 6 waiting" in capsys.readouterr().out


def test_the_memory_of_this_machine_is_not_shared(folder, capsys, monkeypatch):
    monkeypatch.setenv("PATH", stand_in(folder, "touch submitted"))
    workdir = Path("/dev/shm") / f"jaxcnn-{os.getpid()}"
    words = ("--on", "slurm", *ONE, "--workdir", str(workdir))
    assert cli.main(["launch", *words]) == 2
    assert not workdir.exists()
    assert "must be on storage that all nodes share" in capsys.readouterr().err
    assert not (folder / "submitted").exists()


def test_what_failed_before_is_tried_again(folder, capsys, monkeypatch):
    monkeypatch.setenv("PATH", stand_in(folder, "echo 42"))
    failed = folder / "runs" / "two" / "one" / "seed0"
    failed.mkdir(parents=True)
    (failed / "config.json").write_text(json.dumps(to_dict(replace(SMALL, name="one"))))
    standing.note_fault(failed, "failed", "the disk was full")
    assert cli.main(["launch", "--on", "slurm", "--", "compare", "two.py"]) == 0
    assert standing.fault(failed) is None


@dataclass(frozen=True)
class Other(Job):
    """A job of any command, in the place of jaxcnn."""

    code: str = ""

    @property
    def command(self):
        return sys.executable, "-c", self.code


def test_a_worker_that_was_killed_is_started_again(tmp_path, monkeypatch):
    code = (
        "import os, pathlib, sys\n"
        "here = pathlib.Path(os.environ['HERE'])\n"
        "print('at work', flush=True)\n"
        "if len([*here.iterdir()]) < 3:\n"
        "    (here / str(os.getpid())).touch()\n"
        "    os.kill(os.getpid(), 9)\n"
        "sys.exit(5)\n"
    )
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HERE", str(tmp_path / "here"))
    said = []
    assert (
        local.submit(Other(tmp_path, (), 1, Resources(), code=code), said.append, lambda: None) == 5
    )
    assert len([*(tmp_path / "here").iterdir()]) == 3
    assert sum("killed by SIGKILL; started again" in line for line in said) == 3
    assert (tmp_path / "launch" / "worker-0.log").read_text() == "at work\n" * 4


def test_each_worker_is_looked_after_while_the_others_work(tmp_path, monkeypatch):
    """The first works until the second, which is killed, has been started again."""
    code = (
        "import os, pathlib, time\n"
        "here = pathlib.Path(os.environ['HERE'])\n"
        "while True:\n"
        "    try: (here / 'first').mkdir(); break\n"
        "    except FileExistsError: pass\n"
        "    try: (here / 'second').mkdir(); os.kill(os.getpid(), 9)\n"
        "    except FileExistsError: pass\n"
        "    (here / 'again').mkdir(); break\n"
        "while not (here / 'again').exists(): time.sleep(0.01)\n"
    )
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HERE", str(tmp_path / "here"))
    job = Other(tmp_path, (), 2, Resources(), code=code)
    assert local.submit(job, lambda line: None, lambda: None) == 0


def test_a_worker_is_not_started_again_for_ever(tmp_path):
    code = "import os; os.kill(os.getpid(), 9)"
    assert (
        local.submit(
            Other(tmp_path, (), 1, Resources(), code=code), lambda line: None, lambda: None
        )
        == 137
    )


def test_a_signal_is_handed_on_to_the_workers(tmp_path):
    code = (
        "import os, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('saved'), sys.exit(143)))\n"
        f"os.kill({os.getpid()}, signal.SIGTERM)\n"
        "time.sleep(60)\n"
    )
    with pytest.raises(Stopped):
        local.submit(Other(tmp_path, (), 1, Resources(), code=code), print, lambda: None)
    assert (tmp_path / "launch" / "worker-0.log").read_text() == "saved\n"


def test_without_a_terminal_each_run_that_ends_is_a_line(tmp_path, capsys):
    """Once, in the words of a comparison; how the others stand is for `jaxcnn status`."""
    for name in ("one/seed0", "bad/seed0"):
        (tmp_path / name).mkdir(parents=True)
    standing.plan(tmp_path, [tmp_path / name for name in ("one/seed0", "bad/seed0", "waits/seed0")])
    summary = group.train_one(SMALL, tmp_path / "one/seed0")
    (tmp_path / "bad/seed0/config.json").write_text(json.dumps(to_dict(SMALL)))
    standing.note_fault(tmp_path / "bad/seed0", "diverged", "the loss is not finite")
    told = local._Told(Job(tmp_path, (), 1, Resources(), shared=True))
    for _ in range(2):
        told.look(at_once=True)
    _, titles, first, second = capsys.readouterr().out.splitlines()
    assert titles.split() == ["loss", "top-1", "train", "time", "time", "left"]
    figures = [f"{summary['test_loss']:.4f}", f"{summary['test_top1']:.2%}"]
    assert first.split()[:6] == ["run", "1", "of", "3", *figures]
    assert first.split()[-2:] == ["best", "one/seed0"]
    assert second == "bad/seed0: the loss is not finite"
    local._Told(Job(tmp_path, (), 1, Resources())).look(
        at_once=True
    )  # of a single run, its own log
    assert not capsys.readouterr().out


def workers_of(launcher):
    """The processes that a launcher has started, by /proc."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = path.read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue
        if int(parent) == launcher.pid:
            found.append(int(path.parent.name))
    return found


@pytest.mark.slow
def test_eight_workers_three_of_them_killed_train_forty_runs_once_each(folder):
    Path("many.py").write_text(several_of(SMALL, 20))
    command = ["launch", "--workers", "8", "--", "compare", "many.py", "--workdir", "many"]
    with subprocess.Popen([sys.executable, "-m", "jaxcnn.cli", *command]) as launcher:
        rng = random.Random(0)
        for done in (4, 12, 20):
            while len([*Path("many").glob("*/*/summary.json")]) < done:
                assert launcher.poll() is None
                time.sleep(0.05)
            os.kill(rng.choice(workers_of(launcher)), signal.SIGKILL)
        assert launcher.wait(timeout=900) == 0
    logs = [log.read_text() for log in Path("many/launch").glob("*.log")]
    assert not any("report.html, comparison.json" in log for log in logs)  # the launcher wrote it
    ended = Counter(re.findall(r"^run +\d+ of 40  .*  (\S+)$", "\n".join(logs), re.MULTILINE))
    assert max(ended.values()) == 1  # nobody has trained what another had
    assert len(ended) >= 37  # a kill may come before the line
    runs = [path.parent for path in Path("many").glob("*/*/summary.json")]
    assert len(runs) == 40
    for run in runs:
        steps = [
            json.loads(line)["step"]
            for line in (run / "metrics.jsonl").read_text().split("\n")[:-1]
        ]
        assert steps == [2, 4]
    assert len(json.loads(Path("many/comparison.json").read_text())["results"]) == 2
    for name in ("one/seed3", "other/seed7"):
        config = json.loads((Path("many") / name / "config.json").read_text())
        seeded = replace(
            SMALL, name=config["name"], train=replace(SMALL.train, seed=config["train"]["seed"])
        )
        alone = group.train_one(seeded, Path("alone") / name)
        shared = json.loads((Path("many") / name / "summary.json").read_text())
        assert shared["state_sha256"] == alone["state_sha256"]
