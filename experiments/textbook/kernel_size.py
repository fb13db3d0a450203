"""Kernel size: 1x1, 3x3, 5x5, 7x7.

Command:   jaxcnn compare experiments/textbook/kernel_size.py
Hardware:  1 core of an AMD EPYC (AVX-512), jax 0.10.2
Time:      50.7 s of training in 12 runs; compiling and reading not counted
Result:    test top-1, mean of three seeds, measured: 3x3 86.08 %, 1x1 81.47 %, 5x5 86.40 %, 7x7
           86.00 %; p < 0.05 against 3x3: 1x1

A larger kernel sees more of the image and costs more, by the square of its side; 3x3 has become
the usual compromise, and a 1x1 kernel sees no neighbours at all.
"""

from experiments.textbook import recipe
from jaxcnn.config import Comparison


def config(quick: bool = False) -> Comparison:
    """Both convolutions with kernels of the same size."""
    return recipe.comparison(
        {f"{k}x{k}": f"conv{k}-16 max2 conv{k}-32 max2 dense-64" for k in (3, 1, 5, 7)}, quick
    )
