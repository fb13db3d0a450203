"""From stored pixels to network input, as pure functions: fit, random changes, normalisation.

Everything random is drawn from the key that is passed in: anew for every example, except that
mixing draws once for the whole batch. Hue and saturation change in RGB images alone.

It is JAX of our own rather than a library of image transforms, because it runs on the device
inside the compiled step and is a function of (seed, step) alone: a resumed run makes the same
images, and nothing has to keep up on the host.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, UInt8

from jaxcnn.config import Augment, Data
from jaxcnn.config.checked import require
from jaxcnn.data.augment import own
from jaxcnn.data.augment.annotations import Array, Batch, Images, Key
from jaxcnn.data.augment.colour import color_jitter
from jaxcnn.data.augment.erase import cutout, random_erasing
from jaxcnn.data.augment.geometry import (
    mirror,
    pad_and_crop,
    random_crop,
    random_flip,
    random_resized_crop,
    rotate_and_zoom,
)
from jaxcnn.data.augment.maps import is_map, moved
from jaxcnn.data.augment.mix import mix
from jaxcnn.data.augment.policies import rand_augment, trivial_augment
from jaxcnn.data.images import middle, shorter_side
from jaxcnn.errors import InputError, as_input_error


def make_prepare(data: Data) -> Callable[..., jax.Array]:
    """Makes ``prepare(images, key=None, augment=None)``: :func:`make_prepare_batch` of images."""
    prepare_batch = make_prepare_batch(data)

    def prepare(
        images: UInt8[Array, "n h w c"] | Float32[Array, "n h w c"],
        key: Key | None = None,
        augment: Augment | None = None,
    ) -> Images:
        return prepare_batch({"image": images}, key, augment)["image"]

    return prepare


def make_prepare_batch(data: Data) -> Callable[..., Batch]:
    """Makes ``prepare(batch, key=None, augment=None)``, from stored to normalised float32 images.

    ``x = (pixel / 255 - mean) / std`` after fitting the image to ``data.image_size``; images that
    are stored as floating-point numbers are not divided. With a key,
    the random changes of ``augment`` are applied: random (resized) crop, rotation and zoom,
    pad-and-crop, flip, RandAugment or TrivialAugment and colour jitter on the pixels, whose
    surroundings are black, then cutout and random erasing on the normalised image.

    Where ``label`` is a map ``(n, h, w)``, it is fitted, cropped, turned and mirrored as its image
    is, and holds -1 outside of it. Where ``augment.flip`` is ``"alternating"``, the batch tells in
    ``mirrored`` ``(n,)`` which images are: see :func:`.geometry.alternating`. Whatever else a batch
    holds stays as it is.

    Raises:
        InputError: while it is traced, if ``augment`` has a change that label maps cannot follow.
    """
    mean, std = (np.array(v, np.float32).reshape(1, 1, 1, -1) for v in (data.mean, data.std))

    def prepare(batch: Batch, key: Key | None = None, augment: Augment | None = None) -> Batch:
        images = batch["image"]
        x = images.astype(jnp.float32) / 255.0 if images.dtype == jnp.uint8 else images
        if key is None or augment is None:
            batch = moved(batch, x, lambda x: fit(x, data))
            return {**batch, "image": (batch["image"] - mean) / std}
        if is_map(batch):
            require_followed(augment)
        mirrored = batch["mirrored"] if augment.flip == "alternating" else None
        batch = moved(batch, x, lambda x: cropped_and_turned(x, key, data, augment, mirrored))
        x = photometric(batch["image"], jax.random.fold_in(key, 3), augment)
        x = (x - mean) / std
        if augment.cutout:
            x = cutout(x, jax.random.fold_in(key, 1), augment.cutout)
        if augment.random_erasing:
            x = random_erasing(
                x,
                jax.random.fold_in(key, 4),
                augment.random_erasing,
                augment.erasing_area,
                augment.erasing_aspect,
            )
        return {**batch, "image": x}

    return prepare


def make_training_batch(
    data: Data, augment: Augment, soft: Callable[[jax.Array], jax.Array]
) -> Callable[[Batch, Key], Batch]:
    """Makes ``prepare(batch, key)``, from stored images and labels to a training step's batch.

    The batch is prepared as by :func:`make_prepare_batch`, then changed by the functions of
    ``augment.own``; with mixup or CutMix it is mixed, and so is ``target`` ``(n, k)``.

    Args:
        data: how images are prepared.
        augment: how they are changed.
        soft: labels to the floating-point numbers ``(n, k)`` that are mixed, such as one-hot ones.

    Raises:
        InputError: while it is traced, if one of those functions was not given again, fails, or
            changes the shape or type of an image or a label, or label maps cannot follow a change.
    """
    prepare = make_prepare_batch(data)

    def prepared(batch: Batch, key: Key) -> Batch:
        batch = prepare(batch, key, augment)
        for place, function in enumerate(augment.own):
            batch |= own.apply(function, batch, jax.random.fold_in(key, 100 + place))
        if augment.mixup or augment.cutmix:
            shares = soft(batch["label"])
            batch["image"], batch["target"] = mix(
                batch["image"], shares, jax.random.fold_in(key, 5), augment.mixup, augment.cutmix
            )
        return batch

    return prepared


def require_followed(augment: Augment) -> None:
    """Refuses changes of images that label maps cannot follow."""
    for name in ("rand_augment", "trivial_augment", "mixup", "cutmix"):
        value = getattr(augment, name)
        accepted = f"{type(value)(0)} where labels are maps (n, h, w)"
        require(f"augment.{name}", value, not value, accepted)


def input_shape(
    data: Data, augment: Augment, image_shape: tuple[int, int, int]
) -> tuple[int, int, int]:
    """Returns height, width and channels that the network sees of images of a stored shape.

    Raises:
        InputError: padding cannot make an image smaller, or random crops have no margin.
    """
    h, w, c = image_shape
    if augment.random_crop and (h, w) != (data.read_size, data.read_size):
        raise InputError(
            f"augment.random_crop=True: must be False for data.name={data.name!r}, whose images "
            f"are {h}x{w}: data.read_size={data.read_size} is of images of different sizes"
        )
    with as_input_error():
        return *fitted_size(h, w, data), c


def fitted_size(height: int, width: int, data: Data) -> tuple[int, int]:
    """Returns the height and width that the network sees.

    Raises:
        ValueError: padding cannot make an image smaller.
    """
    if data.image_size is None:
        return height, width
    if data.fit == "pad" and max(height, width) > data.image_size:
        raise ValueError(
            f"data.image_size={data.image_size}: an image of {height}x{width} cannot be padded to "
            f"{data.image_size}x{data.image_size}; use data.fit='resize' or a larger image_size"
        )
    return data.image_size, data.image_size


def fit(x: Images, data: Data) -> Images:
    """Brings ``(n, h, w, c)`` to ``data.image_size``, in the way of ``data.fit``."""
    n, h, w, c = x.shape
    height, width = fitted_size(h, w, data)
    if (height, width) == (h, w):
        return x
    if data.fit == "resize":
        return jax.image.resize(x, (n, height, width, c), "bilinear")
    if data.fit == "crop":
        (rows, columns), (top, left) = middle((h, w), height, shorter_side(height, data.crop_ratio))
        x = jax.image.resize(x, (n, rows, columns, c), "bilinear")
        return x[:, top : top + height, left : left + width]
    top, left = (height - h) // 2, (width - w) // 2
    return jnp.pad(x, ((0, 0), (top, height - h - top), (left, width - w - left), (0, 0)))


def cropped_and_turned(
    x: Images, key: Key, data: Data, augment: Augment, mirrored: Array | None = None
) -> Images:
    """Fits images or crops them at random, then changes where their pixels are."""
    x = fitted_or_cropped(x, jax.random.fold_in(key, 2), data, augment)
    return geometric(x, jax.random.fold_in(key, 0), augment, mirrored)


def fitted_or_cropped(x: Images, key: Key, data: Data, augment: Augment) -> Images:
    """Fits images, or takes a random crop of the stored pixels instead, resized or not.

    Where images are padded, a random resized crop is taken of the padded image.
    """
    _, h, w, _ = x.shape
    if augment.random_crop:
        return random_crop(x, key, fitted_size(h, w, data))
    if data.fit == "pad" or not augment.random_resized_crop:
        x = fit(x, data)
    if not augment.random_resized_crop:
        return x
    size = fitted_size(h, w, data)
    return random_resized_crop(
        x, key, size, (augment.random_resized_crop, 1.0), augment.crop_aspect
    )


def geometric(x: Images, key: Key, augment: Augment, mirrored: Array | None = None) -> Images:
    """Rotates and zooms, then pads and crops, then mirrors, each drawn anew for every example.

    Where it is given which images are ``mirrored`` ``(n,)``, these are, and it is not drawn.
    """
    warp, crop, flip = jax.random.split(key, 3)
    if augment.rotate or augment.zoom:
        x = rotate_and_zoom(x, warp, augment.rotate, augment.zoom)
    if augment.crop_padding:
        x = pad_and_crop(x, crop, augment.crop_padding, augment.padding_mode)
    if mirrored is not None:
        x = mirror(x, mirrored)
    elif augment.flip:
        x = random_flip(x, flip)
    return x


def photometric(x: Images, key: Key, augment: Augment) -> Images:
    """Applies RandAugment or TrivialAugment, then colour jitter, drawn anew for every example."""
    policy, jitter = jax.random.split(key)
    if augment.rand_augment:
        x = rand_augment(x, policy, augment.rand_augment, augment.rand_augment_magnitude)
    if augment.trivial_augment:
        x = trivial_augment(x, policy)
    if augment.brightness or augment.contrast or augment.saturation or augment.hue:
        x = color_jitter(
            x, jitter, augment.brightness, augment.contrast, augment.saturation, augment.hue
        )
    return x
