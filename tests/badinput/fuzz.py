"""Fuzzes, guided by coverage, what reads bytes from outside: ``fuzz.py TARGET --seconds 60``.

Anything but an InputError, or the ValueError that reading weights documents, ends it: any other
exception, a warning, 20 seconds or 4 GB for one input. The input is then kept in the folder
``.pytest_cache/fuzz/TARGET``, and ``fuzz.py TARGET --again FILE`` shows the fault again. Needs
atheris (``pip install -e '.[fuzz]'``).
"""

import argparse
import contextlib
import io
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
sys.path[0] = str(ROOT)

import atheris  # noqa: E402

with atheris.instrument_imports(include=["jaxcnn", "PIL"]):
    from PIL import Image

    from jaxcnn import cli
    from jaxcnn.analysis import arms
    from jaxcnn.commands import arguments, train
    from jaxcnn.config import Data
    from jaxcnn.data import images, records
    from jaxcnn.errors import InputError
    from jaxcnn.models import safetensors
    from jaxcnn.runs import search

from tests.badinput import world  # noqa: E402
from tests.badinput.values import VALUES, Raw, paths, replaced  # noqa: E402


class Target(NamedTuple):
    """Reads an input, with what the fuzzer begins from and the errors that are documented."""

    read: Callable[[bytes], object]
    seeds: Sequence[bytes]
    documented: tuple[type[Exception], ...] = (InputError,)


def edited(whole: bytes, content: bytes) -> bytes:
    """Returns the content after its first byte, or a document with other values as it chooses.

    Bytes alone seldom get behind a JSON parser.
    """
    if content[:1] < EDITS:
        return content[1:]
    data = atheris.FuzzedDataProvider(content[1:])
    for _ in range(data.ConsumeIntInRange(1, 3)):
        document = json.loads(whole)
        places = list(paths(document))
        if not places:
            break
        numbers = [data.ConsumeFloat(), data.ConsumeInt(9), data.ConsumeInt(1)]
        common = [value for value in VALUES.values() if not isinstance(value, Raw)]
        value = data.PickValueInList([*common, *numbers, ..., data.ConsumeUnicode(20)])
        place = places[data.ConsumeIntInRange(0, len(places) - 1)]
        whole = replaced(document, place, value).encode()
    return whole


EDITS = b"\x40"
"""The least first byte of an input that chooses edits; others are taken as they are."""


def changed(name: str, whole: bytes, content: bytes) -> bytes:
    """Returns what a file becomes; of one with a document on each line, the last line changes."""
    if name.endswith(".txt"):
        return content
    *lines, last = whole.splitlines(keepends=True) if name.endswith("l") else [whole]
    found = edited(last, content)
    return b"".join([*lines, found.replace(b"\n", b" ") if lines else found])


def weights(folder: Path) -> Target:
    """Safetensors files, of which the first byte says how they come about."""
    path = folder / "x.safetensors"
    header = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    whole = json.dumps(header).encode()

    def read(content: bytes) -> None:
        found = edited(whole, content)
        if content[:1] >= EDITS:
            found = world.safetensors(found, b"\0" * 8)
        path.write_bytes(found)
        safetensors.read_safetensors(path)

    return Target(read, [b"\0" + world.safetensors(header, b"\0" * 8), EDITS], (ValueError,))


def run(folder: Path) -> Target:
    """The JSON files of a run folder, of which the first byte chooses one, the second how."""
    (folder / "two.py").write_text(world.EXPERIMENT.format(data=world.DIGITS, epochs=1))
    where = folder / "run"
    assert cli.main(["train", str(folder / "two.py"), "--workdir", str(where)]) == 0
    names = ("config.json", "dataset.json", "summary.json", "env.json", "metrics.jsonl")
    whole = {name: (where / name).read_bytes() for name in names}

    def read(content: bytes) -> None:
        name = names[(content[:1] or b"\0")[0] % len(names)]
        (where / name).write_bytes(changed(name, whole[name], content[1:]))
        try:
            arms.read(where)
        finally:
            (where / name).write_bytes(whole[name])

    return Target(read, [bytes([i, j]) + whole[n] for i, n in enumerate(names) for j in (0, 64)])


def image(folder: Path) -> Target:
    """Image files of every format."""
    images.MAX_PIXELS = 2**16
    path, seeds = folder / "x.png", []
    for form in images.FORMATS:
        for mode in ("RGB", "L", "1"):
            file = io.BytesIO()
            with contextlib.suppress(OSError):
                Image.new(mode, (4, 3), 1).save(file, form)
                seeds.append(file.getvalue())

    def read(content: bytes) -> None:
        path.write_bytes(content)
        images.read_image(path, (8, 8, 3), "crop")

    return Target(read, seeds)


def overrides(folder: Path) -> Target:
    """The words of a training's command line, or from a 1 on of a sweep's, with NULs between."""
    path = folder / "experiment.py"
    path.write_text(world.EXPERIMENT.format(data=world.DIGITS, epochs=1))
    base = train.load_experiment(path)

    def read(content: bytes) -> None:
        first, *words = os.fsdecode(content).split("\0")
        if first == "1":
            among = search.spaces(base, words)
            search.grid(base, [space for space in among if space.choices])
        else:
            arguments.parse(train.Command, [str(path), *words], "train")

    seeds = (
        ("0", "--optim.peak-lr", "0.1", "--data.mean", "1", "2"),
        ("0", "--model.options", "a", "(1, 2)", "--augment.no-flip"),
        ("0", "--train.epochs=3", "--no-x", "--schedule.milestones", "1"),
        ("1", "optim.peak_lr=0.1,1"),
        ("1", "optim.b1=0", "data.name=x", "optim.peak_lr=log:1e-3:1"),
    )
    return Target(read, ["\0".join(seed).encode() for seed in seeds])


def dataset(folder: Path) -> Target:
    """The JSON files of a TFDS dataset, of which the first byte chooses one, the second how."""
    where = folder / "mnist" / "3.0.1"
    world.write_records(where)
    names = ("features.json", "dataset_info.json", "label.labels.txt")
    whole = {name: (where / name).read_bytes() for name in names}
    config = Data("mnist", dir=str(folder))

    def read(content: bytes) -> None:
        name = names[(content[:1] or b"\0")[0] % len(names)]
        (where / name).write_bytes(changed(name, whole[name], content[1:]))
        try:
            records.find(config, [])
        finally:
            (where / name).write_bytes(whole[name])

    return Target(read, [bytes([i, j]) + whole[n] for i, n in enumerate(names) for j in (0, 64)])


TARGETS = {f.__name__: f for f in (weights, run, image, overrides, dataset)}


def words() -> Iterator[bytes]:
    """Yields what the inputs are made of, for the fuzzer's dictionary."""
    for value in (None, True, 0, -1, [], {}, "", 1e308, 2**64, [[]]):
        yield json.dumps(value).encode()
    yield from (b"NaN", b"Infinity", b"1e999", b"\\ud800", b"--", b"=", b"\0", b"F32", b"BF16")


def main() -> None:
    """Fuzzes one target."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--again", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        target = TARGETS[given.target](Path(name))
        warnings.simplefilter("error")

        def test(content: bytes) -> None:
            with contextlib.suppress(*target.documented):
                target.read(content)

        if given.again:
            test(given.again.read_bytes())
            return
        kept = ROOT / ".pytest_cache" / "fuzz" / given.target
        kept.mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(target.seeds):
            (kept / f"seed{number}").write_bytes(seed)
        dictionary = Path(name) / "words.txt"
        quoted = ("".join(f"\\x{byte:02x}" for byte in word) for word in words())
        dictionary.write_text("".join(f'"{word}"\n' for word in quoted))
        limits = ("-timeout=20", "-rss_limit_mb=4096", "-max_len=20000", "-print_final_stats=1")
        places = (f"-dict={dictionary}", f"-artifact_prefix={kept}/", str(kept))
        length = f"-max_total_time={given.seconds}"
        atheris.Setup([sys.argv[0], *limits, length, *places], test)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
