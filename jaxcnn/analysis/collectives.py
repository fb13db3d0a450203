"""Finds the collectives in a compiled program, and says how long they take on given cards."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from jaxcnn.analysis.cards import Card
from jaxcnn.analysis.hlo import executed, parse, shape_bytes

SENT = {
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "all-gather": lambda n: (n - 1) / n,
    "reduce-scatter": lambda n: (n - 1) / n,
    "all-to-all": lambda n: (n - 1) / n,
    "collective-permute": lambda n: 1.0,
}
"""What each device of a ring sends, as a share of the whole array, by the number of devices."""
LAUNCH, HOP, HOP_BETWEEN_NODES = 4.4e-6, 0.52e-6, 5.0e-6
"""Seconds that a collective takes without any bytes: to begin, and for each hop of a tree through
NVLink and through a network, from NCCL's table for small messages (``src/graph/tuning.cc``)."""


@dataclass(frozen=True)
class Collective:
    """A collective of the compiled program, as one step runs it.

    Attributes:
        kind: a key of :data:`SENT`.
        bytes: of the whole array, before it is scattered or after it is gathered.
        group: the devices that take part, of the first of the groups that do this side by side.
        times: how often a step runs it.
        origin: what of the program it comes from.
    """

    kind: str
    bytes: int
    group: tuple[int, ...]
    times: int
    origin: str

    @property
    def sent(self) -> float:
        """Bytes that each device sends in a step."""
        return self.times * self.bytes * SENT[self.kind](len(self.group))

    def seconds(self, card: Card) -> float:
        """Returns how long a step waits for it.

        A ring is as fast as its slowest link: that between the cards of a node, or the network,
        which as many rings share as there are cards of a node in different groups. To this comes
        the latency of a tree over the cards of a node and over the nodes.
        """
        n, nodes = len(self.group), {device // card.per_node for device in self.group}
        within = math.ceil(n / len(nodes))
        speed = card.link
        hops = (within - 1) * HOP
        if len(nodes) > 1:
            assert card.network is not None
            speed = min(speed, card.network * within / card.per_node)
            hops += math.ceil(math.log2(len(nodes))) * HOP_BETWEEN_NODES
        return self.sent / speed + self.times * (LAUNCH + 2 * hops)


def find(text: str, devices: int) -> list[Collective]:
    """Returns the collectives of several devices in a program's HLO.

    Those inside a loop of unknown length count once, as one step of a chunk of steps runs them.

    Args:
        text: the program, as ``compiled.as_text()`` gives it.
        devices: the number of devices that it was compiled for.
    """
    return [one for one in _all(text, devices) if len(one.group) > 1]


def _all(text: str, devices: int) -> Iterator[Collective]:
    computations, entry = parse(text)
    for _, one, times in executed(computations, entry):
        kind = one.opcode
        if kind not in SENT:
            assert not kind.startswith(tuple(SENT)), f"{kind}: not as the CPU's compiler writes it"
            continue
        group = _group(one.attributes, devices)
        size = shape_bytes(one.shape) * (len(group) if kind == "reduce-scatter" else 1)
        yield Collective(kind, size, group, times, one.attribute('op_name="([^"]*)"'))


def _group(attributes: str, devices: int) -> tuple[int, ...]:
    """Returns the first of the groups of devices that an instruction names.

    XLA has three ways to write them: as lists; as whole numbers that are counted up in an array of
    some shape, perhaps with its axes exchanged; or as axes of a grid of devices.

    >>> _group("replica_groups={{0,2},{1,3}}", 4), _group("replica_groups=[2,2]<=[4]", 4)
    ((0, 2), (0, 1))
    >>> _group("replica_groups=[2,2]<=[2,2]T(1,0)", 4), _group("replica_groups={}", 4)
    ((0, 2), (0, 1, 2, 3))
    >>> _group("replica_groups=mesh['a'=2,'b'=2] {'a'}", 4)
    (0, 2)
    >>> _group("replica_groups=mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'a'}", 8)
    (0, 1)
    >>> _group("source_target_pairs={{0,1},{1,0}}", 4)
    (0, 1)
    """
    if found := re.search(r"(?:replica_groups|source_target_pairs)=\{\{([\d,]+)\}", attributes):
        return tuple(map(int, found[1].split(",")))
    if found := re.search(rf"replica_groups=\[([\d,]+)\]<=({COUNTED})", attributes):
        return tuple(_counted(found[2]).reshape(_numbers(found[1]))[0].tolist())
    if found := re.search(
        rf"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(({COUNTED})\))? \{{([^}}:]*)\}}",
        attributes,
    ):
        sizes = {name: int(n) for name, n in re.findall(r"'(\w+)'=(\d+)", found[1])}
        grid = _counted(found[2] or f"[{math.prod(sizes.values())}]").reshape([*sizes.values()])
        used = re.findall(r"'(\w+)'", found[3])
        return tuple(grid[tuple(slice(None) if a in used else 0 for a in sizes)].ravel().tolist())
    assert re.search(r"replica_groups=\{\}", attributes), f"unknown groups: {attributes}"
    return tuple(range(devices))


COUNTED = r"\[[\d,]+\](?:T\([\d,]+\))?"
"""Whole numbers that are counted up in an array, whose axes may then be exchanged."""


def _counted(text: str) -> np.ndarray:
    shape, _, order = text.partition("T")
    sizes = _numbers(shape)
    return np.arange(math.prod(sizes)).reshape(sizes).transpose(_numbers(order) or None)


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]
