"""Types of images and keys."""

from jaxtyping import Array, Float, PRNGKeyArray

__all__ = ["Array", "Batch", "Images", "Key", "PerExample", "SameImages"]

Key = PRNGKeyArray
Batch = dict[str, Array]
"""``image``, ``label``, and whatever else a step needs of each example."""
Images = Float[Array, "_ _ _ _"]
"""``(n, h, w, c)``, of which a function may change the height and the width."""
SameImages = Float[Array, "n h w c"]
"""``(n, h, w, c)``, which a function keeps."""
PerExample = Float[Array, " n"]
"""One number for each image."""
