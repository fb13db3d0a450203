"""The command line: ``jaxcnn train | eval | predict | import | summary | list``.

Everything heavy is imported where it is used, so that ``jaxcnn --help`` answers at once. A fault
in what the user gave ends in one line on stderr and exit code 2.
"""

import contextlib
import difflib
import importlib.util
import io
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from jaxcnn import __version__
from jaxcnn.config import Data, Experiment, InputError, Model

if TYPE_CHECKING:
    from jaxcnn import run
    from jaxcnn.train import loop

T = TypeVar("T")

USAGE = f"""\
jaxcnn {__version__}: train, prove and compare convolutional networks in JAX

  jaxcnn train EXPERIMENT.py [--workdir DIR] [--optim.peak-lr 0.05 ...]
                            train, or go on where a run ended
  jaxcnn eval --workdir DIR                 test accuracy of a trained run
  jaxcnn predict --workdir DIR IMAGE ...    class and probability of images
  jaxcnn import WEIGHTS.safetensors --model NAME --out DIR
                            weights in torchvision's layout, for train, eval and predict
  jaxcnn summary MODEL [--input H W C]      layers, shapes, parameters, MACs
  jaxcnn list [PATTERN] [--stats]           models

  jaxcnn COMMAND --help     every option of a command
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in {"-h", "--help"}:
        print(USAGE, end="")
        return 0 if args else 2
    if args[0] == "--version":
        print(__version__)
        return 0
    try:
        command = _named(args[0])
        _quiet()
        return command(args[1:])
    except InputError as error:
        print(f"jaxcnn: error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if isinstance(error, BrokenPipeError):  # the reader, such as `head`, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        where = f"{error.filename}: " if error.filename else ""
        print(f"jaxcnn: error: {where}{error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _named(name: str) -> Callable[[Sequence[str]], int]:
    commands = {
        "train": _train,
        "eval": _eval,
        "predict": _predict,
        "import": _import,
        "summary": _summary,
        "list": _list,
    }
    if name not in commands:
        raise InputError(f"command {name!r}: must be one of {', '.join(commands)}")
    return commands[name]


def _quiet() -> None:
    """Keeps the libraries' chatter off the terminal; their errors stay."""
    import logging

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    logging.getLogger("absl").setLevel(logging.ERROR)
    logging.basicConfig(format="jaxcnn: %(message)s")


def _parse(function: Callable[..., T], args: Sequence[str], prog: str, description: str = "") -> T:
    """Calls a function with arguments from the command line, by its annotations."""
    import tyro

    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(
                function, args=args, prog=f"jaxcnn {prog}", description=description or None
            )
    except SystemExit as end:
        if end.code == 0:  # --help
            raise
        raise InputError(_one_line(errors.getvalue())) from None


def _one_line(boxed: str) -> str:
    """The message in a box that tyro draws, without its title and its advice on --help."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", boxed)
    text = re.sub(r"╭.*╮|[─╰╯│]+", " ", text)
    text = re.sub(r"(Argument helptext:|For full helptext,).*", "", text, flags=re.DOTALL)
    text = re.sub(r"Error parsing [\w.]+: (?=\w+\.\w+=)", "", " ".join(text.split()))
    return text.strip()


# ------------------------------------------------------------------------------------- train


def load_experiment(path: Path) -> Experiment:
    """Runs an experiment file and calls its ``config()``.

    Raises:
        InputError: no such file, or not an experiment.
    """
    if not path.is_file():
        near = difflib.get_close_matches(
            path.stem, [p.stem for p in path.parent.glob("*.py")], n=1, cutoff=0.5
        )
        hint = f"; did you mean {path.parent / near[0]}.py?" if near else ""
        raise InputError(f"experiment {path}: no such file{hint}")
    spec = importlib.util.spec_from_file_location("experiment", path)
    if spec is None or spec.loader is None:
        raise InputError(f"experiment {path}: must be a Python file that defines config()")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        experiment = module.config()
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"experiment {path}: {type(error).__name__}: {error}") from error
    if not isinstance(experiment, Experiment):
        raise InputError(
            f"experiment {path}: config() must return a jaxcnn.config.Experiment, "
            f"returned {type(experiment).__name__}"
        )
    return experiment


def _train(args: Sequence[str]) -> int:
    import tyro

    helping = bool({"-h", "--help"} & set(args))
    files = [a for a in args[:1] if not a.startswith("-")]
    if not files and not helping:
        raise InputError("train: give an experiment file first, as experiments/lenet5_digits.py")
    default = load_experiment(Path(files[0])) if files else Experiment()
    # The options given are laid over the file's, so tyro must not see those.
    args = [re.sub(r"^(--model\.options)\.", r"\1 ", arg) for arg in args[len(files) :]]
    args = [part for arg in args for part in (arg.split(" ") if arg.startswith("--m") else [arg])]
    bare = replace(default, model=replace(default.model, options={}))

    def parsed(
        experiment: Annotated[Experiment, tyro.conf.arg(name="")] = bare,
        workdir: Path | None = None,
        init_from: str | None = None,
    ) -> tuple[Experiment, Path]:
        """Train an experiment, or go on where an earlier call in the same folder ended.

        Args:
            experiment: any field of the experiment.
            workdir: the run folder; by default runs/NAME-seedSEED.
            init_from: short for --model.init-from: a run, or imported weights, to start from.
        """
        name = f"{experiment.name}-seed{experiment.train.seed}"
        if init_from is not None:
            model = replace(experiment.model, init_from=init_from)
            experiment = replace(experiment, model=model)
        return experiment, workdir or Path("runs") / name

    experiment, workdir = _parse(parsed, args, f"train {files[0] if files else 'EXPERIMENT.py'}")
    if experiment.model.name == default.model.name:  # another network has other options
        options = {**default.model.options, **experiment.model.options}
        experiment = replace(experiment, model=replace(experiment.model, options=options))

    from jaxcnn import run
    from jaxcnn.train import loop

    with _display() as listener:
        try:
            summary = run.train(experiment, workdir, listener)
        except loop.Stopped as stopped:
            listener.message(str(stopped))
            return 128 + stopped.signal
        except loop.Diverged as diverged:
            print(f"jaxcnn: {workdir}: {diverged}", file=sys.stderr)
            return 1
    print(
        f"test top-1 {summary['test_top1']:.2%}, top-5 {summary['test_top5']:.2%}, "
        f"loss {summary['test_loss']:.4f} after {summary['epochs']} epochs "
        f"in {summary['seconds']:.1f} s of training"
    )
    print(f"run folder {workdir}: summary.json, metrics.jsonl, curves.png, confusion.png")
    return 0


@contextlib.contextmanager
def _display() -> "Iterator[run.Listener]":
    """A live display on a terminal, plain lines when piped."""
    from jaxcnn import run

    class Lines(run.Listener):
        def message(self, text: str) -> None:
            try:
                print(text, flush=True)
            except BrokenPipeError:  # nobody reads on, as after `| head`: the training goes on
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

        def record(self, record: "loop.Record") -> None:
            self.message(
                f"epoch {record['epoch']:4d}  step {record['step']:6d}  "
                f"train loss {record['train_loss']:.4f} top-1 {record['train_top1']:7.2%}  "
                f"test loss {record['test_loss']:.4f} top-1 {record['test_top1']:7.2%}  "
                f"{record['images_per_sec']:9,.0f} images/s"
            )

    if not sys.stdout.isatty():
        yield Lines()
        return

    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("epoch {task.fields[epoch]}"),
        BarColumn(bar_width=None),
        TextColumn("{task.percentage:3.0f}%"),
        TextColumn("loss {task.fields[loss]:.4f}"),
        TextColumn("top-1 {task.fields[top1]:.2%}"),
        TextColumn("{task.fields[rate]:,.0f} images/s"),
        TimeRemainingColumn(),
        transient=True,
    )

    class Live(Lines):
        task: Any = None

        def message(self, text: str) -> None:
            bar.console.print(text, highlight=False, markup=False, soft_wrap=True)

        def progress(self, progress: "loop.Progress") -> None:
            if self.task is None:
                self.task = bar.add_task(
                    "", total=progress.total_steps, epoch=0, loss=0.0, top1=0.0, rate=0.0
                )
            bar.update(
                self.task,
                completed=progress.step,
                epoch=progress.epoch,
                loss=progress.train_loss,
                top1=progress.train_top1,
                rate=progress.images_per_sec,
            )

    with bar:
        yield Live()


# ---------------------------------------------------------------------------- eval and predict


def _eval(args: Sequence[str]) -> int:
    def parsed(
        workdir: Path,
        checkpoint: Literal["latest", "best"] = "latest",
        data_dir: str | None = None,
    ) -> tuple[Path, str, str | None]:
        """Evaluate a trained run on its whole test set.

        Args:
            workdir: the run folder.
            checkpoint: the last one, or the one with the best test accuracy (which was chosen on
                the test set, and is therefore an optimistic estimate).
            data_dir: folder of prepared TFDS datasets, where it is another than in training.
        """
        return workdir, checkpoint, data_dir

    workdir, checkpoint, data_dir = _parse(parsed, args, "eval")
    from jaxcnn import trained

    result = trained.evaluate(workdir, checkpoint, data_dir)
    print(
        f"{workdir} step {result['step']}: test top-1 {result['test_top1']:.2%}, "
        f"top-5 {result['test_top5']:.2%}, loss {result['test_loss']:.4f} "
        f"on {result['test_examples']:,} images"
    )
    return 0


def _predict(args: Sequence[str]) -> int:
    import tyro

    def parsed(
        images: tyro.conf.Positional[tuple[Path, ...]],
        workdir: Path,
        checkpoint: Literal["latest", "best"] = "latest",
        resize: bool = False,
    ) -> tuple[tuple[Path, ...], Path, str, bool]:
        """Classify image files: file, class and probability, one line each.

        Args:
            images: files of the dataset's size, or of a size that the network takes.
            workdir: the run folder.
            checkpoint: the last one, or the one with the best test accuracy.
            resize: first resizes every image to the dataset's size.
        """
        return images, workdir, checkpoint, resize

    images, workdir, checkpoint, resize = _parse(parsed, args, "predict")
    if not images:
        raise InputError("predict: give at least one image file")
    from jaxcnn import trained

    for found in trained.predict(workdir, images, checkpoint=checkpoint, resize=resize):
        print(f"{found.path}: {found.label} {found.probability:.4f}")
    return 0


# --------------------------------------------------------------------- import, summary and list


def _import(args: Sequence[str]) -> int:
    import tyro

    def parsed(
        weights: tyro.conf.Positional[Path],
        model: str,
        out: Path,
        num_classes: int = 1000,
        classes: Path | None = None,
        image_size: int | None = None,
        dataset: str = "imagenet2012",
        mean: tuple[float, ...] = (0.485, 0.456, 0.406),
        std: tuple[float, ...] = (0.229, 0.224, 0.225),
    ) -> tuple[Path, str, Path, int, Path | None, int | None, Data]:
        """Import weights in torchvision's layout for `eval`, `predict` and `train --init-from`.

        Args:
            weights: a safetensors file; pickles (.pth) are refused, since reading one can run
                any program.
            model: a name from `jaxcnn list`.
            out: the folder to write.
            num_classes: number of logits of the weights.
            classes: text file with one class name a line; by default the classes are numbered.
            image_size: side of the images; by default the one the model was published for.
            dataset: what `eval` evaluates on.
            mean: of pixels scaled to [0, 1], as the weights were trained with.
            std: likewise; the defaults are ImageNet's.
        """
        data = Data(dataset, batch_size=1, fit="resize", mean=mean, std=std)
        return weights, model, out, num_classes, classes, image_size, data

    path, name, out, num_classes, class_file, size, data = _parse(parsed, args, "import")
    from jaxcnn import build, models, trained

    with build.as_input_error():
        height, width, channels = models.standard_input(name)
    if size is not None:
        height = width = size
    names = [str(i) for i in range(num_classes)]
    if class_file is not None:
        try:
            names = class_file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"--classes {class_file}: cannot be read ({error})") from error
        if len(names) != num_classes:
            raise InputError(
                f"--classes {class_file}: has {len(names)} lines, must have {num_classes}"
            )
    experiment = Experiment(
        name=path.stem, data=replace(data, image_size=height), model=Model(name)
    )
    parameters = trained.import_weights(path, experiment, names, (height, width, channels), out)
    print(f"{out}: {name} with {parameters:,} parameters from {path}")
    return 0


def _summary(args: Sequence[str]) -> int:
    import tyro

    def parsed(
        model: tyro.conf.Positional[str],
        input: tuple[int, int, int] | None = None,  # noqa: A002 - the flag is --input
        num_classes: int | None = None,
    ) -> tuple[str, tuple[int, int, int] | None, int | None]:
        """Show every layer's output shape, parameters, MACs and receptive field.

        Args:
            model: a name from `jaxcnn list`.
            input: height, width and channels; by default those the model was published for.
            num_classes: number of logits; by default 1000, and 10 for images under 64x64.
        """
        return model, input, num_classes

    name, shape, num_classes = _parse(parsed, args, "summary")
    from jaxcnn import build, models
    from jaxcnn.analysis import summary

    with build.as_input_error():
        shape = shape or models.standard_input(name)
        classes = (10 if min(shape[:2]) < 64 else 1000) if num_classes is None else num_classes
        model = models.create_model(name, num_classes=classes)
    with build.as_input_error(f"--input {' '.join(map(str, shape))}"):
        found = summary.summarize(model, shape)
    _console().print(summary.render(found))
    return 0


def _list(args: Sequence[str]) -> int:
    import tyro

    def parsed(pattern: tyro.conf.Positional[str] = "*", stats: bool = False) -> tuple[str, bool]:
        """List the models.

        Args:
            pattern: a shell pattern such as 'res*'.
            stats: with input size, parameters, MACs, activations and receptive field.
        """
        return pattern, stats

    pattern, stats = _parse(parsed, args, "list")
    from jaxcnn import models

    names = models.list_models(pattern)
    if not names:
        raise InputError(f"pattern {pattern!r}: no model matches; `jaxcnn list` shows all")
    if stats:
        from jaxcnn.analysis import summary

        _console().print(summary.render_stats(map(summary.model_stats, names)))
    else:
        print("\n".join(names))
    return 0


def _console() -> Any:
    """A console that does not wrap tables where there is no terminal to wrap them for."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=120)


if __name__ == "__main__":
    sys.exit(main())
