"""The accelerators that a run can be planned for, by what was measured or published of them.

Nothing here is measured but where it says so: a data sheet gives peaks, of which programs reach a
part. How large a part of its peaks one NVIDIA H200 reaches in a large matrix product and in a large
copy was measured (``benchmarks/results/h200/bench.csv``), and is taken for all others.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from jaxcnn.analysis.roofline import Dtype, Roofs

Platform = Literal["cpu", "gpu", "tpu"]

MEASURED = Roofs(787.03e12, 3.6288e12)
"""What one H200 reaches in a matrix product in bfloat16 and in a copy."""


@dataclass(frozen=True)
class Card:
    """An accelerator, and how several of them are connected.

    Attributes:
        title: what it is called in full.
        platform: the platform whose implementations of operations it runs.
        flops: peak FLOP/s by the type of the arithmetic, without sparsity.
        bandwidth: peak bytes/s of its memory.
        memory: bytes of its memory.
        link: bytes/s that it can send to others of its node, in all.
        network: bytes/s that a node can send to others, all its adapters together; None where
            none was published, so that only the cards of one node can be planned for.
        per_node: the cards of a node.
        watts: what it takes at most; None where nothing was published.
        source: where the figures come from.
    """

    title: str
    platform: Platform
    flops: Mapping[Dtype, float]
    bandwidth: float
    memory: float
    link: float
    network: float | None
    per_node: int
    watts: float | None
    source: str

    def roofs(self, dtype: Dtype) -> Roofs:
        """Returns what a large matrix product and a large copy reach on it, as far as is known."""
        if self.platform == "cpu":
            return Roofs(self.flops[dtype], self.bandwidth)  # measured
        sheet = CARDS["h200"]
        return Roofs(
            self.flops[dtype] * MEASURED.flops_per_sec / sheet.flops["bf16"],
            self.bandwidth * MEASURED.bytes_per_sec / sheet.bandwidth,
        )


NVIDIA = "NVIDIA's data sheet; fp32 is TF32, which JAX takes by default"
DGX = "; node: DGX, 8 network adapters"
GOOGLE = "Google Cloud's page on it; fp32 in bf16 passes; link: all-reduce of a pod"

CARDS = {
    "h200": Card(
        title="NVIDIA H200 SXM",
        platform="gpu",
        flops={"bf16": 989.5e12, "fp32": 494.7e12},
        bandwidth=4.8e12,
        memory=141e9,
        link=450e9,
        network=8 * 50e9,
        per_node=8,
        watts=700,
        source=f"{NVIDIA}; product and copy measured{DGX} of 400 Gbit/s",
    ),
    "h100": Card(
        title="NVIDIA H100 SXM",
        platform="gpu",
        flops={"bf16": 989.5e12, "fp32": 494.7e12},
        bandwidth=3.35e12,
        memory=80e9,
        link=450e9,
        network=8 * 50e9,
        per_node=8,
        watts=700,
        source=f"{NVIDIA}{DGX} of 400 Gbit/s",
    ),
    "a100": Card(
        title="NVIDIA A100 SXM 80 GB",
        platform="gpu",
        flops={"bf16": 312e12, "fp32": 156e12},
        bandwidth=2.039e12,
        memory=80e9,
        link=300e9,
        network=8 * 25e9,
        per_node=8,
        watts=400,
        source=f"{NVIDIA}{DGX} of 200 Gbit/s",
    ),
    "l4": Card(
        title="NVIDIA L4",
        platform="gpu",
        flops={"bf16": 121e12, "fp32": 60e12},
        bandwidth=300e9,
        memory=24e9,
        link=32e9,
        network=12.5e9,
        per_node=8,
        watts=72,
        source=f"{NVIDIA}; link: PCIe 4.0 x16; node: g2-standard-96, 100 Gbit/s",
    ),
    "tpu-v4": Card(
        title="TPU v4",
        platform="tpu",
        flops={"bf16": 275e12, "fp32": 275e12},
        bandwidth=1.2e12,
        memory=32 * 2**30,
        link=1.1e15 / 4096,
        network=None,
        per_node=4096,
        watts=192,
        source=f"{GOOGLE} of 4,096 chips",
    ),
    "tpu-v5e": Card(
        title="TPU v5e",
        platform="tpu",
        flops={"bf16": 197e12, "fp32": 197e12},
        bandwidth=819e9,
        memory=16e9,
        link=51.2e12 / 256,
        network=6.4e12 / 8,
        per_node=256,
        watts=None,
        source=f"{GOOGLE} of 256 chips",
    ),
}
"""The cards by the names that a command line gives them; ``cpu`` is :func:`this_machine`."""


def this_machine() -> Card:
    """Measures the machine at hand: a matrix product and a copy; others like it are a network away.

    Every device is a machine of its own, with 10 Gbit/s between them, which is assumed.
    """
    from jaxcnn.analysis.roofline import measure_roofs
    from jaxcnn.memory import available

    found = measure_roofs("fp32")
    return Card(
        title="this machine",
        platform="cpu",
        flops={"fp32": found.flops_per_sec, "bf16": found.flops_per_sec},
        bandwidth=found.bytes_per_sec,
        memory=available(),
        link=1.25e9,
        network=1.25e9,
        per_node=1,
        watts=None,
        source="product and copy measured in fp32; network of 10 Gbit/s assumed",
    )
