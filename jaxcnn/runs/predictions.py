"""What a trained run says to every test image, kept in its folder as predictions.npz."""

import contextlib
import functools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcnn.config import Data
from jaxcnn.data import augment, pipeline, sources
from jaxcnn.runs.build import make_stream
from jaxcnn.runs.trained import Trained, data_of, restore
from jaxcnn.train import files

FIELDS = ("index", "label", "predicted", "probability", "label_probability")


def of_test_set(workdir: Path) -> dict[str, np.ndarray]:
    """Predictions of a finished run's last parameters, from its folder or made and kept there.

    Returns:
        For every test image that can be read, in the dataset's order: ``index``, its place in
        the test split (int64), ``label`` and ``predicted`` class (int32), ``probability`` of the
        predicted class and ``label_probability`` of the label (float32).

    Raises:
        InputError: not a finished run, or its data are not at hand.
    """
    digest = files.read_json(workdir / "summary.json", "params_sha256")["params_sha256"]
    kept = _read(workdir / "predictions.npz", digest)
    if kept is not None:
        return kept
    trained = restore(workdir)
    found = predict(trained, data_of(workdir, trained))
    partial = workdir / "predictions.npz.partial"
    with contextlib.suppress(OSError):  # a folder that may only be read: made again each time
        with partial.open("wb") as file:
            np.savez_compressed(file, params_sha256=digest, **found)  # type: ignore[arg-type]
        partial.replace(workdir / "predictions.npz")
    return found


def predict(trained: Trained, dataset: sources.Dataset) -> dict[str, np.ndarray]:
    """Predictions of a trained network for every test image, as in :func:`of_test_set`."""
    data = trained.experiment.data
    program = _program(trained.model, data, dataset.render)
    if dataset.streamed:
        stream = make_stream(trained.experiment, dataset)
        batches = stream.eval_batches()
        blocks: Iterable[Any] = ({k: v[None] for k, v in batch.items()} for batch in batches)
    else:
        blocks = [pipeline.in_batches(dataset.test, data.eval_batch_size)]
    parts, masks = [], []
    for block in blocks:
        out = {"label": block["label"], **program(trained.variables, block)}
        masks.append(block["mask"].ravel())
        parts.append({k: np.asarray(v)[block["mask"]] for k, v in out.items()})
    found = {k: np.concatenate([part[k] for part in parts]) for k in parts[0]}
    # Batches follow the split, and what fills up the last one lies behind its end.
    return {"index": np.flatnonzero(np.concatenate(masks)), **found}


@functools.lru_cache(maxsize=8)  # seeds of one arm share the program
def _program(
    model: nn.Module, data: Data, render: Callable[[jax.Array], jax.Array] | None
) -> Callable[..., dict[str, jax.Array]]:
    prepare = augment.make_prepare(data)

    def one(variables: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        images = batch["image"] if render is None else render(batch["image"])
        logits: Any = model.apply(variables, prepare(images), train=False)
        p = jax.nn.softmax(logits.astype(jnp.float32))
        own = jnp.take_along_axis(p, batch["label"][:, None], axis=1)[:, 0]
        predicted = p.argmax(axis=-1).astype(jnp.int32)
        return {"predicted": predicted, "probability": p.max(axis=-1), "label_probability": own}

    return jax.jit(lambda variables, batches: lax.map(functools.partial(one, variables), batches))


def _read(path: Path, digest: str) -> dict[str, np.ndarray] | None:
    """The kept predictions, if they are whole and of these parameters."""
    try:
        with np.load(path, allow_pickle=False) as held:
            found = {name: held[name] for name in FIELDS}
            return found if str(held["params_sha256"]) == digest else None
    except Exception:  # missing, or whatever NumPy stumbles upon in a damaged file: made again
        return None
