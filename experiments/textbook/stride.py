"""Stride of the first convolution: 1, 2, 3.

Command:   jaxcnn compare experiments/textbook/stride.py
Hardware:  1 core of an AMD EPYC (AVX-512), jax 0.10.2
Time:      10.1 s of training in 9 runs; compiling and reading not counted
Result:    test top-1, mean of three seeds, measured: stride_1 86.08 %, stride_2 82.32 %, stride_3
           79.48 %; p < 0.05 against stride_1: stride_2, stride_3

A larger stride makes the feature maps smaller and all later layers cheaper, at the price of
detail that is stepped over.
"""

from experiments.textbook import recipe
from jaxcnn.config import Comparison


def config(quick: bool = False) -> Comparison:
    """The same layers behind it."""
    return recipe.comparison(
        {f"stride_{s}": f"conv3-16/{s} max2 conv3-32 max2 dense-64" for s in (1, 2, 3)}, quick
    )
