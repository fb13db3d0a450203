"""What an experiment leaves open is settled once, recorded, and found again by the same command."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from jaxcnn import cli
from jaxcnn.config import Data, Experiment, Model, Optim, to_dict
from jaxcnn.config.brought import Brought
from jaxcnn.data import image_folder, sources
from jaxcnn.errors import InputError
from jaxcnn.runs import search
from jaxcnn.runs.aside import put_aside
from jaxcnn.runs.settled import settled, vacant
from jaxcnn.runs.start import Run

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def lies_in(folder, experiment):
    """Makes what is looked at of a run that has begun."""
    (folder / "checkpoints" / "latest" / "5").mkdir(parents=True)
    (folder / "checkpoints" / "latest" / "5" / "manifest.sha256").touch()
    (folder / "config.json").write_text(json.dumps(to_dict(experiment)))
    return folder


@pytest.fixture
def weights(tmp_path):
    data = Data("imagenet2012", mean=MEAN, std=STD)
    return lies_in(tmp_path / "imported", Experiment(data=data))


def settle(experiment, folder):
    said = []
    (run,) = settled([Run(experiment, folder)], said.append)
    return run.experiment, said


def tuned(weights, **data):
    return Experiment(data=Data("digits", **data), model=Model(init_from=str(weights)))


def test_mean_and_std_are_those_of_the_weights_to_start_from(weights, tmp_path):
    found, said = settle(tuned(weights), tmp_path / "new")
    assert (found.data.mean, found.data.std) == (MEAN, STD)
    taken = "(0.485 0.456 0.406), (0.229 0.224 0.225)"
    assert said == [f"data.mean, data.std: taken from {weights}: {taken}"]
    found, said = settle(tuned(weights, mean=(0.5,)), tmp_path / "new")
    assert (found.data.mean, found.data.std) == ((0.5,), (1.0,))
    assert said == [
        f"data.mean, data.std: (0.5), (1) as the experiment says; {weights} has {taken}"
    ]
    for experiment in (tuned(weights, mean=MEAN, std=STD), Experiment(data=Data("digits"))):
        assert settle(experiment, tmp_path / "new") == (experiment, [])


def test_the_same_command_finds_the_same_config_again(weights, tmp_path):
    """Also where the weights are gone by then, or the folder is from before they were looked at."""
    folder = tmp_path / "run"
    first, _ = settle(tuned(weights), folder)
    lies_in(folder, first)
    assert settle(tuned(weights), folder)[0] == first
    old = lies_in(tmp_path / "old", tuned(weights))
    assert settle(tuned(weights), old) == (tuned(weights), [])
    shutil.rmtree(weights)
    assert settle(tuned(weights), folder)[0] == first
    assert settle(tuned(weights), tmp_path / "new") == (tuned(weights), [])  # refused later
    (folder / "config.json").write_text("{")
    assert settle(tuned(weights), folder) == (tuned(weights), [])


def test_a_run_may_start_from_one_that_comes_before_it(weights, tmp_path):
    runs = [Run(tuned(weights), tmp_path / "a"), Run(tuned(tmp_path / "a"), tmp_path / "b")]
    said = []
    assert [run.experiment.data.mean for run in settled(runs, said.append)] == [MEAN, MEAN]
    assert len(said) == 2


def photos(root, sizes):
    for split in ("train", "test"):
        for name in ("a", "b"):
            (root / split / name).mkdir(parents=True)
            for i, size in enumerate(sizes):
                Image.new("RGB", size, (i, 0, 0)).save(root / split / name / f"{i}.png")
    return str(root)


def table(root, column="label"):
    """Returns the address of a table of the photos in a folder."""
    rows = [f"{p.relative_to(root)},{p.parent.name},{p.parts[-3]}" for p in root.rglob("*.png")]
    text = "\n".join((f"file,{column},split", *sorted(rows)))
    (root / f"{column}.csv").write_text(text)
    return f"csv:{root / column}.csv"


@pytest.mark.parametrize("kind", ["folder", "csv"])
@pytest.mark.parametrize(
    ("sizes", "side", "fit", "like"),
    [
        (((9, 7), (7, 9)), 8, "crop", "9x7 pixels and 7x9 pixels"),
        (((9, 7), (9, 7)), 8, "crop", "9x7 pixels"),
        (((9, 9), (9, 9)), 8, "resize", "squares of 9x9 pixels"),
        (((5, 5), (5, 5)), 8, "resize", "squares of 5x5 pixels"),
        (((8, 8), (8, 8)), 8, "pad", None),
        (((9, 7), (9, 7)), None, "pad", None),
    ],
)
def test_the_fit_of_image_files_follows_from_their_sizes(tmp_path, kind, sizes, side, fit, like):
    data = Data("folder", photos(tmp_path / "photos", sizes), image_size=side, batch_size=2)
    if kind == "csv":
        data = replace(data, name=table(tmp_path / "photos"), dir=None)
    found, said = settle(Experiment(data=data), tmp_path / "new")
    assert found.data == replace(data, fit=fit)
    assert said == ([f"data.fit: taken as {fit!r}, for images of {like}"] if like else [])
    shape = sources.load(found.data).image_shape
    assert shape == ((side, side, 3) if side else (*sizes[0][::-1], 3))
    asked = Experiment(data=replace(data, image_size=8, fit="crop"))
    assert settle(asked, tmp_path / "new") == (asked, [])
    run = lies_in(tmp_path / "run", found)
    shutil.rmtree(tmp_path / "photos")
    assert settle(Experiment(data=data), run)[0].data == found.data


@pytest.mark.parametrize(
    ("sizes", "side", "fit"),
    [
        ([(9, 7)], 8, "resize"),
        ([(9, 7), (7, 9)], 12, "resize"),
        ([(9, 7)], 12, "pad"),
        ([(9, 7)], None, "pad"),
    ],
)
def test_photos_with_masks_are_not_cropped_unasked(tmp_path, sizes, side, fit):
    photos(tmp_path, sizes)
    data = Data(table(tmp_path, "mask"), image_size=side, batch_size=2)
    found, said = settle(Experiment(data=data), tmp_path / "new")
    assert found.data.fit == fit
    assert len(said) == (fit != "pad")
    before = lies_in(tmp_path / "run", Experiment(data=data))  # as they were settled before
    assert settle(Experiment(data=data), before) == (Experiment(data=data), [])


def test_images_keep_their_size_only_where_all_have_it(tmp_path):
    root = photos(tmp_path / "photos", [(9, 7)])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (7, 9)).save(tmp_path / "photos/train/a/turned.jpg", exif=exif)
    (tmp_path / "photos/train/a/broken.png").write_bytes(b"")
    assert sources.load(Data("folder", root, batch_size=2)).image_shape == (7, 9, 3)
    Image.new("RGB", (5, 6)).save(tmp_path / "photos/test/b/other.png")
    with pytest.raises(
        InputError, match=r"differ in size \(9x7 and 5x6\); must be data.image_size"
    ):
        sources.load(Data("folder", root, batch_size=2))
    with pytest.raises(InputError, match=r"^data.fit='pad' with data.image_size=9: .* in size"):
        image_folder.scan(Data("folder", root, image_size=9))


def test_the_folder_of_the_data_is_recorded_as_an_absolute_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for given, recorded in (
        ("tfds", str(tmp_path / "tfds")),
        ("/tfds", "/tfds"),
        ("~/tfds", str(Path("~/tfds").expanduser())),
        ("gs://bucket/tfds", "gs://bucket/tfds"),
        (None, None),
    ):
        found, said = settle(Experiment(data=Data("mnist", given)), tmp_path / "new")
        assert (found.data.dir, said) == (recorded, [])


def beside(folder, experiment, said):
    return vacant(lambda place: [Run(experiment, place)], folder, said.append).name


def test_the_default_folder_gives_way_to_another_run(tmp_path):
    def taken(**optim):
        said = []
        experiment = Experiment(optim=Optim(**optim))
        return beside(tmp_path / "a-seed0", experiment, said), said

    assert taken() == ("a-seed0", [])
    lies_in(tmp_path / "a-seed0", Experiment())
    assert taken() == ("a-seed0", [])
    line = "{0}/a-seed0 holds a run with another {1}: this one is in {0}/a-seed0-{2}".format
    assert taken(peak_lr=0.3) == ("a-seed0-2", [line(tmp_path, "optim.peak_lr", 2)])
    lies_in(tmp_path / "a-seed0-2", Experiment(optim=Optim(peak_lr=0.2)))
    lies_in(tmp_path / "a-seed0-10", Experiment(optim=Optim(peak_lr=0.3)))
    assert taken(peak_lr=0.3)[0] == "a-seed0-10"
    assert taken(peak_lr=0.2)[0] == "a-seed0-2"
    (tmp_path / "a-seed0-3").mkdir()  # nothing was trained in it
    changed = "optim.momentum, optim.nesterov, optim.peak_lr"
    given = {"peak_lr": 0.4, "momentum": 0.5, "nesterov": False}
    assert taken(**given) == ("a-seed0-3", [line(tmp_path, changed, 3)])
    (tmp_path / "a-seed0" / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"a-seed0/config\.json"):
        taken()


def test_a_file_beside_is_no_free_folder(tmp_path):
    lies_in(tmp_path / "a", Experiment())
    (tmp_path / "a-2").write_text("")
    assert beside(tmp_path / "a", Experiment(optim=Optim(peak_lr=0.3)), []) == "a-3"


@pytest.mark.parametrize("name", ["csv:t.csv", Brought(lambda: None, "mine:load")])
def test_other_files_of_ones_own_are_another_run(tmp_path, name):
    for folder in ("one", "other"):
        (tmp_path / folder).mkdir()
    experiments = [Experiment(data=Data(name, str(tmp_path / f))) for f in ("one", "other")]
    lies_in(tmp_path / "a", experiments[0])
    assert [beside(tmp_path / "a", asked, []) for asked in experiments] == ["a", "a-2"]


def test_the_default_folder_of_a_sweep_gives_way_to_other_trials(tmp_path):
    def planned(folder, **optim):
        base = Experiment(optim=Optim(**optim))
        trials = search.grid(base, search.spaces(base, ["train.seed=1,2"]))
        return [Run(trial.experiment, folder / trial.name) for trial in trials]

    def taken(**optim):
        said = []
        found = vacant(
            lambda folder: planned(folder, **optim), tmp_path / "s", said.append, sweep=True
        )
        return found.name, said

    assert taken() == ("s", [])
    for run in put_aside(planned(tmp_path / "s")[1:], sweep=True):
        lies_in(run.folder, run.experiment)
    assert taken() == ("s", [])  # one of the trials is there, and the other will be
    line = f"{tmp_path}/s holds trials with another optim.peak_lr: these are in {tmp_path}/s-2"
    assert taken(peak_lr=0.3) == ("s-2", [line])


def test_a_function_from_a_file_that_is_called_as_a_scheme_is_no_address(tmp_path):
    name = Brought(lambda: None, "csv:load")
    found, said = settle(Experiment(data=Data(name)), tmp_path / "new")
    assert (found.data.dir, said) == (None, [])
    found, _ = settle(Experiment(data=Data("csv:load")), tmp_path / "new")
    assert found.data.dir == str(Path.cwd())


def test_another_folder_of_photos_is_another_run_unless_it_was_moved(tmp_path):
    one, other = (photos(tmp_path / name, [(8, 8)]) for name in ("one", "other"))
    experiment = Experiment(data=Data("folder", one))
    lies_in(tmp_path / "a", experiment)
    said = []
    for folder, expected in ((one, "a"), (other, "a-2")):
        asked = replace(experiment, data=Data("folder", folder))
        assert beside(tmp_path / "a", asked, said) == expected
    assert said == [
        f"{tmp_path}/a holds a run with another data.dir: this one is in {tmp_path}/a-2"
    ]
    (tmp_path / "one").rename(tmp_path / "moved")
    asked = replace(experiment, data=Data("folder", str(tmp_path / "moved")))
    assert beside(tmp_path / "a", asked, said) == "a"


FILE = """
from jaxcnn.config import *

def config():
    data = Data("folder", "photos", image_size=8, batch_size=2)
    return Experiment("tuned", data, model=Model("mlp", {"hidden": (4,)}), train=Train(epochs=1))
"""


@pytest.mark.slow
def test_photos_from_the_command_line(tmp_path, monkeypatch, capsys):
    """Starts from another run's normalisation, goes on, gives way, and is evaluated elsewhere."""
    monkeypatch.chdir(tmp_path)
    photos(tmp_path / "photos", [(9, 7), (7, 9)])
    Path("tuned.py").write_text(FILE)

    def call(*args):
        code = cli.main(args)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    first = ("train", "tuned.py", "--data.mean", "0.4", "--workdir", "first")
    assert call(*first)[0] == 0
    start = ("train", "tuned.py", "--init-from", "first")
    code, out, _ = call(*start)
    assert code == 0
    assert "data.mean, data.std: taken from first: (0.4), (1)\n" in out
    assert "compiling mlp for 8x8, this can take a minute\n" in out
    assert "\ntest top-1" in out
    assert "top-5" not in out
    config = json.loads(Path("runs/tuned-seed0/config.json").read_text())
    assert config["data"]["mean"] == [0.4]
    assert config["data"]["fit"] == "crop"
    assert config["data"]["dir"] == str(tmp_path / "photos")
    code, out, _ = call(*start)
    assert (code, "runs/tuned-seed0 is finished" in out) == (0, True)
    code, out, _ = call(*start, "--data.mean", "0.2")
    assert code == 0
    assert "runs/tuned-seed0 holds a run with another data.mean: this one is in " in out
    assert Path("runs/tuned-seed0-2/summary.json").exists()
    code, _, err = call(*start, "--data.mean", "0.2", "--workdir", "runs/tuned-seed0")
    assert (code, "belongs to another run" in err) == (2, True)
    code, _, err = call(*start, "--seeds", "2", "--workdir", "runs/tuned-seed0")
    assert (code, err.count("\n")) == (2, 1)
    assert "--seeds 2: workdir runs/tuned-seed0 is a run itself" in err
    Path("photos").rename("moved")
    code, _, err = call("eval", "runs/tuned-seed0")
    assert (code, err.count("\n")) == (2, 1)
    assert err.endswith("; where they lie elsewhere, give --data-dir\n")
    code, out, _ = call("eval", "runs/tuned-seed0", "--data-dir", "moved")
    assert (code, "top-5" in out) == (0, False)
    page = ("report", "runs/tuned-seed0", "--data-dir", "moved", "--out", "page.html")
    assert call(*page)[0] == 0
    assert call("viz", "runs/tuned-seed0", "--data-dir", "moved")[0] == 0
