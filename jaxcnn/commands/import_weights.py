"""``jaxcnn import``: weights in torchvision's layout become a folder like that of a run."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from jaxcnn.commands.parsing import parse
from jaxcnn.config import Data, Experiment, Model
from jaxcnn.errors import InputError, as_input_error

Pixels = tuple[float, ...] | None
Options = tuple[Path, str, Path, int, Path | None, int | None, str, Pixels, Pixels]


def main(args: Sequence[str]) -> int:
    """Runs the command and returns the exit code."""
    import tyro

    def parsed(
        weights: tyro.conf.Positional[Path],
        model: str,
        out: Path,
        num_classes: int = 1000,
        classes: Path | None = None,
        image_size: int | None = None,
        dataset: str = "imagenet2012",
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
    ) -> Options:
        """Import weights in torchvision's layout for `eval`, `predict` and `train --init-from`.

        Args:
            weights: a safetensors file; pickles (.pth) are refused, since reading one can run
                any program.
            model: a name from `jaxcnn list`.
            out: the folder to write.
            num_classes: number of logits of the weights.
            classes: text file with one class name a line; by default the classes are numbered.
            image_size: side of the images; by default the one the model was published for.
            dataset: what `eval` evaluates on.
            mean: of pixels scaled to [0, 1], as the weights were trained with; by default that of
                torchvision's weights of the model.
            std: likewise.
        """
        return weights, model, out, num_classes, classes, image_size, dataset, mean, std

    path, name, out, num_classes, class_file, size, dataset, mean, std = parse(
        parsed, args, "import"
    )
    from jaxcnn import models
    from jaxcnn.runs import trained

    with as_input_error():
        height, width, channels = models.standard_input(name)
        usual_mean, usual_std = models.standard_normalization(name)
    data = Data(dataset, batch_size=1, fit="resize", mean=mean or usual_mean, std=std or usual_std)
    if size is not None:
        height = width = size
    names = [str(i) for i in range(num_classes)]
    if class_file is not None:
        try:
            names = class_file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"--classes {class_file}: cannot be read ({error})") from error
        if len(names) != num_classes:
            raise InputError(
                f"--classes {class_file}: has {len(names)} lines, must have {num_classes}"
            )
    experiment = Experiment(
        name=re.sub(r"[^\w.+-]", "_", path.stem),
        data=replace(data, image_size=height),
        model=Model(name),
    )
    parameters = trained.import_weights(path, experiment, names, (height, width, channels), out)
    print(f"{out}: {name} with {parameters:,} parameters from {path}")
    return 0
