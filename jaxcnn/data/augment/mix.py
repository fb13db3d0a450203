"""Two images and their labels made one: mixup and CutMix."""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxcnn.data.augment.annotations import Array, Key, SameImages
from jaxcnn.data.augment.erase import inside


def mix(
    x: SameImages, shares: Float[Array, "n classes"], key: Key, mixup: float, cutmix: float
) -> tuple[SameImages, Float[Array, "n classes"]]:
    """Mixes each image, and its shares of the classes, with the next one of the batch.

    Mixup (Zhang et al. 2018): ``lam * x_i + (1 - lam) * x_j``. CutMix (Yun et al. 2019): a
    rectangle of ``1 - lam`` of the area, its centre anywhere, comes from the other image; what of
    it falls outside is cut off, and ``lam`` becomes the share of the pixels that stayed. In both,
    ``lam`` is drawn from Beta(alpha, alpha) and targets are ``lam * y_i + (1 - lam) * y_j``. As in
    both papers' programs, one ``lam`` and one rectangle serve the whole batch. Where both alphas
    are given, each batch uses either with probability 1/2 (as timm does).

    Args:
        x: ``(n, h, w, c)`` images.
        shares: ``(n, classes)`` targets before mixing.
        key: random key of this step.
        mixup: alpha; 0 leaves mixup out.
        cutmix: alpha; 0 leaves CutMix out.

    Returns:
        Images and targets.
    """
    _, h, w, _ = x.shape
    choice, lam_key, place = jax.random.split(key, 3)
    if not cutmix:
        stays = jnp.full((1, h, w, 1), jax.random.beta(lam_key, mixup, mixup))
    else:
        pasted = inside(cutmix_box(place, jax.random.beta(lam_key, cutmix, cutmix), h, w), h, w)
        stays = 1.0 - pasted.astype(jnp.float32)
        if mixup:
            lam = jax.random.beta(lam_key, mixup, mixup)
            stays = jnp.where(jax.random.bernoulli(choice), stays, lam)
    lam = stays.mean()
    mixed = stays * x + (1 - stays) * jnp.roll(x, -1, axis=0)
    return mixed, lam * shares + (1 - lam) * jnp.roll(shares, -1, axis=0)


def cutmix_box(key: Key, lam: Float[Array, ""], height: int, width: int) -> jax.Array:
    """Draws the rectangle (top, left, height, width) that CutMix pastes; it may stick out."""
    top_key, left_key = jax.random.split(key)
    part = jnp.sqrt(1 - lam)
    tall, wide = (part * height).astype(jnp.int32), (part * width).astype(jnp.int32)
    top = jax.random.randint(top_key, (), 0, height) - tall // 2
    left = jax.random.randint(left_key, (), 0, width) - wide // 2
    return jnp.stack([top, left, tall, wide])[None]
