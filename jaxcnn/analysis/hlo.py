"""Reads the text of a compiled program, XLA's HLO: which instructions run, and how often."""

import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

CALLED = r"(?:calls|to_apply|body)=%?([\w.-]+)"


class Instruction(NamedTuple):
    """One line of HLO: ``%name = shape opcode(%operand, ...), attributes``."""

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str

    def attribute(self, pattern: str) -> str:
        """Returns what a pattern's group matches in the attributes, or nothing."""
        found = re.search(pattern, self.attributes)
        return found[1] if found else ""


def shape_bytes(shape: str) -> int:
    """Returns the bytes of an array or a tuple of arrays, as HLO writes its shape.

    >>> shape_bytes("bf16[8,3]{1,0:T(8,128)}"), shape_bytes("(f32[2]{0}, pred[], u4[3], token[])")
    (48, 11)
    """
    total = 0
    for kind, sizes in re.findall(r"([a-z][a-z0-9]*)\[([^\]]*)\]", shape):
        bits = 8 if kind == "pred" else int((re.search(r"\d+", kind) or "0")[0])
        total += math.ceil(bits * math.prod(map(int, re.findall(r"\d+", sizes))) / 8)
    return total


def parse(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """Reads HLO text: the instructions of each computation, and the name of the one that runs."""
    computations: dict[str, list[Instruction]] = {}
    entry, held = "", []
    for line in text.splitlines():
        if found := re.match(r"(ENTRY )?%?([\w.-]+) \(.*\{$", line):
            held = computations[found[2]] = []
            entry = found[2] if found[1] else entry
        elif found := re.match(r"\s+(?:ROOT )?%?([\w.-]+) = (.*)", line):
            shape, rest = _cut(found[2])
            opcode, _, rest = rest.partition("(")
            operands, attributes = _cut("(" + rest)
            names = tuple(re.findall(r"%([\w.-]+)", operands))
            held.append(Instruction(found[1], shape, opcode.strip(), names, attributes))
    return computations, entry


def _cut(text: str) -> tuple[str, str]:
    """Cuts a text behind its first word, or behind the parenthesis that closes its first one."""
    if not text.startswith("("):
        word, _, rest = text.partition(" ")
        return word, rest
    depth = 0
    for end, letter in enumerate(text, start=1):
        depth += (letter == "(") - (letter == ")")
        if not depth:
            return text[:end], text[end:].lstrip()
    return text, ""


class Executed(NamedTuple):
    """An instruction that runs: the name of its computation, itself, and how often it runs."""

    computation: str
    instruction: Instruction
    times: int


def executed(
    computations: Mapping[str, list[Instruction]], name: str, times: int = 1
) -> Iterator[Executed]:
    """Yields the instructions of a computation, those in calls and loops included.

    A loop whose number of rounds is not known in the program counts once.
    """
    for one in computations[name]:
        if one.opcode in ("call", "while"):
            rounds = int(one.attribute(r'known_trip_count":\{"n":"(\d+)"') or 1)
            yield from executed(computations, one.attribute(CALLED), times * rounds)
        else:
            yield Executed(name, one, times)
