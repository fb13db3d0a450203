"""From a comparison file to its table and its page, and what stands in their way."""

import ast
import html
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.stats import ttest_1samp

from jaxcnn import cli
from jaxcnn.analysis import arms, calibration, compare
from jaxcnn.analysis.calibration import CORRUPTED, UNCORRUPTED
from jaxcnn.commands import compare as compare_command
from jaxcnn.commands import report as report_command
from jaxcnn.commands.parsing import load_comparison, load_experiment
from jaxcnn.config import to_dict
from jaxcnn.learning import run_folder as folder
from jaxcnn.runs import calibrating, evaluation, group, network, robustness, training

FILE = """
from jaxcnn.config import *

def config():
    def arm(name, model):
        return Experiment(
            name=name, data=Data("digits", batch_size=128, mean=(0.3,), std=(0.35,)), model=model,
            optim=Optim("sgd", peak_lr=0.1), train=Train(epochs=2),
        )
    small = Model("convnet", {"widths": (2, 4), "hidden": 16, "batch_norm": True})
    return Comparison((arm("dense", Model("mlp", {"hidden": (32,)})), arm("conv", small)), seeds=2)
"""


def call(capsys, *args):
    code = cli.main(args)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """Interrupted between the second run and the third, then called again."""
    root = tmp_path_factory.mktemp("compared")
    file, workdir = root / "two_arms.py", root / "out"
    file.write_text(FILE)
    finish = training.Training.finish
    seen = []

    def interrupted(self, *args):
        seen.append(self.folder)
        if len(seen) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return finish(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.Training, "finish", interrupted)
        assert cli.main(["compare", str(file), "--workdir", str(workdir)]) == 128 + signal.SIGTERM
    assert [path.relative_to(workdir).as_posix() for path in seen] == ["dense/seed0", "conv/seed0"]
    assert not (workdir / "report.html").exists()
    # What is done can be compared in pairs, image by image.
    assert cli.main(["report", str(workdir), "--out", str(root / "half.html")]) == 0
    assert "McNemar" in (root / "half.html").read_text()
    assert cli.main(["compare", str(file), "--workdir", str(workdir)]) == 0
    return file, workdir


def test_what_arms_reach_under_corruption_is_a_mean_over_kinds_and_images(compared):
    _, workdir = compared
    groups = arms.group([arms.read(path) for path in arms.find([workdir])])
    rng = np.random.default_rng(0)
    runs = [run.path for arm in groups for run in arm.runs]
    held = {
        path: {**evaluation.predict_test_set(path), CORRUPTED: rng.integers(0, 6, (9, 15)) / 5}
        for path in runs
    }
    found = compare.compare(groups, held)
    kinds = {"corrupted": slice(None), "noise": slice(3), "blur": slice(3, 7)}
    kinds |= {"weather": slice(7, 11), "digital": slice(11, 15)}
    for arm, result in zip(groups, found.results, strict=True):
        for name, those in kinds.items():
            wanted = [held[run.path][CORRUPTED][:, those].mean() for run in arm.runs]
            assert result.measures[f"{name}_top1"].values == pytest.approx(wanted)
    difference = np.subtract(*(result.measures["blur_top1"].values for result in found.results))
    p = ttest_1samp(difference, 0).pvalue
    assert found.results[1].measures["blur_top1"].p_adjusted == pytest.approx(p)


def test_corruption_that_a_file_asks_for_can_be_turned_off(tmp_path):
    file = tmp_path / "corrupted.py"
    file.write_text(FILE.replace("seeds=2)", "seeds=2, corrupted=9)"))
    for given, wanted in ((None, 9), (0, None), (5, 5)):
        command = compare_command.Command(file, corrupted=given)
        assert compare_command._comparison(command).corrupted == wanted


def test_that_images_cannot_be_corrupted_is_said_before_anything_is_trained(
    capsys, tmp_path, monkeypatch
):
    """Where that is found out later, the arms are compared all the same."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(32, 4, 4, 1)).astype(np.float32), np.arange(32) % 2
    np.savez(tmp_path / "floats.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    file, workdir = tmp_path / "floats.py", tmp_path / "out"
    text = FILE.replace('"digits", batch_size=128', f'"npz:{tmp_path}/floats.npz", batch_size=16')
    file.write_text(
        text.replace('Model("convnet"', 'Model("mlp", {"hidden": (8,)}) or Model("convnet"')
    )
    args = "compare", str(file), "--seeds", "1", "--corrupted", "9", "--workdir", str(workdir)
    code, out, err = call(capsys, *args)
    assert (code, err.count("\n"), workdir.exists()) == (2, 1, False)
    assert "are float32; must be uint8 to be corrupted" in err
    monkeypatch.setattr(robustness, "require_pixels", lambda of: None)  # as if they changed since
    code, out, err = call(capsys, *args)
    assert code == 1, err
    assert "against dense" in out
    assert f"\n2 arms with 1 seed, 2 runs, on cpu, in {workdir}\n" in out
    found = json.loads((workdir / "comparison.json").read_text())["results"]
    best = max(found, key=lambda arm: arm["reached"]["mean"])
    reached = f"best: {best['name']}, test top-1 {100 * best['reached']['mean']:.2f} % ["
    assert f"\n{reached}" in out
    assert "images are float32; must be uint8 to be corrupted" in err
    assert err.count("\n") == 1
    found = json.loads((workdir / "comparison.json").read_text())
    assert [result["name"] for result in found["results"]] == ["dense", "conv"]
    assert "must be uint8 to be corrupted" in (workdir / "report.html").read_text()


def test_runs_are_compared_on_as_many_corrupted_images_as_most(compared, capsys, monkeypatch):
    _, workdir = compared
    rng = np.random.default_rng(0)

    def known(path: Path) -> dict:
        numbers = {"dense/seed0": (7, 9), "dense/seed1": (9,), "conv/seed0": (9, 5)}
        return {
            n: {CORRUPTED: rng.random((n, 15)), UNCORRUPTED: rng.integers(0, 2, (n, 1)) * 1.0}
            for n in numbers.get(path.relative_to(workdir).as_posix(), (5,))
        }

    monkeypatch.setattr(robustness, "known_under_all", known)
    page = workdir / "corrupted.html"
    code, _, err = call(capsys, "report", str(workdir), "--out", str(page))
    assert code == 0
    assert err.count("\n") == 1
    assert f"{workdir}/conv/seed1 (kept on other numbers of images than the 9" in err
    text = page.read_text()
    page.unlink()
    found = page_data(text)["comparison"]
    assert found["corrupted_examples"] == 9
    dense, conv = found["results"]
    for name in ("corrupted_top1", "uncorrupted_top1"):
        assert [len(arm["measures"][name]["values"]) for arm in (dense, conv)] == [2, 1]
    assert "On 9 test images that are corrupted" in text
    assert "top-1, not corrupted" in text


@pytest.mark.slow
def test_arms_are_compared_on_corrupted_images(capsys, compared):
    file, workdir = compared
    code, out, _ = call(
        capsys, "compare", str(file), "--corrupted", "12", "--workdir", str(workdir)
    )
    assert code == 0
    assert "top-1, all kinds" in out
    results = json.loads((workdir / "comparison.json").read_text())["results"]
    for result in results:
        for seed, value in enumerate(result["measures"]["corrupted_top1"]["values"]):
            each = robustness.corrupted(workdir / result["name"] / f"seed{seed}", limit=12).found
            assert len(each) == 15
            right = [cell.values["top1"] for kind in each.values() for cell in kind.values()]
            assert value == pytest.approx(np.mean(right), abs=1e-6)
    page = (workdir / "report.html").read_text()
    assert cli.main(["report", str(workdir), "--out", str(workdir / "again.html")]) == 0
    for text in (page, (workdir / "again.html").read_text()):
        assert "top-1, weather" in text


@pytest.mark.slow
def test_seeds_of_an_arm_are_computed_together_where_that_is_asked(capsys, tmp_path, compared):
    _, alone = compared
    file = tmp_path / "two_arms.py"
    file.write_text(FILE.replace("Train(epochs=2)", "Train(epochs=2, seeds_mode='map')"))
    code, out, _ = call(capsys, "compare", str(file), "--workdir", str(tmp_path / "out"))
    assert code == 0
    assert out.count("2 together (map)") == 2
    assert "(2 runs)" in out  # whose memory it is
    for arm, seed in itertools.product(("dense", "conv"), (0, 1)):
        one, other = (
            json.loads((folder_ / arm / f"seed{seed}" / "summary.json").read_text())
            for folder_ in (alone, tmp_path / "out")
        )
        assert one["state_sha256"] == other["state_sha256"]


def test_arms_with_other_settings_get_a_folder_of_their_own(tmp_path, monkeypatch, capsys):
    """Unless only seeds are added."""
    monkeypatch.chdir(tmp_path)

    def train(runs, *args, **kwargs):
        """Leaves of each run what is looked at of one that has begun."""
        for run in runs:
            newest = run.folder / "checkpoints" / "latest" / "5"
            newest.mkdir(parents=True, exist_ok=True)
            (newest / "manifest.sha256").touch()
            (run.folder / "config.json").write_text(json.dumps(to_dict(run.experiment)))
        return group.Outcome()  # after which the command has nothing to compare

    monkeypatch.setattr(group, "train", train)
    Path("two_arms.py").write_text(FILE)
    for seeds in ("2", "3"):
        cli.main(["compare", "two_arms.py", "--seeds", seeds])
        assert {path.name for path in Path("runs").iterdir()} == {"two_arms"}
    Path("two_arms.py").write_text(FILE.replace('Data("digits"', 'Data("digits", train_limit=300'))
    capsys.readouterr()
    cli.main(["compare", "two_arms.py"])
    assert {path.name for path in Path("runs").iterdir()} == {"two_arms", "two_arms-2"}
    line = "runs/two_arms holds a run with another data.train_limit: these are in runs/two_arms-2"
    assert line in capsys.readouterr().out


def test_figures_are_those_of_the_runs(compared):
    _, workdir = compared
    found = json.loads((workdir / "comparison.json").read_text())
    assert [r["name"] for r in found["results"]] == ["dense", "conv"]
    assert found["test"] == "paired t"
    for result in found["results"]:
        last = [folder.read_metrics(workdir / result["name"] / f"seed{s}")[-1] for s in (0, 1)]
        assert result["tested"] == [record["test_top1"] for record in last]
        assert result["reached"]["mean"] == pytest.approx(np.mean(result["tested"]))
        assert result["seconds"] == pytest.approx(np.mean([r["seconds"] for r in last]))
        # Every class's errors, weighted by its images, are the error rate of the whole.
        kept = [evaluation.predict_test_set(workdir / result["name"] / f"seed{s}") for s in (0, 1)]
        weights = np.bincount(kept[0]["label"], minlength=10) / 360
        error = 1 - result["reached"]["mean"]
        assert np.dot(result["class_errors"], weights) == pytest.approx(error)
        for one, record in zip(kept, last, strict=True):
            assert np.mean(one["predicted"] == one["label"]) == record["test_top1"]
            loss = -np.log(one["label_probability"]).mean()
            assert loss == pytest.approx(record["test_loss"], rel=1e-4)
    dense, conv = found["results"]
    assert dense["macs"] == 64 * 32 + 32 * 10
    assert dense["memory_bytes"] > 1437 * 64
    gain = np.subtract(conv["tested"], dense["tested"]).mean()
    assert conv["difference"]["mean"] == pytest.approx(gain)
    assert (workdir / "comparison.png").read_bytes()[:4] == b"\x89PNG"


def test_called_again_it_reuses_every_run(capsys, compared):
    file, workdir = compared
    before = {p: p.stat().st_mtime_ns for p in workdir.rglob("metrics.jsonl")}
    code, out, _ = call(capsys, "compare", str(file), "--workdir", str(workdir))
    assert code == 0
    assert out.count("is finished: 2 epochs") == 4
    assert {p: p.stat().st_mtime_ns for p in workdir.rglob("metrics.jsonl")} == before
    for word in ("dense", "conv", "against dense", "error rate per class", "Student", "Holm"):
        assert (word in out) == (word != "Holm"), word  # one arm needs no correction


def test_single_runs_are_compared_over_test_images(compared):
    _, workdir = compared
    paths = [workdir / arm / "seed0" for arm in ("dense", "conv")]
    both = arms.group([arms.read(path) for path in paths])
    held = {path: evaluation.predict_test_set(path) for path in paths}
    found = compare.compare(both, held)
    assert found.test == "McNemar"
    assert 0 <= found.results[1].p_adjusted <= 1
    assert found.results[0].reached.low < found.results[0].tested[0] < found.results[0].reached.high


def page_data(page: str):
    return json.loads(
        re.search(r'<script type="application/json" id="data">(.*?)</script>', page)[1]
    )


def test_the_page_holds_the_numbers_of_the_runs_and_asks_for_nothing(compared):
    _, workdir = compared
    page = (workdir / "report.html").read_text()
    data = page_data(page)
    assert len(data["runs"]) == 4
    for run in data["runs"]:
        assert run["records"] == folder.read_metrics(Path(run["path"]))
    assert data["comparison"] == json.loads((workdir / "comparison.json").read_text())
    for result in data["comparison"]["results"]:
        assert f"{100 * result['reached']['mean']:.2f} %" in page
    assert not re.search(r"""(src|href)=["'](?!data:)|url\(|@import|https?://""", page)
    assert page.count("<figure><img") >= 2  # worst mistakes
    assert "model.options.widths" in page


def test_a_report_is_that_of_the_comparison(capsys, compared, tmp_path):
    """The same order, and so the same baseline, colours and p values; by the alphabet others."""
    _, workdir = compared
    page = tmp_path / "again.html"
    assert call(capsys, "report", str(workdir), "--out", str(page))[0] == 0
    made, again = (page_data(path.read_text()) for path in (workdir / "report.html", page))
    assert again == made
    assert [arm["name"] for arm in again["comparison"]["results"]] == ["dense", "conv"]
    keys = re.findall(r'var\(--c(\d)\)"></i>(\w+)', page.read_text())
    assert keys[:2] == [("0", "dense"), ("1", "conv")]
    assert call(capsys, "report", str(workdir.parent), "--out", str(page))[0] == 0
    assert page_data(page.read_text()) == made
    (workdir / "planned.json").rename(workdir / "kept")  # as a folder of older versions
    try:
        call(capsys, "report", str(workdir), "--out", str(page))
    finally:
        (workdir / "kept").rename(workdir / "planned.json")
    results = page_data(page.read_text())["comparison"]["results"]
    assert [arm["name"] for arm in results] == ["conv", "dense"]


def test_a_report_has_the_temperatures_of_the_comparison(capsys, compared, tmp_path, monkeypatch):
    def at_temperature(path, *_):
        kept = evaluation.predict_test_set(path)
        return {calibration.TEMPERED + name: kept[name] for name in calibration.FIELDS}

    monkeypatch.setattr(calibrating, "at_temperature", at_temperature)
    file, workdir, page = compared[0], tmp_path / "out", tmp_path / "again.html"
    shutil.copytree(compared[1], workdir)
    assert call(capsys, "compare", str(file), "--workdir", str(workdir))[0] == 0
    assert call(capsys, "report", str(workdir), "--out", str(page))[0] == 0
    served = report_command._live(report_command.Command((workdir,)), {})
    made = page_data((workdir / "report.html").read_text())
    assert "NLL at T" in page.read_text()
    assert page_data(page.read_text()) == page_data(served) == made


def test_what_cannot_be_compared_is_said_on_the_page_that_is_served(compared, tmp_path):
    _, workdir = compared
    for name in ("dense", "conv"):
        shutil.copytree(workdir / name / "seed0", tmp_path / name)
    about = tmp_path / "conv" / "dataset.json"
    about.write_text(about.read_text().replace('"digits"', '"others"'))
    page = report_command._live(report_command.Command((tmp_path,)), {})
    assert "was tested on other data than" in page


def test_a_page_of_one_run_is_of_that_run(capsys, compared, tmp_path):
    """Train and test in one chart, its figures, and what trains it again; nothing that compares."""
    _, workdir = compared
    run, page = workdir / "conv" / "seed0", tmp_path / "run.html"
    code, out, _ = call(capsys, "report", str(run), "--out", str(page))
    assert (code, out) == (0, f"{page}: 1 run\n")
    text = page.read_text()
    for word in ("against conv", "Pareto", " arm", "1 runs", ">p<"):
        assert word not in text.split('<script type="application/json"')[0], word
    chart = text.split("Test error, %, and in training")[1].split("</svg>")[0]
    assert {"var(--c0)", "var(--c1)"} <= set(re.findall(r"var\(--c\d\)", chart))
    end = folder.read_metrics(run)[-1]
    assert f"<td>test top-1</td><td>{100 * end['test_top1']:.2f} % [" in text
    kept = evaluation.predict_test_set(run)
    rows = re.findall(r"<tr><td>(\d)</td><td>(\d+)</td><td>([\d.]+) %</td>", text)
    assert len(rows) == 10
    for name, images, recall in rows:
        those = kept["label"] == int(name)
        assert int(images) == those.sum()
        right = (kept["predicted"][those] == int(name)).mean()
        assert float(recall) == pytest.approx(100 * right, abs=0.051)
    again = tmp_path / "again.py"
    again.write_text(html.unescape(text.split('<pre tabindex="0">')[1].split("</pre>")[0]))
    found = json.loads(json.dumps(to_dict(load_experiment(again))))  # lists in place of tuples
    assert found == json.loads((run / "config.json").read_text())
    call(capsys, "report", str(workdir / "conv"), "--out", str(page))
    text = page.read_text()
    assert "mean over 2 seeds" in text
    assert "Pareto" not in text


def test_unfinished_and_damaged_runs_are_named_and_the_rest_reported(capsys, compared, tmp_path):
    _, workdir = compared
    some = tmp_path / "some"
    shutil.copytree(workdir / "conv", some)
    (some / "seed0" / "summary.json").unlink()
    shutil.copytree(workdir / "dense" / "seed0", some / "whole")
    shutil.copytree(workdir / "dense" / "seed1", some / "damaged")
    metrics = some / "damaged" / "metrics.jsonl"
    metrics.write_text(metrics.read_text()[10:])
    code, out, err = call(capsys, "report", str(some), "--out", str(tmp_path / "r.html"))
    assert code == 2
    assert "2 runs in 2 arms" in out
    assert len(err.splitlines()) == 2
    assert f"{some / 'seed0'}: is not finished" in err
    assert f"{metrics}: line 1 is damaged" in err
    page = (tmp_path / "r.html").read_text()
    assert "is not finished" in page
    assert len(page_data(page)["runs"]) == 2


def test_bad_input_is_named(capsys, compared, tmp_path):
    file, workdir = compared
    other = tmp_path / "other.py"
    other.write_text(FILE.replace('"digits"', '"digits" if name == "dense" else "mnist"'))
    wrong = tmp_path / "wrong.py"
    wrong.write_text(FILE.replace("peak_lr=0.1", "peak_lr=0.2"))
    foreign = tmp_path / "foreign"
    shutil.copytree(workdir, foreign)
    about = foreign / "conv" / "seed0" / "dataset.json"
    about.write_text(about.read_text().replace('"digits"', '"mnist"'))
    experiment = "experiments/lenet5_digits.py"
    twins = (str(workdir / "conv" / "seed0"), str(foreign / "conv" / "seed1"), str(workdir))
    for args, named in (
        (
            ("compare", str(tmp_path / "none.py")),
            f"comparison {tmp_path / 'none.py'}: no such file",
        ),
        (("compare", experiment), "must return a jaxcnn.config.Comparison, returned Experiment"),
        (("train", str(file)), "returned Comparison; use `jaxcnn compare"),
        (("compare", str(other)), "data.name='mnist': must be 'digits', as in the first arm"),
        (("compare", str(file), "--seeds", "0"), "seeds=0: must be a whole number in [1, 10000]"),
        (("compare", str(wrong), "--workdir", str(workdir)), "optim.peak_lr was 0.1, now 0.2"),
        (("report", str(tmp_path / "nothing")), "neither is nor holds a run folder"),
        (("report",), "at least one run folder"),
        (("report", str(foreign)), "was tested on other data than"),
        (("report", *twins), "has the experiment and the seed of"),
        (("report", str(workdir), "--out", str(tmp_path)), "is a folder"),
        (("report", str(workdir), "--out", f"{file}/r.html"), "two_arms.py"),
    ):
        code, _, err = call(capsys, *args)
        assert code == 2, (args, err)
        assert err.count("\n") == 1, (args, err)
        assert named in err, (args, err)


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", "--hide-scrollbars"),
)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")


def browse(page: Path, *args: str) -> tuple[str, list[str]]:
    """What a fresh browser prints, and what the page made it complain of."""
    profile = f"--user-data-dir={page.parent / 'profile'}"
    command = [CHROMIUM, *QUIET, profile, *args, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if ":CONSOLE" in line]


@needs_browser
@pytest.mark.parametrize(("width", "scheme"), [(390, 0), (1280, 1)])
def test_a_browser_shows_the_page(compared, tmp_path, width, scheme):
    """No error, no refused request, no sideways scrolling; dark where dark is asked for."""
    _, workdir = compared
    page, shot = tmp_path / "page.html", tmp_path / "shot.png"
    text = (workdir / "report.html").read_text()
    page.write_text(text)
    window = f"--window-size={width},900"
    wanted = f"--blink-settings=preferredColorScheme={scheme}"
    _, complaints = browse(page, window, wanted, f"--screenshot={shot}")
    assert not complaints
    pixels = np.asarray(Image.open(shot).convert("L"))
    assert pixels.shape[1] == width
    assert (np.median(pixels) < 60) == (scheme == 0)
    assert pixels.std() > 10  # something is drawn
    # In a frame, since a window cannot be as narrow as a telephone.
    frame = f'<iframe style="border:0;width:{width}px" srcdoc="{html.escape(text)}"></iframe>'
    width_of = "frames[0].document.documentElement.scrollWidth"
    probe = f"onload = () => {{ document.title = {width_of} }}"
    page.write_text(f"<!DOCTYPE html><title></title>{frame}<script>{probe}</script>")
    dom, _ = browse(page, "--dump-dom")
    assert int(re.search(r"<title>(\d+)</title>", dom)[1]) <= width


@needs_browser
def test_the_browser_would_complain(compared, tmp_path):
    """The check above can fail: the page's own policy refuses what is asked for outside."""
    _, workdir = compared
    page = tmp_path / "page.html"
    text = (workdir / "report.html").read_text()
    page.write_text(text.replace("<body>", '<body><img src="https://example.org/a.png">'))
    _, complaints = browse(page, "--dump-dom")
    assert "Content Security Policy" in complaints[0]


def test_the_comparisons_at_hand_state_their_cost_and_build():
    files = sorted((Path(__file__).parents[1] / "experiments").glob("compare_*.py"))
    assert {p.stem for p in files} >= {"compare_digits", "compare_fashion_mnist"}
    for path in files:
        header = ast.get_docstring(ast.parse(path.read_text()))
        for term in ("Command:", "Hardware:", "Time:", "Result:", "measured"):
            assert term in header, f"{path.name} does not state {term}"
        comparison = load_comparison(path)
        side = 8 if comparison.arms[0].data.name == "digits" else 28
        for arm in comparison.arms:
            network.build(arm, ["x"] * 10, (side, side, 1))
