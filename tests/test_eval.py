"""What runs reach on other data, at other sizes and under changes, against figures by hand."""

import csv
import hashlib
import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import pytest
from PIL import Image
from scipy import stats
from sklearn.datasets import load_digits

import jaxcnn
from jaxcnn import cli
from jaxcnn.analysis import robustness as analysis
from jaxcnn.analysis.robustness import Change, Found, Row
from jaxcnn.config import Data, Experiment, Model, Optim, Train
from jaxcnn.data import class_names, corruptions, image_folder, sources
from jaxcnn.data.images import read_image
from jaxcnn.errors import InputError
from jaxcnn.learning import records
from jaxcnn.runs import changed, robustness, trained
from jaxcnn.tasks.classification import TOP1

LAYERS = {"layers": "conv3-8 max2 conv3-16 gap"}
OPTIM = Optim("adamw", peak_lr=0.02)
NAMES = ("zero", "one", "two")


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """Two seeds of a small CNN on digits, and photos of digits with other names and sizes."""
    folder = tmp_path_factory.mktemp("world")
    for seed in (0, 1):
        data = Data("digits", image_size=12, fit="resize", mean=(0.3,), std=(0.4,))
        jaxcnn.train(
            Experiment(name="tiny", data=data, model=Model("sequential", LAYERS), optim=OPTIM),
            epochs=4,
            seed=seed,
            workdir=folder / "runs" / f"seed{seed}",
            quiet=True,
        )
    raw, rng = load_digits(), np.random.default_rng(0)
    for i in range(100):
        if raw.target[i] < 3:
            place = folder / "photos" / NAMES[raw.target[i]]
            place.mkdir(parents=True, exist_ok=True)
            picture = Image.fromarray(np.round(raw.images[i] * (255 / 16)).astype(np.uint8))
            height, width = rng.integers(6, 40, 2)
            picture.resize((int(width), int(height))).convert("RGB").save(place / f"{i}.png")
    (folder / "names.txt").write_text("# comment\nzero = 0\none=1\n\n two = 2 \n")
    return folder


@pytest.fixture
def run(world, tmp_path) -> Path:
    """A copy of the first run."""
    return Path(shutil.copytree(world / "runs" / "seed0", tmp_path / "run"))


def call(capsys, *argv) -> tuple[int, str, str]:
    code = cli.main(list(map(str, argv)))
    out, err = capsys.readouterr()
    return code, out, err


def rows(path: Path) -> list[dict]:
    return json.loads(path.read_text())


def logits_of(folder: Path, prepared: np.ndarray) -> np.ndarray:
    net = trained.restore(folder)
    return np.asarray(net.model.apply(net.variables, jnp.asarray(prepared, jnp.float32)))


def normalised(images: np.ndarray, side: int = 12) -> np.ndarray:
    """Stored digits as the network sees them: resized, then normalised."""
    x = jnp.asarray(images, jnp.float32) / 255
    x = jax.image.resize(x, (len(x), side, side, 1), "bilinear")
    return np.asarray((x - 0.3) / 0.4)


def judged(logits: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Top-1 and cross-entropy by NumPy."""
    logits = logits.astype(np.float64)
    top = logits.max(axis=1, keepdims=True)
    log_p = logits - top - np.log(np.exp(logits - top).sum(axis=1, keepdims=True))
    return (logits.argmax(axis=1) == labels).mean(), -log_p[np.arange(len(labels)), labels].mean()


def wilson(k: int, n: int) -> tuple[float, float]:
    z = stats.norm.ppf(0.975)
    middle, half = (
        k / n + z * z / (2 * n),
        z * math.sqrt(k / n * (1 - k / n) / n + (z / n / 2) ** 2),
    )
    return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


def digits() -> sources.Split:
    return sources.load(Data("digits")).test


# ------------------------------------------------------------------------------ other data


@pytest.mark.slow
def test_the_network_chooses_among_the_classes_that_other_data_have(capsys, world, tmp_path):
    run, out = world / "runs" / "seed0", tmp_path / "found.json"
    asked = ("--data", world / "photos", "--classes", world / "names.txt", "--out", out)
    code, said, err = call(capsys, "eval", run, *asked)
    assert (code, err) == (0, "")
    assert "photos: has 3 of the 10 classes, among which the networks choose: 0, 1, 2\n" in said
    (found,) = rows(out)
    pictures = sorted((world / "photos").rglob("*.png"))
    labels = np.array([NAMES.index(path.parent.name) for path in pictures])
    stored = np.stack([read_image(path, (8, 8, 1), "resize") for path in pictures])
    logits = logits_of(run, normalised(stored))
    top1, loss = judged(logits[:, :3], labels)
    assert top1 != judged(logits, labels)[0]  # the restriction matters here
    assert found["examples"] == len(labels)
    assert found["top1"] == pytest.approx(top1)
    assert found["loss"] == pytest.approx(loss, rel=1e-4)
    assert (found["low"], found["high"]) == pytest.approx(
        wilson(round(top1 * len(labels)), len(labels))
    )
    assert "top5" not in found


def test_a_stream_of_a_held_out_split_is_evaluated_alike(capsys, world, tmp_path, monkeypatch):
    run, out = world / "runs" / "seed0", tmp_path / "found.json"
    shutil.copytree(world / "photos", tmp_path / "split" / "val")
    mapped = ("--classes", world / "names.txt", "--out", out)
    found = []
    for streamed in (2**31, 0):
        monkeypatch.setattr(sources, "STREAMED_BYTES", streamed)
        assert call(capsys, "eval", run, "--data", tmp_path / "split", *mapped)[0] == 0
        found.append(rows(out))
    assert found[0] == found[1]


def test_stored_images_of_another_size_are_fitted_as_in_prediction(capsys, world, tmp_path):
    run, out = world / "runs" / "seed0", tmp_path / "found.csv"
    x = np.kron(digits().images[:40], np.ones((1, 3, 3, 1), np.uint8))
    y = digits().labels[:40]
    np.savez(tmp_path / "large.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    code, _, err = call(
        capsys, "eval", run, "--data", f"npz:{tmp_path}/large.npz", "digits", "--out", out
    )
    assert (code, err) == (0, "")
    large, own = csv.DictReader(out.read_text().splitlines())
    predicted = jaxcnn.open(run).predict(x).argmax(axis=1)
    assert float(large["top1"]) == pytest.approx((predicted == y).mean())
    top1 = judged(logits_of(run, normalised(digits().images)), digits().labels)[0]
    assert float(own["top1"]) == pytest.approx(top1)


@pytest.mark.parametrize(
    ("theirs", "ours", "file", "used", "expected"),
    [
        (["a", "b"], ["b", "a"], None, (), [1, 0]),
        (["T shirt", "ankle-boot"], ["Ankle_Boot", "t-shirt"], None, (), [1, 0]),
        (["Crane", "crane"], ["crane", "Crane"], None, (), [1, 0]),
        (["a", "x"], ["a"], None, (0,), [0, -1]),
        (["n01", "n02", "n03"], ["cat", "dog"], "n01 = cat\nn02=cat\nn03 =", (), [0, 0, -1]),
        (["n01", "n02"], ["cat", "dog"], "dog\ncat\n", (), [1, 0]),
        (["a=b", "c"], ["x", "c"], "a=b = x", (), [0, 1]),
    ],
)
def test_classes_are_found_by_name_or_file(tmp_path, theirs, ours, file, used, expected):
    path = None
    if file is not None:
        path = tmp_path / "names.txt"
        path.write_text(file)
    assert class_names.match(theirs, ours, path, used).tolist() == expected


@pytest.mark.parametrize(
    ("theirs", "ours", "file", "said"),
    [
        (["cta"], ["cat", "dog"], None, "the class 'cta' is none of the run's 2 classes: the near"),
        (["A_b"], ["a b", "a-b"], None, "the class 'A_b' may be 'a b' (class 0) and 'a-b'"),
        (["cat", "Cat"], ["CAT"], None, "classes 'cat' and 'Cat' both match 'CAT'"),
        (["x"], ["cat"], "x = cta", "line 1: 'cta' is none of the run's classes, perhaps 'cat'"),
        (
            ["abc", "z"],
            ["cat"],
            "abd = cat",
            "line 1: 'abd' is no class of the data, which have 'abc",
        ),
        (["x", "y"], ["cat"], "x = cat\nx =", "line 2: names 'x' a second time"),
        (["x", "y"], ["cat"], "cat\n", "must have lines 'their name = our name', or one of our"),
        (["x", "y"], ["cat"], "x = cat\ny", "line 2: must be 'their name = our name', is 'y'"),
        (["x"], ["cat"], "x =", "no class is left"),
        (["x"], ["cat"], b"\xff\xfe", "cannot be read as lines of names"),
    ],
)
def test_classes_that_do_not_map_are_told(tmp_path, theirs, ours, file, said):
    path = None
    if file is not None:
        path = tmp_path / "names.txt"
        path.write_bytes(file if isinstance(file, bytes) else file.encode())
    with pytest.raises(InputError) as error:
        class_names.match(theirs, ours, path)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


# ------------------------------------------------------------------------------ other sizes


def test_another_size_keeps_the_fit(world):
    run = jaxcnn.open(world / "runs" / "seed0")
    for side in (12, 20):
        found = run.evaluate(image_size=side)
        x = jnp.asarray(digits().images, jnp.float32) / 255
        x = (jax.image.resize(x, (len(x), side, side, 1), "bilinear") - 0.3) / 0.4
        top1, loss = judged(logits_of(run.folder, np.asarray(x)), digits().labels)
        assert found["test_top1"] == pytest.approx(top1)
        assert found["test_loss"] == pytest.approx(loss, rel=1e-4)
    assert run.evaluate(image_size=12)["test_top1"] == run.evaluate()["test_top1"]


@pytest.mark.slow
def test_photos_are_read_anew_for_another_size_at_the_same_crop_ratio(world, tmp_path, monkeypatch):
    photos = tmp_path / "data"
    for split in ("train", "test"):
        shutil.copytree(world / "photos", photos / split)
    data = Data(
        "folder", dir=str(photos), image_size=16, read_size=18, fit="crop", channels=1, batch_size=8
    )
    run = jaxcnn.train(
        Experiment(data=data, model=Model("sequential", LAYERS)), epochs=1, quiet=True
    )
    opened, read = [], image_folder.read_image
    monkeypatch.setattr(
        image_folder, "read_image", lambda path, *args: opened.append(path) or read(path, *args)
    )
    found = run.evaluate(image_size=24)
    pictures = sorted((photos / "test").rglob("*.png"))
    firsts = [photos / split / "one" / "1.png" for split in ("train", "test")]  # looked at before
    assert sorted(opened) == sorted([*pictures, *firsts])
    labels = np.array([run.classes.index(path.parent.name) for path in pictures])
    stored = np.stack([read_image(path, (27, 27, 1), "square") for path in pictures])
    x = jnp.asarray(stored, jnp.float32) / 255  # 24 / 0.875 = 27: the middle 24 pixels of 27
    x = x[:, 2:26, 2:26]
    top1, loss = judged(logits_of(run.folder, np.asarray(x)), labels)
    assert (found["test_examples"], found["test_top1"]) == (len(labels), pytest.approx(top1))
    assert found["test_loss"] == pytest.approx(loss, rel=1e-4)


# ---------------------------------------------------------------------------- changed images


def test_corrupted_images_are_those_of_the_functions_and_a_limit_takes_some_of_them(run):
    kinds = ("fog", "gaussian_noise")
    few = robustness.corrupted(run, kinds, (2, 5), limit=10)
    split = digits()
    chosen = np.sort(np.random.Generator(np.random.PCG64(0)).permutation(360)[:10]).tolist()
    x = jnp.asarray(split.images, jnp.float32) / 255
    x = jax.image.resize(x, (len(x), 12, 12, 1), "bilinear")
    assert few.clean.examples == 10
    by_hand = jax.jit(corruptions.corrupt, static_argnums=2)
    for kind in kinds:
        base = jax.random.fold_in(jax.random.key(changed.SEED), changed.KINDS.index(kind))
        for severity in (2, 5):
            each = [
                by_hand(x[place : place + 1], jax.random.fold_in(base, place), kind, severity)
                for place in chosen
            ]
            logits = logits_of(run, (np.concatenate(each) - 0.3) / 0.4)
            found, labels = few.found[kind][severity], split.labels[chosen]
            right = logits.argmax(axis=1) == labels
            np.testing.assert_array_equal(found.right, right)
            assert found.values["top1"] == pytest.approx(right.mean())
            assert found.values["loss"] == pytest.approx(judged(logits, labels)[1], rel=1e-4)
    whole = robustness.corrupted(run, kinds, (2, 5))
    for kind in kinds:
        np.testing.assert_array_equal(whole.found[kind][5].right[chosen], few.found[kind][5].right)


def test_shifts_are_means_over_four_directions_and_beyond_the_border_is_black(
    capsys, run, tmp_path
):
    out, plot = tmp_path / "found.json", tmp_path / "curves.png"
    code, _, err = call(
        *(capsys, "eval", run, "--shifts", 0, 3, "--scales", 1, "--rotations", 0, 90),
        *("--out", out, "--plot", plot),
    )
    assert (code, err) == (0, "")
    found = {(row["change"], row["level"]): row["top1"] for row in rows(out)}
    split = digits()
    x = (normalised(split.images) * 0.4 + 0.3).astype(np.float32)

    def reached(images: np.ndarray) -> float:
        return judged(logits_of(run, (images - 0.3) / 0.4), split.labels)[0]

    each = []
    for axis, step in ((1, 3), (1, -3), (2, 3), (2, -3)):
        moved = np.roll(x, step, axis)
        gone = slice(0, 3) if step > 0 else slice(-3, None)
        moved[(slice(None),) * axis + (gone,)] = 0
        each.append(reached(moved))
    assert found["shift", 3] == pytest.approx(np.mean(each), abs=1e-6)
    turned = [reached(np.rot90(x, k, (1, 2))) for k in (1, 3)]
    assert found["rotate", 90] == pytest.approx(np.mean(turned), abs=1e-6)
    clean = found["none", 0]
    assert clean == pytest.approx(reached(x))
    assert found["shift", 0] == found["rotate", 0] == found["scale", 1] == pytest.approx(clean)
    with Image.open(plot) as picture:
        assert picture.width > 3 * picture.height  # three charts


def test_views_of_changed_images_are_averaged(run):
    network = trained.restore(run)
    question = robustness.Question(changes=[Change("contrast", 3)], tta="flip")
    (found,) = robustness.ask_one(network, question)
    split = digits()
    x = jax.image.resize(jnp.asarray(split.images, jnp.float32) / 255, (360, 12, 12, 1), "bilinear")
    drawn = corruptions.corrupt(x, jax.random.key(0), "contrast", 3)  # which draws nothing
    seen = (np.asarray(drawn) - 0.3) / 0.4
    p = [jax.nn.softmax(logits_of(run, images)) for images in (seen, seen[:, :, ::-1])]
    assert found.found.values["top1"] == ((p[0] + p[1]).argmax(axis=1) == split.labels).mean()
    assert not (run / "corruptions.json").exists()


# ------------------------------------------------------------------------------ what is kept


def test_results_are_kept_and_only_of_the_same_parameters_and_images(run, world, monkeypatch):
    asked: list[list[Change]] = []
    judge = robustness.judge

    def counted(net, seen, test, changes, tta):
        asked.append(list(changes))
        return judge(net, seen, test, changes, tta)

    monkeypatch.setattr(robustness, "judge", counted)

    def ask(*kinds: str, limit: int | None = 30) -> robustness.Corrupted:
        asked.clear()
        return robustness.corrupted(run, kinds, (1,), limit=limit)

    first = ask("fog")
    assert asked == [[Change(), Change("fog", 1)]]
    monkeypatch.setattr(trained, "restore", lambda *_: pytest.fail("the network is not needed"))
    again = ask("fog")
    assert not asked
    assert again.found["fog"][1].values == first.found["fog"][1].values
    np.testing.assert_array_equal(again.found["fog"][1].right, first.found["fog"][1].right)
    monkeypatch.undo()
    monkeypatch.setattr(robustness, "judge", counted)
    ask("snow", "fog")
    assert asked == [[Change("snow", 1)]]
    ask("fog", limit=20)
    assert asked == [[Change(), Change("fog", 1)]]

    path = run / "corruptions.json"
    (whole,) = (one for one in json.loads(path.read_text())["results"] if one["limit"] == 20)
    cell = whole["found"]["fog"]["1"]
    right, loss = bytes.fromhex(cell["right"]), cell["values"]["loss"]

    def edited(**fields) -> dict:
        """The results with a cell that says something else, as a hand or a bad disk leaves it."""
        return {"found": {**whole["found"], "fog": {"1": {**cell, **fields}}}}

    def signed(damage: dict) -> dict:
        """The same with a digest that fits, so that only what the cells say can tell."""
        held = msgspec.convert(damage["found"], dict[str, dict[str, records.Corrupted]])
        text = msgspec.json.encode(held, order="deterministic")
        return {**damage, "found_sha256": hashlib.sha256(text).hexdigest()}

    eight = {"examples": 8, "right": "80", "values": {**cell["values"], "top1": 0.125}}
    for damage in (
        {"params_sha256": "0" * 64},
        {"test_sha256": "0" * 64},
        {"formulas": 99},
        {"found": {"fog": {"1": {**cell, "right": right[:-1].hex()}}}},
        {"found": {"fog": {"1": {**cell, "right": "zz"}}}},
        edited(values={**cell["values"], "loss": loss + 1}),
        edited(values={**cell["values"], "top5": 0.5}),
        edited(right=None),
        signed(edited(right=None)),
        signed(edited(right=right[:-1].hex())),
        signed(edited(**eight)),
    ):
        path.write_text(json.dumps({"results": [{**whole, **damage}]}))
        found = ask("fog", limit=20)
        assert len(asked) == 1, damage
        assert found.found["fog"][1].values == pytest.approx(cell["values"])
    path.write_text("{")
    ask("fog", limit=20)
    assert len(asked) == 1
    path.unlink()
    path.symlink_to("elsewhere")
    ask("fog", limit=20)
    assert not (run / "elsewhere").exists()


def test_a_quick_look_leaves_what_is_kept_and_each_kind_is_kept_once_done(run, monkeypatch):
    judge = robustness.judge
    robustness.corrupted(run, ["contrast"], [1])
    kept = json.loads((run / "corruptions.json").read_text())["results"]

    def meanwhile(*args):
        """Another process adds its results while these are computed."""
        monkeypatch.setattr(robustness, "judge", judge)
        robustness.corrupted(run, ["brightness"], [1])
        return judge(*args)

    monkeypatch.setattr(robustness, "judge", meanwhile)
    robustness.corrupted(run, ["contrast"], [2])
    robustness.corrupted(run, ["contrast"], [1], limit=10)
    whole, few = json.loads((run / "corruptions.json").read_text())["results"]
    assert (whole.get("limit"), few["limit"]) == (None, 10)
    assert {kind: [*cells] for kind, cells in whole["found"].items()} == {
        "none": ["0"],
        "contrast": ["1", "2"],
        "brightness": ["1"],
    }
    assert whole["found"]["contrast"]["1"] == kept[0]["found"]["contrast"]["1"]

    def dies(net, seen, test, changes, tta):
        if changes[0].kind == "fog":
            raise KeyboardInterrupt
        return judge(net, seen, test, changes, tta)

    monkeypatch.setattr(robustness, "judge", dies)
    with pytest.raises(KeyboardInterrupt):
        robustness.corrupted(run, ["brightness", "fog"], [3])
    text = (run / "corruptions.json").read_text()
    assert [*json.loads(text)["results"][-1]["found"]["brightness"]] == ["1", "3"]


# --------------------------------------------------------------------------- tables, intervals


def test_seeds_of_an_arm_have_students_interval(capsys, world, tmp_path):
    out = tmp_path / "found.json"
    code, said, err = call(capsys, "eval", world / "runs", "--out", out)
    assert (code, err) == (0, "")
    (found,) = rows(out)
    each = [jaxcnn.open(path).evaluate()["test_top1"] for path in (world / "runs").iterdir()]
    mean, half = np.mean(each), stats.t.ppf(0.975, 1) * np.std(each, ddof=1) / math.sqrt(2)
    assert (found["arm"], found["runs"]) == ("tiny", 2)
    assert found["top1"] == pytest.approx(mean)
    assert (found["low"], found["high"]) == pytest.approx(
        (max(0, mean - half), min(1, mean + half))
    )
    assert "Means over 2 seeds with Student's 95 % interval" in said
    assert sorted(found["values"]["top1"]) == sorted(each)
    losses = found["values"]["loss"]
    low, high = stats.t.interval(0.95, 1, np.mean(losses), stats.sem(losses))
    assert (found["loss_low"], found["loss_high"]) == pytest.approx((low, high))
    table = out.with_suffix(".csv")
    call(capsys, "eval", world / "runs", "--limit", 30, "--out", table)
    (line,) = csv.DictReader(table.read_text().splitlines())
    assert float(line["loss_low"]) <= float(line["loss"]) <= float(line["loss_high"])
    assert "values" not in line


def test_a_temperature_that_is_left_out_is_said(capsys, run):
    assert "temperature" not in call(capsys, "eval", run, "--limit", 9)[1]
    (run / "temperature.json").write_text("{}")
    said = " ".join(call(capsys, "eval", run, "--limit", 9)[1].split())
    assert "Loss without the temperature that is kept beside a run" in said


def test_runs_on_the_same_images_read_them_once(world, tmp_path, monkeypatch):
    shutil.copytree(world / "runs", tmp_path / "runs")
    folders, reads = [tmp_path / "runs" / f"seed{i}" for i in (0, 1)], []
    load = sources.load
    monkeypatch.setattr(robustness, "of_kinds", lambda *args: [Change("contrast", 1)])
    monkeypatch.setattr(corruptions, "CORRUPTIONS", ("contrast",))
    monkeypatch.setattr(sources, "load", lambda data: reads.append(data) or load(data))
    found = robustness.under_all(folders, 9)
    assert len(reads) == 1
    assert [found[folder]["corrupted"].shape for folder in folders] == [(9, 1), (9, 1)]
    monkeypatch.setattr(robustness, "ask", lambda runs, *_: [pytest.fail("kept") for _ in runs])
    again = robustness.under_all(folders, 9)
    np.testing.assert_array_equal(again[folders[1]]["corrupted"], found[folders[1]]["corrupted"])


def made(kind: str, level: float, right: list[int], arm: str = "a") -> Row:
    values = {"top1": float(np.mean(right)), "loss": 1.0}
    return Row(arm, "x", None, "8x8", Change(kind, level), (Found(values, 4, np.array(right)),))


def test_the_mean_over_corruptions_counts_each_image_once():
    of = [made("fog", 1, [1, 1, 0, 0]), made("fog", 5, [1, 0, 0, 0]), made("snow", 1, [1, 1, 1, 0])]
    whole = analysis.mean(of)
    each = np.mean([[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0]], axis=0)
    low, high = stats.t.interval(0.95, 3, each.mean(), stats.sem(each))
    assert whole.interval(TOP1) == pytest.approx((each.mean(), max(low, 0), min(high, 1)))
    assert of[0].interval(TOP1)[1:] == pytest.approx(wilson(2, 4))


def test_the_relative_error_is_that_of_hendrycks_and_dietterich():
    ours = [
        made("fog", 1, [1, 1, 1, 0]),
        made("fog", 2, [1, 0, 0, 0]),
        made("snow", 1, [1, 1, 0, 0]),
    ]
    base = [
        made("fog", 1, [1, 1, 0, 0]),
        made("fog", 2, [0, 0, 0, 0]),
        made("snow", 1, [1, 1, 1, 0]),
    ]
    expected = ((0.25 + 0.75) / (0.5 + 1.0) + 0.5 / 0.25) / 2
    assert analysis.relative_error(ours, base, TOP1) == pytest.approx(expected)


def test_one_run_asked_for_nothing_else_is_told_in_a_line(capsys, run):
    code, out, err = call(capsys, "eval", run)
    result = json.loads((run / "summary.json").read_text())
    assert (code, err) == (0, "")
    assert out == (
        f"{run} step {result['step']}: test top-1 {result['test_top1']:.2%}, top-5 "
        f"{result['test_top5']:.2%}, loss {result['test_loss']:.4f} on 360 images\n"
    )


def test_the_same_from_python(run):
    opened = jaxcnn.open(run)
    found = opened.evaluate(corruptions=["fog"], severities=[1, 5], limit=30)
    by_kind = robustness.corrupted(run, ["fog"], [1, 5], limit=30).found["fog"]
    expected = {severity: one.values["top1"] for severity, one in by_kind.items()}
    assert found["corruptions"] == {"fog": expected}
    assert found["corrupted_top1"] == pytest.approx(np.mean(list(expected.values())))
    assert found["test_examples"] == 30
    own = opened.evaluate(data="digits")
    assert own["test_top1"] == pytest.approx(opened.evaluate()["test_top1"])
    assert own["test_examples"] == 360


def test_what_the_page_shows_in_python_runs(run, monkeypatch):
    text = (Path(__file__).parents[1] / "docs" / "robustness.md").read_text()
    (block,) = [b for b in re.findall(r"```python\n(.*?)```", text, re.S) if "runs/a" in b]
    (run.parent / "runs").mkdir()
    run.rename(run.parent / "runs" / "a")
    monkeypatch.chdir(run.parent)
    names: dict = {}
    exec(block, names)
    assert names["found"].found["fog"][5].right.shape == (100,)


# --------------------------------------------------------------------------------- bad input


def test_what_cannot_be_asked_is_said_in_one_line(capsys, world, run, tmp_path):
    photos, empty, lonely = world / "photos", tmp_path / "empty", tmp_path / "lonely"
    for folder in (empty / "a", empty / "b", lonely / "train" / "a"):
        folder.mkdir(parents=True)
    text = tmp_path / "names.txt"
    text.write_text("zero = 1\nthree = 3\n")
    text.with_suffix(".csv").write_text("a,b")
    colours = tmp_path / "colours.npz"
    x, y = np.zeros((4, 8, 8, 3), np.uint8), np.arange(4)
    np.savez(colours, x_train=x, y_train=y, x_test=x, y_test=y)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    cases = [
        (("--data", "digts"), "--data digts: unknown dataset, perhaps digits is meant; ready here"),
        (("--data", photos), f"--data {photos}: the class 'one' is none of the run's 10 classes"),
        (("--data", empty), f"--data {empty}: {empty} has no image files"),
        (("--data", lonely), f"{lonely} has train alone; give {lonely}/train"),
        (("--data", f"npz:{colours}"), "its images have 3 channels, the run's have 1"),
        (("--data", "shapes"), "--data shapes: "),
        (("--data", photos, "--classes", text), "line 2: 'three' is no class of the data"),
        (("--data", photos, "--classes", "new.txt"), "--classes new.txt: cannot be read as lines"),
        (("--data", "mine.py"), "experiment mine.py: no such file"),
        (("--data", ""), "--data : data.name='': must be"),
        (("--classes", text), "names.txt: must be left out without --data"),
        (("--data", "digits", "--split", "validation"), "--split validation: must be left out"),
        (("--split", "validation", "--limit", "3"), "held out no examples for validation"),
        (("--corruptions", "fgo"), "did you mean fog"),
        (("--corruptions", "fog", "--severities", "6"), "--severities 6: must be among 1, 2, 3"),
        (("--severities", "9"), "--severities 9: must be left out without --corruptions"),
        (("--severities", "1", "2"), "--severities 1 2: must be left out without --corruptions"),
        (("--image-size", "0"), "--image-size 0: must be a whole number in [1, 32768]"),
        (
            ("--image-size", "1"),
            "--image-size 1: sequential with these weights takes images from 2x2 on",
        ),
        (("--limit", "0"), "--limit 0: must be at least 1"),
        (("--shifts", "-1"), "--shifts -1.0: must be a number in [0, 32768]"),
        (("--rotations", "None"), "--rotations None: must be a number in [0, 360]"),
        (("--scales", "nan"), "--scales nan: must be a number in [0.01, 100]"),
        (("--out", "found.txt", "--limit", "3"), "--out found.txt: must end in .json or .csv"),
        (("--plot", "x.png"), "--plot x.png: needs --corruptions, --shifts"),
        (("--out", text.with_suffix(".csv")), "holds something else, which would be lost"),
        (("--out", tmp_path / "no" / "x.csv"), f"--out {tmp_path}/no/x.csv: there is no folder"),
    ]
    for options, said in cases:
        code, out, err = call(capsys, "eval", run, *options)
        assert (code, out) == (2, ""), options
        assert said in err, (options, err)
        assert err.count("\n") == 1, err
    code, _, err = call(capsys, "eval", run, tmp_path / "nothing")
    assert (code, "neither is nor holds a run folder" in err) == (2, True)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"limit": -3}, "--limit -3: must be at least 1"),
        ({"limit": 0}, "--limit 0: must be at least 1"),
        ({"limit": 2.5}, "--limit 2.5: must be at least 1"),
        ({"limit": True}, "--limit True: must be at least 1"),
        ({"image_size": 0}, "--image-size 0: must be a whole number"),
        ({"classes": "names.txt"}, "--classes names.txt: must be left out without --data"),
        ({"severities": [1]}, "--severities 1: must be left out without --corruptions"),
        ({"corruptions": ["fog"], "severities": [9]}, "--severities 9: must be among 1, 2"),
        ({"corruptions": "fog"}, "--corruptions fog: must be a list of names"),
        ({"split": "validation", "data": "digits"}, "--split validation: must be left out with"),
        ({"split": "tset"}, "--split tset: must be test or validation"),
    ],
)
def test_python_is_told_the_same(world, asked, said):
    with pytest.raises(InputError) as error:
        jaxcnn.open(world / "runs" / "seed0").evaluate(**asked)
    assert said in str(error.value)


def test_an_unfinished_run_stands_alone_beside_the_arms(capsys, world, tmp_path):
    shutil.copytree(world / "runs", tmp_path / "runs")
    begun, out = tmp_path / "runs" / "begun", tmp_path / "found.json"
    shutil.copytree(tmp_path / "runs" / "seed0", begun)
    (begun / "summary.json").unlink()
    code, said, _ = call(capsys, "eval", tmp_path / "runs", "--limit", 9, "--out", out)
    assert code == 0
    assert {row["arm"]: row["runs"] for row in rows(out)} == {"tiny": 2, str(begun): 1}
    assert f"not finished, or imported, so arms of their own: {begun}\n" in said


def test_places_as_labels_leave_out_what_moves_pixels(tmp_path, monkeypatch):
    x = np.random.default_rng(0).integers(0, 256, (32, 4, 4, 1), np.uint8)
    y = x.mean(axis=(1, 2)).astype(np.float32)
    run = jaxcnn.train(
        model="mlp", task="regression", data=(x, y), test=(x, y), epochs=1, quiet=True
    )
    heard = []
    monkeypatch.setattr(robustness.Listener, "message", lambda self, line: heard.append(line))
    found = run.evaluate(corruptions=["elastic_transform", "contrast"], severities=[1])
    name = run.metrics[0].name
    assert found["corruptions"].keys() == {"contrast"}
    assert found[f"corrupted_{name}"] == found["corruptions"]["contrast"][1]
    assert len(heard) == 1
    assert "elastic_transform is left out" in heard[0]
    assert heard[0].endswith("over 1 kind")
    again = robustness.corrupted(run.folder, ["elastic_transform", "contrast"], [1])
    assert again.found["contrast"][1].values[name] == found["corruptions"]["contrast"][1]


def test_networks_of_one_size_say_which_they_take(capsys, tmp_path):
    run = jaxcnn.train(model="mlp", data="digits", epochs=1, workdir=tmp_path / "mlp", quiet=True)
    code, _, err = call(capsys, "eval", run.folder, "--image-size", 16)
    assert code == 2
    assert err == (
        "jaxcnn: error: --image-size 16: mlp with these weights takes images of 8x8 alone\n"
    )


def test_images_that_are_no_pixels_are_not_corrupted(tmp_path):
    x, y = np.random.default_rng(0).normal(size=(64, 4, 4, 1)), np.arange(64) % 2
    run = jaxcnn.train(model="mlp", data=(x, y), test=(x, y), epochs=1, quiet=True)
    with pytest.raises(InputError, match="images are float32; must be uint8 to be corrupted"):
        run.evaluate(corruptions=["fog"])
    assert run.evaluate(limit=64)["test_top1"] == run.evaluate()["test_top1"]


@pytest.mark.slow
def test_other_tasks_are_changed_but_have_no_other_data(capsys, tmp_path):
    data = replace(Data("shapes_masks", image_size=16), examples=(32, 16), batch_size=16)
    experiment = Experiment(
        data=data,
        model=Model("unet", {"widths": (4, 8)}),
        task=jaxcnn.Task("segmentation"),
        train=Train(epochs=1),
    )
    run = jaxcnn.train(experiment, workdir=tmp_path / "run", quiet=True)
    found, name = run.evaluate(corruptions=["contrast"], severities=[1]), run.metrics[0].name
    assert found["corruptions"]["contrast"][1] == found[f"corrupted_{name}"]
    assert found[f"test_{name}"] == pytest.approx(run.evaluate()[f"test_{name}"])
    for options, said in (
        (("--data", "digits"), "--data digits: must be left out, since"),
        (("--shifts",), "--shifts: must be left out"),
    ):
        code, _, err = call(capsys, "eval", run.folder, *options)
        assert (code, said in err, err.count("\n")) == (2, True, 1), err
