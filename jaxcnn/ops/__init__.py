"""Arrays to arrays: every convolution, pool and normalisation a CNN needs.

Feature maps are (n, *spatial, c), kernels (*kernel, c / groups, o), with 1, 2 or 3 spatial
dimensions taken from the input. Nothing here owns parameters or state.
"""

from jaxcnn.ops.conv import conv
from jaxcnn.ops.lowering import force_impl
from jaxcnn.ops.norm import batch_norm, group_norm, layer_norm, local_response_norm
from jaxcnn.ops.pool import (
    adaptive_avg_pool,
    adaptive_max_pool,
    avg_pool,
    global_avg_pool,
    global_max_pool,
    max_pool,
)

__all__ = [
    "adaptive_avg_pool",
    "adaptive_max_pool",
    "avg_pool",
    "batch_norm",
    "conv",
    "force_impl",
    "global_avg_pool",
    "global_max_pool",
    "group_norm",
    "layer_norm",
    "local_response_norm",
    "max_pool",
]
