"""What every test runs under: checked shapes and no silent rank promotion."""

import os

import jax
from jaxtyping import install_import_hook

# Every jaxtyping annotation of these packages is enforced while the tests run.
install_import_hook(
    ["jaxcnn.ops", "jaxcnn.data", "jaxcnn.train.loss", "jaxcnn.train.metrics"], "beartype.beartype"
)
jax.config.update("jax_numpy_rank_promotion", "raise")
os.environ.setdefault("MPLBACKEND", "Agg")
