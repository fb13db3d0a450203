import csv

import jax
import jax.numpy as jnp
import pytest

from jaxcnn import cli
from jaxcnn.analysis import bench, budget
from jaxcnn.models import create_model

TIMM_INFER = (
    "model,infer_samples_per_sec,infer_step_time,infer_batch_size,infer_img_size,"
    "infer_gmacs,infer_macts,param_count"
)
TIMM_TRAIN = (
    "model,train_samples_per_sec,train_step_time,train_batch_size,train_img_size,param_count"
)


def test_columns_begin_as_those_of_timm():
    for work, theirs in (("infer", TIMM_INFER), ("train", TIMM_TRAIN)):
        assert ",".join(bench.columns([work])).startswith(theirs + f",{work}_compile_time")
    both = bench.columns(["infer", "train"])
    assert len(set(both)) == len(both)
    assert {*TIMM_INFER.split(","), *TIMM_TRAIN.split(",")} < set(both)


def test_a_table_of_lenet5(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(bench, "measure_roofs", lambda dtype: bench.Roofs(1e12, 1e10))
    out = tmp_path / "new" / "bench.csv"
    assert cli.main(["bench", "lenet5", "--batch-size", "2", "--out", str(out)]) == 0
    with out.open() as file:
        (row,) = csv.DictReader(file)
    assert list(row) == bench.columns(["infer", "train"])
    # A CPU does not count its joules.
    assert {key for key in row if not row[key]} == {
        "infer_joules_per_1000",
        "train_joules_per_1000",
    }
    number = {key: float(value) for key, value in row.items() if value[:1].isdigit()}
    assert number["param_count"] == pytest.approx(0.061706)
    assert number["infer_gmacs"] == pytest.approx(416_520e-9, rel=1e-4)
    # 28x28x6 and 10x10x16 of the convolutions, 120, 84 and 10 of the dense layers.
    assert number["infer_macts"] == pytest.approx(6518e-6, rel=1e-4)
    for work, passes in (("infer", 1), ("train", 3)):
        assert number[f"{work}_batch_size"] == 2
        assert number[f"{work}_img_size"] == 32
        seconds = number[f"{work}_step_time"] / 1e3
        assert number[f"{work}_samples_per_sec"] == pytest.approx(2 / seconds, rel=1e-3)
        flops = 2 * 416_520 * 2 * passes
        assert number[f"{work}_flops_per_sec"] == pytest.approx(flops / seconds, rel=1e-3)
        # Parameters, images and outputs of layers once, at 1e10 bytes a second, against the time.
        moved = 4 * (61_706 + 2 * (1024 + 6518)) * passes
        share = max(flops / 1e12, moved / 1e10) / seconds
        assert number[f"{work}_utilisation"] == pytest.approx(share, rel=1e-3)
        assert row[f"{work}_memory_source"] == "xla_plan"  # a CPU does not count
        # At least the parameters, in training with gradients' momentum too.
        assert number[f"{work}_peak_memory"] > 61_706 * 4 * (1 if work == "infer" else 2)


def test_more_than_the_roofline_is_explained():
    row = {
        "model": "lenet5", "infer_samples_per_sec": 1.0, "infer_step_time": 1.0,
        "infer_batch_size": 1, "infer_compile_time": 1.0, "infer_flops_per_sec": 1.0,
    }  # fmt: skip
    assert bench._line(row | {"infer_utilisation": 0.5}, "infer").endswith("50% of the roofline")
    beyond = bench._line(row | {"infer_utilisation": 1.3}, "infer")
    assert beyond.endswith("130% of the roofline, more than the product and copy that made it")


@pytest.mark.parametrize(
    "error", [MemoryError(), jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")]
)
def test_the_batch_is_halved_until_it_fits(error):
    tried = []

    def attempt(batch_size, limit):
        tried.append(batch_size)
        if batch_size > limit:
            raise error
        return batch_size

    assert bench.with_halved_batch(lambda n: attempt(n, 20), 100) == 12
    assert tried == [100, 50, 25, 12]
    with pytest.raises(MemoryError, match="a batch of one image"):
        bench.with_halved_batch(lambda n: attempt(n, 0), 4)


def test_a_batch_that_memory_cannot_hold_is_halved_before_it_is_made(monkeypatch):
    monkeypatch.setattr(bench, "available", lambda: 2 * 4 * 1024 * 5)
    monkeypatch.setattr(bench, "planned_bytes", lambda program: 1)
    settings = bench.Settings("fp32", 10**12, 0, 1)
    row = bench.measure("lenet5", "infer", settings, bench.Roofs(1e12, 1e10))
    assert row["infer_batch_size"] == 3  # of 10**12, halved until at most 5
    monkeypatch.setattr(bench, "planned_bytes", lambda program: 10**9)
    with pytest.raises(MemoryError, match="a batch of one image"):
        bench.measure("lenet5", "infer", settings, bench.Roofs(1e12, 1e10))


def test_other_errors_are_not_taken_for_lack_of_memory():
    def broken(batch_size):
        raise jax.errors.JaxRuntimeError("INTERNAL: no")

    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        bench.with_halved_batch(broken, 4)


def test_a_model_that_does_not_fit_leaves_the_others(monkeypatch, tmp_path, capsys):
    def measure(name, work, settings, roofs):
        if name == "vgg16":
            raise MemoryError("too large")
        return {
            "model": name, "infer_samples_per_sec": 1.0, "infer_step_time": 1.0,
            "infer_batch_size": 1, "infer_compile_time": 1.0, "infer_flops_per_sec": 1.0,
        }  # fmt: skip

    monkeypatch.setattr(bench, "measure_roofs", lambda dtype: bench.Roofs(1.0, 1.0))
    monkeypatch.setattr(bench, "measure", measure)
    out = tmp_path / "b.csv"
    assert cli.main(["bench", "vgg16", "lenet?", "--infer", "--out", str(out)]) == 1
    assert "vgg16: too large" in capsys.readouterr().err
    with out.open() as file:
        assert [row["model"] for row in csv.DictReader(file)] == ["lenet5"]


@pytest.fixture
def clock(monkeypatch):
    """A list whose sum is the time on the clock of budgets; what passes is appended."""
    passed = [0.0]
    monkeypatch.setattr(budget.time, "monotonic", lambda: sum(passed))
    return passed


def pretend(monkeypatch, clock, seconds, error=None, fails=()):
    """Replaces what is measured: it takes the given seconds of each kind of work, or fails."""

    def measure(name, work, settings, roofs):
        clock.append(seconds[work])
        if (name, work) in fails:
            raise error
        figures = ("samples_per_sec", "step_time", "batch_size", "compile_time", "flops_per_sec")
        return {"model": name} | {f"{work}_{key}": 1.0 for key in figures}

    monkeypatch.setattr(bench, "measure_roofs", lambda dtype: bench.Roofs(1.0, 1.0))
    monkeypatch.setattr(bench, "measure", measure)


def measured(out):
    with out.open() as file:
        rows = list(csv.DictReader(file))
    return [
        (row["model"], bool(row["infer_step_time"]), bool(row["train_step_time"])) for row in rows
    ]


@pytest.mark.parametrize(
    ("seconds", "works", "left_out"),
    [
        (1e9, "11 11 11", ""),
        # The first measurement is begun in any time, and finished.
        (1, "10", "lenet5 train, alexnet infer, alexnet train, vgg11 infer, vgg11 train"),
        # 10 s pass for each inference and 20 for each training step.
        (25, "11", "alexnet infer, alexnet train, vgg11 infer, vgg11 train"),
        (45, "11 10", "alexnet train, vgg11 infer, vgg11 train"),
        (55, "11 10 10", "alexnet train, vgg11 train"),
        (61, "11 11", "vgg11 infer, vgg11 train"),
    ],
)
def test_what_does_not_fit_into_the_budget_is_left_out(
    seconds, works, left_out, monkeypatch, clock, tmp_path, capsys
):
    pretend(monkeypatch, clock, {"infer": 10, "train": 20})
    names, out = ("lenet5", "alexnet", "vgg11"), tmp_path / "b.csv"
    assert cli.main(["bench", *names, "--budget", str(seconds), "--out", str(out)]) == 0
    done = [(n, w[0] == "1", w[1] == "1") for n, w in zip(names, works.split(), strict=False)]
    assert measured(out) == done
    lines = [line for line in capsys.readouterr().out.splitlines() if "left out" in line]
    expected = f"left out, for lack of time in {seconds:g} s: {left_out}"
    assert lines == ([expected] if left_out else [])


def test_a_failure_of_the_compiler_leaves_the_others_and_what_is_done(
    monkeypatch, clock, tmp_path, capsys
):
    error = jax.errors.JaxRuntimeError("INTERNAL: no algorithm\nworked")
    pretend(monkeypatch, clock, {"infer": 1, "train": 1}, error, {("alexnet", "train")})
    out = tmp_path / "b.csv"
    assert cli.main(["bench", "lenet5", "alexnet", "vgg11", "--out", str(out)]) == 1
    assert measured(out) == [
        ("lenet5", True, True),
        ("alexnet", True, False),
        ("vgg11", True, True),
    ]
    assert capsys.readouterr().err == "jaxcnn: alexnet: INTERNAL: no algorithm (train)\n"


def test_an_interruption_leaves_what_is_done(monkeypatch, clock, tmp_path):
    pretend(monkeypatch, clock, {"infer": 1, "train": 1}, KeyboardInterrupt, {("alexnet", "train")})
    out = tmp_path / "b.csv"
    assert cli.main(["bench", "lenet5", "alexnet", "vgg11", "--out", str(out)]) == 130
    assert measured(out) == [("lenet5", True, True), ("alexnet", True, False)]


def test_bad_input(tmp_path, capsys):
    occupied = tmp_path / "file"
    occupied.write_text("")
    for args, named in (
        (("lenet6", "--out", str(tmp_path / "b.csv")), "did you mean lenet5"),
        (("lenet5", "--out", str(occupied / "b.csv")), "b.csv: cannot be written"),
        (("lenet5", "--out", str(tmp_path)), "cannot be written"),
        (("lenet5", "--batch-size", "0"), "--batch-size 0: must be at least 1"),
        (("lenet5", "--dtype", "fp8"), "--dtype"),
        (("lenet5", "--budget", "0"), "--budget 0: must be a positive number of seconds"),
        (("lenet5", "--budget", "-2.5"), "--budget -2.5: must be a positive number of seconds"),
        (("lenet5", "--budget", "nan"), "--budget nan: must be a positive number of seconds"),
        (("lenet5", "--budget", "1e999"), "--budget inf: must be a positive number of seconds"),
        (("lenet5", "--budget", "soon"), "--budget: must be a number or None, got 'soon'"),
        (("lenet6", "--layers", "--out", str(tmp_path / "b.csv")), "did you mean lenet5"),
        (("lenet5", "--layers", "--out", str(tmp_path)), "cannot be written"),
    ):
        assert cli.main(["bench", *args]) == 2
        err = capsys.readouterr().err
        assert err.startswith("jaxcnn: error: ")
        assert err.count("\n") == 1
        assert named in err
    assert not (tmp_path / "b.csv").exists()


def test_random_variables_keep_the_signal():
    """No network is timed on zeros or on numbers that overflow."""
    model = create_model("resnet20", num_classes=10)
    images, _ = bench.random_batch(2, (32, 32, 3), 10)
    variables = bench.random_variables(model, (32, 32, 3))
    logits = jnp.asarray(model.apply(variables, images, train=False))
    assert 1e-3 < float(jnp.abs(logits).mean()) < 1e3


def test_models_of_pixels_are_measured_on_labels_of_pixels():
    images, labels = bench.random_batch(2, (8, 6, 1), 2, per_pixel=True)
    assert images.shape == (2, 8, 6, 1)
    assert labels.shape == (2, 8, 6)
    assert set(labels.flat) == {0, 1}
