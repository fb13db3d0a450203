"""Two processes on this machine that train one run, and what becomes of it when one is lost."""

import re
import shutil
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest

from jaxcnn.commands.parsing import load_experiment
from jaxcnn.config import Distributed
from jaxcnn.errors import InputError
from jaxcnn.learning import run_folder as folder
from jaxcnn.learning.processes import cluster
from jaxcnn.runs import group

EXPERIMENT = """
from jaxcnn.config import *

def config():
    return Experiment(
        name="pair",
        data=Data("digits", batch_size=64, eval_batch_size=180, train_limit=128, mean=(0.3,)),
        model=Model("convnet", {"widths": (2,), "hidden": 8, "batch_norm": True, "dropout": 0.2}),
        optim=Optim("adamw", peak_lr=0.003),
        schedule=Schedule("constant", 0),
        train=Train(epochs=10, checkpoint_every=1),
    )
"""


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The experiment's file, and its records when one process trains it."""
    path = tmp_path_factory.mktemp("pair") / "pair.py"
    path.write_text(EXPERIMENT)
    group.train_one(load_experiment(path), path.parent / "alone")
    return path, folder.read_metrics(path.parent / "alone")


def start(experiment, workdir):
    """Two processes of one device each."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "jaxcnn.cli", "train", str(experiment)]
    command += ["--workdir", str(workdir), "--distributed.coordinator", f"localhost:{port}"]
    command += ["--distributed.processes", "2", "--distributed.process"]
    return [
        subprocess.Popen(
            [*command, str(number)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for number in range(2)
    ]


def after_epochs(pair, count, number, *victims):
    """Sends a signal after some epochs; what the processes then say, and their exit codes."""
    seen = 0
    for line in pair[0].stdout:
        seen += line.startswith("epoch")
        if seen == count:
            break
    for victim in victims:
        pair[victim].send_signal(number)
    return ended(pair)


def ended(pair):
    said = [process.communicate(timeout=100)[0] for process in pair]
    return said, [process.returncode for process in pair]


def train_on(pair, workdir, expected):
    """To the end: the records are those of one process, up to the order of float32 sums."""
    said, codes = ended(pair)
    assert codes == [0, 0], said
    check_records(workdir, expected)
    return said


def check_records(workdir, expected):
    records = folder.read_metrics(workdir)
    assert [r["step"] for r in records] == [r["step"] for r in expected]
    for key in ("train_loss", "test_loss"):
        np.testing.assert_allclose(
            [r[key] for r in records], [r[key] for r in expected], rtol=1e-4, err_msg=key
        )
    assert (workdir / "summary.json").exists()


@pytest.mark.slow
def test_killed_at_one_half_a_pair_goes_on_and_ends_as_one_process_would(alone, tmp_path):
    experiment, expected = alone
    workdir = tmp_path / "a"
    said, codes = after_epochs(start(experiment, workdir), 3, signal.SIGKILL, 1)
    assert codes[1] == -signal.SIGKILL
    if codes[0] != -signal.SIGABRT:  # JAX's client may notice first, and ends the process at once
        assert codes[0] == 1, said
        assert "lost the others" in said[0]
        assert "Traceback" not in said[0]
    said = train_on(start(experiment, workdir), workdir, expected)
    assert "going on from step" in said[0]
    assert not any(line.startswith("epoch") for line in said[1].splitlines())


@pytest.mark.slow
def test_a_signal_to_either_saves_and_ends_both(alone, tmp_path):
    experiment, expected = alone
    workdir = tmp_path / "a"
    said, codes = after_epochs(start(experiment, workdir), 2, signal.SIGTERM, 1)
    assert codes == [143, 143], said
    steps = {re.search(r"SIGTERM at step (\d+)", text)[1] for text in said}
    saved = [int(p.name) for p in (workdir / "checkpoints/latest").glob("[0-9]*")]
    assert steps == {str(max(saved))}
    train_on(start(experiment, workdir), workdir, expected)


@pytest.mark.slow
@pytest.mark.parametrize("victims", [(0,), (0, 1)])
def test_killed_with_its_coordinator_a_pair_goes_on(alone, tmp_path, victims):
    experiment, expected = alone
    said, codes = after_epochs(start(experiment, tmp_path / "a"), 3, signal.SIGKILL, *victims)
    assert codes[0] == -signal.SIGKILL
    assert codes[1] != 0, said
    train_on(start(experiment, tmp_path / "a"), tmp_path / "a", expected)


TASK = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "1"}
RANK = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}
POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}


@pytest.mark.parametrize(
    ("environ", "found"),
    [
        ({}, None),
        (TASK, ("SLURM", "slurm")),
        ({**TASK, "SLURM_STEP_NUM_TASKS": "1"}, None),
        ({**RANK, "OMPI_MCA_orte_hnp_uri": "1.0;tcp://10.0.0.1:1"}, ("Open MPI", "ompi")),
        (RANK, ("Open MPI", "mpi4py")),
        ({**TASK, **RANK, "OMPI_MCA_orte_hnp_uri": "1.0;tcp://10.0.0.1:1"}, ("Open MPI", "ompi")),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, None),
        ({"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "0"}, ("Cloud TPU", None)),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, None),
        ({"MEGASCALE_NUM_SLICES": "2"}, ("Cloud TPU", None)),
        (POD, None),  # a pod of its own
        ({**POD, "JOB_COMPLETION_INDEX": "1"}, ("Kubernetes", None)),
    ],
)
def test_what_counts_as_a_cluster(monkeypatch, environ, found):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name == "kubernetes" or None)
    assert cluster(environ) == found


@pytest.mark.parametrize("name", [*TASK, "OMPI_COMM_WORLD_SIZE"])
def test_a_count_that_is_none_is_named(name):
    with pytest.raises(InputError, match=f"{name}='x': must be a whole number"):
        cluster({**TASK, **RANK, name: "x"})


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("mpirun"), reason="no Open MPI here")
def test_processes_of_open_mpi_find_each_other(alone, tmp_path):
    experiment, expected = alone
    command = ["mpirun", "-n", "2", "--allow-run-as-root", "--oversubscribe", sys.executable]
    command += ["-m", "jaxcnn.cli", "train", str(experiment), "--workdir", str(tmp_path / "a")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("2 processes, found by Open MPI\n") == 1
    check_records(tmp_path / "a", expected)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (("localhost:1", 2, None), "distributed.process=None: must be given with the other two"),
        (("localhost", 2, 0), "distributed.coordinator='localhost': must be HOST:PORT"),
        (("localhost:1", 2, 2), r"distributed.process=2: must be a whole number in \[0, 2\)"),
        (("localhost:1", 0, 0), "distributed.processes=0: must be"),
    ],
)
def test_half_a_place_among_processes_is_refused(given, named):
    with pytest.raises(InputError, match=named):
        Distributed(*given)
