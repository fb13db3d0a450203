"""Which runs are one arm, were tested on the same images, and can be read at all: no training."""

import json
import math
from pathlib import Path

import jinja2
import msgspec
import numpy as np
import optax
import pytest
from PIL import Image

from jaxcnn.analysis import arms, compare, report, tables
from jaxcnn.config import Data, Experiment, Model, Schedule, Train, to_dict
from jaxcnn.data import sources
from jaxcnn.errors import InputError
from jaxcnn.learning import files
from jaxcnn.learning import run_folder as folder
from jaxcnn.learning.state import init_state
from jaxcnn.runs import evaluation, network
from jaxcnn.runs.search import override
from jaxcnn.runs.trained import Trained, describe

BASE = Experiment(
    name="base",
    data=Data("digits"),
    model=Model("mlp", {"hidden": (4,)}),
    schedule=Schedule(warmup_epochs=0),
    train=Train(epochs=1),
)
DIGITS = {
    "name": "digits",
    "classes": [str(i) for i in range(10)],
    "image_shape": [8, 8, 1],
    "train_examples": 1437,
    "test_examples": 360,
}


def write(path, experiment, about=DIGITS, top1=0.9):
    """The folder of a finished run, with what is read of it."""
    path.mkdir(parents=True)
    record = {"epoch": 1, "step": 22, "test_top1": top1, "images_per_sec": 100.0}
    losses = {"test_loss": 0.3, "train_loss": 0.2, "train_top1": 0.95, "test_top5": 1.0}
    record |= losses | {"seconds": 2.0}
    files.write_json(path / "config.json", to_dict(experiment))
    files.write_json(path / "dataset.json", about)
    files.write_json(path / "env.json", {})
    own = {"epochs": 1, "parameters": 310, "seed": experiment.train.seed, "params_sha256": "0"}
    files.write_json(path / "summary.json", record | own)
    (path / "metrics.jsonl").write_text(json.dumps(record) + "\n")
    return arms.read(path)


def seeded(seed):
    return override(BASE, {"train.seed": seed})


@pytest.mark.parametrize(
    ("change", "count"),
    [
        ({"data.dir": "elsewhere"}, 1),
        ({"data.eval_batch_size": 100}, 1),
        ({"data.workers": 0}, 1),
        ({"train.checkpoint_every": 2}, 1),
        ({"train.seeds_mode": "map"}, 1),
        ({"devices.data": 1}, 1),
        ({"train.epochs": 3}, 2),
        ({"train.patience": 3}, 2),
        ({"optim.peak_lr": 0.2}, 2),
        ({"name": "other"}, 2),
    ],
)
def test_seeds_of_an_experiment_are_one_arm_also_when_it_was_resumed_otherwise(
    tmp_path, change, count
):
    changed = override(seeded(1), change)
    found = arms.group([write(tmp_path / "0", seeded(0)), write(tmp_path / "1", changed)])
    assert len(found) == count
    table = arms.config_differences(found)
    assert list(table) == [name for name in change if count == 2 and name != "name"]


def test_arms_of_one_name_are_told_apart_by_their_folders(tmp_path):
    longer = override(BASE, {"train.epochs": 2})
    slower = override(BASE, {"optim.peak_lr": 0.01})
    made = [
        write(tmp_path / place, experiment)
        for place, experiment in (("a/seed0", BASE), ("b/seed0", longer), ("c/own", slower))
    ]
    names = [arm.name for arm in arms.group(made)]
    assert names == [
        f"base ({tmp_path / 'a/seed0'})",
        f"base ({tmp_path / 'b/seed0'})",
        "base (own)",
    ]
    assert [arm.name for arm in arms.group(made[1:])] == ["base (seed0)", "base (own)"]


def folder_of_images(root, shade, broken=()):
    """Two classes of two images each; ``broken`` names test images that are cut short."""
    for split in ("train", "test"):
        for name in ("a", "b"):
            (root / split / name).mkdir(parents=True)
            for i in range(2):
                path = root / split / name / f"{i}.png"
                size = (7 + shade, 7 + shade)
                noise = np.random.default_rng(shade + i).integers(0, 255, size, np.uint8)
                Image.fromarray(noise).save(path)
                if split == "test" and f"{name}{i}" in broken:
                    path.write_bytes(path.read_bytes()[:30])
    return str(root)


def images(place, **changes):
    options = {"dir": place, "image_size": 8, "fit": "resize", "batch_size": 2, "channels": 1}
    return Data("folder", **options | changes)


def noise(seed, **changes):
    return Data("synthetic", image_size=8, examples=(64, 20), seed=seed, **changes)


def shapes(seed, side=8):
    return Data("shapes", image_size=side, examples=(64, 20), seed=seed)


def test_runs_on_other_test_images_are_refused(tmp_path):
    one = folder_of_images(tmp_path / "one", 1)
    copy, other = (folder_of_images(tmp_path / f"{n}", n) for n in (1, 9))
    pixel = folder_of_images(tmp_path / "pixel", 1)
    changed = min(Path(pixel, "test").rglob("*.png"))
    changed.write_bytes(changed.read_bytes()[:-1] + b"x")  # as many bytes
    for number, (first, second, same) in enumerate(
        [
            (shapes(0), shapes(0), True),
            (shapes(0), shapes(1), False),
            (shapes(0), shapes(0, side=16), True),
            (noise(0), noise(1), False),
            (noise(0), noise(0, train_limit=64), True),
            (images(one), images(copy), True),
            (images(one), images(other), False),
            (images(one, streaming=True), images(other, streaming=True), False),
            (images(one, streaming=True), images(one, streaming=True, image_size=4), True),
            # Pixels of other sizes, and pixels and files, are told apart by what they came from.
            (images(one), images(one, image_size=4), True),
            (images(one), images(one, streaming=True), True),
            (images(one), images(other, image_size=4), False),
            (images(one), images(other, streaming=True), False),
            (images(one, streaming=True), images(pixel, streaming=True), False),
            (images(one, streaming=True), images(pixel, streaming=True, image_size=4), False),
        ]
    ):
        both = []
        for name, data in (("a", first), ("b", second)):
            experiment = Experiment(name, data, model=BASE.model)
            about = describe(data, sources.load(data))
            both.append(write(tmp_path / f"{number}{name}", experiment, about))
        if same:
            arms.group(both)
        else:
            with pytest.raises(InputError, match=r"tested on other data.*test_(files_)?sha256"):
                arms.group(both)
        about = msgspec.to_builtins(both[0].dataset)
        folder.check_same(both[0].path, to_dict(both[0].experiment), about)


def test_folders_from_before_test_images_were_told_apart_can_be_used(tmp_path):
    old = write(tmp_path / "old", seeded(0))
    about = {**DIGITS, "test_form": "8x8x1 pad", "test_sha256": "1"}
    new = [write(tmp_path / f"{i}", seeded(i), {**about, "test_sha256": "1"}) for i in (1, 2)]
    assert len(arms.group([old, *new])) == 1
    third = write(tmp_path / "3", seeded(3), {**about, "test_sha256": "2"})
    with pytest.raises(InputError, match="test_sha256 '2', not '1'"):
        arms.group([old, *new, third])
    folder.check_same(old.path, to_dict(old.experiment), about)


@pytest.mark.parametrize(
    ("config", "about", "file", "named"),
    [
        ({"model.name": "lenet6"}, {}, "config.json", "did you mean lenet5"),
        ({"model.options": {"deep": 1}}, {}, "config.json", "has no option 'deep'"),
        ({"model.name": "lenet5", "model.options": {}}, {}, "config.json", "at least 16x16"),
        ({}, {"image_shape": [8, 8]}, "dataset.json", "image_shape=[8, 8]: must be height, width"),
    ],
)
def test_a_damaged_run_is_named_and_the_rest_is_read(tmp_path, config, about, file, named):
    write(tmp_path / "whole", seeded(0))
    with pytest.raises(InputError) as error:
        write(tmp_path / "bad", override(seeded(1), config), {**DIGITS, **about})
    assert str(error.value).startswith(str(tmp_path / "bad" / file))
    assert named in str(error.value)
    read, problems = arms.read_all([tmp_path / "bad", tmp_path / "whole"])
    assert [run.seed for run in read] == [0]
    assert problems == [str(error.value)]


def test_the_test_that_is_named_is_the_one_that_was_made(tmp_path):
    """A baseline of one run allows McNemar's against another single run, and no other."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 10, 360)

    def predicted(errors):
        wrong = (label + 1) % 10
        return {"label": label, "predicted": np.where(np.arange(360) < errors, wrong, label)}

    def arm(name, *top1):
        return [
            write(tmp_path / name / f"{s}", override(seeded(s), {"name": name}), top1=value)
            for s, value in enumerate(top1)
        ]

    one, single, three = arm("one", 0.8), arm("single", 0.9), arm("three", 0.9, 0.91, 0.92)
    held = {run.path: predicted(36) for run in (*single, *three)} | {one[0].path: predicted(72)}
    found = compare.compare(arms.group([*one, *single, *three]), held)
    assert found.test == "McNemar"
    assert found.results[1].p_adjusted == pytest.approx(2 * 0.5**36)  # 36 won, none lost
    assert math.isnan(found.results[2].p_adjusted)
    assert "McNemar's exact test" in tables.explanation(found)
    assert "that of a single run is Wilson's" in tables.explanation(found)
    found = compare.compare(arms.group([*three, *one]), held)
    assert found.test == "none"
    more = arm("more", 0.8, 0.82, 0.81)
    found = compare.compare(arms.group([*three, *more, *single]), held)
    assert found.test == "paired t"
    assert "Student's paired test" in tables.explanation(found)


def test_the_worst_mistakes_are_shown_by_their_place_in_the_split(tmp_path):
    """Of files that are streamed, those that cannot be read keep their place."""
    data = images(folder_of_images(tmp_path / "f", 0, broken=["b0"]), streaming=True, workers=0)
    experiment = Experiment("streamed", data, model=BASE.model, train=Train(epochs=1))
    dataset = sources.load(data)
    built = network.build(experiment, dataset.classes, dataset.image_shape)
    state = init_state(built.model, optax.identity(), 0, dataset.image_shape)
    parts = {name: getattr(built, name) for name in network.Network.__dataclass_fields__}
    found = evaluation.predict(
        Trained(**parts, folder=tmp_path, state=state, step=0), dataset, "test"
    )
    names = [dataset.test.path(i).relative_to(tmp_path / "f/test") for i in found["index"].tolist()]
    assert {str(name) for name in names} == {"a/0.png", "a/1.png", "b/1.png"}
    assert [name.parts[0] for name in names] == [dataset.classes[i] for i in found["label"]]
    run = write(tmp_path / "run", experiment, describe(data, dataset))
    found |= {"predicted": 1 - found["label"], "label_probability": np.array([0.3, 0.2, 0.1])}
    asked = []

    def read(places):
        asked.extend(places)
        return dataset.test.read(np.array(places))["image"]

    page = report.page("title", arms.group([run]), {run.path: found}, read)
    assert asked == found["index"][::-1].tolist()
    assert all(f'alt="test image {place}"' in page for place in asked)


def test_names_cannot_become_part_of_the_page(tmp_path):
    """Also not of its JSON, which ends with the first </script>."""
    bad = '</script><img src="https://example.org" onerror=alert(1)>'
    classes = [f"{bad}{i}" for i in range(10)]
    run = write(tmp_path / "run", seeded(0), {**DIGITS, "classes": classes})
    label = np.arange(360) % 10
    held = {"label": label, "predicted": label[::-1], "index": np.arange(360)}
    held["label_probability"] = np.linspace(0, 1, 360)
    pixels = np.zeros((12, 8, 8, 1), np.uint8)
    (tmp_path / "run" / "viz").mkdir()
    Image.fromarray(pixels[0, ..., 0]).save(tmp_path / "run" / "viz" / "a<b>_c.png")
    shown = ({run.path: held}, lambda places: pixels, [bad])
    page = report.page(bad, arms.group([run]), *shown)
    assert page.count("<script") == page.count("</script>") == 1
    assert "<img src=" not in page
    assert page.count('<img alt="') == 12 + 1
    assert 'alt="a&lt;b&gt;_c"' in page
    assert ">a&lt;b&gt; c<" in page
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    assert data["comparison"]["classes"] == classes


def test_a_template_that_names_what_is_not_there_fails(tmp_path):
    (tmp_path / "own.html").write_text("<p>{{ there }}{{ missing }}</p>")
    with pytest.raises(jinja2.UndefinedError, match="'missing' is undefined"):
        report.render("own.html", tmp_path, there="<b>")
    assert report.render("own.html", tmp_path, there="<b>", missing="") == "<p>&lt;b&gt;</p>"
