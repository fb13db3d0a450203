import csv
import dataclasses
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import jaxcnn
from jaxcnn import cli
from jaxcnn.analysis import visualize
from jaxcnn.commands import arguments, bench, predict, train, viz
from jaxcnn.commands.parsing import load_experiment
from jaxcnn.errors import Diverged, InputError, Stopped
from jaxcnn.runs import display, group
from jaxcnn.runs import trained as trained_runs
from jaxcnn.runs.evaluation import evaluate
from jaxcnn.runs.trained import restore, transfer

ROOT = Path(__file__).parents[1]
DIGITS = str(ROOT / "experiments" / "lenet5_digits.py")


def call(capsys, *args):
    code = cli.main(args)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """One epoch of LeNet-5 on digits, from the command line."""
    workdir = tmp_path_factory.mktemp("runs") / "a"
    args = ["--train.epochs", "1", "--schedule.warmup-epochs", "0", "--workdir", str(workdir)]
    assert cli.main(["train", DIGITS, *args]) == 0
    return workdir


COMMANDS = list(cli.COMMANDS)


def test_help_answers_at_once_and_imports_nothing_heavy():
    code = "import sys; from jaxcnn import cli; cli.main(['--help']); print(sorted(sys.modules))"
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert time.perf_counter() - start < 2
    for heavy in ("jax", "flax", "argparse", "numpy", "matplotlib"):
        assert f"'{heavy}'" not in done.stdout
    for command in COMMANDS:
        assert f"jaxcnn {command}" in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(capsys, command):
    code, out, _ = call(capsys, command, "--help")
    assert code == 0
    assert f"usage: jaxcnn {command}" in out


def test_train_prints_records_and_the_result(capsys, trained):
    code, out, _ = call(
        capsys,
        *("train", DIGITS, "--workdir", str(trained)),
        *("--train.epochs", "2", "--schedule.warmup-epochs", "0"),
    )
    assert code == 0
    assert "going on from step 22 of 44" in out
    assert re.search(r"^epoch    2 ( +\d\.\d{4} +\d+\.\d\d%){2} +[\d,]+", out, re.MULTILINE)
    assert f"lenet5_digits: lenet5 on digits, 61,706 parameters, in {trained}\n" in out
    assert "\n1,437 train, 360 test images; 2 epochs of 22 steps of 64; cpu\n" in out
    assert re.search(r"^test top-1 \d+\.\d\d%, .* after 2 epochs in ", out, re.MULTILINE)
    assert out.endswith(f"\nread on: jaxcnn report {trained}\n")


def test_eval_and_predict(capsys, trained, tmp_path):
    code, out, _ = call(capsys, "eval", str(trained))
    assert code == 0
    assert "on 360 images" in out
    code, out, _ = call(capsys, "eval", str(trained), "--tta", "ten_crop")
    assert code == 0
    assert "on 360 images, test-time augmentation ten_crop" in out
    paths = [str(tmp_path / f"{side}.png") for side in (8, 32, 40)]
    for path in paths:
        side = int(Path(path).stem)
        Image.new("L", (side, side)).save(path)
    code, out, _ = call(capsys, "predict", str(trained), *paths)
    assert code == 0
    for line, path in zip(out.splitlines(), paths, strict=True):
        name, label, probability = line.rsplit(" ", 2)
        assert name == f"{path}:"
        assert label in "0123456789"
        assert 0.1 <= float(probability) <= 1
    code, same, err = call(capsys, "predict", str(trained), *paths, "--resize")
    assert (code, same) == (0, out)
    assert err.startswith("jaxcnn: --resize is no longer needed: ")


def test_predict_takes_folders_and_patterns_and_answers_programs(capsys, trained, tmp_path):
    for name in ("b10.png", "b2.png", "deep/ä 猫.png", "[x].png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (8, 8), len(name)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("x")
    names = ["[x].png", "b2.png", "b10.png", "deep/ä 猫.png"]

    def files(*given):
        code, out, _ = call(capsys, "predict", str(trained), *given, "--csv")
        assert code == 0
        header, *rows = csv.reader(out.splitlines())
        assert header == ["file", "rank", "class", "probability"]
        return [str(Path(row[0]).relative_to(tmp_path)) for row in rows]

    assert files(str(tmp_path)) == names
    assert files(f"{tmp_path}/b*.png") == ["b2.png", "b10.png"]
    assert files(f"{tmp_path}/**/*.png") == names
    assert files(f"{tmp_path}/[x].png") == ["[x].png"]
    assert files(f"{tmp_path}/d*", f"{tmp_path}/b2.png") == ["deep/ä 猫.png", "b2.png"]

    code, out, _ = call(capsys, "predict", str(trained), str(tmp_path), "--top-k", "10", "--json")
    assert code == 0
    found = json.loads(out)
    assert [Path(row["file"]) for row in found] == [tmp_path / name for name in names]
    for row in found:
        p = [answer["probability"] for answer in row["classes"]]
        assert p == sorted(p, reverse=True)
        assert sum(p) == pytest.approx(1, abs=1e-5)
        assert sorted(answer["class"] for answer in row["classes"]) == list("0123456789")
    code, out, _ = call(capsys, "predict", str(trained), f"{tmp_path}/b2.png", "--top-k", "2")
    (a, p), (b, q) = (found[1]["classes"][i].values() for i in range(2))
    assert out == f"{tmp_path}/b2.png: {a} {p:.4f}, {b} {q:.4f}\n"

    (tmp_path / "c.png").write_text("x")
    (tmp_path / "empty").mkdir()
    for given, named in (
        ((str(tmp_path),), f"{tmp_path}/c.png: not an image of a known format"),
        ((f"{tmp_path}/x*",), f"{tmp_path}/x*: no file has a name of this pattern"),
        ((f"{tmp_path}/empty",), f"{tmp_path}/empty: has no image files"),
        ((f"{tmp_path}/b2.png", "--top-k", "11"), "top_k=11: must be a whole number in [1, 10]"),
        ((f"{tmp_path}/b2.png", "--csv", "--json"), "--json: gives another output than --csv"),
    ):
        code, out, err = call(capsys, "predict", str(trained), *given)
        assert (code, out) == (2, "")
        assert named in err


def test_images_are_classified_in_batches_by_one_program(trained, tmp_path, monkeypatch):
    paths = [tmp_path / f"{i}.png" for i in range(21)]
    for i, path in enumerate(paths):
        Image.new("L", (8 + i, 8), 10 * i).save(path)
    alone = [p for path in paths for p in trained_runs.predict(trained, [path], top_k=3)]
    monkeypatch.setattr(trained_runs, "BATCH", 4)
    traced = []
    real = trained_runs.Trained.prepare.func
    prepare = property(lambda self: lambda x: traced.append(x.shape) or real(self)(x))
    monkeypatch.setattr(trained_runs.Trained, "prepare", prepare)
    found = trained_runs.predict(trained, paths, top_k=3)
    assert traced == [(4, 8, 8, 1)]
    assert [one.path for one in found] == paths
    for one, other in zip(found, alone, strict=True):
        assert one.labels == other.labels
        np.testing.assert_allclose(one.answers, other.answers, rtol=1e-5)
    assert trained_runs.predict(trained, []) == []


def test_weights_of_imagenet_know_the_names_of_its_classes(capsys, monkeypatch, tmp_path):
    named = []
    monkeypatch.setattr(trained_runs, "import_weights", lambda *args: named.append(args[2]) or 0)
    write_safetensors(tmp_path / "x.safetensors", {"fc.bias": np.ones(1000, np.float32)})
    file, out = str(tmp_path / "x.safetensors"), str(tmp_path / "out")
    start = ("import", file, "--model", "resnet18", "--out", out)
    own = tmp_path / "own.txt"
    own.write_text("\n".join(f"own {i}" for i in range(1000)))
    for more in ((), ("--num-classes", "10"), ("--dataset", "mine"), ("--classes", str(own))):
        assert call(capsys, *start, *more)[0] == 0
    assert [names[0] for names in named] == ["tench", "0", "0", "own 0"]
    imagenet = named[0]
    assert len({*imagenet}) == 1000
    known = {1: "goldfish", 134: "crane bird", 281: "tabby", 517: "crane", 999: "toilet tissue"}
    assert {i: imagenet[i] for i in known} == known


def test_summary_of_lenet5(capsys):
    code, out, _ = call(capsys, "summary", "lenet5", "--input", "32", "32", "1")
    assert code == 0
    for figure in ("61,706", "48,120", "28x28x6", "416,520", "14x14"):
        assert figure in out


def test_list_takes_a_pattern(capsys):
    code, out, _ = call(capsys, "list", "lenet*")
    assert code == 0
    assert out.split() == ["lenet5"]


def test_viz_draws_and_the_report_takes_it(capsys, trained, tmp_path):
    Image.new("RGB", (20, 10), "red").save(tmp_path / "x.png")
    args = ("viz", str(trained), "--image", str(tmp_path / "x.png"), "--endpoint", "stage1")
    code, out, _ = call(capsys, *args)
    assert code == 0
    names = "kernels", "filters", "features_stage1", "gradcam_stage1", "receptive_field"
    for name in names:
        assert f"{name}.png" in out
        assert (trained / "viz" / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
    page = tmp_path / "report.html"
    assert call(capsys, "report", str(trained), "--out", str(page))[0] == 0
    for name in names:
        assert f'alt="{name}"' in page.read_text()


def test_viz_names_the_true_class_and_what_the_network_answers(capsys, trained, monkeypatch):
    """The probabilities are those of `predict`."""
    run, said = jaxcnn.open(trained), []
    monkeypatch.setattr(
        visualize, "save_heat", lambda images, heats, labels, *_: said.extend(labels)
    )
    assert call(capsys, "viz", str(trained))[0] == 0
    test = trained_runs.restore(trained).dataset().test
    probabilities = run.predict(test.images[: viz.SHOWN])
    for label, true, p in zip(said, test.labels, probabilities, strict=False):
        assert label == f"true class: {true}\nseen as {p.argmax()}, {100 * p.max():.1f} %"
    assert len(said) == viz.SHOWN
    for file in (trained / "viz").glob("*.png"):
        about = Image.open(file).text
        assert len(about["Title"]) > 5, file
        assert about["Description"].count(". ") > 0, file
        assert about["Description"].endswith("."), file


def bad_calls(folder: Path, trained: Path):
    train = ("train", DIGITS)
    text = folder / "text.png"
    text.write_text("<html>")
    grey = folder / "40.png"
    Image.new("L", (40, 40)).save(grey)
    broken, other = folder / "broken.py", folder / "other.py"
    broken.write_text("def config(:")
    other.write_text("def config(): return 3")
    occupied = folder / "occupied"
    occupied.write_text("a file, not a folder")
    here = ("--workdir", str(folder / "new"))
    new = str(folder / "new")
    at = str(trained)
    return {
        "no command": (("fly",), "command 'fly'"),
        "no file": (("train",), "give EXPERIMENT.py, a file that defines config()"),
        "missing experiment": (("train", DIGITS[:-4] + ".py"), "did you mean"),
        "experiment with a syntax error": (("train", str(broken)), "SyntaxError"),
        "experiment of the wrong type": (("train", str(other)), "returned int"),
        "unknown model": ((*train, *here, "--model.name", "lenet6"), "did you mean lenet5"),
        "unknown option of a model": (
            (*train, *here, "--model.options", "depth", "3"),
            "no option 'depth'; it takes",
        ),
        "unknown dataset": ((*train, *here, "--data.name", "mnits"), "data.name='mnits'"),
        "dataset that is not prepared": (
            (*train, *here, "--data.name", "cifar100", "--data.dir", str(folder)),
            "tfds build cifar100 --file_format=array_record",
        ),
        "unknown flag": ((*train, "--optim.peek-lr", "1"), "Perhaps you meant: --optim.peak-lr"),
        "not a number": ((*train, "--optim.peak-lr", "fast"), "--optim.peak-lr"),
        "negative learning rate": ((*train, "--optim.peak-lr", "-1"), "optim.peak_lr=-1.0: must"),
        "unknown optimizer": ((*train, "--optim.name", "adan"), "'sgd', 'adamw'"),
        "batch larger than the set": (
            (*train, *here, "--data.batch-size", "2000"),
            "data.batch_size=2000: must be at most the 1437",
        ),
        "image too small": (
            (*train, *here, "--data.image-size", "12"),
            "at least 16x16, got 12x12",
        ),
        "padding to less": (
            (*train, *here, "--data.image-size", "7", "--data.fit", "pad"),
            "data.image_size=7",
        ),
        "half a pair": ((*train, "--model.options", "a"), "pairs of NAME VALUE, got 'a'"),
        "no value": ((*train, "--model.options.a"), "--model.options.a"),
        "two means": ((*train, *here, "--data.mean", "0", "1"), "data.mean=(0.0, 1.0)"),
        "unknown group to freeze": (
            (*train, *here, "--optim.freeze", "conv7"),
            "optim.freeze='conv7': must match a parameter; the network's groups are conv1, conv2,",
        ),
        "no teacher": (
            (*train, *here, "--train.distill-from", str(folder / "teacher")),
            "is " + str(folder / "teacher") + " a run folder",
        ),
        "parts that do not divide": (
            (*train, *here, "--train.accumulate", "7"),
            "train.accumulate=7: must be a divisor of data.batch_size=64",
        ),
        "steps to profile backwards": (
            (*train, *here, "--profile", "20:10"),
            "--profile 20:10: must be FIRST:LAST",
        ),
        "steps to profile behind the end": (
            (*train, *here, "--profile", "10:9999999"),
            "--profile 10:9999999: must end within the run's",
        ),
        "unknown activation": (
            (*train, *here, "--model.options", "activation", "swoosh"),
            "activation='swoosh' must be one of relu",
        ),
        "unwritable folder": ((*train, "--workdir", str(occupied)), "occupied: cannot be written"),
        "folder below a file": ((*train, "--workdir", str(occupied / "x")), "cannot be written"),
        "folder of another run": (
            (*train, "--workdir", at, "--train.seed", "5"),
            "train.seed was 0, now 5",
        ),
        "no run to evaluate": (("eval", new), "is " + str(folder / "new") + " a run folder"),
        "no run": (("eval",), "give RUN ..., the run folder"),
        "unknown views": (("eval", at, "--tta", "all"), "'none', 'flip', 'five_crop', 'ten_crop'"),
        "unknown checkpoint": (("eval", at, "--checkpoint", "first"), "'latest', 'best'"),
        "nothing to predict": (("predict", at), "at least one image"),
        "not an image": (("predict", at, str(text)), "text.png: not an image"),
        "no such image": (("predict", at, str(folder / "x.png")), "x.png: no such image file"),
        "no run to look into": (("viz", str(folder / "new")), "neither is nor holds a run folder"),
        "no such endpoint": (
            ("viz", str(trained), "--image", str(grey), "--endpoint", "stage9"),
            "--endpoint stage9: lenet5 has the feature maps stage1, stage2",
        ),
        "picture that is none": (("viz", str(trained), "--image", str(text)), "not an image"),
        "summary of nothing": (("summary", "lenet6"), "did you mean lenet5"),
        "summary too small": (("summary", "lenet5", "--input", "8", "8", "1"), "got 8x8"),
        "summary of no size": (("summary", "lenet5", "--input", "8", "8"), "--input"),
        "no model matches": (("list", "x?z*"), "no model matches"),
    }


def test_bad_input_gets_one_line_and_exit_code_2(capsys, trained, tmp_path):
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **__: compiled.append(name) if "backend_compile" in name else None
    )
    for case, (args, named) in bad_calls(tmp_path, trained).items():
        code, out, err = call(capsys, *args)
        assert code == 2, (case, code, err)
        assert err.startswith("jaxcnn: error: "), (case, err)
        assert err.count("\n") == 1, (case, err)
        assert named in err, (case, err)
        assert "Traceback" not in err + out, case
    assert not compiled
    assert not (tmp_path / "new").exists()
    assert call(capsys, "eval", str(trained))[0] == 0  # nothing was lost
    assert compiled  # so the listener does hear of it


def test_a_run_with_no_whole_checkpoint_is_named(capsys, trained, tmp_path):
    import shutil

    workdir = tmp_path / "a"
    shutil.copytree(trained, workdir)
    for manifest in workdir.rglob("manifest.sha256"):
        manifest.write_text("")
    code, _, err = call(capsys, "eval", str(workdir))
    assert code == 2
    assert "no whole checkpoint is left" in err.splitlines()[-1]
    assert "Traceback" not in err


def test_a_config_with_unknown_fields_is_named(capsys, trained, tmp_path):
    import shutil

    workdir = tmp_path / "a"
    shutil.copytree(trained, workdir)
    config = workdir / "config.json"
    config.write_text(config.read_text().replace('"peak_lr"', '"peek_lr"'))
    code, _, err = call(capsys, "eval", str(workdir))
    assert code == 2
    assert err == f"jaxcnn: error: {config}: config: unknown field 'peek_lr' of 'optim'\n"


def test_load_experiment_names_the_file(tmp_path):
    with pytest.raises(InputError, match=r"nothing\.py: no such file"):
        load_experiment(tmp_path / "nothing.py")


def write_safetensors(path, arrays):
    """The format by hand: length of the header, header, numbers."""
    header, data = {}, b""
    for name, array in arrays.items():
        place = [len(data), len(data) + array.nbytes]
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": place}
        data += array.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


@pytest.fixture
def lenet_file(trained, tmp_path):
    """The trained LeNet-5's parameters as PyTorch would store them."""
    params = restore(trained).state.params
    arrays = {}
    for layer, leaves in params.items():
        kernel = np.asarray(leaves["kernel"])
        kernel = kernel.transpose(3, 2, 0, 1) if kernel.ndim == 4 else kernel.T
        arrays[f"{layer}.weight"] = np.ascontiguousarray(kernel)
        arrays[f"{layer}.bias"] = np.asarray(leaves["bias"])
    write_safetensors(tmp_path / "lenet.safetensors", arrays)
    return tmp_path / "lenet.safetensors"


IMPORT = ("--model", "lenet5", "--num-classes", "10", "--dataset", "digits")
PIXELS = ("--mean", "0.31", "--std", "0.35")


@pytest.mark.slow
def test_imported_weights_evaluate_predict_and_start_a_training(
    capsys, trained, lenet_file, tmp_path
):
    out, file = tmp_path / "weights", lenet_file.rename(tmp_path / "lenet 5 (1).safetensors")
    code, text, _ = call(capsys, "import", str(file), "--out", str(out), *IMPORT, *PIXELS)
    assert code == 0
    assert json.loads((out / "config.json").read_text())["name"] == "lenet_5__1_"
    assert "lenet5 with 61,706 parameters" in text
    imported, original = evaluate(out), evaluate(trained)
    assert imported["test_top1"] == original["test_top1"]
    assert imported["test_loss"] == pytest.approx(original["test_loss"], rel=1e-5)
    Image.new("L", (32, 32), 40).save(tmp_path / "x.png")
    for workdir in (out, trained):
        code, text, _ = call(capsys, "predict", str(workdir), str(tmp_path / "x.png"))
        assert code == 0
    args = ["--train.epochs", "1", "--schedule.warmup-epochs", "0", "--optim.peak-lr", "1e-9"]
    code, text, _ = call(
        capsys,
        *("train", DIGITS, *args, "--workdir", str(tmp_path / "tuned"), "--init-from", str(out)),
    )
    assert code == 0
    assert f"starting from {out} at step 0" in text
    tuned = json.loads((tmp_path / "tuned" / "summary.json").read_text())
    # A vanishing learning rate leaves the network where it started.
    assert tuned["test_loss"] == pytest.approx(original["test_loss"], rel=1e-3)


def test_other_classes_start_the_last_layer_anew():
    old = {"conv": np.ones((3, 3, 1, 4)), "fc": {"kernel": np.ones((8, 5)), "bias": np.ones(5)}}
    new = {"conv": np.zeros((3, 3, 1, 4)), "fc": {"kernel": np.zeros((8, 7)), "bias": np.zeros(7)}}
    arrays, fresh = transfer(old, new, (5, 7), "x")
    assert arrays["conv"].all()
    assert not arrays["fc"]["kernel"].any()
    assert fresh == ["['fc']['bias']", "['fc']['kernel']"]
    with pytest.raises(InputError, match=r"holds another network: \['fc'\]\['bias'\]"):
        transfer(old, new, (5, 6), "x")
    with pytest.raises(InputError, match="has no place"):
        transfer({**old, "more": np.ones(1)}, old, (5, 5), "x")


def test_bad_weights_are_refused(capsys, lenet_file, tmp_path):
    whole = lenet_file.read_bytes()
    out = ("--out", str(tmp_path / "weights"))
    names = tmp_path / "names.txt"
    names.write_text("a\nb\n")
    bad_names = tmp_path / "bad names.txt"
    bad = (*IMPORT, "--classes", str(bad_names))
    for name, content, args, named in (
        ("w.safetensors", whole, (*IMPORT, "--classes", str(tmp_path)), "not a text file"),
        ("w.safetensors", whole, ("--model", "lenet5", "--num-classes", "0"), "num_classes=0"),
        (
            *("w.safetensors", whole, ("--model", "lenet5", "--num-classes", "1000000000000")),
            "num_classes=1000000000000 must be at most 1,000,000",
        ),
        ("w.safetensors", whole, (*IMPORT, "--image-size", "0"), "data.image_size=0: must be"),
        ("w.safetensors", whole, (*IMPORT, "--image-size", "1000000000"), "data.image_size=10000"),
        ("w.safetensors", whole, (*IMPORT, "--mean", "0", "1", "2"), "data.mean=(0.0, 1.0, 2.0): "),
        ("w.safetensors", whole, (*IMPORT, "--std", "1", "2"), "channels, which are 1"),
        ("w.safetensors", whole, (*IMPORT, "--mean"), "data.mean=()"),
        ("w.pth", b"PK\x03\x04", IMPORT, "is a pickle by its name"),
        ("w.safetensors", b"\x80\x02}q", IMPORT, "a pickle"),
        ("w.safetensors", whole[:-10], IMPORT, "is truncated"),
        ("w.safetensors", b"", IMPORT, "w.safetensors"),
        ("w.safetensors", whole, ("--model", "lenet6"), "did you mean lenet5"),
        ("w.safetensors", whole, ("--model", "lenet5", "--num-classes", "7"), "fc3.weight"),
        ("w.safetensors", whole, ("--model", "mlp", "--num-classes", "10"), "does not fit"),
        ("w.safetensors", whole, (*IMPORT, "--classes", str(names)), "has 2 lines, must have 10"),
    ):
        (tmp_path / name).write_bytes(content)
        code, _, err = call(capsys, "import", str(tmp_path / name), *args, *out)
        assert code == 2, (name, named)
        assert named in err
        assert err.count("\n") == 1
    for text, named in (
        (b"a\n\nb", "line 2 is ''"),
        (b"a\0\nb", r"line 1 is 'a\x00'"),
        (b"a\n \nb", "line 2 is ' '"),
        (b"\xff\n", "cannot be read"),
        (b"", "line 1 is ''"),
    ):
        bad_names.write_bytes(text)
        code, _, err = call(capsys, "import", str(tmp_path / "w.safetensors"), *bad, *out)
        assert (code, err.count("\n")) == (2, 1)
        assert named in err
    assert not (tmp_path / "weights").exists()
    start = ("--init-from", str(tmp_path / "weights"), "--workdir", str(tmp_path / "a"))
    code, _, err = call(capsys, "train", DIGITS, *start)
    assert code == 2
    assert "is " + str(tmp_path / "weights") + " a run folder" in err
    start = ("--init-from", str(lenet_file), "--workdir", str(tmp_path / "a"))
    code, _, err = call(capsys, "train", DIGITS, *start)
    assert (code, err.count("\n")) == (2, 1)
    assert f"{lenet_file}: is a file, must be a run folder; `jaxcnn import {lenet_file} " in err
    assert not (tmp_path / "a").exists()


def test_names_of_classes_may_have_a_mark_and_windows_line_ends(capsys, lenet_file, tmp_path):
    names, out = tmp_path / "names.txt", tmp_path / "weights"
    names.write_bytes(b"\xef\xbb\xbf" + b"crane\r\n" * 2 + b"c\r\n" * 8)
    args = (*IMPORT, "--classes", str(names), "--out", str(out))
    assert call(capsys, "import", str(lenet_file), *args)[0] == 0
    assert restore(out).classes == ("crane", "crane", *"cccccccc")
    data = restore(out).experiment.data
    assert (data.mean, data.std) == ((0.0,), (1.0,))  # grey images as they are
    Image.new("L", (32, 32), 40).save(tmp_path / "x.png")
    assert call(capsys, "predict", str(out), str(tmp_path / "x.png"))[0] == 0


def test_list_with_stats(capsys):
    code, out, _ = call(capsys, "list", "lenet*", "--stats")
    assert code == 0
    assert "61.71 k" in out
    assert "416.5 k" in out


@pytest.mark.parametrize(
    ("given", "options"),
    [
        ("", {}),
        ("--model.options.a 1 --train.epochs 3", {"a": 1}),
        (
            "--model.options.a=1 --model.options.b (1,) --model.options.c-d x=y",
            {"a": 1, "b": (1,), "c_d": "x=y"},
        ),
        ("--model.options a 1 b 5 --train.epochs 3 --model.options.b=true", {"a": 1, "b": True}),
        ("--model.options.a -1e-3 --model.options.pool avg", {"a": -1e-3, "pool": "avg"}),
    ],
)
def test_options_of_the_model_are_read(given, options):
    for args in ([DIGITS, *given.split()], [*given.split(), "--", DIGITS]):
        command = arguments.parse(train.Command, args, "train")
        assert command.experiment.model.options == options


def test_an_option_of_the_model_takes_one_word():
    command = arguments.parse(train.Command, ["--model.options.a", "1", DIGITS], "train")
    assert command.experiment.model.options == {"a": 1}


@pytest.mark.parametrize(
    "given",
    [
        "run a b",
        "run a b --checkpoint best",
        "--checkpoint=best run a b",
        "run --checkpoint best a b",
        "run a --checkpoint best b",
        "--checkpoint best -- run a b",
        "run --checkpoint best -- a b",
    ],
)
def test_options_may_stand_anywhere(given):
    command = arguments.parse(predict.Command, given.split(), "predict")
    assert (command.run, command.images) == (Path("run"), (Path("a"), Path("b")))
    assert command.checkpoint == ("best" if "best" in given else "latest")


def test_options_of_the_file_stay_as_long_as_its_model_does():
    file = str(ROOT / "experiments" / "convnet_cifar10.py")
    stated = load_experiment(Path(file)).model.options
    assert stated["hidden"] == 256
    for given, options in (
        ("--model.options.hidden 8", {**stated, "hidden": 8}),
        ("--model.name convnet", stated),
        ("--model.name mlp --model.options.dropout 0.5", {"dropout": 0.5}),
    ):
        command = arguments.parse(train.Command, [file, *given.split()], "train")
        assert command.experiment.model.options == options


@pytest.mark.parametrize(
    ("given", "name", "value"),
    [
        ("--data.image-size None", "data.image_size", None),
        ("--data.image_size=48", "data.image_size", 48),
        ("--data.streaming False", "data.streaming", False),
        ("--data.streaming true", "data.streaming", True),
        ("--data.mean 0.1 -1e-3", "data.mean", (0.1, -1e-3)),
        ("--data.examples 30 20", "data.examples", (30, 20)),
        ("--data.dir a=b", "data.dir", "a=b"),
        ("--optim.nesterov", "optim.nesterov", True),
        ("--optim.no-nesterov", "optim.nesterov", False),
        ("--augment.trivial-augment", "augment.trivial_augment", True),
        ("--augment.flip", "augment.flip", True),
        ("--augment.no-flip", "augment.flip", False),
        ("--augment.flip=alternating", "augment.flip", "alternating"),
        ("--optim.freeze", "optim.freeze", ()),
        ("--optim.peak-lr 0.1 --optim.peak-lr .2", "optim.peak_lr", 0.2),
        ("--name other", "name", "other"),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_every_kind_of_field_is_read(given, name, value, first):
    file, *rest = ([DIGITS, *given.split()], [*given.split(), "--", DIGITS])[not first]
    found = arguments.parse(train.Command, [file, *rest], "train").experiment
    for part in name.split("."):
        found = getattr(found, part)
    assert found == value
    assert type(found) is type(value)


def test_what_the_command_line_leaves_out_stays_as_the_file_says():
    assert arguments.parse(train.Command, [DIGITS], "train").experiment == load_experiment(
        Path(DIGITS)
    )


EPOCHS = "--train.epochs, --schedule.warmup-epochs, --schedule.swa-anneal-epochs"


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("--optim.peek-lr", "--optim.peak-lr"),
        ("--optim.peak_lt=3", "--optim.peak-lr"),
        ("--lr", "--optim.peak-lr, --schedule.swa-lr, --schedule.swa-cycle-lr"),
        ("--epochs", EPOCHS),
        ("--workdri", "--workdir"),
        ("--optim.no-nestrov", "--optim.no-nesterov"),
        ("--distributed.proces", "--distributed.process"),
        ("--workdri=my runs", "--workdir"),
        ("-epochs", EPOCHS),
    ],
)
def test_a_near_miss_gets_a_hint(capsys, given, meant):
    flag = given.split("=")[0].replace("_", "-")
    for args in ((DIGITS, given, "1"), (given, DIGITS)):
        code, out, err = call(capsys, "train", *args)
        assert code == 2
        assert err == f"jaxcnn: error: train: unknown option {flag}. Perhaps you meant: {meant}\n"
        assert not out


@pytest.mark.parametrize(
    ("words", "flip"),
    [
        (["--augment.flip"], True),
        (["--augment.flip", "true"], True),
        (["--augment.flip=True"], True),
        (["--augment.flip", "false"], False),
        (["--augment.flip=FALSE"], False),
        (["--augment.flip", "--augment.no-flip"], False),
    ],
)
def test_a_switch_may_be_followed_by_what_a_sweep_gives_it(words, flip):
    for args in ([DIGITS, *words], [*words, DIGITS]):
        assert arguments.parse(train.Command, args, "train").experiment.augment.flip == flip


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--augment.flip", "true", "false"], "nothing takes 'false'"),
        (["--augment.no-flip", "true"], "nothing takes 'true'"),
        (["--augment.flip=yes"], "takes no value, got 'yes'"),
    ],
)
def test_a_switch_takes_one_truth_value_alone(words, said):
    with pytest.raises(InputError, match=said):
        arguments.parse(train.Command, [DIGITS, *words], "train")


def test_no_option_is_near(capsys):
    assert call(capsys, "list", "--zzz")[2] == "jaxcnn: error: list: unknown option --zzz\n"
    assert call(capsys, "list", "a*", "b*")[2] == "jaxcnn: error: list: nothing takes 'b*'\n"


def test_the_run_of_eval_and_predict_may_still_be_called_workdir(capsys, trained, tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "x.png")
    image = str(tmp_path / "x.png")
    run = str(trained)
    for name, shape, new, *old in (
        ("eval", "RUN", [run], ["--workdir", run], [f"--workdir={run}"]),
        (
            *("predict", "RUN IMAGE ...", [run, image, "--checkpoint", "best"]),
            ["--workdir", run, image, "--checkpoint", "best"],
            [image, "--checkpoint", "best", "--workdir", run],
        ),
    ):
        code, out, err = call(capsys, name, *new)
        assert (code, err) == (0, "")
        for args in old:
            line = f"jaxcnn: --workdir is now the first argument: jaxcnn {name} {shape}\n"
            assert call(capsys, name, *args) == (0, out, line)


BAD_FILES = {
    "sys.exit": ("import sys\n\nsys.exit(0)", ", line 3: SystemExit: 0"),
    "exit in config": ("def config():\n    raise SystemExit", ", line 2: SystemExit"),
    "no Exception": ("raise GeneratorExit('a\\nb')", r", line 1: GeneratorExit: a\nb"),
    "no text": (
        "class E(Exception):\n    def __str__(self): raise SystemExit\nraise E",
        ", line 3: E",
    ),
    "syntax": ("x = 1\ndef config(:", ", line 2: SyntaxError: invalid syntax"),
    "nul": ("x = '\0'", ": SyntaxError: source code string cannot contain null bytes"),
    "nothing": ("", ": must define config() -> Experiment"),
    "argument": ("def config(x): pass", ": TypeError: config() missing 1 required"),
    "recursion": ("def config(): return config()", ", line 1: RecursionError: maximum"),
    "no repr": (
        "class E:\n    def __repr__(self): raise ValueError\ndef config(): return E()",
        ": config() must return a jaxcnn.config.Experiment, returned E",
    ),
    "elsewhere": ("import json\njson.loads('{')", ", line 2: JSONDecodeError: "),
    "field": (
        "from jaxcnn.config import *\ndef config():\n    return Experiment(train=Train(epochs=0))",
        ", line 3: train.epochs=0: must be",
    ),
    "terminal": (
        "raise ValueError('\\x1b]0;a\\x07\\u202e')",
        r", line 1: ValueError: \x1b]0;a\x07\u202e",
    ),
    "streams": (
        "import os, sys\nos.chdir('/')\nsys.stdout.close()\nsys.stderr = None\n1 / 0",
        ", line 5",
    ),
    "huge": ("#" * 10_000_001, ": must be a Python file that defines config()"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_whatever_an_experiment_does_ends_in_one_line(capsys, tmp_path, case):
    content, named = BAD_FILES[case]
    file, before = tmp_path / "bad.py", Path.cwd()
    file.write_text(content)
    for more in ((), ("--help",)):
        code, out, err = call(capsys, "train", str(file), *more)
        assert (code, out) == (2, "")
        assert err.startswith(
            f"jaxcnn: error: experiment {file}{named}" if named[0] in ",:" else "j"
        )
        assert named in err
        assert err.count("\n") == 1
    assert Path.cwd() == before


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["train", ""], "EXPERIMENT.py: must be a path, got ''"),
        (["train", DIGITS, "--workdir="], "--workdir: must be a path or None, got ''"),
        (["train", DIGITS, "--train.epochs"], "--train.epochs: expected one argument, INT"),
        (["train", DIGITS, "--train.epochs", "1e3"], "--train.epochs: must be a whole number, got"),
        (["train", DIGITS, "--optim.name"], "--optim.name: expected one argument, sgd|adamw|"),
        (["train", DIGITS, "--optim.peak-lr", "-x"], "--optim.peak-lr: expected one argument, N"),
        (["train", DIGITS, "--optim.nesterov=1"], "--optim.nesterov/--optim.no-nesterov: takes no"),
        (["train", DIGITS, "--", "--train.epochs"], "train: nothing takes '--train.epochs'"),
        (["train", DIGITS, "--\udcff\n"], r"train: unknown option --\xff\n"),
        (
            ["train", DIGITS, "--optim.peak-lr", "x" * 10**6],
            "--optim.peak-lr: must be a number, got",
        ),
        (["train", DIGITS, "--profile", "1:" + "9" * 5000], "--profile 1:999"),
        (["eval", "--workdir"], "eval: give RUN ..., the run folder"),
        (["predict", "--workdir", "a", "b", "--json=1"], "--json: takes no value"),
    ],
    ids=range(13),
)
def test_a_command_line_that_cannot_be_read_gets_one_short_line(capsys, args, line):
    code, out, err = call(capsys, *args)
    assert (code, out) == (2, "")
    assert err.startswith(f"jaxcnn: error: {line}")
    assert err.count("\n") == 1
    assert len(err) < 2100


@pytest.mark.parametrize(
    ("command", "code", "err"),
    [
        ("--help >&-", 0, ""),
        ("--help >&- 2>&- <&-", 0, ""),
        ("--help >/dev/full", 1, "jaxcnn: error: standard output: No space left on device\n"),
        ("fly 2>&-", 2, ""),
        ("fly 2>/dev/full", 2, ""),
        ("$'\\xff\\e[31mé'", 2, r"jaxcnn: error: command '\udcff\x1b[31m\xe9': must be one"),
    ],
)
def test_streams_that_take_nothing_break_nothing(command, code, err):
    if "/dev/full" in command and not Path("/dev/full").exists():
        pytest.skip("no such device")
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m jaxcnn.cli {command}"],
        env=os.environ | {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == code
    assert done.stderr.startswith(err)
    assert done.stderr.count("\n") == bool(err)


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("XLA_FLAGS", "--foo", "must be flags of XLA (Unknown flag in XLA_FLAGS: --foo)"),
        ("JAX_PLATFORMS", "foo", "must name devices of this machine (Unable to initialize"),
        ("JAX_PLATFORMS", "cpu,", "must name devices of this machine (Unable to initialize"),
        ("JAX_PLATFORM_NAME", "foo", "must name devices of this machine (Unknown backend foo"),
        ("OMP_NUM_THREADS", "x", "must be a positive whole number"),
        ("JAX_ENABLE_X64", "1", "must be 0, or not set"),
        ("JAX_LOGGING_LEVEL", "foo", "must be a value that JAX takes (Invalid value"),
        ("JAX_COMPILATION_CACHE_DIR", __file__, "must be a folder (File exists)"),
    ],
)
def test_a_variable_that_jax_would_die_of_is_named(tmp_path, name, value, line):
    done = subprocess.run(
        [sys.executable, "-m", "jaxcnn.cli", "bench", "lenet5", "--out", str(tmp_path / "a.csv")],
        env={**os.environ, "XLA_FLAGS": "", name: value},
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"jaxcnn: error: {name}={value!r}: {line}")
    assert done.stderr.count("\n") == 1


def test_names_in_tables_are_shown_as_they_are(capsys):
    from rich.table import Table

    table = Table("[/a] :cat:", title="[red]a[/]")
    table.add_row("\x1b[31m[b]\u202e\udcff")
    display.console().print(table)
    out = capsys.readouterr().out
    for text in ("[/a] :cat:", "[red]a[/]", r"\x1b[31m[b]\u202e\xff"):
        assert text in out


def raises(monkeypatch, error):
    def run(command):
        raise error

    monkeypatch.setattr(bench, "run", run)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("a=1: must be 2"), 2, "jaxcnn: error: a=1: must be 2\n"),
        (FileNotFoundError(2, "No such file", "a/b"), 2, "jaxcnn: error: a/b: No such file\n"),
        (OSError(28, "No space left", "a"), 1, "jaxcnn: error: a: No space left\n"),
        (MemoryError("3 GiB"), 1, "memory has run out (MemoryError: 3 GiB)\n"),
        (
            RuntimeError("RESOURCE_EXHAUSTED: 3 GiB"),
            1,
            "(RuntimeError: RESOURCE_EXHAUSTED: 3 GiB)\n",
        ),
        (InputError("a\nb\x1b"), 2, "jaxcnn: error: a\\nb\\x1b\n"),
        (OSError("disk full"), 2, "jaxcnn: error: disk full\n"),
        (Diverged("the loss is nan at step 3"), 1, "jaxcnn: the loss is nan at step 3\n"),
        (KeyboardInterrupt(), 130, ""),
        (Stopped(signal.SIGTERM, 7), 143, ""),
        (RuntimeError("no\nwonder"), 70, "(RuntimeError: no); --debug shows where\n"),
        (KeyError(), 70, "(KeyError); --debug shows where\n"),
    ],
)
def test_every_end_has_its_line_and_exit_code(capsys, monkeypatch, error, code, line):
    raises(monkeypatch, error)
    found, _, err = call(capsys, "bench")
    assert found == code
    assert err.endswith(line)
    assert err.count("\n") == bool(line)


def test_the_faults_are_told_apart_without_jax():
    code = "import sys; from jaxcnn import cli, errors; print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_an_internal_error_names_the_line_of_this_package(capsys, monkeypatch):
    from jaxcnn.analysis import summary

    def wrong(*args):
        raise RuntimeError("unforeseen")

    monkeypatch.setattr(summary, "render", wrong)
    code, out, err = call(capsys, "summary", "lenet5")
    assert code == 70
    assert not out
    place = r"jaxcnn: internal error in jaxcnn/commands/summary\.py:(\d+) "
    line = int(re.match(place, err)[1])
    lines = (ROOT / "jaxcnn/commands/summary.py").read_text().splitlines()
    assert "summary.render(" in lines[line - 1]


@pytest.mark.parametrize("where", ["before", "behind", "variable"])
def test_debug_shows_the_traceback(capsys, monkeypatch, where):
    raises(monkeypatch, RuntimeError("unforeseen"))
    if where == "variable":
        monkeypatch.setenv("JAXCNN_DEBUG", "1")
    args = {"before": ["--debug", "bench"], "behind": ["bench", "--debug"]}.get(where, ["bench"])
    code, _, err = call(capsys, *args)
    assert code == 70
    assert err.startswith("Traceback")
    assert "raise error\nRuntimeError: unforeseen\n" in err
    assert err.splitlines()[-1].startswith("jaxcnn: internal error in ")


def test_a_reader_that_has_seen_enough_is_no_error():
    command = f"{sys.executable} -m jaxcnn.cli train {DIGITS} --help"
    script = f"set -o pipefail; {command} | head -n 1"
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "usage: jaxcnn train EXPERIMENT.py [options]\n"


HELP = [*([command] for command in COMMANDS), ["train", DIGITS]]


@pytest.mark.parametrize("args", HELP, ids=" ".join)
def test_help_fits_any_width_and_breaks_no_word(capsys, monkeypatch, args):
    screens = {}
    for width in (80, 120, 1000):
        monkeypatch.setenv("COLUMNS", str(width))
        code, screens[width], err = call(capsys, *args, "--help")
        assert (code, err) == (0, "")
        assert max(map(len, screens[width].splitlines())) <= width
    assert len({tuple(screen.split()) for screen in screens.values()}) == 1
    lines = [len(screen.splitlines()) for screen in screens.values()]
    assert lines == sorted(lines, reverse=True)
    # The breaks of the source are gone: with room enough, every text is one line.
    assert not re.search(r"^( *)\S.*\n\1\w", screens[1000].partition("\n  ")[0], re.MULTILINE)
    assert not re.search(r"^ {6}\S.*\n {6}\S", screens[1000], re.MULTILINE)


def fields_of(kind, default, prefix=""):
    """Name and default of each option of a command, without the module under test."""
    for field in dataclasses.fields(kind):
        value = field.default
        if field.default_factory is not dataclasses.MISSING:
            value = field.default_factory()
        if default is not None:
            value = getattr(default, field.name)
        if dataclasses.is_dataclass(value):
            inner = "" if "spread" in field.metadata else f"{prefix}{field.name}."
            yield from fields_of(type(value), value, inner)
        else:
            yield prefix + field.metadata.get("name", field.name), value


@dataclasses.dataclass(frozen=True)
class Percent(arguments.Command):
    """Takes 5 % of it."""

    files: tuple[Path, ...] = dataclasses.field(metadata={"place": "FILE"})
    """Each 100 % whole, %(default)s."""
    share: int = 5
    """How many % of it, %s."""


def test_help_shows_percent_signs_as_they_are():
    text = arguments.explain(Percent, [], "percent")
    assert "usage: jaxcnn percent FILE ... [options]\n\nTakes 5 % of it.\n" in text
    assert "  FILE ...\n      Each 100 % whole, %(default)s.\n" in text
    assert "  --share INT\n      How many % of it, %s. (default: 5)\n" in text


@pytest.mark.parametrize("args", HELP, ids=" ".join)
def test_help_shows_every_default_and_choice(capsys, monkeypatch, args):
    monkeypatch.setenv("COLUMNS", "1000")
    module = importlib.import_module(f"jaxcnn.commands.{cli.COMMANDS[args[0]]}")
    out = call(capsys, *args, "--help")[1]
    default = None
    if args[1:]:
        default = train.Command(Path(DIGITS), experiment=load_experiment(Path(DIGITS)))
    texts = dict(re.findall(r"^  (\S.*)\n      (.*)$", out, re.MULTILINE))
    by_flag = {re.split(r"[ ,]|\.NAME", usage)[0]: text for usage, text in texts.items()}
    by_place = [text for usage, text in texts.items() if not usage.startswith("-")]
    for name, value in fields_of(module.Command, default):
        text = by_flag.get("--" + name.replace("_", "-"))
        if value in (dataclasses.MISSING, Path(DIGITS)):
            assert text or by_place, name
            continue
        shown = " ".join(map(str, value)) or "nothing" if isinstance(value, tuple) else str(value)
        shown = f"(default: {shown})" if value != {} else "(default: nothing)"
        among = [text] if text else by_place
        assert any(t.endswith(shown) or "by default" in t for t in among), (name, among)
    if args[0] == "train":
        assert "--optim.name sgd|adamw|lamb|lars|lion|muon|TEXT\n" in out
        assert "--data.streaming {True,False,None}\n" in out
        assert "--optim.nesterov, --optim.no-nesterov\n" in out


def test_help_of_train_begins_with_what_most_people_change(capsys):
    out = call(capsys, "train", DIGITS, "--help")[1]
    flags = re.findall(r"^  (--[\w.-]+)", out, re.MULTILINE)
    assert flags[:11] == [
        *("--train.epochs", "--data.batch-size", "--optim.peak-lr", "--optim.name"),
        *("--optim.weight-decay", "--model.name", "--model.options.NAME", "--data.name"),
        *("--data.dir", "--train.seed", "--workdir"),
    ]
    assert len(set(flags)) == len(flags)
    titles = re.findall(r"^([a-z.]+):(?: |$)", out, re.MULTILINE)
    sections = ["data", "augment", "model", "task", "optim", "schedule", "train", "devices"]
    assert titles == ["usage", "model.options", *sections, "distributed"]


def test_help_of_train_lists_the_options_of_the_model(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    file = str(ROOT / "experiments" / "convnet_cifar10.py")
    for args, defaults in (
        ((file,), {"widths": "(32, 64, 128)", "hidden": "256", "convs-per-stage": "1"}),
        ((file, "--model.name", "lenet5"), {"pool": "max", "dropout": "0.0"}),
        ((DIGITS, "--model.name", "resnet18"), {"stage-sizes": "(2, 2, 2, 2)"}),
    ):
        out = call(capsys, "train", *args, "--help")[1]
        for option, default in defaults.items():
            shown = f"--model.options.{option} VALUE", f"(default: {default})"
            assert re.search(r"\n      .+ ".join(map(re.escape, shown)), out), option
    code, _, err = call(capsys, "train", DIGITS, "--model.name", "lenet6", "--help")
    assert code == 2
    assert "'lenet6'" in err
    assert "--model.options.NAME" in call(capsys, "train", "--help")[1]


@pytest.mark.parametrize(
    ("text", "value"), [("(8, 16)", (8, 16)), ("[8,16]", (8, 16)), ("(8,)", (8,))]
)
def test_an_option_of_the_model_can_be_a_tuple(capsys, tmp_path, monkeypatch, text, value):
    def show(runs, *_, **__):
        raise InputError(repr(runs[0].experiment.model.options))

    monkeypatch.setattr(group, "train", show)
    options = ("--model.name", "convnet", "--model.options.widths", text)
    _, _, err = call(capsys, "train", DIGITS, *options, "--workdir", str(tmp_path))
    assert repr({"widths": value}) in err


@pytest.mark.parametrize("last", [False, True])
def test_two_options_of_the_model_both_arrive(capsys, tmp_path, last):
    options = [("--model.options.activation", "tanh"), ("--model.options.nonesuch=1",)]
    options = [part for option in options[:: 1 if last else -1] for part in option]
    code, _, err = call(capsys, "train", DIGITS, *options, "--workdir", str(tmp_path / "a"))
    assert code == 2
    assert "nonesuch" in err


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"XDG_CACHE_HOME": "/cache"}, "/cache/jaxcnn/xla"),
        ({"HOME": "/home/x"}, "/home/x/.cache/jaxcnn/xla"),
        ({"HOME": "/home/x", "JAX_COMPILATION_CACHE_DIR": "/own"}, "/own"),
        ({"HOME": "/home/x", "JAXCNN_NO_CACHE": "1"}, None),
        ({"HOME": "/home/x", "JAXCNN_NO_CACHE": "0"}, "/home/x/.cache/jaxcnn/xla"),
        ({"HOME": "/home/x", "XDG_CACHE_HOME": "cache"}, None),
        ({"XDG_CACHE_HOME": "cache", "JAX_COMPILATION_CACHE_DIR": "/own"}, "/own"),
    ],
)
def test_compiled_programs_are_kept_where_the_user_says(monkeypatch, variables, folder):
    for name in ("XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR", "JAXCNN_NO_CACHE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cli.main(["list", "lenet*"]) == 0
    assert os.environ.get("JAX_COMPILATION_CACHE_DIR") == folder
