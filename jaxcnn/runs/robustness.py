"""Runs trained networks over other data, sizes and changed images than those of their test."""

import contextlib
import functools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jaxcnn.analysis import arms as grouping
from jaxcnn.analysis.calibration import CORRUPTED, UNCORRUPTED
from jaxcnn.analysis.robustness import CLEAN, CURVES, Change, Found, Result
from jaxcnn.config import Data, Views
from jaxcnn.data import corruptions, sources
from jaxcnn.errors import InputError
from jaxcnn.learning import files, records, run_folder
from jaxcnn.learning.state import sha256
from jaxcnn.runs import tested, trained
from jaxcnn.runs.changed import judge
from jaxcnn.runs.display import Listener
from jaxcnn.runs.evaluation import chosen_by
from jaxcnn.runs.kept import Kept, limits
from jaxcnn.runs.seen import Seen, at_size
from jaxcnn.runs.tested import Test
from jaxcnn.runs.trained import Trained
from jaxcnn.tasks import Metric
from jaxcnn.text import counted, printable

SEVERITIES = tuple(range(1, corruptions.SEVERITIES + 1))
LABELS_ARE_PLACES = ("segmentation", "regression")
"""Tasks whose labels may say where something is, and would have to follow pixels that move."""
MOVES = "elastic_transform"
"""The corruption that moves pixels."""


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

    def __post_init__(self) -> None:
        """Checks what is asked.

        Raises:
            InputError: names the option.
        """
        if self.classes is not None and not self.data:
            raise InputError(f"--classes {self.classes}: must be left out without --data")
        if self.split not in ("test", "validation"):
            raise InputError(f"--split {self.split}: must be test or validation")
        if self.split != "test" and self.data:
            raise InputError(f"--split {self.split}: must be left out with --data")
        for side in self.sizes:
            if not _is_whole(side) or not 1 <= side <= 2**15:
                raise InputError(f"--image-size {side}: must be a whole number in [1, {2**15}]")
        limit = self.limit
        if limit is not None and (not _is_whole(limit) or not 1 <= limit < 2**31):
            raise InputError(f"--limit {limit}: must be at least 1, below 2**31, a whole number")

    @property
    def is_kept(self) -> bool:
        """Whether the answer is kept beside the run, as far as it is about its own test images."""
        corrupted = any(kind not in ("", *CURVES) for kind, _ in self.changes)
        return corrupted and self.tta == "none" and self.split == "test"


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def arms(
    paths: Sequence[Path], say: Callable[[str], object] = lambda line: None
) -> tuple[dict[str, list[Path]], tuple[Metric, ...]]:
    """Groups runs into arms, and returns by what all of them are judged.

    Runs that are not finished, and imported weights, are arms of their own.

    Args:
        paths: run folders, and folders of them.
        say: hears in one line which runs stand alone beside arms.

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
    done = [path for path in folders if (path / "summary.json").exists()]
    grouped = grouping.group([grouping.read(path) for path in done], same_test=False)
    found = {arm.name: [run.path for run in arm.runs] for arm in grouped}
    alone = {str(path): [path] for path in folders if path not in done}
    if found and alone:
        say(f"not finished, or imported, so arms of their own: {', '.join(alone)}")
    found |= alone
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
    found: list[Result] = []
    for run in runs:
        found += _asked(trained.restore(run, question.checkpoint), question, shared)
    return found


def ask_one(net: Trained, question: Question) -> list[Result]:
    """Evaluates a network that was restored already; see :func:`ask`."""
    return list(_asked(net, question, _Shared(Listener())))


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


def _asked(net: Trained, question: Question, shared: _Shared) -> Iterator[Result]:
    """Yields the results of one run."""
    run, task = net.folder, str(net.experiment.task.name)
    changes = question.changes
    if task in LABELS_ARE_PLACES:
        for kind, _ in changes:
            if kind in CURVES:
                raise InputError(
                    f"--{CURVES[kind].title}: must be left out, since {run} learns {task}, whose "
                    "labels would have to follow"
                )
        changes = [change for change in changes if change.kind != MOVES]
        if len(changes) < len(question.changes):
            kinds = len({kind for kind, _ in changes if kind})
            shared.say(
                f"{MOVES} is left out, since labels of {task} would have to follow; means over "
                f"corruptions are over {counted(kinds, 'kind')}"
            )
    seen = {side: at_size(net, side) for side in question.sizes or (None,)}
    digest = sha256(net.state.params)
    for name, data in (question.data or {"": net.experiment.data}).items():
        for side, one in seen.items():
            title = printable(name) or tested.own_name(net, question.split)
            own = not name and (one.data, one.resized) == (net.experiment.data, None)
            kept = Kept.of(run, digest, question.limit) if own and question.is_kept else None
            found = {} if kept is None else kept.found(changes)
            wanted = [change for change in changes if change not in found]
            if wanted:
                with shared.listener.waiting(f"evaluating {run} on {title}", said=False):
                    test = _test(net, one, name, data, question, shared)
                    for some in [wanted] if kept is None else _by_kind(wanted):
                        found |= (made := judge(net, one, test, some, question.tta))
                        if kept is not None:
                            kept.keep(made)
            for change in changes:
                yield Result(run, title, side, one.size, change, found[change])


def _by_kind(changes: Sequence[Change]) -> list[list[Change]]:
    """Returns changes in parts of one kind each, to keep the results of each as soon as it is done.

    The images as they are go with the first, so that these are read once less.
    """
    parts: dict[str, list[Change]] = {}
    for change in changes:
        parts.setdefault(change.kind, []).append(change)
    clean, each = parts.pop("", []), [*parts.values()]
    return [[*clean, *(each[0] if each else [])], *each[1:]]


def _test(
    net: Trained, seen: Seen, name: str, data: Data, question: Question, shared: _Shared
) -> Test:
    """Returns the images of a test, read or known already, after saying what they are."""
    if name:
        key: Any = (name, data, question.classes, net.classes, net.image_shape, seen.data)
        several = len(question.data) > 1
        args = net, seen, name, data, question.classes
        make = functools.partial(tested.other_data, *args, shared=several)
    else:
        about = files.read(net.folder / "dataset.json", records.Dataset)
        known = about.sha256 or net.folder  # imported weights know no data
        key = (question.split, seen.data, known, about.test_files_sha256)
        make = functools.partial(tested.own, net, seen, question.split, question.data_dir)
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
    (each,) = _each([folder], question).values()
    return by_kind(each)


def by_kind(each: Mapping[Change, Found]) -> Corrupted:
    """Returns what a run reaches under corruptions, by their kinds and severities.

    Args:
        each: what it reaches as the images are, and under each corruption.
    """
    found: dict[str, dict[int, Found]] = {}
    for (kind, level), one in each.items():
        if kind:
            found.setdefault(kind, {})[int(level)] = one
    return Corrupted(each[CLEAN], found)


def under_all(
    folders: Sequence[Path], limit: int | None, listener: Listener | None = None
) -> dict[Path, dict[str, np.ndarray]]:
    """Returns how runs answer their test images as they are, and under all corruptions.

    What is computed is kept in the run folders; see :func:`corrupted`. Images are read once.

    Args:
        folders: the folders of runs whose task gives each image one class.
        limit: how many test images are taken, a seeded, fixed subset; None takes all.
        listener: hears what is being evaluated, and what is to be known about the images.

    Returns:
        By run folder, :data:`~jaxcnn.analysis.calibration.CORRUPTED` and ``UNCORRUPTED``, which are
        said there.
    """
    question = Question(changes=[CLEAN, *of_kinds()], limit=limit)
    return {
        folder: _answered(found) for folder, found in _each(folders, question, listener).items()
    }


def require_pixels(of: Iterable[Data]) -> None:
    """Checks, before anything is trained, that the images of some data can be corrupted.

    Only data of one's own, whose names hold a colon, may be others than bytes. What cannot be read
    is said where it is trained on.

    Raises:
        InputError: names the type of the images.
    """
    for data in dict.fromkeys(data for data in of if ":" in str(data.name)):
        try:
            found = sources.load(data).image_dtype
        except InputError:
            continue
        if found != "uint8":
            raise InputError(
                f"corrupted: the images of data.name={str(data.name)!r} are {found}; must be "
                "uint8 to be corrupted, or --corrupted 0 to be compared without"
            )


def _answered(found: Mapping[Change, Found]) -> dict[str, np.ndarray]:
    each = [
        [found[change].right for change in of_kinds([kind])] for kind in corruptions.CORRUPTIONS
    ]
    clean = found[CLEAN].right
    assert clean is not None
    return {CORRUPTED: np.array(each).mean(axis=1).T, UNCORRUPTED: clean[:, None]}


def known_under_all(folder: Path) -> dict[int, dict[str, np.ndarray]]:
    """Returns what :func:`under_all` kept in the folder of a finished run, by numbers of images."""
    found = {}
    with contextlib.suppress(InputError):
        for limit in limits(folder, run_folder.read_summary(folder).params_sha256):
            each = _all_kept(folder, Question(changes=[CLEAN, *of_kinds()], limit=limit))
            if each and each[CLEAN].right is not None:
                found[each[CLEAN].examples] = _answered(each)
    return found


def on_the_same(
    known: Mapping[Path, Mapping[int, dict[str, np.ndarray]]],
) -> tuple[dict[Path, dict[str, np.ndarray]], str]:
    """Returns of what is known of runs that on as many images as most of them, and then as many.

    Args:
        known: by run folders, what :func:`known_under_all` returns.

    Returns:
        What is taken, by run folders, and a line on the runs of which nothing is, if any.
    """
    counts = Counter(images for each in known.values() for images in each)
    if not counts:
        return {}, ""
    images = max(counts, key=lambda number: (counts[number], number))
    taken = {path: each[images] for path, each in known.items() if images in each}
    others = [str(path) for path, each in known.items() if each and path not in taken]
    line = (
        f"corruption of {', '.join(others)} (kept on other numbers of images than the {images:,} "
        "on which the others are compared)"
    )
    return taken, line if others else ""


def _each(
    folders: Sequence[Path], question: Question, listener: Listener | None = None
) -> dict[Path, dict[Change, Found]]:
    """Returns what runs reach under each change, asking only those of which not all is kept."""
    found = {folder: _all_kept(folder, question) or {} for folder in folders}
    for one in ask([folder for folder in folders if not found[folder]], question, listener):
        found[one.run][one.change] = one.found
    return found


def _all_kept(folder: Path, question: Question) -> dict[Change, Found] | None:
    """Returns what a finished run was found to reach before, if all that is asked for is kept."""
    if question.checkpoint != "latest" or not (folder / "summary.json").exists():
        return None
    kept = Kept.of(folder, run_folder.read_summary(folder).params_sha256, question.limit)
    known = {} if kept is None else kept.found(question.changes)
    return known if len(known) == len(question.changes) else None


def corrupted_by(
    kinds: Sequence[str] | None, severities: Sequence[int] | None = None
) -> list[Change]:
    """Returns the changes of the corruptions that are asked for.

    Args:
        kinds: their names, or none for all; None asks for no corruption.
        severities: those that are asked for; by default all.

    Raises:
        InputError: there is no such corruption or severity, or severities of nothing.
    """
    if kinds is not None:
        return of_kinds(kinds, SEVERITIES if severities is None else severities)
    if severities is not None:
        given = " ".join(map(str, severities))
        raise InputError(f"--severities {given}: must be left out without --corruptions")
    return []


def of_kinds(kinds: Sequence[str] = (), severities: Sequence[int] = SEVERITIES) -> list[Change]:
    """Returns the changes of corruptions by name, all of them by default, at some severities.

    Raises:
        InputError: there is no such corruption or severity.
    """
    if isinstance(kinds, str):
        raise InputError(f"--corruptions {printable(kinds)}: must be a list of names")
    for kind in kinds:
        corruptions.require_kind(kind)
    for severity in severities:
        if severity not in SEVERITIES:
            raise InputError(f"--severities {severity}: must be among 1, 2, 3, 4 and 5")
    chosen = dict.fromkeys(kinds or corruptions.CORRUPTIONS)
    levels = sorted({*severities}) or SEVERITIES
    return [Change(kind, severity) for kind in chosen for severity in levels]
