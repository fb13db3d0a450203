"""Runs trained networks over other data, sizes and changed images than those of their test."""

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import msgspec
import numpy as np

from jaxcnn import __version__
from jaxcnn.analysis import arms as grouping
from jaxcnn.analysis.robustness import CLEAN, CURVES, Change, Found, Result
from jaxcnn.config import Augment, Data, Views
from jaxcnn.config.brought import titled
from jaxcnn.data import augment, class_names, corruptions, other, pipeline, sources, views
from jaxcnn.data.faults import Faults
from jaxcnn.data.images import stored_fit
from jaxcnn.data.source import Source
from jaxcnn.data.stream import Stream
from jaxcnn.errors import InputError
from jaxcnn.learning import files, records, run_folder, step
from jaxcnn.learning.state import sha256
from jaxcnn.runs import network, trained
from jaxcnn.runs.display import Listener
from jaxcnn.runs.evaluation import chosen_by, require_finite
from jaxcnn.runs.trained import Trained
from jaxcnn.tasks import BaseTask, Classification, Metric
from jaxcnn.tasks.sums import add
from jaxcnn.text import printable

KINDS = (*corruptions.CORRUPTIONS, *corruptions.EXTRA_CORRUPTIONS)
"""Names of the corruptions, in an order that their random numbers depend on."""
SEVERITIES = (1, 2, 3, 4, 5)
SEED = 0
"""The seed of corruptions, and of which images are taken where a limit is given."""


@dataclass(frozen=True)
class Question:
    """What runs are asked about other images.

    Attributes:
        data: other data by what they are called; none for the run's own.
        sizes: heights and widths of the images that the network sees; none for those of training.
        changes: what is done to the images.
        classes: a file that maps names of classes, see :func:`jaxcnn.data.class_names.match`.
        split: which of the run's own splits.
        checkpoint: ``"latest"`` or ``"best"``.
        tta: the views of each image over which the probabilities are averaged.
        limit: how many images are taken, a seeded, fixed subset; None takes all.
        data_dir: the folder of the run's own data, where it is another than in training.
    """

    data: Mapping[str, Data] = field(default_factory=dict)
    sizes: Sequence[int] = ()
    changes: Sequence[Change] = (CLEAN,)
    classes: Path | None = None
    split: sources.HeldOut = "test"
    checkpoint: str = "latest"
    tta: Views = "none"
    limit: int | None = None
    data_dir: str | None = None


@dataclass(frozen=True)
class Test:
    """The images that a network is tested on, in the form of its own.

    Attributes:
        name: what they are called.
        source: where they are read.
        places: ``(n,)``, their places in the whole split.
        of: how many images the whole split has.
        render: see :attr:`jaxcnn.data.sources.Dataset.render`.
        labels: the place of each label of the source among ``classes``, -1 where an image is left
            out; None where the labels are the network's own.
        classes: the places of the classes among which the network chooses; None for all.
    """

    name: str
    source: Source
    places: np.ndarray
    of: int
    render: Any = None
    labels: np.ndarray | None = None
    classes: tuple[int, ...] | None = None

    def limited(self, limit: int | None) -> "Test":
        """Returns the test on a seeded, fixed subset of the images, in their order."""
        if limit is None or limit >= len(self.places):
            return self
        drawn = np.random.Generator(np.random.PCG64(SEED)).permutation(len(self.places))
        index = np.sort(drawn[:limit])
        return replace(self, source=self.source.take(index), places=self.places[index])

    def batches(self, size: int, data: Data) -> Iterator[dict[str, np.ndarray]]:
        """Yields batches of ``image``, ``label``, ``mask`` and ``place``, every image once."""
        number, source = len(self.places), self.source
        places = np.concatenate([self.places, np.zeros(-number % size, np.int64)])
        if isinstance(source, sources.Split):
            held = pipeline.in_batches(source, size)
            blocks = ({name: array[i] for name, array in held.items()} for i in range(len(held["mask"])))
        else:
            faults = Faults(data.max_bad_images)
            workers = 0 if jax.default_backend() == "cpu" else data.workers
            blocks = Stream(source, source, 0, size, size, faults, workers).eval_batches()
        for at, block in enumerate(blocks):
            batch = {**block, "place": places[at * size : (at + 1) * size].astype(np.int32)}
            if self.labels is not None:
                label = self.labels[batch["label"]]
                batch |= {"label": np.maximum(label, 0), "mask": batch["mask"] & (label >= 0)}
            yield batch


@dataclass(frozen=True)
class Seen:
    """A network, and how stored images reach it.

    Attributes:
        model: the module.
        data: how images are prepared.
        resized: the height and width to which prepared images are brought; None leaves them.
        size: the height and width that the network sees, in words.
    """

    model: nn.Module
    data: Data
    resized: int | None
    size: str


def arms(paths: Sequence[Path]) -> tuple[dict[str, list[Path]], tuple[Metric, ...]]:
    """Groups runs into arms, and returns by what all of them are judged.

    Runs that are not finished, and imported weights, are arms of their own.

    Args:
        paths: run folders, and folders of them.

    Returns:
        The run folders of each arm, in the order of their seeds, and the metrics.

    Raises:
        InputError: there is no run, or two are judged by different metrics.
    """
    folders = grouping.find(paths)
    judged = {path: run_folder.judged(path).metrics for path in folders}
    for path, metrics in judged.items():
        if metrics[0] != judged[folders[0]][0]:
            raise InputError(
                f"{path}: is judged by {metrics[0].title}, but {folders[0]} by "
                f"{judged[folders[0]][0].title}"
            )
    if all((path / "summary.json").exists() for path in folders):
        arms = grouping.group([grouping.read(path) for path in folders], same_test=False)
        found = {arm.name: [run.path for run in arm.runs] for arm in arms}
    else:
        found = {str(path): [path] for path in folders}
    return found, judged[folders[0]]


def optimistic(run: Path, question: Question) -> bool:
    """Returns whether the checkpoint of a run was chosen by the examples that it is tested on."""
    return chosen_by(run_folder.read_config(run), question.checkpoint, question.split)


def ask(runs: Sequence[Path], question: Question, listener: Listener | None = None) -> list[Result]:
    """Evaluates runs under each condition of a question.

    Args:
        runs: run folders.
        question: what they are asked.
        listener: hears what is being evaluated, and what is to be known about the images.

    Returns:
        The results of the first run, then of the next; data, sizes and changes in their order.

    Raises:
        InputError: there is no such run or checkpoint, the data are not at hand or do not fit, or
            the network does not take the size.
    """
    shared = _Shared(listener or Listener())
    return [result for run in runs for result in _asked(run, question, shared)]


class _Shared:
    """What several runs have in common: data that were read, and lines that were said."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self._said: set[str] = set()
        self._tests: dict[Any, Test] = {}

    def say(self, line: str) -> None:
        """Has a line heard, once."""
        if line not in self._said:
            self._said.add(line)
            self.listener.message(line)

    def test(self, key: Any, read: Callable[[], Test]) -> Test:
        """Returns a test by what tells it from others; only the newest ones stay in memory."""
        if key not in self._tests:
            while len(self._tests) >= MOST_TESTS:
                self._tests.pop(next(iter(self._tests)))
            self._tests[key] = read()
        return self._tests[key]


MOST_TESTS = 4
"""How many sets of images stay in memory for the next run."""


def _asked(run: Path, question: Question, shared: _Shared) -> Iterator[Result]:
    """Yields the results of one run."""
    net = trained.restore(run, question.checkpoint)
    seen = [_seen(net, size) for size in question.sizes or (None,)]
    digest = sha256(net.state.params)
    for name, data in (question.data or {"": net.experiment.data}).items():
        for one in seen:
            title = printable(name) or _own_name(net, question.split)
            own = not name and (one.data, one.resized) == (net.experiment.data, None)
            kept = _Kept.of(run, digest, question) if own else None
            found = {} if kept is None else kept.found(question.changes)
            wanted = [change for change in question.changes if change not in found]
            if wanted:
                with shared.listener.waiting(f"evaluating {run} on {title}", said=False):
                    test = _test(net, one, name, data, question, shared)
                    found |= (made := judge(net, one, test, wanted, question.tta))
                if kept is not None:
                    kept.keep(made)
            for change in question.changes:
                yield Result(run, title, one.size, change, found[change])


def _own_name(net: Trained, split: str) -> str:
    name = _trained_on(net)
    return name if split == "test" else f"{name}, validation"


def _trained_on(net: Trained) -> str:
    """Returns what a run's own data are called."""
    return printable(files.read(net.folder / "dataset.json", records.Dataset).name, longest=40)


def _test(
    net: Trained, seen: Seen, name: str, data: Data, question: Question, shared: _Shared
) -> Test:
    """Returns the images of a test, read or known already, after saying what they are."""
    if name:
        key: Any = (name, data, question.classes, net.classes, net.image_shape, seen.data)
        make = functools.partial(_other, net, seen, name, data, question.classes)
    else:
        about = files.read(net.folder / "dataset.json", records.Dataset)
        known = about.sha256 or net.folder  # imported weights know no data
        key = (question.split, seen.data, known, about.test_files_sha256)
        make = functools.partial(_own, net, seen, question)
    whole = shared.test(key, make)
    if whole.classes is not None and len(whole.classes) < len(net.classes):
        few = ", ".join(net.classes[i] for i in whole.classes)
        shared.say(
            f"{whole.name}: has {len(whole.classes):,} of the {len(net.classes):,} classes, among "
            f"which the networks choose: {printable(few, longest=120)}"
        )
    test = whole.limited(question.limit)
    if len(test.places) < len(whole.places):
        shared.say(
            f"{whole.name}: a fixed subset of {len(test.places):,} of {len(whole.places):,} images"
        )
    return test


def _own(net: Trained, seen: Seen, question: Question) -> Test:
    """Reads a split of a run's own data, at the size at which the network sees them."""
    split = question.split
    data = replace(seen.data, dir=question.data_dir or seen.data.dir)
    dataset = trained.read_dataset(net.folder, data)
    if split not in dataset.held_out:
        raise InputError(
            f"--split {split}: {net.folder} held out no examples for validation "
            "(config.json: data.validation is None)"
        )
    source = dataset.held_out[split]
    places = np.arange(len(source))
    return Test(_own_name(net, split), source, places, len(source), dataset.render)


def _other(net: Trained, seen: Seen, name: str, data: Data, mapping: Path | None) -> Test:
    """Reads the test images of other data, and finds their classes among the run's."""
    what = f"--data {printable(name)}"
    if not isinstance(net.task, Classification):
        raise InputError(
            f"{what}: must be left out, since {net.folder} learns {net.experiment.task.name}; "
            "other data have classes alone"
        )
    height, width, channels = net.image_shape
    scaled = _scaled(net.experiment.data, seen.data, net.image_shape)
    shape, fit = (*scaled, channels), stored_fit(seen.data, (*scaled, channels))
    try:
        source, theirs = other.find(data, shape, fit)
        labels = source.read_labels()
        places = class_names.match(theirs, net.classes, mapping, np.unique(labels))
        number = math.prod(shape) * len(source)
        if number <= sources.STREAMED_BYTES and not isinstance(source, sources.Split):
            source, ok = sources.read_all(source, Faults(seen.data.max_bad_images))
            labels = labels[ok]
            if not len(source):
                raise InputError("no image can be read")
    except InputError as error:
        said = str(error)
        for known in (f"data.name={str(data.name)!r}: ", f"data.dir={data.dir!r}: "):
            said = said.removeprefix(known)
        already = said.startswith("--classes")
        raise InputError(said if already else f"{what}: {said}") from error
    classes = np.unique(places[np.unique(labels)])
    classes = classes[classes >= 0]
    among = np.full(len(places), -1, np.int32)
    among[places >= 0] = np.searchsorted(classes, places[places >= 0])
    if (among < 0).any():
        index = np.flatnonzero(among[labels] >= 0)
        source, labels = source.take(index), labels[index]
    every = len(classes) == len(net.classes)
    chosen = None if every else tuple(map(int, classes))
    number = len(source)
    return Test(printable(name), source, np.arange(number), number, None, among, chosen)


def _scaled(before: Data, after: Data, image_shape: tuple[int, int, int]) -> tuple[int, int]:
    """Returns the height and width at which images are stored for a network that sees a size.

    Where those of the run are read at a size that the config names, it is scaled along.
    """
    height, width, _ = image_shape
    sides = before.read_size or before.image_size, after.read_size or after.image_size
    if height == width == sides[0] and sides[1] is not None:
        return sides[1], sides[1]
    return height, width


# ------------------------------------------------------------------------------- another size


def _seen(net: Trained, side: int | None) -> Seen:
    """Returns how a network sees images at another height and width than in training.

    The fit is that of the config, at the same crop ratio. Images that were padded are padded as in
    training, then resized: more of a border would be no other resolution.

    Raises:
        InputError: the network does not take the size.
    """
    data, (height, width, _) = net.experiment.data, net.input_shape
    if side is None or (height, width) == (side, side):
        return Seen(net.model, data, None, f"{height}x{width}")
    if height != width:
        raise InputError(
            f"--image-size {side}: must be left out, since {net.folder} sees images of "
            f"{height}x{width}, which are not square"
        )
    if data.fit == "pad":
        if net.experiment.task.name == "segmentation":
            raise InputError(
                f"--image-size {side}: must be left out with data.fit='pad', since label maps are "
                "not resized"
            )
        prepared, resized = data, side
    else:
        read = data.read_size and round(data.read_size * side / height)
        prepared, resized = replace(data, image_size=side, read_size=read), None
    model, reason = _at(net, side)
    if model is None:
        raise InputError(f"--image-size {side}: {_sizes(net)}{reason}")
    return Seen(model, prepared, resized, f"{side}x{side}")


def _at(net: Trained, side: int) -> tuple[nn.Module | None, str]:
    """Returns the module that sees images of a size with a run's weights; None if none does."""
    channels = net.input_shape[2]
    data = replace(net.experiment.data, image_size=None, read_size=None, fit="pad")
    experiment = replace(net.experiment, data=data, augment=Augment())
    try:
        built = network.build(experiment, net.classes, (side, side, channels), net.fitted)
        images = jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32)
        init = functools.partial(built.model.init, train=False)
        shapes = jax.eval_shape(init, jax.random.key(0), images)
    except InputError as error:
        return None, f" ({error})"
    forms = [jax.tree.map(lambda a: a.shape, tree) for tree in (shapes, net.variables)]
    return (built.model, "") if forms[0] == forms[1] else (None, "")


NEAR = 8
"""How far from the size of training it is looked for others that a network takes, in pixels."""


def _sizes(net: Trained) -> str:
    """Says which sizes near that of training a network takes."""
    low = high = net.input_shape[0]
    while low > 1 and net.input_shape[0] - low < NEAR and _at(net, low - 1)[0] is not None:
        low -= 1
    while high - net.input_shape[0] < NEAR and _at(net, high + 1)[0] is not None:
        high += 1
    name = titled(net.experiment.model.name)
    if low == high:
        return f"{name} with these weights takes images of {low}x{low} alone"
    return f"{name} with these weights takes images of {low}x{low} to {high}x{high}"


# ---------------------------------------------------------------------------------- judging


def judge(
    net: Trained, seen: Seen, test: Test, changes: Sequence[Change], tta: Views = "none"
) -> dict[Change, Found]:
    """Evaluates a network on some images under several changes, each image read once.

    Args:
        net: the network.
        seen: how it sees the images.
        test: the images.
        changes: what is done to them.
        tta: the views of each image over which the probabilities are averaged.

    Raises:
        InputError: no image can be read, or a figure is not finite.
    """
    programs = {kind: _program(net, seen, test, kind, tta) for kind, _ in changes}
    size = pipeline.shared_batch_size(seen.data.eval_batch_size, len(test.places), 1)
    sums: dict[Change, Any] = {}
    rights: dict[Change, list[Any]] = {change: [] for change in changes}
    masks = []
    for batch in test.batches(size, seen.data):
        masks.append(batch["mask"])
        placed = jax.device_put(batch)
        for change in changes:
            level = np.float32(change.level) if change.kind in CURVES else np.int32(change.level)
            found, right = programs[change.kind](net.variables, placed, level)
            sums[change] = add(sums[change], found) if change in sums else found
            rights[change].append(right)
    counted = np.concatenate(masks)
    if not counted.any():
        raise InputError(f"{test.name}: no image can be read")
    return {
        change: Found(
            require_finite(net.folder, net.task.means(jax.device_get(sums[change]))),
            int(counted.sum()),
            None if each[0] is None else np.concatenate(list(map(np.asarray, each)))[counted],
        )
        for change, each in rights.items()
    }


def _program(
    net: Trained, seen: Seen, test: Test, kind: str, tta: Views
) -> Callable[[Any, Any, Any], tuple[Any, jax.Array | None]]:
    # Where the data lie is nothing to the program, which other data share.
    data = replace(seen.data, name="digits", dir=None, validation=None, test_share=None)
    of_images = net.metrics[0].of_examples
    return _compiled(
        seen.model, net.task, data, seen.resized, tta, kind, test.classes, test.render, of_images
    )


@functools.lru_cache(maxsize=64)  # seeds of one arm, and data of one shape, share the program
def _compiled(
    model: nn.Module,
    task: BaseTask,
    data: Data,
    resized: int | None,
    tta: Views,
    kind: str,
    classes: tuple[int, ...] | None,
    render: Callable[..., Any] | None,
    of_images: bool,
) -> Callable[[Any, Any, Any], tuple[Any, jax.Array | None]]:
    """Compiles ``judged(variables, batch, level) -> (sums, right)`` for one kind of change."""
    outputs_of = step.make_outputs(model, task, views.COUNTED.get(tta))
    show = _make_show(data, resized, tta, kind)
    of_images = of_images and type(task).judged is not BaseTask.judged

    def judged(variables: Any, batch: step.Batch, level: jax.Array) -> Any:
        batch = batch if render is None else render(batch)
        sums, right = [], []
        for shown in show(batch, level):
            outputs = outputs_of(variables, shown["image"])
            if classes is not None:
                outputs = outputs[:, np.array(classes)]
            sums.append(task.sums(outputs, shown))
            answers = task.judged(outputs, shown["label"]) if of_images else None
            if answers is not None:
                right.append(answers["predicted"] == shown["label"])
        each = jnp.stack(right).mean(axis=0, dtype=jnp.float32) if right else None
        return functools.reduce(add, sums), each

    return jax.jit(judged)


def _make_show(
    data: Data, resized: int | None, tta: Views, kind: str
) -> Callable[[step.Batch, jax.Array], list[step.Batch]]:
    """Makes ``show(batch, level)``: stored images, changed, as the network sees them.

    A change is made to the fitted image in [0, 1], before it is normalised. Some are made in
    several ways, over which the figures are means.
    """
    seen = views.make_views(data, tta)
    prepare = augment.make_prepare_batch(data)
    if kind == "" and resized is None:
        return lambda batch, level: [
            prepare(batch) if tta == "none" else {**batch, "image": seen(batch["image"])}
        ]
    raw = augment.make_prepare_batch(replace(data, mean=(0.0,), std=(1.0,)))
    whole = replace(data, image_size=None, read_size=None, fit="pad")  # it is fitted by then
    finish = augment.make_prepare(whole) if tta == "none" else views.make_views(whole, tta)

    def show(batch: step.Batch, level: jax.Array) -> list[step.Batch]:
        batch = raw(batch)
        x = batch["image"]
        if resized is not None:
            x = jax.image.resize(x, (len(x), resized, resized, x.shape[-1]), "bilinear")
        changed = _changed(x, batch["place"], kind, level)
        return [{**batch, "image": finish(image)} for image in changed]

    return show


DIRECTIONS = ((0, 1), (0, -1), (1, 0), (-1, 0))
"""Where images are shifted to: right, left, down and up."""


def _changed(x: jax.Array, places: jax.Array, kind: str, level: jax.Array) -> list[jax.Array]:
    """Changes fitted images, in one or in several ways.

    What is random about the change of an image depends on its place in the data and on the kind,
    and neither on the other images of its batch nor on the severity.
    """
    if kind == "":
        return [x]
    if kind == "shift":
        return [corruptions.shifted(x, level * down, level * right) for down, right in DIRECTIONS]
    if kind == "rotate":
        return [corruptions.rotated(x, sign * level) for sign in (1, -1)]
    if kind == "scale":
        return [corruptions.scaled(x, level)]
    own = jax.random.fold_in(jax.random.key(SEED), KINDS.index(kind))
    keys = jax.vmap(functools.partial(jax.random.fold_in, own))(places)
    return [corruptions.corrupt(x, keys, kind, level)]


# ---------------------------------------------------------------------- what is kept of a run


@dataclass(frozen=True)
class Corrupted:
    """What a run reaches on its test images under corruptions.

    Attributes:
        clean: on the images as they are.
        found: by kind and severity.
    """

    clean: Found
    found: Mapping[str, Mapping[int, Found]]


def corrupted(
    folder: Path,
    kinds: Sequence[str] = (),
    severities: Sequence[int] = SEVERITIES,
    *,
    limit: int | None = None,
    checkpoint: str = "latest",
    data_dir: str | None = None,
) -> Corrupted:
    """Returns what a run reaches on its corrupted test images.

    It is kept in the run folder as corruptions.json, and computed where it is not there yet.

    Args:
        folder: the run folder.
        kinds: corruptions by name; by default all.
        severities: from 1 to 5.
        limit: how many test images are taken, a seeded, fixed subset; None takes all.
        checkpoint: ``"latest"`` or ``"best"``.
        data_dir: the folder of the data, where it is another than in training.

    Raises:
        InputError: not a run, its data are not at hand, or there is no such corruption.
    """
    changes = [CLEAN, *of_kinds(kinds, severities)]
    question = Question(changes=changes, limit=limit, checkpoint=checkpoint, data_dir=data_dir)
    each = _all_kept(folder, question) or [one.found for one in ask([folder], question)]
    found: dict[str, dict[int, Found]] = {}
    for (kind, level), one in zip(changes[1:], each[1:], strict=True):
        found.setdefault(kind, {})[int(level)] = one
    return Corrupted(each[0], found)


def _all_kept(folder: Path, question: Question) -> list[Found] | None:
    """Returns what a finished run was found to reach before, if all that is asked for is kept."""
    if question.checkpoint != "latest" or not (folder / "summary.json").exists():
        return None
    kept = _Kept.of(folder, run_folder.read_summary(folder).params_sha256, question)
    known = {} if kept is None else kept.found(question.changes)
    return [*known.values()] if len(known) == len(question.changes) else None


def of_kinds(kinds: Sequence[str] = (), severities: Sequence[int] = SEVERITIES) -> list[Change]:
    """Returns the changes of corruptions by name, all of them by default, at some severities.

    Raises:
        InputError: there is no such corruption or severity.
    """
    for kind in kinds:
        corruptions.require_kind(kind)
    for severity in severities:
        if severity not in SEVERITIES:
            raise InputError(f"severity {severity}: must be one of 1, 2, 3, 4, 5")
    chosen, levels = dict.fromkeys(kinds or corruptions.CORRUPTIONS), sorted({*severities})
    return [Change(kind, severity) for kind in chosen for severity in levels]


class _Kept:
    """The results of a run on its own test images, changed or not, which its folder keeps.

    Args:
        path: the file.
        about: what they are results of.
        held: the results, by kind and severity.
    """

    def __init__(
        self, path: Path, about: records.Corruptions, held: dict[str, dict[str, records.Corrupted]]
    ) -> None:
        self._path, self._about, self._held = path, about, held

    @classmethod
    def of(cls, folder: Path, digest: str, question: Question) -> "_Kept | None":
        """Returns those of a run; None where they are not kept: with views, or unknown data.

        Args:
            folder: the run folder.
            digest: of the parameters.
            question: what is asked.
        """
        about = files.read(folder / "dataset.json", records.Dataset)
        plain = question.tta == "none" and question.split == "test"
        if not plain or about.test_sha256 is None or not has_corruptions(question.changes):
            return None
        path = folder / "corruptions.json"
        now = records.Corruptions(
            version=__version__,
            params_sha256=digest,
            test_sha256=about.test_sha256,
            test_files_sha256=about.test_files_sha256,
            limit=question.limit,
            seed=SEED,
            metric=run_folder.judged(folder).metrics[0].name,
        )
        try:
            held = files.read(path, records.Corruptions)
        except InputError:  # missing, or damaged: computed again
            return cls(path, now, {})
        same = msgspec.structs.replace(held, found={}) == now
        return cls(path, now, dict(held.found) if same and _whole(held) else {})

    def found(self, changes: Sequence[Change]) -> dict[Change, Found]:
        """Returns the results of those changes of which some are kept."""
        known = {}
        for change in changes:
            cell = self._held.get(change.kind or "none", {}).get(f"{change.level:g}")
            if cell is not None and change.kind not in CURVES:
                right = None if cell.right is None else _unpacked(cell)
                known[change] = Found(cell.values, cell.examples, right)
        return known

    def keep(self, found: Mapping[Change, Found]) -> None:
        """Adds results, and writes the file if that is possible."""
        for (kind, level), one in found.items():
            if kind in CURVES:
                continue
            bits = None if one.right is None else np.packbits(one.right > 0).tobytes().hex()
            cell = records.Corrupted(values=dict(one.values), examples=one.examples, right=bits)
            self._held.setdefault(kind or "none", {})[f"{level:g}"] = cell
        # In a folder that may only be read, or where a link lies, they are made again each time.
        with contextlib.suppress(OSError, InputError):
            content = msgspec.structs.replace(self._about, found=self._held)
            files.write_json(self._path, msgspec.to_builtins(content))


def _unpacked(cell: records.Corrupted) -> np.ndarray:
    """Returns for each image whether it was answered rightly, as 0 or 1.

    Raises:
        ValueError: what is held is no such bits.
    """
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(cell.right or ""), np.uint8))
    if not 0 <= bits.size - cell.examples < 8 or bits[cell.examples :].any():
        raise ValueError(f"examples={cell.examples}: {bits.size} bits are held")
    return bits[: cell.examples].astype(np.float32)


def has_corruptions(changes: Sequence[Change]) -> bool:
    """Returns whether there are corruptions among changes."""
    return any(kind not in ("", *CURVES) for kind, _ in changes)


def _whole(held: records.Corruptions) -> bool:
    """Returns whether what a file holds of each image agrees with its figures."""
    for severities in held.found.values():
        for cell in severities.values():
            if held.metric not in cell.values or "loss" not in cell.values:
                return False
            if cell.right is None:
                continue
            try:
                share = float(_unpacked(cell).mean())
            except ValueError:
                return False
            if abs(share - cell.values[held.metric]) > 1e-6:
                return False
    return True
