"""Random input that no table names: command lines, documents, files, variables."""

import json
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.badinput import world
from tests.badinput.conftest import CASES, SEED
from tests.badinput.harness import Case
from tests.badinput.test_arguments import CALLS, fields, options
from tests.badinput.test_files import ON_AN_IMAGE, encoded
from tests.badinput.test_records import PLACES
from tests.badinput.values import WORDS, paths

EXAMPLES = 5
"""Cases of a seed; the first unclean one ends it, and its number shows it again."""

text = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=20)
word = st.one_of(
    st.sampled_from([*WORDS.values()]),
    st.integers().map(str),
    st.floats().map(str),
    text,
    st.from_regex(r"[\[\](){},.:=0-9eE'\" -]{0,12}", fullmatch=True),
).map(lambda found: found.replace("/", ":"))  # nothing is written outside of the folder
flag = st.sampled_from(
    sorted({w for c in (*options(), *fields()) for w in c.argv if w[:2] == "--"})
)
leaf = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), text, st.sampled_from([2**31, 10**30])
)
document = st.recursive(
    leaf, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4)
)


@st.composite
def command_lines(draw: st.DrawFn) -> Case:
    call = [*draw(st.sampled_from([*CALLS.values()]))]
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(1, len(call)))
        match draw(st.sampled_from(("put", "put", "replace", "remove"))):
            case "put":
                call[at:at] = draw(
                    st.one_of(st.tuples(flag, word), st.tuples(flag), st.tuples(word))
                )
            case "replace":
                call[at : at + 1] = [draw(word)]
            case "remove":
                call[at : at + 1] = []
    return Case("command line", tuple(call), writes=("page.html", "run/viz*", "run/viz/*"))


@st.composite
def documents(draw: st.DrawFn) -> Case:
    place = draw(st.sampled_from(sorted(PLACES)))
    argv = draw(st.sampled_from([*PLACES[place].values()]))
    edits = draw(st.lists(st.tuples(st.integers(0, 10**6), st.one_of(document, word)), max_size=3))

    def spoil(folder: Path) -> None:
        path = folder / place
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(edits[0][1] if edits else None))
            return
        *lines, last = path.read_text().splitlines() if place.endswith("l") else [path.read_text()]
        found = json.loads(last)
        for number, value in edits:
            where = list(paths(found))
            if where:
                at = where[number % len(where)]
                inner = found
                for key in at[:-1]:
                    inner = inner[key]
                inner[at[-1]] = value
        path.write_text("\n".join([*lines, json.dumps(found)]) + "\n")

    name = f"document {place} {edits!r}"[:300]
    return Case(name, argv, spoil, ("page.html",))


def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Returns content with bytes replaced, put in and cut out."""
    found = bytearray(content)
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, max(0, len(found) - 1)))
        match draw(st.sampled_from(("replace", "put", "cut", "end"))):
            case "replace":
                found[at : at + 1] = draw(st.binary(min_size=1, max_size=4))
            case "put":
                found[at:at] = draw(st.binary(min_size=1, max_size=8))
            case "cut":
                del found[at : at + draw(st.integers(1, 16))]
            case "end":
                del found[max(at, len(found) // 2) :]
    return bytes(found)


@st.composite
def images(draw: st.DrawFn) -> Case:
    form = draw(st.sampled_from(("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")))
    content = damaged(draw, encoded(form, size=draw(st.sampled_from(((1, 1), (8, 8), (9, 300))))))
    argv, place = draw(st.sampled_from([*ON_AN_IMAGE.values()]))
    return Case(
        f"image in {form} {content.hex()[:200]}",
        *(argv, lambda folder: (folder / place).write_bytes(content), ("page.html",)),
        needs=("photos",),
    )


@st.composite
def weights(draw: st.DrawFn) -> Case:
    header, data = world.lenet5()
    spoilt = damaged(draw, json.dumps(header).encode())
    content = world.safetensors(spoilt, data)
    if draw(st.booleans()):
        content = draw(st.binary(min_size=8, max_size=8)) + content[8:]

    def write(folder: Path) -> None:
        (folder / "weights.safetensors").write_bytes(content)

    return Case(f"weights {spoilt[:200]!r}", (*world.IMPORT, "--out", "new"), write)


names = st.sampled_from(("COLUMNS", "TERM", "HOME", "TMPDIR", "TZ", "TFDS_DATA_DIR", "NO_COLOR"))
printable = st.text(string.printable.replace("/", ""), max_size=12)


@st.composite
def environments(draw: st.DrawFn) -> Case:
    env = draw(
        st.dictionaries(names, st.one_of(printable, word, st.none()), min_size=1, max_size=3)
    )
    argv = draw(st.sampled_from([*CALLS.values()]))
    return Case(f"environment {env!r}", argv, env=env, writes=("page.html", "run/viz*"))


KINDS = {
    "command lines": command_lines,
    "documents": documents,
    "images": images,
    "weights": weights,
    "environments": environments,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("number", "examples"),
    [(0, 1)]
    + [
        pytest.param(int(SEED) * 1000 + n, EXAMPLES, marks=pytest.mark.slow)
        for n in range(1, CASES // EXAMPLES)
    ],
)
def test_random_input(
    clean: Callable[..., None], tmp_path: Path, kind: str, number: int, examples: int
) -> None:
    count = 0

    @seed(number)
    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=[*HealthCheck],
    )
    @given(KINDS[kind]())
    def check(case: Any) -> None:
        nonlocal count
        count += 1
        clean(f"random {kind}", case, tmp_path / str(count))

    check()
