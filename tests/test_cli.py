import json
import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from jaxcnn import cli
from jaxcnn.commands.parsing import load_experiment
from jaxcnn.commands.train import _options_together
from jaxcnn.errors import InputError
from jaxcnn.runs.evaluation import evaluate
from jaxcnn.runs.trained import restore, transfer

ROOT = Path(__file__).parents[1]
DIGITS = str(ROOT / "experiments" / "lenet5_digits.py")


def call(capsys, *args):
    try:
        code = cli.main(args)
    except SystemExit as end:  # tyro's own exits, such as --help
        code = end.code
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
    for heavy in ("jax", "flax", "tyro", "numpy", "matplotlib"):
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
    assert "epoch    2  step     44" in out
    assert "test top-1" in out


def test_eval_and_predict(capsys, trained, tmp_path):
    code, out, _ = call(capsys, "eval", "--workdir", str(trained))
    assert code == 0
    assert "on 360 images" in out
    code, out, _ = call(capsys, "eval", "--workdir", str(trained), "--tta", "ten_crop")
    assert code == 0
    assert "on 360 images, test-time augmentation ten_crop" in out
    for side in (8, 32):
        Image.new("L", (side, side)).save(tmp_path / f"{side}.png")
    paths = [str(tmp_path / "8.png"), str(tmp_path / "32.png")]
    code, out, _ = call(capsys, "predict", "--workdir", str(trained), *paths)
    assert code == 0
    for line, path in zip(out.splitlines(), paths, strict=True):
        name, label, probability = line.rsplit(" ", 2)
        assert name == f"{path}:"
        assert label in "0123456789"
        assert 0.1 <= float(probability) <= 1


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
    at = ("--workdir", str(trained))
    return {
        "no command": (("fly",), "command 'fly'"),
        "no file": (("train",), "give an experiment file"),
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
        "long warm-up": ((*train, *here, "--train.epochs", "1"), "schedule.warmup_epochs=2"),
        "unwritable folder": ((*train, "--workdir", str(occupied)), "occupied: cannot be written"),
        "folder below a file": ((*train, "--workdir", str(occupied / "x")), "cannot be written"),
        "folder of another run": ((*train, *at, "--train.seed", "5"), "train.seed was 0, now 5"),
        "no run to evaluate": (("eval", *here), "is " + str(folder / "new") + " a run folder"),
        "no workdir": (("eval",), "--workdir"),
        "unknown views": (("eval", *at, "--tta", "all"), "'none', 'flip', 'five_crop', 'ten_crop'"),
        "unknown checkpoint": (("eval", *at, "--checkpoint", "first"), "'latest', 'best'"),
        "nothing to predict": (("predict", *at), "at least one image"),
        "not an image": (("predict", *at, str(text)), "text.png: not an image"),
        "no such image": (("predict", *at, str(folder / "x.png")), "x.png: no such image file"),
        "40x40 into 32x32": (
            ("predict", *at, str(grey)),
            "trained at 32x32x1 (--resize would bring it to 8x8): "
            "fc1: the dense layer expects 400 features, got 784",
        ),
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
    assert call(capsys, "eval", "--workdir", str(trained))[0] == 0  # nothing was lost
    assert compiled  # so the listener does hear of it


def test_a_run_with_no_whole_checkpoint_is_named(capsys, trained, tmp_path):
    import shutil

    workdir = tmp_path / "a"
    shutil.copytree(trained, workdir)
    for manifest in workdir.rglob("manifest.sha256"):
        manifest.write_text("")
    code, _, err = call(capsys, "eval", "--workdir", str(workdir))
    assert code == 2
    assert "no whole checkpoint is left" in err.splitlines()[-1]
    assert "Traceback" not in err


def test_a_config_with_unknown_fields_is_named(capsys, trained, tmp_path):
    import shutil

    workdir = tmp_path / "a"
    shutil.copytree(trained, workdir)
    config = workdir / "config.json"
    config.write_text(config.read_text().replace('"peak_lr"', '"peek_lr"'))
    code, _, err = call(capsys, "eval", "--workdir", str(workdir))
    assert code == 2
    assert err == "jaxcnn: error: config: unknown field optim.peek_lr\n"


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
        code, text, _ = call(capsys, "predict", "--workdir", str(workdir), str(tmp_path / "x.png"))
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
    for name, content, args, named in (
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
        code, _, err = call(capsys, "import", str(tmp_path / name), *args, *PIXELS, *out)
        assert code == 2, (name, named)
        assert named in err
        assert err.count("\n") == 1
    assert not (tmp_path / "weights").exists()
    start = ("--init-from", str(tmp_path / "weights"), "--workdir", str(tmp_path / "a"))
    code, _, err = call(capsys, "train", DIGITS, *start)
    assert code == 2
    assert "is " + str(tmp_path / "weights") + " a run folder" in err


def test_list_with_stats(capsys):
    code, out, _ = call(capsys, "list", "lenet*", "--stats")
    assert code == 0
    assert "61.71 k" in out
    assert "416.5 k" in out


@pytest.mark.parametrize(
    ("given", "together"),
    [
        ([], []),
        (["--model.options.a", "1", "--x", "2"], ["--x", "2", "--model.options", "a", "1"]),
        (["--model.options.a=1", "--model.options.b", "(1,)"], "--model.options a 1 b (1,)"),
        (["--model.options", "a", "1", "--model.options.b=2"], "--model.options a 1 b 2"),
        (["--model.init-from=/a b/c"], ["--model.init-from=/a b/c"]),
    ],
)
def test_options_of_the_model_are_put_together(given, together):
    expected = together.split() if isinstance(together, str) else together
    assert _options_together(given) == expected


@pytest.mark.parametrize(
    ("text", "value"), [("(8, 16)", (8, 16)), ("[8,16]", (8, 16)), ("(8,)", (8,))]
)
def test_an_option_of_the_model_can_be_a_tuple(capsys, tmp_path, monkeypatch, text, value):
    def show(experiment, *_, **__):
        raise InputError(repr(experiment.model.options))

    monkeypatch.setattr(run, "train", show)
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
    ],
)
def test_compiled_programs_are_kept_where_the_user_says(monkeypatch, variables, folder):
    for name in ("XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR", "JAXCNN_NO_CACHE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cli.main(["list", "lenet*"]) == 0
    assert os.environ.get("JAX_COMPILATION_CACHE_DIR") == folder
