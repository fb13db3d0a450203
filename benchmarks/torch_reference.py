"""Compares the networks here with torchvision's and timm's, given the same random weights."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.zoo import ROWS, Row, build, draw
from jaxcnn import models
from jaxcnn.models import timm_names

# Without LLVM's optimisations: the arithmetic is the same, compiling takes half.
FAST: dict[str, Any] = {"xla_backend_optimization_level": 0}


def import_torchvision() -> Any:
    """Imports torchvision, ignoring registrations that fail where its C++ operators are missing.

    Raises:
        ImportError: torch or torchvision is not installed.
    """
    import torch

    register = torch.library.register_fake

    def forgiving(op: Any, *args: Any, **kwargs: Any) -> Any:
        decorate = register(op, *args, **kwargs)

        def attempt(function: Any) -> Any:
            try:
                return decorate(function)
            except RuntimeError:
                return function

        return attempt

    torch.library.register_fake = forgiving
    try:
        import torchvision
    finally:
        torch.library.register_fake = register
    return torchvision


def reference(name: str, num_classes: int = 1000, *, empty: bool = False, **options: Any) -> Any:
    """Builds torchvision's model with weights that are not initialised, or not even allocated."""
    import torch

    constructor = getattr(import_torchvision().models, name)
    if name in {"googlenet", "inception_v3"}:
        options["init_weights"] = False
    try:
        with torch.device("meta"):
            model = constructor(num_classes=num_classes, **options)
            return model if empty else model.to_empty(device="cpu")
    except NotImplementedError:  # RegNet computes its widths with tensors
        return constructor(num_classes=num_classes, **options)


def timm_reference(name: str, *, empty: bool = False) -> Any:
    """Builds timm's model with weights that are not initialised, or not even allocated.

    Raises:
        ImportError: timm, or what it needs, is not installed.
    """
    import_torchvision()  # first, or its operators are registered where they are missing
    import timm
    import torch

    with torch.device("meta"):
        model = timm.create_model(name)
    return model if empty else model.to_empty(device="cpu")


def randomize(model: Any, seed: int = 0) -> dict[str, np.ndarray]:
    """Fills a PyTorch model with random weights and statistics; returns them as NumPy arrays."""
    import torch

    rng = np.random.default_rng(seed)
    norms = {
        f"{name}.weight"
        for name, module in model.named_modules()
        if getattr(module, "running_mean", None) is not None
        or isinstance(module, torch.nn.LayerNorm)
    }
    for name, tensor in model.state_dict().items():
        shape = tuple(tensor.shape)
        positive = name in norms or name.endswith("running_var")
        if name.endswith("num_batches_tracked"):
            continue
        array = draw(rng, positive, shape, math.prod(shape[1:]))
        if name.endswith(("bn3.weight", "norm3.weight")):
            # Branches of a trained ResNet are small beside their shortcuts. With branches as
            # large, each block magnifies rounding errors: either implementation would be 4e-4
            # away from the exact logits of resnet152.
            array *= 0.25
        tensor.copy_(torch.from_numpy(array))
    return _arrays(model)


def calibrate(model: Any, x: np.ndarray) -> dict[str, np.ndarray]:
    """Sets the running statistics to those of ``x``, and returns all weights as NumPy arrays.

    With random statistics the activations of a deep network grow without bound, gates saturate,
    and a rounding error decides on which side: either implementation is then far from the exact
    logits. Trained networks are not like that.
    """
    import torch

    model.eval()
    for module in model.modules():
        if hasattr(module, "running_mean"):
            module.momentum = 1.0
            module.train()
    with torch.no_grad():
        model(torch.from_numpy(x.transpose(0, 3, 1, 2)))
    model.eval()
    return _arrays(model)


def _arrays(model: Any) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def relative_error(ours: Any, theirs: Any) -> float:
    """Returns the largest difference, relative to the largest number of the reference."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if ours.shape != theirs.shape:
        return math.inf
    return float(np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1e-30))


def images(batch: int, image: tuple[int, int, int], seed: int = 1) -> np.ndarray:
    """Draws images ``(n, h, w, c)`` that differ at every scale.

    Images of plain noise look alike to a deep layer: normalisation then magnifies differences
    that are barely above rounding.
    """
    rng = np.random.default_rng(seed)
    height, width, channels = image
    x = np.zeros((batch, *image), np.float32)
    for cells in (1, 4, max(height, width)):
        rows, columns = (np.arange(size) * cells // size for size in (height, width))
        x += rng.standard_normal((batch, cells, cells, channels), np.float32)[:, rows][
            :, :, columns
        ]
    return x


def eval_error(row: Row, batch: int = 2) -> float:
    """Returns the relative error of the logits in evaluation mode against torchvision's."""
    return _logits_error(row, reference(row.name), {}, batch)


def timm_error(name: str, batch: int = 2) -> float:
    """Returns the same error against timm's model of a name of its own."""
    ours, options = timm_names.network(name)
    return _logits_error(ROWS[ours], timm_reference(name), dict(options), batch)


def _logits_error(row: Row, theirs: Any, options: dict[str, Any], batch: int) -> float:
    """Returns the relative error of the logits in evaluation mode, with random weights."""
    import torch

    randomize(theirs)
    arrays = calibrate(theirs, images(16, row.image, seed=4))
    _, options = models.torch_weights.needed(
        row.name, {key: array.shape for key, array in arrays.items()}, **options
    )
    variables = models.from_torch(row.name, arrays, **options)
    x = images(batch, row.image)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(x.transpose(0, 3, 1, 2)))
    forward = jax.jit(build(row, 1000, **options).apply).lower(variables, jnp.asarray(x))
    logits = forward.compile(FAST)(variables, jnp.asarray(x))
    return relative_error(logits, expected.numpy())


def train_errors(row: Row, dtype: str, *, without_aux: bool = False) -> dict[str, float]:
    """Returns the relative errors of a training pass: logits, input gradient, batch statistics.

    In float32 a rounding error can turn a unit on or off, and gradients of either implementation
    then differ from the exact ones by percents; float64 shows that the functions are the same.
    """
    import torch

    num_classes = 10
    theirs = reference(row.name, num_classes, **({"aux_logits": False} if without_aux else {}))
    theirs.train()
    for module in theirs.modules():
        if isinstance(module, torch.nn.Dropout) or type(module).__name__ == "StochasticDepth":
            module.p = 0.0
    ours = build(row, num_classes, dtype=dtype, **({"aux_heads": False} if without_aux else {}))
    variables = models.from_torch(ours, randomize(theirs), input_shape=row.train_image)
    variables = jax.tree.map(lambda leaf: leaf.astype(dtype), variables)
    theirs = theirs.to(getattr(torch, dtype))
    x = images(row.train_batch, row.train_image).astype(dtype)
    heads = np.random.default_rng(2).standard_normal((3, len(x), num_classes)).astype(dtype)

    x_torch: Any = torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).requires_grad_()
    output = theirs(x_torch)
    # With auxiliary heads a named tuple: logits, aux_logits2, aux_logits1; or logits, aux_logits.
    outputs = [output] if torch.is_tensor(output) else [output[0], *reversed(output[1:])]
    total: Any = sum((o * torch.from_numpy(h)).sum() for o, h in zip(outputs, heads, strict=False))
    total.backward()

    # Weights that the program closed over would be constants, which XLA folds at great length.
    def loss(x: jax.Array, variables: Any) -> tuple[jax.Array, Any]:
        (logits, ends), updated = ours.apply(
            variables, x, train=True, endpoints=True, mutable=["batch_stats"]
        )
        outputs = [logits, *ends.get("aux_logits", ())]
        total = sum((o * h).sum() for o, h in zip(outputs, heads, strict=False))
        return total, (outputs, updated)

    step = jax.jit(jax.grad(loss, has_aux=True)).lower(jnp.asarray(x), variables)
    gradient, (ours_out, updated) = step.compile(FAST)(x, variables)
    errors = {"logits": relative_error(ours_out[0], outputs[0].detach().numpy())}
    for i, (o, t) in enumerate(zip(ours_out[1:], outputs[1:], strict=True), start=1):
        errors[f"aux_logits {i}"] = relative_error(o, t.detach().numpy())
    errors["input gradient"] = relative_error(gradient, x_torch.grad.numpy().transpose(0, 2, 3, 1))
    if updated:
        state = _arrays(theirs)
        expected = models.from_torch(ours, state, input_shape=row.train_image)["batch_stats"]
        pairs = jax.tree.map(relative_error, updated["batch_stats"], expected)
        errors["batch statistics"] = max(jax.tree.leaves(pairs))
    return errors
