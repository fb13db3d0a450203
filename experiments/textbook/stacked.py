"""Two 3x3 convolutions against one 5x5, three against one 7x7.

Command:   jaxcnn compare experiments/textbook/stacked.py
Hardware:  1 core of an AMD EPYC (AVX-512), jax 0.10.2
Time:      1 min 47 s of training in 12 runs; compiling and reading not counted
Result:    test top-1, mean of three seeds, measured: 5x5 70.81 %, two_3x3 71.78 %, 7x7 73.52 %,
           three_3x3 75.05 %; p < 0.05 against 5x5: none

Two 3x3 convolutions see 5x5 pixels and three see 7x7, with 18 against 25 and 27 against 49 weights
for each pair of channels and a ReLU more each time (Simonyan & Zisserman 2015).
"""

from experiments.textbook import recipe
from jaxcnn.config import Comparison


def config(quick: bool = False) -> Comparison:
    """32 channels in and out, behind the same first layer."""
    middle = {
        "5x5": "conv5-32",
        "two_3x3": "conv3-32 conv3-32",
        "7x7": "conv7-32",
        "three_3x3": "conv3-32 conv3-32 conv3-32",
    }
    return recipe.comparison(
        {name: f"conv3-32 max2 {layers} gap" for name, layers in middle.items()}, quick
    )
