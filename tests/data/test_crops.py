"""Random crops of whole images, against torchvision's and whatever the files are like."""

import io
import math
import types
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from jaxcnn.config import Augment, Data
from jaxcnn.data import images, outline, sources
from jaxcnn.data.crops import Crop, Crops
from jaxcnn.data.feed import crops_of, crops_squares, open_stream
from jaxcnn.data.own import from_source

RNG = np.random.default_rng(0)
CROPS = Crops(12, 0.08, 4 / 3)
SIZES = [(37, 50), (50, 37), (8, 200), (200, 8), (1, 1), (1, 300), (3, 2)]


def picture(height, width, channels=3):
    """A smooth picture, whose pixels also tell where they are."""
    rows, columns = np.mgrid[:height, :width] / max(height, width)
    planes = [rows, columns, (np.sin(9 * rows) * np.cos(7 * columns) + 1) / 2, rows * columns]
    pixels = (255 * np.stack(planes[:channels], axis=-1)).astype(np.uint8)
    return Image.fromarray(pixels[..., 0] if channels == 1 else pixels)


def encoded(image, form="PNG", **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def drawn(number, seed=0):
    return CROPS.of_step(seed, 0, number)


class Dealt:
    """torch, but for its random numbers, which are those of a crop."""

    def __init__(self, torch, crop):
        self.torch = torch
        self.shares = iter(crop.drawn[:-1].ravel())
        self.place = iter(crop.drawn[-1])

    def __getattr__(self, name):
        return getattr(self.torch, name)

    def empty(self, _):
        def uniform_(low, high):
            return self.torch.tensor([low + next(self.shares) * (high - low)])

        return types.SimpleNamespace(uniform_=uniform_)

    def randint(self, low, high, size):
        return self.torch.tensor([low + int(next(self.place) * (high - low))])


@pytest.mark.parametrize("size", SIZES)
def test_boxes_are_torchvisions_for_the_same_numbers(torchvision, monkeypatch, size):
    from torchvision.transforms import transforms

    torch = transforms.torch
    for crop in drawn(100):
        monkeypatch.setattr(transforms, "torch", Dealt(torch, crop))
        image = torch.empty(1, *size)
        params = transforms.RandomResizedCrop.get_params
        ratio = [1 / crop.aspect, crop.aspect]
        assert crop.box(*size) == tuple(params(image, [crop.area, 1.0], ratio))


def test_shares_and_ratios_are_uniform_and_places_equally_likely():
    boxes = np.array([crop.box(400, 500) for crop in drawn(4000)])
    top, left, tall, wide = boxes.T
    share, ratio = tall * wide / 200_000, np.log(wide / tall) / math.log(4 / 3)
    assert abs(ratio).max() < 1.02
    assert 0.075 < share.min() < 0.1
    small = share < 0.6  # which always fit
    assert abs(share[small].mean() - 0.34) < 0.01
    assert abs(ratio[small].mean()) < 0.05
    assert abs(ratio[small].std() - 3**-0.5) < 0.03
    assert abs((top / np.maximum(400 - tall, 1)).mean() - 0.5) < 0.03
    assert abs((left / np.maximum(500 - wide, 1)).mean() - 0.5) < 0.03


@pytest.mark.parametrize("size", SIZES)
def test_a_crop_is_resized_as_by_torchvision(torchvision, size):
    from torchvision.transforms import functional

    whole = picture(*size)
    for crop in drawn(5):
        got = images.cropped(encoded(whole), 3, crop, turned=True)
        top, left, tall, wide = crop.box(*size)
        want = functional.resized_crop(whole, top, left, tall, wide, [12, 12])
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_large_jpeg_is_decoded_at_a_smaller_scale(monkeypatch, mode):
    """Which shows the same to about a level, and asks for no fewer pixels than twice the crop's."""
    data = encoded(picture(640, 480).convert(mode), "JPEG", quality=95)
    asked = []
    real = Image.Image.crop

    def spied(self, box=None):
        asked.append(self.size)
        return real(self, box)

    monkeypatch.setattr(Image.Image, "crop", spied)
    crops = [c for c in drawn(60) if c.box(640, 480)[2] < 600][:20]
    got = [np.asarray(images.cropped(data, 3, c, turned=False), float) for c in crops]
    reduced, asked = list(asked), []
    monkeypatch.setattr(images, "SPARE", 1e9)
    want = [np.asarray(images.cropped(data, 3, c, turned=False), float) for c in crops]
    assert np.abs(np.array(got) - np.array(want)).mean() < 1
    scales = {640 // height for _, height in reduced}
    assert scales >= {4, 8}
    for crop, (_, height) in zip(crops, reduced, strict=True):
        assert min(crop.box(640, 480)[2:]) * height / 640 >= 2 * crop.side


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photo_is_cropped_upright(orientation):
    exif = Image.Exif()
    exif[images.ORIENTATION] = orientation
    data = encoded(picture(30, 30), exif=exif)
    whole = Crop(10, 1.0, 1.0, np.zeros((11, 2)))
    upright = images.decoded(data, 3, turned=True).resize((10, 10), Image.Resampling.BILINEAR)
    got = images.cropped(data, 3, whole, turned=True)
    assert abs(np.asarray(got, int) - np.asarray(upright, int)).max() <= 1
    as_stored = images.cropped(data, 3, whole, turned=False)
    assert (np.asarray(as_stored) == np.asarray(got)).all() == (orientation == 1)


ODD = {
    "16 bits": lambda: Image.fromarray(np.asarray(picture(20, 30, 1), np.uint16) * 257),
    "palette": lambda: picture(20, 30).quantize(16),
    "alpha": lambda: picture(20, 30, 4),
    "grey": lambda: picture(20, 30, 1),
    "black and white": lambda: picture(20, 30).convert("1"),
    "grey with alpha": lambda: picture(20, 30).convert("LA"),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ODD)
def test_pictures_of_all_modes_are_cropped(name, channels):
    data = encoded(ODD[name]())
    whole = images.decoded(data, channels, turned=True)
    for crop in drawn(3):
        top, left, tall, wide = crop.box(20, 30)
        want = whole.crop((left, top, left + wide, top + tall))
        want = want.resize((12, 12), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(images.cropped(data, channels, crop, turned=True), want)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Panoramas, a pixel, portraits, turned and CMYK ones, and one that is torn."""
    root = tmp_path_factory.mktemp("photos")
    for split, number in (("train", 12), ("test", 2)):
        for place in range(2 * number):
            folder = root / split / "ab"[place % 2]
            folder.mkdir(parents=True, exist_ok=True)
            size = [(40, 400), (1, 1), (60, 40), (200, 300)][place // 2 % 4]
            exif = Image.Exif()
            exif[images.ORIENTATION] = 1 + place % 8
            mode = "CMYK" if place % 5 == 0 else "RGB"
            picture(*size).convert(mode).save(folder / f"{place}.jpg", exif=exif)
    torn = root / "train" / "a" / "2.jpg"
    torn.write_bytes(torn.read_bytes()[:300])
    return root


AUGMENT = Augment(random_resized_crop=0.08, repeats=2)


def photo_data(root, **changes):
    changes = {"fit": "crop", "image_size": 12, "read_size": 14, "workers": 0} | changes
    return Data("folder", dir=str(root), batch_size=6, streaming=True, **changes)


def batches(root, start, stop, seed=1, **changes):
    data = photo_data(root, **changes)
    dataset = sources.load(data)
    crops = crops_of(dataset, data, AUGMENT)
    stream = open_stream(dataset, data, seed, crops=crops, repeats=AUGMENT.repeats)
    found = list(stream.batches(start, stop))
    stacked = {name: np.stack([batch[name] for batch in found]) for name in ("image", "label")}
    return stacked["image"], stacked["label"]


@pytest.mark.parametrize(("start", "workers"), [(3, 0), pytest.param(5, 2, marks=pytest.mark.slow)])
def test_crops_of_a_stream_depend_on_seed_and_step_alone(photos, start, workers):
    """Neither on who reads them nor on where a run goes on; an example has another each time."""
    pixels, labels = batches(photos, 0, 8)
    assert pixels.shape == (8, 6, 12, 12, 3)
    again = batches(photos, start, 8, workers=workers)
    np.testing.assert_array_equal(again[0], pixels[start:])
    np.testing.assert_array_equal(again[1], labels[start:])
    assert (labels[:, :3] == labels[:, 3:]).all()  # two views of the same photos ...
    assert (pixels[:, :3] != pixels[:, 3:]).any(axis=(2, 3, 4)).mean() > 0.5  # ... cropped anew
    assert (batches(photos, 0, 8, seed=2)[0] != pixels).any()
    colours = pixels.reshape(-1, 12 * 12 * 3)
    assert len(np.unique(colours, axis=0)) > 30


def test_processes_share_the_crops_of_a_batch(photos, monkeypatch):
    import jax

    whole, _ = batches(photos, 0, 4)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    parts = []
    for index in range(2):
        monkeypatch.setattr(jax, "process_index", lambda index=index: index)
        parts.append(batches(photos, 0, 4)[0])
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)


def test_what_is_held_in_memory_or_whole_is_cropped_in_the_step(photos):
    streamed = photo_data(photos)
    dataset = sources.load(streamed)
    assert crops_of(dataset, streamed, AUGMENT) == CROPS
    assert crops_of(dataset, streamed, AUGMENT, (8, 10)) == CROPS
    assert crops_of(dataset, streamed, AUGMENT, (8, 16)) == replace(CROPS, side=16)  # the largest
    assert crops_of(dataset, streamed, Augment()) is None
    held = Data("folder", dir=str(photos), image_size=12, fit="crop", batch_size=6)
    assert crops_of(sources.load(held), held, AUGMENT) is None
    assert crops_squares(sources.load(held), held, AUGMENT)  # which a run says
    assert not crops_squares(sources.load(held), held, Augment())
    assert not crops_squares(dataset, streamed, AUGMENT)
    small = Data("digits", image_size=6, fit="crop")
    assert not crops_squares(sources.load(small), small, AUGMENT)
    digits = Data("digits", streaming=True, image_size=6, fit="resize")
    assert crops_of(sources.load(digits), digits, AUGMENT) is None


class Pairs:
    """Images of several sizes, with maps that hold the same numbers."""

    def __len__(self):
        return 4

    def __getitem__(self, place):
        rows = np.repeat(np.arange(20 + 10 * place)[:, None], 30, axis=1) // 10
        return (20 * rows[..., None]).astype(np.uint8).repeat(3, -1), rows.astype(np.int32)


def test_label_maps_are_cropped_along_with_their_images():
    data = Data("own", image_size=12, fit="resize", batch_size=2)
    train = from_source(Pairs(), Pairs(), data).train
    found = train.read_crops(np.arange(4), drawn(4))
    assert found["label"].shape == (4, 12, 12)
    assert found["ok"].all()
    off = np.abs(found["image"][..., 0] / 20 - found["label"])
    assert (off < 0.6).mean() > 0.95  # at a border, the map has either
    assert found["label"].max() > 0


def test_what_is_planned_has_the_form_of_what_is_read(photos):
    """A plan lowers the program for crops, of which it reads none."""
    config = photo_data(photos, read_size=20)
    train = sources.load(config).train
    planned = outline.Outline(len(train), train.image_shape, train.label_form)
    index = np.arange(3)
    read, zeros = (source.read_crops(index, drawn(3)) for source in (train, planned))
    for name, array in read.items():
        assert (array.shape, array.dtype) == (zeros[name].shape, zeros[name].dtype)
    assert crops_of(sources.Dataset(planned, planned, ("a", "b"), streamed=True), config, AUGMENT)
