"""``jaxcnn eval``: what trained runs reach on their tests, other data, and changed images."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jaxcnn.commands import arguments, calibration
from jaxcnn.commands.parsing import bring_from, load_experiment
from jaxcnn.config import Data, Views
from jaxcnn.errors import InputError
from jaxcnn.text import printable

if TYPE_CHECKING:
    from jaxcnn.analysis.robustness import Change, Row
    from jaxcnn.runs.robustness import Question
    from jaxcnn.tasks import Metric


@dataclass(frozen=True)
class Command(arguments.Command):
    """Evaluates trained runs: on their whole test set, on other data, or on changed images.

    Runs that differ in their seed alone are one arm, of which means over seeds are shown.
    """

    runs: tuple[Path, ...] = field(metadata={"place": "RUN"})
    """The run folder; of several, or of a folder of them, a table compares the arms."""
    checkpoint: Literal["latest", "best"] = "latest"
    """The latest checkpoint, or the one with the best result on the validation set; without one
    it is the best on the test set, whose figures there are optimistic estimates."""
    split: Literal["test", "validation"] = "test"
    """The test set, or the examples that data.validation held out."""
    data: tuple[str, ...] = ()
    """Other data to evaluate on, by default the run's own: a name such as mnist or digits, a folder
    of images (CLASS/..., or test/CLASS/... or val/CLASS/...), npz:PATH, csv:PATH or hf:PATH, or the
    experiment file of a source of your own. Their classes are found by their names among those of
    the run, which chooses among these alone."""
    classes: Path | None = None
    """A file for classes of other names, by default none: lines THEIR NAME = OUR NAME, of which
    several may name one of ours, and none behind the sign leaves a class out; or one of our names
    on each line, in the order of theirs."""
    image_size: tuple[int, ...] = ()
    """Heights and widths of the images that the network sees, such as 288 for one trained at 224;
    by default that of training."""
    corruptions: tuple[str, ...] | None = None
    """Corrupts the images by the kinds that are named, such as fog snow, or by all 15 of Hendrycks
    & Dietterich (2019) if none is; by default by none."""
    severities: tuple[int, ...] | None = None
    """The severities of the corruptions; by default 1 to 5."""
    shifts: tuple[float, ...] | None = None
    """Shifts the images by so many pixels, in each of four directions; without numbers by 0 to 8,
    by default not at all."""
    rotations: tuple[float, ...] | None = None
    """Rotates them by so many degrees, both ways; without numbers by 0 to 90, by default not at
    all."""
    scales: tuple[float, ...] | None = None
    """Scales what they show by such factors; without numbers by 0.5 to 2, by default not at all."""
    limit: int | None = None
    """How many images are taken, a fixed subset of them; by default all."""
    out: Path | None = None
    """A file for all figures, .json (with those of each seed) or .csv; by default none."""
    plot: Path | None = None
    """A PNG file for the curves over the strength of changes; by default none."""
    data_dir: str | None = None
    """The folder of the data, of prepared TFDS datasets or of image files; by default the same as
    in training."""
    source: tuple[Path, ...] = field(default=(), metadata=arguments.FROM)
    """A Python file with the network, or whatever else was brought to the run; may be given several
    times."""
    tta: Views = "none"
    """Test-time augmentation: averages the probabilities of the image and its mirror image (flip),
    of the four corners and the centre (five_crop), of those and their mirror images (ten_crop), or
    of the image and two shifts by a pixel with half its weight, each mirrored too (flip_shift)."""
    calibration: bool = False
    """Says too how honest the probabilities are: negative log-likelihood, Brier score, expected
    calibration error, and accuracy on the images of which the network is surest, with intervals;
    draws calibration.png into the run folder."""
    fit_temperature: bool = False
    """First fits a temperature, by which the logits are divided, to the examples that
    data.validation held out, and keeps it as temperature.json in the run folder."""


def run(command: Command) -> int:
    """Evaluates the runs and returns the exit code."""
    bring_from(command.source)
    _check(command)
    if _is_plain(command):
        return _own_test(command)
    for name in ("calibration", "fit_temperature"):
        if getattr(command, name):
            option = name.replace("_", "-")
            raise InputError(
                f"--{option}: is of one run and its own images, with no other options "
                "than --split, --checkpoint and --data-dir"
            )

    from jaxcnn.analysis import robustness as analysis
    from jaxcnn.analysis import robustness_tables
    from jaxcnn.runs import display, robustness
    from jaxcnn.runs.trained import TEMPERATURE

    question = _question(command)
    with display.display() as listener:
        arms, metrics = robustness.arms(command.runs, listener.message)
        runs = [path for paths in arms.values() for path in paths]
        results = robustness.ask(runs, question, listener)
    rows = analysis.rows(results, arms)
    optimistic = not command.data and any(robustness.optimistic(run, question) for run in runs)
    tempered = any((run / TEMPERATURE).exists() for run in runs)
    caption = analysis.explanation(rows, metrics[0], optimistic=optimistic, tempered=tempered)
    screen = display.console()
    for table in robustness_tables.render(rows, metrics, screen.width, caption):
        screen.print(table)
    _write(command, rows, metrics)
    return 0


def _is_plain(command: Command) -> bool:
    """Returns whether one run is asked for its own test alone, which is said in a line."""
    others = [_changes_asked(command), command.limit is not None, command.classes is not None]
    others += map(bool, (command.data, command.image_size, command.out))
    first, *more = command.runs
    holds_runs = first.is_dir() and not (first / "config.json").exists()
    return not (more or holds_runs or any(others))


def _changes_asked(command: Command) -> bool:
    asked = (command.corruptions, command.shifts, command.rotations, command.scales)
    return any(value is not None for value in asked)


def _own_test(command: Command) -> int:
    """Prints the line on one run and its own test set, or what it held out for validation."""
    from jaxcnn.learning.selection import PREFIX
    from jaxcnn.runs import display, evaluation, trained

    path, tta, split = command.runs[0], command.tta, command.split
    with display.display() as listener, listener.waiting(f"evaluating {path}", said=False):
        network = trained.restore(path, command.checkpoint)
        tempered = calibration.prepare(command, network)
        result = evaluation.evaluate_trained(
            network, command.checkpoint, command.data_dir, tta, split
        )
    display.show(
        f"{path} step {result['step']}: "
        f"{display.reached(result, network.metrics, split)} "
        f"on {result[f'{PREFIX[split]}_examples']:,} images"
        + (f", test-time augmentation {tta}" if tta != "none" else "")
        + (", chosen on it: an optimistic estimate" if result["optimistic"] else "")
    )
    calibration.show(command, tempered)
    return 0


def _check(command: Command) -> None:
    """Checks the options against one another, before anything is read.

    Raises:
        InputError: names the option.
    """
    from jaxcnn.runs import robustness

    robustness.corrupted_by(command.corruptions, command.severities)
    for name, low, high in (("shifts", 0, 2**15), ("rotations", 0, 360), ("scales", 0.01, 100)):
        for value in getattr(command, name) or ():
            if value is None or not low <= value <= high:  # NaN is not either
                raise InputError(f"--{name} {value}: must be a number in [{low:g}, {high:g}]")
    if command.out is not None and command.out.suffix not in (".json", ".csv"):
        raise InputError(f"--out {command.out}: must end in .json or .csv")
    if command.plot is not None and command.plot.suffix != ".png":
        raise InputError(f"--plot {command.plot}: must end in .png")
    if command.plot is not None and not _changes_asked(command):
        raise InputError(
            f"--plot {command.plot}: needs --corruptions, --shifts, --rotations or --scales"
        )


def _question(command: Command) -> "Question":
    """Returns what the runs are asked; looks whether the files can be written."""
    from jaxcnn.learning import files
    from jaxcnn.runs.robustness import Question

    changes = _changes(command)
    data = {given: _data(given, command.data_dir) for given in dict.fromkeys(command.data)}
    question = Question(
        data=data,
        sizes=tuple(dict.fromkeys(command.image_size)),
        changes=changes,
        classes=command.classes,
        split=command.split,
        checkpoint=command.checkpoint,
        tta=command.tta,
        limit=command.limit,
        data_dir=command.data_dir,
    )
    for option, path in (("--out", command.out), ("--plot", command.plot)):
        if path is not None and not path.parent.is_dir():
            raise InputError(f"{option} {path}: there is no folder {path.parent}")
    if command.out is not None:
        begins = "[" if command.out.suffix == ".json" else "arm,"
        files.destination(command.out, "--out", begins)
    if command.plot is not None:
        files.check_writable(command.plot)
    return question


def _changes(command: Command) -> "list[Change]":
    from jaxcnn.analysis.robustness import CLEAN, CURVES, Change
    from jaxcnn.runs import robustness

    found = [CLEAN, *robustness.corrupted_by(command.corruptions, command.severities)]
    for kind, given in (
        ("shift", command.shifts),
        ("rotate", command.rotations),
        ("scale", command.scales),
    ):
        if given is not None:
            levels = sorted({*(given or CURVES[kind].levels)})
            found += [Change(kind, level) for level in levels]
    return found


def _data(given: str, data_dir: str | None) -> Data:
    """Returns the data that a word names.

    Raises:
        InputError: no text that can name data, or an experiment file that fails.
    """
    from jaxcnn.data import other

    if given.endswith(".py"):
        return load_experiment(Path(given)).data
    try:
        return other.named(given, data_dir)
    except (InputError, ValueError, OSError, RuntimeError) as error:  # a NUL in it, or too long
        said = str(error).partition("\n")[0]
        raise InputError(f"--data {printable(given, longest=100)}: {said}") from error


def _write(command: Command, rows: "Sequence[Row]", metrics: "Sequence[Metric]") -> None:
    """Writes the figures and the picture where the command says so."""
    from jaxcnn.analysis import plots, robustness
    from jaxcnn.learning import files

    if command.out is not None:
        flat = robustness.flat(rows, metrics)
        place = command.out.resolve()  # over links, as the path was checked
        if command.out.suffix == ".json":
            files.write_json(place, flat)
        else:
            files.write_text(place, _csv(flat))
        print(f"wrote {command.out}")
    if command.plot is not None:
        plots.save_robustness(rows, metrics[0], command.plot)
        print(f"wrote {command.plot}")


def _csv(flat: Sequence[dict[str, Any]]) -> str:
    import csv
    import io

    text = io.StringIO()
    names = list(dict.fromkeys(name for row in flat for name in row if name != "values"))
    table = csv.DictWriter(text, names, lineterminator="\n", extrasaction="ignore")
    table.writeheader()
    table.writerows(flat)
    return text.getvalue()
