"""The speedrun in PyTorch: a peer of ``benchmarks.speedrun``, and an oracle for the tests.

Written after Jordan (2024), arXiv 2404.00498, and the variant with Muon; images are NCHW.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


class Block(nn.Module):
    """Convolution, max-pool, norm, GELU; convolution, norm, GELU. The norms have no weight."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv1 = _convolution(channels, width)
        self.norm1 = _norm(width)
        self.conv2 = _convolution(width, width)
        self.norm2 = _norm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps ``(n, c, h, w)`` to ``(n, width, h // 2, w // 2)``."""
        x = functional.gelu(self.norm1(functional.max_pool2d(self.conv1(x), 2)))
        return functional.gelu(self.norm2(self.conv2(x)))


def _convolution(channels: int, width: int) -> nn.Conv2d:
    conv = nn.Conv2d(channels, width, 3, padding=1, bias=False)
    nn.init.dirac_(conv.weight.data[:channels])
    return conv


def _norm(width: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(width, eps=1e-12, momentum=0.4)
    norm.weight.requires_grad_(False)
    return norm


class Network(nn.Module):
    """The layer that whitens, the blocks, a max-pool of 3x3, and the head, whose output is /9."""

    def __init__(self, widths: Sequence[int] = (64, 256, 256), classes: int = 10) -> None:
        super().__init__()
        self.whiten = nn.Conv2d(3, 24, 2)
        self.whiten.weight.requires_grad_(False)
        nn.init.zeros_(self.whiten.bias)
        channels = [24, *widths]
        self.blocks = nn.Sequential(*map(Block, channels[:-1], channels[1:]))
        self.head = nn.Linear(widths[-1], classes, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps ``(n, 3, 32, 32)`` to ``(n, classes)``."""
        x = self.blocks(functional.gelu(self.whiten(x)))
        return self.head(functional.max_pool2d(x, 3).flatten(1)) / 9


def whitening(images: torch.Tensor, epsilon: float = 5e-4) -> torch.Tensor:
    """Returns the kernel ``(24, 3, 2, 2)`` that whitens 2x2 patches of images."""
    patches = functional.unfold(images.float(), 2).transpose(1, 2).flatten(0, 1)
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    filters = (vectors / torch.sqrt(values + epsilon)).T.reshape(-1, images.shape[1], 2, 2)
    return torch.cat([filters, -filters])


def newton_schulz(gradient: torch.Tensor, steps: int = 3) -> torch.Tensor:
    """Brings the singular values of ``(o, ...)``, as a matrix of ``o`` rows, near to 1."""
    x = gradient.flatten(1).bfloat16()
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.view_as(gradient).to(gradient.dtype)


class Muon:
    """Muon with a fixed norm of each kernel: ``w = sqrt(o) w / |w| - rate * orthogonal``."""

    def __init__(self, kernels: Sequence[nn.Parameter], momentum: float = 0.6) -> None:
        self.kernels, self.momentum = kernels, momentum
        self.moments = [torch.zeros_like(kernel) for kernel in kernels]

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Moves the kernels along the Nesterov momentum of their gradients."""
        for kernel, moment in zip(self.kernels, self.moments, strict=True):
            assert kernel.grad is not None
            moment.mul_(self.momentum).add_(kernel.grad)
            direction = kernel.grad + self.momentum * moment
            kernel.mul_(len(kernel) ** 0.5 / kernel.norm())
            kernel.sub_(rate * newton_schulz(direction))


def six_views(network: Any, x: torch.Tensor) -> torch.Tensor:
    """Averages the logits of an image (1/2) and of two shifts (1/4 each), mirrored or not."""
    padded = functional.pad(x, (1, 1, 1, 1), "reflect")
    views = ((0.5, x), (0.25, padded[:, :, :-2, :-2]), (0.25, padded[:, :, 2:, 2:]))
    return sum(w * (network(v) + network(v.flip(-1))) / 2 for w, v in views)


class Rates(NamedTuple):
    """Peak rates for the mean loss of a batch, and weight decay per step."""

    filters: float = 0.24
    biases: float = 106.0
    head: float = 1.656
    decay: float = 4e-3


class Speedrun:
    """Trains the network many times on the same images, which lie on the device.

    Args:
        train: ``image`` ``(n, h, w, 3)`` uint8 and ``label`` ``(n,)``.
        test: likewise.
        widths: channels of the blocks.
        batch_size: images in a batch.
    """

    def __init__(
        self,
        train: Mapping[str, np.ndarray],
        test: Mapping[str, np.ndarray],
        widths: Sequence[int],
        batch_size: int,
    ) -> None:
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        if self.device == "cpu":
            torch.set_num_threads(len(os.sched_getaffinity(0)))
        torch.backends.cudnn.benchmark = True
        self.batch_size, self.widths = batch_size, widths
        self.train_set, self.test_set = map(self._placed, (train, test))
        self.network = Network(widths).to(self.device, memory_format=torch.channels_last)
        compiled = torch.compile(self.network) if self.device == "cuda" else self.network
        self.forward: Any = compiled

    def _placed(self, split: Mapping[str, np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
        images, labels = (torch.tensor(split[k]).to(self.device) for k in ("image", "label"))
        return images.permute(0, 3, 1, 2), labels.long()

    def _normalised(self, images: torch.Tensor) -> torch.Tensor:
        mean, std = (torch.tensor(v, device=self.device).view(1, 3, 1, 1) for v in (MEAN, STD))
        return (images.float() / 255 - mean) / std

    def _autocast(self) -> Any:
        return torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda")

    def _restart(self) -> None:
        fresh = Network(self.widths).state_dict()
        self.network.load_state_dict(fresh)
        kernel = whitening(self._normalised(self.train_set[0][:5000]))
        self.network.whiten.weight.data.copy_(kernel)

    def run(self, seed: int, epochs: int) -> float:
        """Trains once from the beginning, and returns the test top-1 with six views."""
        torch.manual_seed(seed)
        self._restart()
        self._train(epochs)
        self.network.eval()
        right = 0
        with torch.inference_mode(), self._autocast():
            for images, labels in zip(*(a.split(2000) for a in self.test_set), strict=True):
                found = six_views(self.forward, self._normalised(images)).argmax(1)
                right += int((found == labels).sum())  # which waits for the device
        return right / len(self.test_set[1])

    def _train(self, epochs: int) -> None:
        rates, images = Rates(), self._normalised(self.train_set[0])
        n, _, height, width = images.shape
        mirrored = torch.rand(n, 1, 1, 1, device=self.device) < 0.5
        images = torch.where(mirrored, images.flip(-1), images)
        padded = functional.pad(images, (2, 2, 2, 2), "reflect")
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)
        steps = n // self.batch_size
        biases = [p for name, p in self.network.blocks.named_parameters() if "bias" in name]
        groups = [
            ([self.network.whiten.bias], rates.biases),
            (biases, rates.biases),
            ([self.network.head.weight], rates.head),
        ]
        sgd = torch.optim.SGD(
            [{"params": p, "lr": lr, "weight_decay": rates.decay / lr} for p, lr in groups],
            momentum=0.85,
            nesterov=True,
        )
        muon = Muon([p for p in self.network.blocks.parameters() if p.ndim == 4])
        self.network.train()
        for step in range(epochs * steps):
            epoch, place = divmod(step, steps)
            if place == 0:
                order = torch.randperm(n, device=self.device)
                row, column = torch.randint(5, (2, n), device=self.device)
            chosen = order[place * self.batch_size :][: self.batch_size]
            batch = windows[chosen, :, row[chosen], column[chosen]]
            batch = batch.flip(-1) if epoch % 2 else batch
            with self._autocast():
                logits = self.forward(batch.contiguous(memory_format=torch.channels_last))
            labels = self.train_set[1][chosen]
            loss = functional.cross_entropy(logits.float(), labels, label_smoothing=0.2)
            sgd.zero_grad(set_to_none=True)
            self.network.zero_grad(set_to_none=True)
            loss.backward()
            left = 1 - step / (epochs * steps)
            factors = (max(0.0, 1 - (1 - left) * 8 / 3), left, left)
            for group, (_, lr), factor in zip(sgd.param_groups, groups, factors, strict=True):
                group["lr"] = lr * factor
            sgd.step()
            muon.step(rates.filters * left)
