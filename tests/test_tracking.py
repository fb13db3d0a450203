"""Runs that MLflow and wandb track: what they hold, and that no fault of theirs reaches a run.

What MLflow holds is read through the REST interface of its own server; what wandb holds, from the
file that it keeps offline. Both are skipped where the package is missing.
"""

import contextlib
import importlib.util
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from jaxcnn import cli
from jaxcnn.config import Data, Experiment, Model, Optim, Schedule, Train, flat, to_dict
from jaxcnn.runs import display, trackers, tracking

TINY = Experiment(
    name="tiny",
    data=Data("digits", batch_size=64, eval_batch_size=360, train_limit=128),
    model=Model("mlp", {"hidden": (4,)}),
    optim=Optim("sgd", peak_lr=0.1),
    schedule=Schedule("constant", warmup_epochs=0),
    train=Train(epochs=3),
)
LONG = replace(
    TINY,
    data=replace(TINY.data, batch_size=32, train_limit=None),
    model=Model("mlp", {"hidden": (64,)}),
    train=Train(epochs=1000),
)
"""Prints more than a pipe holds: it cannot end before a test reads on."""
OFF = "nothing more is tracked"

needs_mlflow = pytest.mark.skipif(
    importlib.util.find_spec("mlflow") is None, reason="mlflow is not installed"
)
needs_wandb = pytest.mark.skipif(
    importlib.util.find_spec("wandb") is None, reason="wandb is not installed"
)


def written(path, experiment=TINY):
    config = f"def config(): return from_dict({to_dict(experiment)!r})"
    path.write_text(f"from jaxcnn.config import from_dict\n{config}")
    return str(path)


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """The folder in which commands are given, with the experiment's file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tracking, "SECONDS", 300.0)  # the machine may be busy with other tests
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    written(tmp_path / "tiny.py")
    written(tmp_path / "long.py", LONG)
    return tmp_path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of the run that was trained without a tracker."""
    path = tmp_path_factory.mktemp("untracked")
    assert cli.main(["train", written(path / "tiny.py"), "--workdir", str(path / "run")]) == 0
    return path / "run"


def summary(run):
    return json.loads((run / "summary.json").read_text())


def records(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def same_bits(run, other):
    found, expected = summary(run), summary(other)
    return all(found[name] == expected[name] for name in ("params_sha256", "state_sha256"))


# ------------------------------------------------------------------ with no tracker or a broken one


def test_a_package_that_is_missing_is_said_before_anything_is_trained(tiny, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for command in ("train", "sweep"):
        assert cli.main([command, "tiny.py", "--track", "mlflow"]) == 2
        said = capsys.readouterr().err
        assert said == "jaxcnn: error: --track mlflow: needs pip install 'jaxcnn[mlflow]'\n"
    assert sorted(path.name for path in tiny.iterdir()) == ["long.py", "tiny.py"]


def test_an_unknown_tracker_is_refused(tiny, capsys):
    assert cli.main(["train", "tiny.py", "--track", "tensorboard"]) == 2
    assert "--track: must be one of 'mlflow', 'wandb' or None" in capsys.readouterr().err


@pytest.fixture
def package(tiny, monkeypatch):
    """Makes a package of the name of a tracker's, which is found before any other."""
    folder = tiny / "packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "mlflow", raising=False)
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{os.environ['PYTHONPATH']}")
    return (folder / "mlflow.py").write_text


def complaint(caplog):
    """The one line that is said, and nothing else."""
    (record,) = caplog.records
    line = record.getMessage()
    assert line.startswith(f"--track mlflow: {OFF} (")
    assert "\n" not in line
    return line


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("import os; os._exit(3)", "its process has ended with 3"),
        ("import os; os.kill(os.getpid(), 9)", "its process has ended with -9"),
        ("raise SystemExit('gone')", "its process has ended with 1"),
        ("raise TypeError('two\\nlines')", "two"),
        ("raise TypeError", "TypeError"),
        ("input()", "EOF when reading a line"),
        ("import sys; sys.stdin.fileno(); print('x' * 100_000)", "MlflowClient"),
        ("import time; time.sleep(600)", "not all was sent after 1 s"),
    ],
)
def test_a_broken_tracker_costs_one_line(run, package, monkeypatch, caplog, source, why):
    package(source)
    monkeypatch.setattr(tracking, "SECONDS", 1.0 if "sleep" in source else 20.0)
    began = time.monotonic()
    with tracking.tracked("mlflow", "tiny") as tracked:
        tracked.began(run)
        for record in records(run) * 1000:
            tracked.record(record)
        tracked.closed(run)
        told = time.monotonic() - began
    assert told < 2  # nothing waits before the end
    assert why in complaint(caplog)
    assert time.monotonic() - began < 15


@pytest.mark.parametrize("source", ["raise OSError('down')", "import time; time.sleep(600)"])
def test_with_a_broken_tracker_a_run_has_the_same_bits(
    tiny, run, package, monkeypatch, caplog, source
):
    package(source)
    monkeypatch.setattr(tracking, "SECONDS", 1.0)
    assert cli.main(["train", "tiny.py", "--track", "mlflow", "--workdir", "run"]) == 0
    complaint(caplog)
    assert same_bits(tiny / "run", run)


class Held:
    """A tracked run that keeps what it is given, and what an earlier one of its id was."""

    kept: dict = {}  # noqa: RUF012

    def __init__(self, project, run, name):
        self.all = self.kept.setdefault(run, {"names": [], "records": [], "ends": []})
        self.all["names"].append(f"{project}: {name}")
        self.last = max((record["step"] for record in self.all["records"]), default=-1)
        self.result = self.all.get("result")

    def begin(self, config, env):
        self.all["config"], self.all["env"] = config, env

    def log(self, records):
        self.all["records"] += records

    def summarize(self, summary, last):
        assert last["step"] == summary["step"]
        self.all["result"] = summary["params_sha256"]

    def attach(self, folder, names):
        self.all["files"] = sorted(name for name in names if (folder / name).exists())

    def end(self, ending, why=""):
        self.all["ends"].append((ending, why))


@pytest.fixture
def held(monkeypatch):
    """Trackers that keep what they are given, by the ids of runs."""
    monkeypatch.setattr(Held, "kept", {})
    monkeypatch.setattr(trackers, "KINDS", dict.fromkeys(trackers.KINDS, Held))
    return Held.kept


def test_a_finished_run_is_sent_whole_and_once(run, held):
    for _ in range(2):
        sender = trackers.Sender("mlflow", "tiny")
        sender.close(str(run), "")
        sender.end()
    (found,) = held.values()
    assert found["names"][0] == f"tiny: {run.parent.name}/run"
    assert found["records"] == records(run)
    assert found["config"] == json.loads((run / "config.json").read_text())
    assert found["files"] == sorted([*trackers.FILES, *trackers.PICTURES])
    assert found["ends"] == [("finished", "")] * 2


@pytest.mark.parametrize("sent", [0, 1, 2])
def test_a_run_that_goes_on_is_sent_what_is_missing_and_no_step_twice(tmp_path, run, held, sent):
    copy = tmp_path / "run"
    copy.mkdir()
    for file in run.glob("*.*"):
        (copy / file.name).write_bytes(file.read_bytes())
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    log = copy / "metrics.jsonl"
    log.write_text("".join(lines[:sent]))
    former = trackers.Sender("wandb", "tiny")
    former.update(str(copy))
    former.end()
    # It went back to its beginning, and the next line is only half written.
    sender = trackers.Sender("wandb", "tiny")
    log.write_text(lines[0])
    sender.update(str(copy))
    log.write_text("".join(lines[:2]) + lines[2][:9])
    sender.update(str(copy))
    (found,) = held.values()
    assert found["records"] == records(run)[:2]
    log.write_text("".join(lines))
    sender.close(str(copy), "the loss is not finite")
    assert found["records"] == records(run)
    assert found["ends"] == [("interrupted", ""), ("diverged", "the loss is not finite")]


def test_a_display_hears_all_and_a_tracker_what_it_needs():
    heard = []

    def ear(name):
        methods = {
            key: (lambda self, *given, key=key, **kw: heard.append((name, key)))
            for key, value in vars(display.Listener).items()
            if callable(value)
        }
        return type(name, (display.Listener,), methods)()

    shown = ear("shown")
    both = display.Both(shown, ear("tracked"))
    both.metrics = ("top1",)
    assert shown.metrics == both.metrics == ("top1",)
    for key, value in vars(display.Listener).items():
        if callable(value):
            getattr(both, key)(
                *["text"] if key == "waiting" else [{}] * (value.__code__.co_argcount - 1)
            )
    told = {name: {key for who, key in heard if who == name} for name in ("shown", "tracked")}
    assert told["shown"] >= {"message", "heading", "waiting", "progress", "record", "ended"}
    assert told["tracked"] == {"record", "began", "closed"}


# ---------------------------------------------------------------------------------------- MLflow


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Server:
    """MLflow's own server, with its store in a folder."""

    def __init__(self, folder):
        self.folder, self.port = folder, free_port()
        self.address = f"http://127.0.0.1:{self.port}"

    def __enter__(self):
        store = ["--backend-store-uri", f"sqlite:///{self.folder}/store.db"]
        store += ["--artifacts-destination", f"{self.folder}/artifacts", "--workers", "1"]
        where = ["--host", "127.0.0.1", "--port", str(self.port)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *where, *store],
            stdout=(self.folder / "server.log").open("ab"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"},
        )
        ends = time.monotonic() + 120
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{self.address}/health", timeout=5).close()
                return self
            assert time.monotonic() < ends, (self.folder / "server.log").read_text()
            assert self.process.poll() is None, (self.folder / "server.log").read_text()
            time.sleep(0.2)

    def __exit__(self, *_):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)

    def ask(self, what, **given):
        """The answer of the REST interface, by GET."""
        address = f"{self.address}/api/2.0/mlflow/{what}?{urllib.parse.urlencode(given)}"
        with urllib.request.urlopen(address, timeout=30) as answer:
            return json.load(answer)

    def runs(self, project):
        """The runs of an experiment, by their names."""
        found = self.ask("experiments/get-by-name", experiment_name=project)["experiment"]
        body = json.dumps({"experiment_ids": [found["experiment_id"]]}).encode()
        address = f"{self.address}/api/2.0/mlflow/runs/search"
        asked = urllib.request.Request(address, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(asked, timeout=30) as answer:
            runs = json.load(answer).get("runs", [])
        assert len({run["info"]["run_name"] for run in runs}) == len(runs)
        return {run["info"]["run_name"]: run for run in runs}

    def runs_so_far(self, project):
        """The same, none where there is no such experiment yet."""
        try:
            return self.runs(project)
        except urllib.error.HTTPError:
            time.sleep(0.05)
            return {}

    def history(self, run, name):
        """Step and value of every point of a metric."""
        asked = {"run_id": run["info"]["run_id"], "metric_key": name}
        points = self.ask("metrics/get-history", **asked).get("metrics", [])
        return [(int(point.get("step", 0)), float(point["value"])) for point in points]

    def files(self, run):
        """The artifacts of a run with their content."""
        identity = run["info"]["run_id"]
        listed = self.ask("artifacts/list", run_id=identity).get("files", [])
        found = {}
        for file in listed:
            asked = urllib.parse.urlencode({"run_uuid": identity, "path": file["path"]})
            with urllib.request.urlopen(f"{self.address}/get-artifact?{asked}") as answer:
                found[file["path"]] = answer.read()
        return found

    def holds(self, run, folder, *, killed=False):
        """Checks that a tracked run has each number of metrics.jsonl once.

        After a kill the steps since the last checkpoint are done again: in other times, of which
        the tracker keeps those that it has.
        """
        expected = records(folder)
        times = {"seconds", "images_per_sec", "step_time", "data_wait", "goodput"}
        for name in expected[0].keys() - {"step"} - (times if killed else set()):
            points = [(record["step"], record[name]) for record in expected]
            assert self.history(run, name) == points, name


def noted(run, kind):
    return {entry["key"]: entry.get("value", "") for entry in run["data"].get(kind, [])}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("server")) as found:
        yield found


@pytest.fixture
def mlflow(server, tiny, monkeypatch):
    """The server, to which commands send."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
    return server


@needs_mlflow
@pytest.mark.slow
def test_mlflow_holds_what_the_run_folder_holds(mlflow, tiny, run, caplog):
    assert cli.main(["train", "tiny.py", "--track", "mlflow", "--workdir", "whole/run"]) == 0
    folder = tiny / "whole" / "run"
    assert not caplog.records
    assert same_bits(folder, run)
    tracked = mlflow.runs("tiny")["whole/run"]
    assert tracked["info"]["status"] == "FINISHED"
    config = flat(json.loads((folder / "config.json").read_text()))
    assert noted(tracked, "params") == {name: str(value) for name, value in config.items()}
    mlflow.holds(tracked, folder)
    found, tags = summary(folder), noted(tracked, "tags")
    for name in ("best_test_top1", "parameters", "best_epoch"):
        assert mlflow.history(tracked, name) == [(found["step"], found[name])]
    assert tags["params_sha256"] == found["params_sha256"]
    env = json.loads((folder / "env.json").read_text())
    assert tags["env.versions.jax"] == env["versions"]["jax"]
    files = mlflow.files(tracked)
    assert files.keys() == {*trackers.FILES, *trackers.PICTURES}
    assert all(content == (folder / name).read_bytes() for name, content in files.items())
    # Given again it sends nothing, and with more epochs it continues the tracked run.
    assert cli.main(["train", "tiny.py", "--track", "mlflow", "--workdir", "whole/run"]) == 0
    assert mlflow.runs("tiny")["whole/run"]["info"] == tracked["info"]
    longer = ["--train.epochs", "5", "--track", "mlflow", "--workdir", "whole/run"]
    assert cli.main(["train", "tiny.py", *longer]) == 0
    again = mlflow.runs("tiny")["whole/run"]
    assert again["info"]["run_id"] == tracked["info"]["run_id"]
    mlflow.holds(again, folder)
    assert noted(again, "tags")["params_sha256"] == summary(folder)["params_sha256"]


def begun(tiny, *given):
    """A run of many epochs, once it has printed the fortieth."""
    command = [sys.executable, "-m", "jaxcnn.cli", "train", "long.py"]
    process = subprocess.Popen(
        [*command, *given], cwd=tiny, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for line in process.stdout:
        if line.startswith("epoch   40 "):
            return process
    raise AssertionError(process.stderr.read())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of the run of many epochs that nothing interrupts or tracks."""
    path = tmp_path_factory.mktemp("whole")
    file = written(path / "long.py", LONG)
    assert cli.main(["train", file, "--workdir", str(path / "run")]) == 0
    return path / "run"


@needs_mlflow
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_that_was_interrupted_continues_its_tracked_run(mlflow, tiny, whole, number):
    given = ("--track", "mlflow", "--workdir", f"{number.name}/run")
    process = begun(tiny, *given)
    while f"{number.name}/run" not in mlflow.runs_so_far("tiny"):
        assert process.poll() is None
    process.send_signal(number)
    process.communicate(timeout=300)
    if number == signal.SIGTERM:
        before = mlflow.runs("tiny")[f"{number.name}/run"]
        assert before["info"]["status"] == "KILLED"
        assert 0 < len(mlflow.history(before, "seconds")) < LONG.train.epochs
    assert cli.main(["train", "long.py", *given]) == 0
    tracked = mlflow.runs("tiny")[f"{number.name}/run"]
    assert tracked["info"]["status"] == "FINISHED"
    mlflow.holds(tracked, tiny / number.name / "run", killed=number == signal.SIGKILL)
    assert same_bits(tiny / number.name / "run", whole)


@needs_mlflow
@pytest.mark.slow
def test_a_server_that_dies_costs_one_line_and_the_same_command_sends_the_rest(
    tiny, whole, monkeypatch, tmp_path_factory
):
    server = Server(tmp_path_factory.mktemp("dying"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
    given = ("--track", "mlflow", "--workdir", "dying/run")
    with server:
        process = begun(tiny, *given)
        while not server.runs_so_far("tiny"):
            assert process.poll() is None
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    (line,) = said.splitlines()
    assert line.startswith(f"jaxcnn: --track mlflow: {OFF} (")
    assert same_bits(tiny / "dying" / "run", whole)
    with server:
        (tracked,) = server.runs("tiny").values()
        assert len(server.history(tracked, "seconds")) < LONG.train.epochs
        assert cli.main(["train", "long.py", *given]) == 0
        (tracked,) = server.runs("tiny").values()
        assert tracked["info"]["status"] == "FINISHED"
        server.holds(tracked, tiny / "dying" / "run")


@needs_mlflow
@pytest.mark.slow
def test_a_server_that_never_answers_holds_a_run_up_for_a_bounded_time(
    tiny, run, monkeypatch, caplog
):
    monkeypatch.setattr(tracking, "SECONDS", 6.0)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(50)
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        began = time.monotonic()
        assert cli.main(["train", "tiny.py", "--track", "mlflow", "--workdir", "run"]) == 0
        trained = time.time() - (tiny / "run" / "confusion.png").stat().st_mtime
    assert time.monotonic() - began < 60
    assert 5 < trained < 12
    (record,) = [record for record in caplog.records if OFF in record.getMessage()]
    assert "not all was sent after 6 s" in record.getMessage()
    assert same_bits(tiny / "run", run)


@needs_mlflow
@pytest.mark.slow
def test_seeds_arms_and_trials_are_tracked_runs_and_pages_too(mlflow, tiny):
    (tiny / "arms.py").write_text(
        "from jaxcnn.config import Comparison, from_dict\n"
        f"ARMS = {[to_dict(replace(TINY, name=name)) for name in ('a', 'b')]!r}\n"
        "def config(): return Comparison(tuple(map(from_dict, ARMS)), seeds=2)"
    )
    written(tiny / "many.py", replace(TINY, name="many"))
    tracked = ["--track", "mlflow", "--workdir"]
    assert cli.main(["train", "many.py", "--seeds", "2", *tracked, "seeds"]) == 0
    assert cli.main(["sweep", "many.py", "optim.peak_lr=0.1,0.2", *tracked, "lr"]) == 0
    trials = {f"lr/{path.name}" for path in (tiny / "lr").iterdir() if path.is_dir()}
    runs = mlflow.runs("many")
    assert runs.keys() == {"seeds/seed0", "seeds/seed1", *trials, "lr"}
    for name in runs.keys() - {"lr"}:
        mlflow.holds(runs[name], tiny / name)
    assert mlflow.files(runs["lr"]).keys() == {"report.html", "sweep.json", "sweep.png"}
    for _ in range(2):  # the second time everything is there already
        assert cli.main(["compare", "arms.py", *tracked, "arms"]) == 0
        runs = mlflow.runs("arms")
        assert runs.keys() == {"a/seed0", "a/seed1", "b/seed0", "b/seed1", "arms"}
        page = mlflow.files(runs["arms"])["report.html"]
        assert page == (tiny / "arms" / "report.html").read_bytes()
        for name in runs.keys() - {"arms"}:
            mlflow.holds(runs[name], tiny / "arms" / name)


# ----------------------------------------------------------------------------------------- wandb


def kept_offline(file):
    """The records of a file of wandb, whose framing is that of LevelDB's log."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, parts = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        left = 2**15 - at % 2**15
        if left < 7:  # the end of a block
            at += left
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # full, or the last part
            record = Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


@pytest.fixture
def wandb(tiny, monkeypatch):
    """The folder in which commands are given, by somebody without an account."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tiny / "home"))
    monkeypatch.setenv("NETRC", str(tiny / "home" / ".netrc"))
    (tiny / "home").mkdir()
    return tiny


@needs_wandb
@pytest.mark.slow
def test_wandb_offline_holds_what_the_run_folder_holds(wandb, run, monkeypatch, caplog):
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert cli.main(["train", "tiny.py", "--track", "wandb", "--workdir", "run"]) == 0
    assert not caplog.records
    folder = wandb / "run"
    assert same_bits(folder, run)
    identity = json.loads((folder / "run.json").read_text())["run"]
    (file,) = wandb.glob(f"wandb/offline-run-*-{identity}/*.wandb")
    logged, config, known, ends = {}, {}, {}, []
    for record in kept_offline(file):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            assert (record.run.project, record.run.run_id) == ("tiny", identity)
        if kind == "config":
            config |= {item.key: json.loads(item.value_json) for item in record.config.update}
        if kind == "summary":
            known |= {item.key: json.loads(item.value_json) for item in record.summary.update}
        if kind == "history":
            step = record.history.step.num
            assert step not in logged
            items = {(i.key or ".".join(i.nested_key)): i.value_json for i in record.history.item}
            logged[step] = {name: json.loads(value) for name, value in items.items()}
        if kind == "exit":
            ends.append(record.exit.exit_code)
    expected = records(folder)
    assert sorted(logged) == [record.pop("step") for record in expected]
    for found, record in zip([logged[step] for step in sorted(logged)], expected, strict=True):
        assert {name: found[name] for name in record} == record
    assert config["model"] == json.loads((folder / "config.json").read_text())["model"]
    assert config["env"] == json.loads((folder / "env.json").read_text())
    assert known["params_sha256"] == summary(folder)["params_sha256"]
    assert (known["curves"]["_type"], known["confusion"]["_type"]) == ("image-file", "image-file")
    assert ends == [0]


@needs_wandb
@pytest.mark.slow
def test_wandb_without_an_account_costs_one_line(wandb, run, caplog):
    assert cli.main(["train", "tiny.py", "--track", "wandb", "--workdir", "run"]) == 0
    (record,) = caplog.records
    assert record.getMessage().startswith(f"--track wandb: {OFF} (No API key configured")
    assert same_bits(wandb / "run", run)


@needs_wandb
@pytest.mark.slow
def test_wandb_without_an_account_asks_nothing_on_a_terminal(wandb, run):
    command = [sys.executable, "-m", "jaxcnn.cli", "train", "tiny.py", "--track", "wandb"]
    process, terminal = pty.fork()
    if process == 0:
        os.execv(sys.executable, [*command, "--workdir", "run"])
    said, ends = b"", time.monotonic() + 120
    with contextlib.suppress(OSError):  # the terminal is gone when the command is
        while time.monotonic() < ends and (more := os.read(terminal, 4096)):
            said += more
    _, status = os.waitpid(process, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert Counter(said.split())[b"wandb:"] == 1, said  # the line's own
    assert b"No API key configured" in said
    assert same_bits(wandb / "run", run)
