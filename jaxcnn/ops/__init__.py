"""Arrays to arrays: every convolution, pool and normalisation a CNN needs.

Feature maps are (n, *spatial, c), kernels (*kernel, c / groups, o), with 1, 2 or 3 spatial
dimensions taken from the input. Nothing here owns parameters or state.

How an operation is carried out is chosen by platform and shape while it is traced; ``explain``
says which way and why, ``impl=`` pins one call and ``force_impl`` a whole block.
"""

from jaxcnn.ops import filters, geometry
from jaxcnn.ops.conv import conv, conv_transpose, convolve, depthwise_conv, separable_conv
from jaxcnn.ops.filters import apply_filter
from jaxcnn.ops.lowering import Explanation, Plan, explain, force_impl
from jaxcnn.ops.norm import batch_norm, group_norm, layer_norm, local_response_norm
from jaxcnn.ops.pool import (
    adaptive_avg_pool,
    adaptive_max_pool,
    avg_pool,
    blur_pool,
    global_avg_pool,
    global_max_pool,
    lp_pool,
    max_pool,
    max_pool_with_indices,
    max_unpool,
    min_pool,
)

__all__ = [
    "Explanation",
    "Plan",
    "adaptive_avg_pool",
    "adaptive_max_pool",
    "apply_filter",
    "avg_pool",
    "batch_norm",
    "blur_pool",
    "conv",
    "conv_transpose",
    "convolve",
    "depthwise_conv",
    "explain",
    "filters",
    "force_impl",
    "geometry",
    "global_avg_pool",
    "global_max_pool",
    "group_norm",
    "layer_norm",
    "local_response_norm",
    "lp_pool",
    "max_pool",
    "max_pool_with_indices",
    "max_unpool",
    "min_pool",
    "separable_conv",
]
