"""Max pooling, average pooling, or a stride in the convolution.

Command:   jaxcnn compare experiments/textbook/pooling.py
Hardware:  1 core of an AMD EPYC (AVX-512), jax 0.10.2
Time:      28.4 s of training in 12 runs; compiling and reading not counted
Result:    test top-1, mean of three seeds, measured: max 86.08 %, average 85.01 %, stride 84.96 %,
           stride_behind 85.54 %; p < 0.05 against max: average, stride

Max pooling keeps that a pattern is there and forgets where, average pooling blurs it, and a
strided convolution learns what to keep: in place of conv and pool it is cheaper, behind the conv
in place of the pool it costs more (Springenberg et al. 2015).
"""

from experiments.textbook import recipe
from jaxcnn.config import Comparison


def config(quick: bool = False) -> Comparison:
    """Maps of the same sizes throughout."""
    return recipe.comparison(
        {
            "max": "conv3-16 max2 conv3-32 max2 dense-64",
            "average": "conv3-16 avg2 conv3-32 avg2 dense-64",
            "stride": "conv3-16/2 conv3-32/2 dense-64",
            "stride_behind": "conv3-16 conv3-16/2 conv3-32 conv3-32/2 dense-64",
        },
        quick,
    )
