"""Other tasks than classification: from a file or arrays to a trained, compared, explained run."""

import json
import re
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from sklearn import metrics as sk

import jaxcnn
from jaxcnn.config import (
    Augment,
    Comparison,
    Data,
    Experiment,
    Model,
    Optim,
    Schedule,
    Task,
    Train,
    brought,
)
from jaxcnn.data import own
from jaxcnn.errors import InputError, Stopped
from jaxcnn.learning import run_folder
from jaxcnn.runs import group
from jaxcnn.tasks import BaseTask, Classification, Metric
from tests.test_brought import command, killed_and_whole, summary

ROOT = Path(__file__).parents[1]
SLOW = pytest.mark.slow
UNET = Model("unet", {"widths": (8, 16), "batch_norm": True, "dropout": 0.0})


class Pixels(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, x, *, train=False):
        return nn.Conv(self.num_classes, (3, 3))(x)


class Small(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.relu(nn.Conv(8, (3, 3))(x))
        x = nn.relu(nn.Dense(32)(x.reshape(len(x), -1)))
        return nn.Dense(self.num_classes)(x)


def bars(n, seed):
    """Noise, in which any of four quarters may be bright; says which."""
    rng = np.random.default_rng(seed)
    quarters = rng.integers(0, 2, (n, 4))
    bright = quarters.reshape(n, 2, 2).repeat(6, axis=1).repeat(6, axis=2)
    return (rng.integers(0, 60, (n, 12, 12)) + 150 * bright).astype(np.uint8), quarters


def squares(n, seed):
    """A square on noise, of one of two colours: images, and the class of each pixel."""
    rng = np.random.default_rng(seed)
    images, maps = rng.integers(0, 60, (n, 16, 16, 3)), np.zeros((n, 16, 16), int)
    for image, labels in zip(images, maps, strict=True):
        (top, left), side, colour = rng.integers(0, 10, 2), rng.integers(4, 7), rng.integers(0, 2)
        image[top : top + side, left : left + side, 2 * colour] = 250
        labels[top : top + side, left : left + side] = 1 + colour
    return images.astype(np.uint8), maps


def train(task, make, model, epochs, data_size=None, **given):
    """Trains on arrays with a rate that suits every task here."""
    optim = Optim("adamw", peak_lr=5e-3)
    sections = {"optim": optim, "schedule": Schedule(warmup_epochs=1), **given}
    data = make(600, 0), make(200, 1)
    if data_size is not None:
        fitted = Data(image_size=data_size, fit="resize")
        sections["experiment"] = Experiment(data=fitted)
    return jaxcnn.train(
        model=model, task=task, data=data[0], test=data[1], epochs=epochs, quiet=True, **sections
    )


def test_any_number_of_labels_is_learned():
    run = train("multilabel", bars, Small, 4)
    images, labels = bars(200, 1)
    p = run.predict(images)
    assert p.shape == (200, 4)
    p = np.clip(p.astype(np.float64), 1e-7, 1 - 1e-7)
    want = sk.average_precision_score(labels, np.floor(np.log(p / (1 - p)) * 128))
    assert run.result["test_map"] == pytest.approx(want, abs=2e-3)
    assert run.result["test_map"] > 0.99  # the quarters are plain to see
    assert repr(run).endswith(f"test mAP {run.result['test_map']:.2%}>")
    assert run.evaluate(tta="flip")["test_map"] > 0.5


@pytest.mark.parametrize(
    "form", ["whole numbers", *(pytest.param(form, marks=SLOW) for form in ("floats", "pairs"))]
)
def test_numbers_are_learned_in_the_unit_of_the_labels(form):
    """Their mean is far from 0, which the network does not see."""

    def weights(n, seed):
        images, quarters = bars(n, seed)
        pairs = 1000 + 10.0 * (quarters @ np.array([[1, 0], [2, 1], [4, 3], [8, 5]]))
        of_form = {"pairs": pairs, "floats": pairs[:, 0] + 0.5, "whole numbers": pairs[:, 0] - 950}
        return images, of_form[form].astype(int if form == "whole numbers" else float)

    run = train("regression", weights, Small, 12)
    images, labels = weights(200, 1)
    guess = run.predict(images)
    assert guess.shape == (200, 2 if form == "pairs" else 1)
    truth = labels.reshape(200, -1)
    assert run.result["test_r2"] == pytest.approx(sk.r2_score(truth, guess), abs=1e-3)
    assert run.result["test_mae"] == pytest.approx(np.abs(truth - guess).mean(), rel=1e-3)
    assert run.result["test_r2"] > 0.95
    assert run.classes == (("0", "1") if form == "pairs" else ("value",))
    again = jaxcnn.open(run.folder, model=Small, data=weights(600, 0), test=weights(200, 1))
    assert again.evaluate()["test_mae"] == run.result["test_mae"]


@pytest.mark.slow
def test_pixels_are_learned_and_iou_is_that_of_numpy(tmp_path):
    run = train(
        "segmentation", squares, UNET, 6, augment=Augment(flip=True, crop_padding=2), name="squares"
    )
    images, maps = squares(200, 1)
    predicted = run.predict(images)
    assert predicted.shape == maps.shape
    each = [
        ((predicted == c) & (maps == c)).sum() / ((predicted == c) | (maps == c)).sum()
        for c in range(3)
    ]
    assert run.result["test_iou"] == pytest.approx(np.mean(each), abs=1e-9)
    assert run.result["test_iou"] > 0.9
    assert run.result["test_pixels"] == pytest.approx((predicted == maps).mean())
    assert (run.folder / "confusion.png").exists()

    for name in ("a", "b"):
        Image.fromarray(images[0]).save(tmp_path / f"{name}.png")
    said = command(tmp_path, "predict", str(run.folder), "a.png", "--out", "maps")
    shares = np.bincount(predicted[0].ravel(), minlength=3) / 256
    order = [c for c in np.argsort(-shares, kind="stable") if shares[c] > 0]
    assert said == f"a.png: {', '.join(f'{c} {shares[c]:.4f}' for c in order)}\n"
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "maps" / "a.png")), predicted[0])
    (answers,) = json.loads(command(tmp_path, "predict", str(run.folder), "b.png", "--json"))
    assert [row["share of pixels"] for row in answers["classes"]] == pytest.approx(shares[order])

    with pytest.raises(InputError, match="--tta: must be none"):
        run.evaluate(tta="flip")
    command(tmp_path, "viz", str(run.folder), "--image", "a.png")
    assert (run.folder / "viz" / "label_maps.png").exists()
    command(tmp_path, "report", str(run.folder), "--out", "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "test mean IoU" in page
    assert "top-1" not in page


def test_masks_and_numbers_of_photos_come_from_a_table(tmp_path):
    images, maps = squares(40, 0)
    rows, numbers = ["file,mask"], ["file,label"]
    for i, (image, labels) in enumerate(zip(images, maps, strict=True)):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
        Image.fromarray(labels.astype(np.uint8)).save(tmp_path / f"mask{i}.png")
        rows.append(f"{i}.png,mask{i}.png")
        numbers.append(f"{i}.png,{(labels > 0).mean():.3f}")
    (tmp_path / "masks.csv").write_text("\n".join(rows))
    (tmp_path / "numbers.csv").write_text("\n".join(numbers))
    short = Experiment(schedule=Schedule(warmup_epochs=0), train=Train(epochs=1))
    for table, model, task, metric in (
        ("masks", Model(Pixels), "segmentation", "test_iou"),
        ("numbers", Model("mlp"), "regression", "test_r2"),
    ):
        data = Data(f"csv:{tmp_path / table}.csv", batch_size=8, image_size=32, fit="resize")
        experiment = replace(short, data=data, model=model, task=Task(task))
        result = group.train_one(experiment, tmp_path / table)
        assert metric in result
        assert json.loads((tmp_path / table / "dataset.json").read_text())["test_examples"] == 8


# --------------------------------------------------------------------------- a task of one's own


def direction():
    """The example of the documentation, with data and a network."""
    text = (ROOT / "docs" / "tasks.md").read_text()
    (block,) = [b for b in re.findall(r"```python\n(.*?)```", text, re.S) if "BaseTask" in b]
    before, after = block.split("def config():")
    return f"""{before}
import flax.linen as nn
import numpy as np
from jaxcnn import Train, from_arrays

def draw(n, seed):
    rng = np.random.default_rng(seed)
    angle = rng.uniform(0, 360, n)
    y, x = np.mgrid[-5.5:6.5, -5.5:6.5]
    t = np.deg2rad(angle)[:, None, None]
    hand = (x * np.cos(t) + y * np.sin(t) > 0) & (np.abs(y * np.cos(t) - x * np.sin(t)) < 2)
    return (200 * hand + rng.integers(0, 50, (n, 12, 12))).astype(np.uint8), angle

def load():
    return from_arrays(draw(500, 0), draw(100, 1))

class Net(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.relu(nn.Conv(8, (3, 3), strides=2)(x))
        return nn.Dense(2)(nn.relu(nn.Dense(32)(x.reshape(len(x), -1))))

def config():{after}"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """An empty folder with nothing but the file, in which it was trained."""
    folder = tmp_path_factory.mktemp("task")
    (folder / "direction.py").write_text(direction())
    said = command(folder, "train", "direction.py", "--data.validation", "0.2")
    assert "test error in degrees" in said
    return folder


def test_an_own_task_is_trained_recorded_and_chosen_by(made):
    run = made / "runs" / "direction-seed0"
    result = summary(run)
    assert result["test_degrees"] < 20  # by chance it is 90
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert result["best_val_degrees"] == min(line["val_degrees"] for line in lines)
    about = json.loads((run / "task.json").read_text())
    assert (about["name"], about["metrics"][0]["higher_is_better"]) == (
        "direction:Direction",
        False,
    )
    assert json.loads((run / "config.json").read_text())["task"]["name"] == about["name"]
    assert json.loads((run / "brought.json").read_text())["task.name"]["file"] == "direction.py"


def test_it_is_evaluated_asked_shown_and_reported(made):
    run, given = "runs/direction-seed0", ("--from", "direction.py")
    reached = f"error in degrees {summary(made / run)['test_degrees']:.5g}"
    assert reached in command(made, "eval", run, *given)
    assert "give it again: --from direction.py" in command(made, "eval", run, code=2)
    command(made, "viz", run, *given)
    Image.new("L", (12, 12)).save(made / "a.png")
    assert re.fullmatch(r"a\.png: value -?[\d.]+\n", command(made, "predict", run, "a.png", *given))
    command(made, "report", run, "--out", "page.html")  # which needs no task
    page = (made / "page.html").read_text()
    (shown,) = re.findall(r"<td>test error in degrees</td><td>([\d.]+)", page)
    assert float(shown) == pytest.approx(summary(made / run)["test_degrees"], rel=1e-3)
    assert "<td>validation error in degrees</td>" in page
    assert "top-1" not in page


@pytest.mark.slow
def test_sweeps_and_comparisons_take_the_lowest(made):
    out = command(*(made, "sweep", "direction.py", "optim.peak_lr=0.0001,0.1", "train.epochs=2"))
    rows = json.loads((made / "runs/sweep_direction/sweep.json").read_text())
    first, last = rows["trials"]
    assert first["val_degrees"] < last["val_degrees"]
    assert rows["selected_by"] == "degrees"
    values = f"optim.peak_lr={first['values']['optim.peak_lr']}, train.epochs=2"
    assert f"best: {first['trial']} ({values}), validation error in degrees" in out
    tested = f", test error in degrees {first['test_degrees']:.4f}, chosen on the validation set"
    assert tested in out
    (made / "both.py").write_text(
        "import dataclasses\nfrom jaxcnn import Comparison, Optim, Train\n"
        + (made / "direction.py").read_text().replace("def config", "def one")
        + "\ndef config():\n    base = dataclasses.replace(one(), train=Train(epochs=2))\n"
        "    arms = [dataclasses.replace(base, name=f'lr{i}', optim=Optim(peak_lr=10.0**-i))\n"
        "            for i in (4, 1)]\n    return Comparison(tuple(arms), seeds=2)\n"
    )
    out = command(made, "compare", "both.py")
    found = json.loads((made / "runs/both/comparison.json").read_text())
    slow, fast = (result["reached"]["mean"] for result in found["results"])
    assert fast < slow
    assert found["results"][1]["difference"]["mean"] == pytest.approx(fast - slow)
    page = (made / "runs/both/report.html").read_text()
    assert "Lowest test error in degrees: <strong>lr1</strong>" in page
    assert "top-1" not in page + out
    said = command(made, "train", "direction.py", "--seeds", "2", "--train.epochs", "1")
    assert re.search(r"test error in degrees [\d.]+, standard deviation .* \(2 seeds\)", said)


@pytest.mark.slow
def test_killed_it_goes_on_with_the_same_bits(made, tmp_path):
    argv = ("train", str(made / "direction.py"), "--train.epochs", "40", "--workdir")
    killed, whole = killed_and_whole(tmp_path, argv, "epoch    3")
    for key in ("params_sha256", "state_sha256", "test_degrees", "test_loss"):
        assert killed[key] == whole[key]


@pytest.mark.parametrize(
    "task",
    ["multilabel", *(pytest.param(task, marks=SLOW) for task in ("segmentation", "regression"))],
)
def test_stopped_every_task_goes_on_with_the_same_bits(tmp_path, task):
    class Stop(group.Listener):
        def progress(self, progress):
            if progress.step >= 12:
                signal.raise_signal(signal.SIGTERM)

    make = {"multilabel": bars, "regression": bars, "segmentation": squares}[task]
    arrays = [make(160, 0), make(40, 1)]
    narrow = Model("unet", {**UNET.options, "widths": (2, 4)})
    dataset = jaxcnn.from_arrays(*arrays)
    name = brought.know(lambda: dataset, f"arrays:{task}", has_source=False)
    experiment = Experiment(
        data=Data(name, batch_size=16, validation=0.2),
        model=narrow if task == "segmentation" else Model("mlp"),
        task=Task(task),
        schedule=Schedule(warmup_epochs=0),
        optim=Optim(peak_lr=0.01),
        train=Train(epochs=3, patience=3),
    )
    whole = group.train_one(experiment, tmp_path / "whole")
    with pytest.raises(Stopped):
        group.train_one(experiment, tmp_path / "a", Stop())
    ended = group.train_one(experiment, tmp_path / "a")
    same = {k for k in whole if k.endswith(("sha256", "loss")) or k.startswith(("best", "test_"))}
    assert {k: ended[k] for k in same} == {k: whole[k] for k in same}
    assert run_folder.judged(tmp_path / "a").metrics[0].name in {"map", "r2", "iou"}


class Own(BaseTask):
    """A task of which each test below spoils something."""

    metrics = (Metric("far", "far off"),)

    def loss(self, outputs, batch):
        return (outputs[:, 0] - batch["label"]) ** 2

    def scores(self, outputs, batch):
        return {"far": jnp.abs(outputs[:, 0] - batch["label"])}


SPOILED = [
    ({"loss": BaseTask.loss}, r"must have a method loss\(outputs, batch\)"),
    ({"loss": lambda self, o, b: o.mean()}, r"loss must be a number .* is float32 of shape \(\)"),
    ({"loss": lambda self, o, b: o}, r"loss must be a number .* is float32 of shape \(2, 10\)"),
    ({"loss": lambda self, o, b: None}, "loss must be a number for each example"),
    ({"loss": lambda self, o, b: o["x"]}, r"task\.name='.*Spoiled': .*Error: "),
    ({"scores": lambda self, o, b: {"far": o}}, r"far must be a number for each example"),
    ({"scores": lambda self, o, b: {}}, "must give scores, or sums and means, for its metric far"),
    (
        {"output_shape": lambda self, *_: (3,)},
        r"returns outputs of shape \(n, 10\), must be .* 3\)",
    ),
    ({"metrics": (Metric("loss", "l"),)}, "with names of their own"),
    ({"metrics": Metric("far", "f")}, "metrics must be a tuple"),
    ({"metrics": (Metric("far", "f", low="a"),)}, "bounds of far must be numbers, hold 'a'"),
    ({"metrics": (Metric("far", "f", of_examples=True),)}, "of_examples of far must be False"),
    ({"scores": lambda self, o, b: [o]}, "scores must return a dict, returns list"),
    ({"answers": lambda self, o: o.argmax(-1)}, r"answers must be of shape \(n, names\), is int32"),
    ({"means": lambda self, s: {"loss": 1.0, "far": True}}, "must return floats, far is True"),
    ({"means": lambda self, s: {"loss": s["x"]}}, "Error: 'x'"),
    ({"sums": lambda self, o, b: {"loss": o.sum()}}, "sums must hold count"),
    ({"zero_sums": lambda self: {}}, "zero_sums must have the names and shapes of training_sums"),
    ({"fit": lambda self, labels: {"a": [object()]}}, r"task\.name='.*Spoiled': ValidationError"),
    ({"fit": lambda self, labels: {"a": 1.0}}, r"cannot be made \(TypeError: .*takes no arguments"),
    ({"check_labels": lambda self, *_: 1 / 0}, "ZeroDivisionError"),
    ({"__hash__": None}, "must be hashable"),
]


@pytest.mark.parametrize(("spoil", "said"), SPOILED)
def test_what_is_no_task_is_said_in_one_line_before_anything_is_compiled(spoil, said, tmp_path):
    spoiled = type("Spoiled", (Own,), {**spoil, "__module__": __name__})
    experiment = Experiment(model=Model("mlp"), task=Task(spoiled))
    with pytest.raises(InputError, match=said) as error:
        group.train_one(experiment, tmp_path / "a")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "a").exists()


REFUSED = [
    (
        {"data": Data("shapes"), "task": Task("segmentation")},
        "labels must be whole numbers of shape",
    ),
    ({"data": Data("shapes_masks")}, r"must be whole numbers of shape \(n,\), are int32 of shape"),
    ({"task": Task("multilabel")}, r"labels must be whole numbers of shape \(n, 10\)"),
    (
        {"data": Data("shapes"), "task": Task("regression")},
        "are no numbers, but the classes circle",
    ),
    ({"model": UNET}, r"returns outputs of shape \(n, 8, 8, 10\), must be \(n, 10\)"),
    (
        {"data": Data("shapes_masks"), "task": Task("segmentation"), "model": Model("lenet5")},
        r"returns outputs of shape \(n, 11\), must be \(n, 32, 32, 11\)",
    ),
    (
        {
            "data": Data("shapes_masks", examples=(64, 16)),
            "task": Task("segmentation"),
            "model": UNET,
            "augment": Augment(mixup=0.2),
        },
        r"augment\.mixup=0\.2: must be 0\.0 where labels are maps",
    ),
    ({"task": Task("nets:Mine")}, "was brought by a user, and is known here by name alone"),
]


@pytest.mark.parametrize(("given", "said"), REFUSED)
def test_data_networks_and_tasks_that_do_not_fit_are_refused(given, said, tmp_path):
    experiment = replace(Experiment(train=Train(epochs=1)), **given)
    with pytest.raises(InputError, match=said) as error:
        group.train_one(experiment, tmp_path / "a")
    assert "\n" not in str(error.value)


def test_what_a_task_is_judged_by_is_not_guessed(made, tmp_path):
    """Without task.json, or with that of another task, nothing is evaluated or asked."""
    shutil.copytree(made / "runs" / "direction-seed0", tmp_path / "run")
    file = tmp_path / "run" / "task.json"
    about = json.loads(file.read_text())
    given = ("--from", str(made / "direction.py"))
    for content, said in (
        (None, "task.json: no such file"),
        (about | {"name": "regression"}, "name='regression': must be 'direction:Direction'"),
        (about | {"metrics": []}, "metrics=[]: must be a list of metrics"),
        (about | {"fitted": {"mean": [0.0]}}, "cannot be made"),
    ):
        file.unlink(missing_ok=True)
        if content:
            file.write_text(json.dumps(content))
        assert said in command(tmp_path, "eval", "run", *given, code=2)


def test_a_classifier_with_a_loss_of_ones_own_needs_no_more(tmp_path):
    class Focal(Classification):
        def loss(self, outputs, batch):
            losses = super().loss(outputs, batch)
            return (1 - jnp.exp(-losses)) ** 2 * losses

    run = train(Focal, lambda n, seed: (bars(n, seed)[0], bars(n, seed)[1][:, 0]), Small, 3)
    assert run.result["test_top1"] > 0.95
    assert "test_top5" not in run.result


def test_maps_of_an_own_task_are_fitted_with_their_images():
    class Copy(BaseTask):
        def output_shape(self, names, size):
            return (*size, len(names))

        def loss(self, outputs, batch):
            return ((outputs[..., 0] - batch["label"]) ** 2).mean(axis=(1, 2))

    run = train(Copy, squares, Pixels, 1, data_size=24)
    assert run.predict(squares(2, 3)[0]).shape == (2, 24, 24, 3)
    with pytest.raises(InputError, match="--tta: must be none"):
        run.evaluate(tta="flip")


def test_a_map_does_not_take_the_place_of_an_image(tmp_path):
    run = train("segmentation", squares, UNET, 1)
    Image.fromarray(squares(1, 0)[0][0]).save(tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    said = command(tmp_path, "predict", str(run.folder), "a.png", "--out", ".", code=2)
    assert "must be another folder, since a.png is an image" in said
    assert (tmp_path / "a.png").read_bytes() == before
    Image.fromarray(squares(1, 0)[0][0]).resize((40, 24)).save(tmp_path / "b.png")
    command(tmp_path, "predict", str(run.folder), "b.png", "--out", "maps")
    with Image.open(tmp_path / "maps" / "b.png") as found:
        assert found.size == (40, 24)  # of the image's own size


def test_what_cannot_be_read_is_not_learned_from():
    """Nor does it count for the mean of the labels."""

    class Items:
        def __len__(self):
            return 128

        def __getitem__(self, i):
            if i >= 100 and i % 7 == 0:
                raise OSError("broken")
            return np.full((8, 8), i, np.uint8), 1000 + i % 3

    data = Data(labels="numbers", streaming=True, workers=0, batch_size=8)
    made = own.from_source(Items(), Items(), data)
    assert made.classes == ("value",)
    fitted = jaxcnn.tasks.Regression().fit(made.train.read_labels)
    assert fitted["mean"][0] == pytest.approx(1001, abs=0.1)
    assert fitted["std"][0] == pytest.approx(0.8, abs=0.1)


def test_labels_of_a_stream_are_checked_too(tmp_path):
    class Items:
        def __len__(self):
            return 40

        def __getitem__(self, i):
            return np.zeros((8, 8), np.uint8), np.array([0, 7 if i == 33 else 1])

    def load(data):
        return own.from_source(Items(), Items(), data)

    data = Data(load, streaming=True, workers=0, batch_size=8)
    experiment = Experiment(data=data, task=Task("multilabel"), model=Model("mlp"))
    with pytest.raises(InputError, match="must be 0 or 1 for each of the 2 names"):
        group.train_one(experiment, tmp_path / "a")


def test_masks_of_0_and_255_are_not_taken_for_one_class():
    def masks(n, seed):
        images, maps = squares(n, seed)
        return images, np.where(maps > 0, 255, 0)

    with pytest.raises(InputError, match=r"hold nothing but 0 and 255, .* they must be 0 and 1"):
        train("segmentation", masks, UNET, 1)


def test_whole_numbers_are_numbers_wherever_a_task_learns_such(tmp_path):
    """Validation, a test set that is held out, and negative numbers."""

    def ages(n, seed):
        images, quarters = bars(n, seed)
        return images, 7 * quarters.sum(axis=1) - 5

    run = jaxcnn.train(
        model=Small,
        task="regression",
        data=ages(100, 0),
        epochs=1,
        quiet=True,
        workdir=tmp_path / "a",
        train=Train(patience=1),
    )
    assert run.classes == ("value",)
    assert run.experiment.data.labels == "numbers"
    assert run.experiment.data.validation == 0.1


def test_arms_and_trials_are_judged_by_one_task(tmp_path):
    arms = [Experiment(name=name, task=Task(name)) for name in ("classification", "regression")]
    with pytest.raises(InputError, match=r"arms\['regression'\]\.task\.name='regression': must be"):
        Comparison(tuple(arms))
    experiment = str(ROOT / "experiments" / "lenet5_digits.py")
    grid = ("task.name=classification,regression",)
    said = command(tmp_path, "sweep", experiment, *grid, "--workdir", "s", code=2)
    assert "task.name: must be the same in all trials" in said


def test_nothing_outside_the_tasks_speaks_of_top_1():
    """What heads a table is the task's."""
    package = ROOT / "jaxcnn"
    known = {package / "config" / "__init__.py"}  # names the default's metric
    speaking = []
    for file in sorted({*package.rglob("*.py"), *package.rglob("*.html")} - known):
        if "tasks" in file.relative_to(package).parts:
            continue
        code = re.sub(r'""".*?"""', "", file.read_text(), flags=re.S)
        speaking += [str(file)] * bool(re.search(r"top-?1|top-?5|\btask\.name ==", code))
    assert not speaking
