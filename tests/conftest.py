"""What every test runs under: checked shapes, no silent rank promotion, a CPU of fixed size."""

import os

import jax
from jaxtyping import install_import_hook

# Every jaxtyping annotation of these packages is enforced while the tests run.
install_import_hook(["jaxcnn.ops"], "beartype.beartype")
jax.config.update("jax_numpy_rank_promotion", "raise")
os.environ.setdefault("MPLBACKEND", "Agg")
