"""``jaxcnn plan``: what an experiment will need on many devices, before they are paid for."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from jaxcnn.commands import arguments
from jaxcnn.commands.parsing import load_overridable
from jaxcnn.config import Experiment
from jaxcnn.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

    from jaxcnn.runs.forecast import Forecast


@dataclass(frozen=True)
class Command(arguments.Command):
    """Predicts memory, time and energy of an experiment on many devices, without any of them.

    The training is compiled for simulated devices and never run; its data need not be there. The
    time of a step is that of each layer by the card's roofline, and of ring collectives that
    nothing hides. Bytes are those of each layer's arguments and results, each moved once, not those
    of the program that is compiled here for a CPU. See docs/plan.md. The exit code is 1 where
    memory does not suffice.

    Every field of the experiment is an option too, which takes precedence over the file.
    """

    most_used = ("devices", "card", "data.batch_size", "model.dtype", "devices.fsdp")

    file: Path = field(metadata={"place": "EXPERIMENT.py"})
    """A file that defines config() -> Experiment, such as experiments/resnet50_imagenet.py."""
    devices: int = 1
    """How many devices share each step; they must divide the batch."""
    card: Literal["h200", "h100", "a100", "l4", "tpu-v4", "tpu-v5e", "cpu"] = "h100"
    """What each device is; cpu is this machine, measured here and now."""
    examples: int | None = None
    """How many images there are to learn from; by default what TFDS publishes of the dataset."""
    shape: tuple[int, int, int] | None = None
    """Height, width and channels of the images as they are stored; by default likewise."""
    num_classes: int | None = None
    """The number of classes; by default likewise."""
    experiment: Experiment = field(default_factory=Experiment, metadata={"spread": True})

    @classmethod
    def defaults(cls, given: Mapping[str, Any]) -> Self | None:
        """Returns the command with the experiment of the file."""
        if "file" not in given:
            return None
        return cls(given["file"], experiment=load_overridable(given["file"], given))


def run(command: Command) -> int:
    """Prints the plan and returns the exit code."""
    for name in ("examples", "num_classes"):
        value = getattr(command, name)
        if value is not None and not 0 < value < 2**31:
            option = name.replace("_", "-")
            raise InputError(f"--{option} {value}: must be a positive whole number below 2**31")
    if command.shape is not None and not all(0 < side <= 2**15 for side in command.shape):
        sides = " ".join(map(str, command.shape))
        raise InputError(f"--shape {sides}: must be three whole numbers in [1, {2**15}]")

    from jaxcnn.analysis import cards
    from jaxcnn.runs import display, forecast

    forecast.simulate(command.devices)
    card = cards.CARDS.get(command.card) or cards.this_machine()
    if card.network is None and command.devices > card.per_node:
        raise InputError(
            f"--devices {command.devices}: must be at most the {card.per_node:,} chips of a pod of "
            f"{card.title}"
        )
    experiment = forecast.settle(command.experiment, command.devices)
    dataset = forecast.dataset_of(experiment, command.examples, command.shape, command.num_classes)
    found = forecast.forecast(experiment, dataset, card, command.devices)
    display.show(_title(experiment, dataset, found))
    for table in (_of_each(found), _collectives(found), _of_all(found)):
        if table is not None:
            display.console().print(table)
    fits = found.needed <= card.memory
    if not fits:
        display.show(
            "The memory of a card does not suffice: lower data.batch_size, raise "
            "train.accumulate, --devices or devices.fsdp."
        )
    display.show(_trust(found))
    return 0 if fits else 1


def _title(experiment: Experiment, dataset: Any, found: "Forecast") -> str:
    from jaxcnn.analysis.formats import sizes
    from jaxcnn.config.brought import titled

    shape = sizes(dataset.image_shape)
    return (
        f"{experiment.name}: {titled(experiment.model.name)} in {experiment.model.dtype} on "
        f"{titled(experiment.data.name)}, {len(dataset.train):,} train and {len(dataset.test):,} "
        f"test images of {shape}\n"
        f"{found.devices} x {found.card.title}, a batch of {found.batch:,} images, "
        f"{found.batch // found.devices:,} on each"
    )


def _of_each(found: "Forecast") -> "Table":
    """Lays out what each device needs in a step."""
    from rich.table import Table

    from jaxcnn.analysis.formats import si

    table = Table("each device", title_justify="left")
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("how it is known", overflow="fold")
    of = found.memory
    table.add_row("memory", si(found.needed, "B"), f"of {si(found.card.memory, 'B')}")
    for name, about in (
        ("state", "parameters, statistics and optimizer slots, as they are split"),
        ("gradients", "with fsdp also the parameters, collected"),
        ("activations", "outputs of all layers, kept for the backward pass, and images"),
        ("data", "the training set, or two blocks of a stream"),
    ):
        table.add_row(f"  {name}", si(of[name], "B"), about)
    xla = f"; XLA counts {si(found.flops_of_xla)}" if found.flops_of_xla else ""
    table.add_row("FLOPs a step", si(found.flops), f"products of all layers{xla}")
    table.add_row("bytes a step", si(found.moved, "B"), "arguments and results, each moved once")
    return table


def _collectives(found: "Forecast") -> "Table | None":
    """Lays out what the devices say to one another in a step, if they are several."""
    from rich.table import Table

    from jaxcnn.analysis.formats import si

    if not found.collectives:
        return None
    kinds: dict[tuple[str, tuple[int, ...]], list[Any]] = defaultdict(list)
    for one in found.collectives:
        kinds[one.kind, one.group].append(one)
    table = Table("collectives a step", "devices")
    for heading in ("number", "bytes", "largest", "each sends", "ms"):
        table.add_column(heading, justify="right", no_wrap=True)
    for (kind, group), ones in sorted(kinds.items(), key=lambda item: str(item[0])):
        apart = group[1] - group[0]
        table.add_row(
            kind,
            f"{len(group)}" + f", every {apart}th" * (apart > 1),
            f"{sum(one.times for one in ones):,}",
            si(sum(one.times * one.bytes for one in ones), "B"),
            si(max(one.bytes for one in ones), "B"),
            si(sum(one.sent for one in ones), "B"),
            f"{1e3 * sum(one.seconds(found.card) for one in ones):.3f}",
        )
    return table


def _of_all(found: "Forecast") -> "Table":
    """Lays out what is predicted of all devices."""
    from rich.table import Table

    from jaxcnn.analysis.formats import UNKNOWN, duration

    joules = found.joules
    table = Table("predicted")
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("of which", overflow="fold")
    for row in (
        (
            "step",
            f"{1e3 * found.step_seconds:.2f} ms",
            f"{1e3 * found.computing:.2f} ms computing, {1e3 * found.waiting:.2f} ms waiting",
        ),
        ("images/s", f"{found.images_per_sec:,.0f}", "the hosts must read and decode as many"),
        (
            "strong scaling",
            f"{found.strong:.0%}",
            f"one device would take {1e3 * found.alone:.2f} ms for the batch",
        ),
        ("weak scaling", f"{found.weak:.0%}", "one device with its part of the batch is 100 %"),
        (
            "time",
            duration(found.seconds),
            f"{found.steps:,} steps, and {duration(found.evaluating)} for evaluations",
        ),
        ("device hours", f"{found.devices * found.seconds / 3600:,.3g}", "to be paid for"),
        (
            "energy",
            UNKNOWN if joules is None else f"{joules / 3.6e6:,.3g} kWh",
            "its power is not known"
            if joules is None
            else f"cards alone, at {found.card.watts:g} W each",
        ),
    ):
        table.add_row(*row)
    return table


def _trust(found: "Forecast") -> str:
    """Says what the figures are made of, and how far they can be trusted."""
    from jaxcnn.analysis.step_cost import ATTAINED, VALIDATED

    card = found.card
    attained, known = ATTAINED[card.platform], VALIDATED.get(card.platform)
    measured = "It was not validated: no device of this kind was measured"
    if known is not None:
        where = "H200" if card.platform == "gpu" else "CPU"
        measured = (
            f"Validated on one device alone: {known.steps} steps on one {where} were "
            f"predicted with a median error of {known.median:.0%}, the largest {known.largest:.0%} "
            "(python -m benchmarks.plan); several devices were not measured"
        )
    return (
        f"{card.title}: {card.source}.\nThis is a prediction: layers at {attained.share:.0%} of "
        f"the roofline and {1e6 * attained.overhead:.0f} us more for each, then ring collectives; "
        f"without input, compiling and checkpoints. {measured}."
    )
