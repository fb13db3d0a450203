"""torchvision's MobileNetV2, trained in PyTorch on a fifth of CIFAR-10: weights to import.

Command:   python -m experiments.weights.mobilenet_v2_cifar10 mobilenet_v2.safetensors
Hardware:  1 core of an AMD EPYC (AVX-512), beside other work, torch 2.13, torchvision 0.28
Time:      158 s of processor time, 2 epochs
Result:    test top-1 47.43 % with seed 0 (measured)

A stand-in for torchvision's ImageNet weights where nothing can be downloaded. The images are the
10,000 behind the first 2,000, which are left for fine-tuning. Needs torch, torchvision and
safetensors, and CIFAR-10 as TFDS prepares it.
"""

import argparse

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn import functional
from torchvision.models import mobilenet_v2

from jaxcnn import models
from jaxcnn.config import Data
from jaxcnn.data import sources

SIDE, BATCH, EPOCHS, PEAK_LR = 64, 32, 2, 0.03


def prepared(images: np.ndarray) -> torch.Tensor:
    """Normalises (n, h, w, 3) uint8 as torchvision does, and enlarges it to (n, 3, 64, 64)."""
    mean, std = (np.array(v) for v in models.standard_normalization("mobilenet_v2"))
    x = torch.from_numpy(((images / 255 - mean) / std).transpose(0, 3, 1, 2).astype(np.float32))
    return functional.interpolate(x, size=(SIDE, SIDE), mode="bilinear")


def main() -> None:
    """Trains, evaluates, writes the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", help="safetensors file to write")
    args = parser.parse_args()
    dataset = sources.load(Data("cifar10", streaming=False))
    train = dataset.train.read(np.arange(2_000, 12_000))
    test = dataset.test.read(np.arange(len(dataset.test)))
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    model = mobilenet_v2(num_classes=len(dataset.classes))
    optimizer = torch.optim.SGD(
        model.parameters(), PEAK_LR, momentum=0.9, nesterov=True, weight_decay=1e-4
    )
    steps = len(train["label"]) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, PEAK_LR, total_steps=EPOCHS * steps, cycle_momentum=False
    )
    for epoch in range(EPOCHS):
        model.train()
        losses = []
        for index in rng.permutation(len(train["label"]))[: steps * BATCH].reshape(steps, BATCH):
            images = prepared(train["image"][index])
            if rng.random() < 0.5:
                images = images.flip(3)
            labels = torch.from_numpy(train["label"][index]).long()
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        print(f"epoch {epoch + 1} train loss {np.mean(losses):.4f}", flush=True)
    model.eval()
    with torch.inference_mode():
        parts = np.array_split(test["image"], 100)
        found = torch.cat([model(prepared(part)).argmax(1) for part in parts]).numpy()
    print(f"test top-1 {(found == test['label']).mean():.2%}")
    save_file(model.state_dict(), args.out)


if __name__ == "__main__":
    main()
