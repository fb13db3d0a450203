"""``jaxcnn train``: trains an experiment, or goes on where an earlier call ended."""

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from jaxcnn.commands.parsing import load_experiment, parse
from jaxcnn.config import Distributed, Experiment
from jaxcnn.errors import InputError

ALONE = Distributed()


def main(args: Sequence[str]) -> int:
    """Runs the command and returns the exit code."""
    import tyro

    helping = bool({"-h", "--help"} & set(args))
    files = [a for a in args[:1] if not a.startswith("-")]
    if not files and not helping:
        raise InputError("train: give an experiment file first, as experiments/lenet5_digits.py")
    default = load_experiment(Path(files[0])) if files else Experiment()
    args = _options_together(args[len(files) :])
    # The options given are laid over the file's, so tyro must not see those.
    bare = replace(default, model=replace(default.model, options={}))

    def parsed(
        experiment: Annotated[Experiment, tyro.conf.arg(name="")] = bare,
        workdir: Path | None = None,
        init_from: str | None = None,
        profile: str | None = None,
        seeds: int | None = None,
        distributed: Distributed = ALONE,
    ) -> tuple[Experiment, Path, tuple[int, int] | None, int | None, Distributed]:
        """Train an experiment, or go on where an earlier call in the same folder ended.

        Args:
            experiment: any field of the experiment.
            workdir: the run folder, of several seeds the folder of these; by default
                runs/NAME-seedSEED, of several seeds runs/NAME-seeds.
            init_from: short for --model.init-from: a run, or imported weights, to start from.
            profile: steps, as 10:20, that jax.profiler traces into the run folder.
            seeds: how many seeds, from train.seed on, are trained together, each in a folder seedN.
            distributed: one of several processes, each started by a command of its own.
        """
        name = f"{experiment.name}-seed" + ("s" if seeds else str(experiment.train.seed))
        if seeds is not None and (seeds < 1 or profile is not None):
            raise InputError(f"--seeds {seeds}: must be a positive number, without --profile")
        if init_from is not None:
            model = replace(experiment.model, init_from=init_from)
            experiment = replace(experiment, model=model)
        return experiment, workdir or Path("runs") / name, _steps(profile), seeds, distributed

    prog = f"train {files[0] if files else 'EXPERIMENT.py'}"
    experiment, workdir, profile, count, distributed = parse(parsed, args, prog)
    from jaxcnn.runs import display, group, plan, search, together
    from jaxcnn.train import processes

    # Tyro leaves tuples, as widths "(8, 16)", as text.
    given = {
        name: search.value(option) if isinstance(option, str) else option
        for name, option in experiment.model.options.items()
    }
    kept = default.model.options if experiment.model.name == default.model.name else {}
    experiment = search.override(experiment, {"model.options": {**kept, **given}})

    processes.start(distributed)
    with display.display() as listener, processes.ending_together():
        if count is None:
            runs = [group.Run(experiment, workdir)]
            outcome = group.train(runs, listener, profile=profile)
        else:
            modes = together.Modes(workdir / "together.json")
            runs = plan.seeds(experiment, workdir, count)
            outcome = group.train(runs, listener, modes=modes, even_few=True)
    summaries = [outcome.results[run.folder] for run in runs if run.folder in outcome.results]
    if count is not None:
        spread = plan.write_seeds(experiment.name, summaries, workdir)
    if processes.is_first() and summaries:
        print(_of_one(summaries[0], workdir) if count is None else _of_seeds(spread, workdir))
    for path, reason in outcome.diverged.items():
        print(f"jaxcnn: {path}: {reason}", file=sys.stderr)
    return 1 if outcome.diverged else 0


def _options_together(args: Sequence[str]) -> list[str]:
    """Puts ``--model.options.NAME VALUE``, or ``=VALUE``, behind one ``--model.options``.

    >>> _options_together(["--model.options.dropout", "0.2", "--model.options.pool=avg", "--x"])
    ['--x', '--model.options', 'dropout', '0.2', 'pool', 'avg']
    """
    options: list[str] = []
    others: list[str] = []
    into = others
    for arg in args:
        if re.match(r"--model\.options(\.|$)", arg):
            into = options
            into += filter(None, arg.removeprefix("--model.options").lstrip(".").split("=", 1))
            continue
        if arg.startswith("--"):
            into = others
        into.append(arg)
    return [*others, "--model.options", *options] if options else others


def _of_one(summary: Mapping[str, Any], workdir: Path) -> str:
    return (
        f"test top-1 {summary['test_top1']:.2%}, top-5 {summary['test_top5']:.2%}, "
        f"loss {summary['test_loss']:.4f} after {summary['epochs']} epochs "
        f"in {summary['seconds']:.1f} s of training\n"
        f"run folder {workdir}: summary.json, metrics.jsonl, curves.png, confusion.png"
    )


def _of_seeds(result: Mapping[str, Any], workdir: Path) -> str:
    """Mean, standard deviation and interval, as far as there are so many seeds."""
    lines = []
    for name, key, form in (("top-1", "test_top1", ".2%"), ("loss", "test_loss", ".4f")):
        found = result.get(key)
        if found is not None:
            line = f"test {name} {found['mean']:{form}}"
            if found["std"] is not None:
                line += (
                    f", standard deviation {found['std']:{form}}, 95 % interval "
                    f"{found['low']:{form}} to {found['high']:{form}}"
                )
            lines.append(f"{line} ({len(found['values'])} seeds)")
    return "\n".join([*lines, f"{workdir}: seeds.json, and a run folder for each seed"])


def _steps(text: str | None) -> tuple[int, int] | None:
    """First and last step from ``10:20``."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+):(\d+)", text)
    if found is None or int(found[1]) >= int(found[2]):
        raise InputError(f"--profile {text}: must be FIRST:LAST, as 10:20, with FIRST below LAST")
    return int(found[1]), int(found[2])
