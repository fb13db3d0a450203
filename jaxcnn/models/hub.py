"""Weights that were published on the Hugging Face Hub, by name: ``hf:timm/resnet50.a1_in1k``.

Only ``model.safetensors`` and ``config.json`` are fetched, which hold numbers and text: nothing
that is fetched is run. huggingface-hub keeps them in its cache, where they are found again without
a network. It is an extra, ``jaxcnn[hub]``, and imported where it is used.
"""

import contextlib
import difflib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from jaxcnn.config.checked import shown
from jaxcnn.errors import InputError, as_input_error
from jaxcnn.models import timm_names

SCHEME = "hf:"
REFERENCE = re.compile(r"hf:([\w.-]{1,96})/([\w.-]{1,96})(?:@([\w./-]{1,255}))?")
ACCEPTED = "hf:OWNER/NAME or hf:OWNER/NAME@REVISION, as hf:timm/resnet50.a1_in1k"
WEIGHTS, CONFIG = "model.safetensors", "config.json"
LISTED, NEAR = 200, 5
"""So many names of repositories are asked for where one does not exist, so many of them shown."""
MOST_BYTES = 10**8
"""A config.json of so many bytes, with names of classes in it, is none."""


class Pretrained(msgspec.Struct, frozen=True):
    """Holds what config.json says of the images that the weights were trained on, as timm does.

    Attributes:
        input_size: channels, height and width in training.
        test_input_size: the same in tests, where it is another.
        crop_pct: the part of the shorter side that a central crop keeps.
        test_crop_pct: the same for ``test_input_size``.
        crop_mode: "center", or "squash" where whole images are resized to a square.
        interpolation: how images are resized.
        mean: of each channel, of pixels in [0, 1].
        std: likewise the standard deviation.
        license: the licence of the weights, where it is given.
    """

    input_size: tuple[int, int, int] = (3, 224, 224)
    test_input_size: tuple[int, int, int] | None = None
    crop_pct: float = 0.875
    test_crop_pct: float | None = None
    crop_mode: str = "center"
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    license: str | None = None

    def crop_ratio(self, side: int) -> float:
        """Returns the part of the shorter side that was kept for images of this height and width.

        >>> tested = Pretrained(crop_pct=0.95, test_input_size=(3, 288, 288), test_crop_pct=1.0)
        >>> tested.crop_ratio(224), tested.crop_ratio(288)
        (0.95, 1.0)
        """
        as_tested = self.test_input_size is not None and side == self.test_input_size[1]
        return self.test_crop_pct or self.crop_pct if as_tested else self.crop_pct


class Config(msgspec.Struct, frozen=True):
    """Holds what config.json says of a network, as timm writes it.

    Attributes:
        architecture: timm's name of the network.
        global_pool: how the last feature map becomes the features of an image.
        model_args: what the network was built with besides.
        label_names: names of the classes, in the order of the logits.
        label_descriptions: longer names by those.
        pretrained_cfg: see :class:`Pretrained`.
    """

    architecture: str | None = None
    global_pool: str | None = None
    model_args: dict[str, Any] = {}
    label_names: list[str] | None = None
    label_descriptions: dict[str, str] = {}
    pretrained_cfg: Pretrained = Pretrained()

    @property
    def unusual(self) -> dict[str, Any]:
        """What the network was built with that is not as timm's name alone says."""
        pool = {} if self.global_pool in (None, "avg") else {"global_pool": self.global_pool}
        return {**pool, **self.model_args}

    @property
    def classes(self) -> list[str] | None:
        """Names of the classes, None where none are given."""
        names = self.label_names
        return names and [self.label_descriptions.get(name, name) for name in names]


class Published(NamedTuple):
    """Weights of the Hub that are here now.

    Attributes:
        weights: the safetensors file.
        config: what was published with it.
        source: where it is from, with the revision that was meant.
    """

    weights: Path
    config: Config
    source: str


def name_of(reference: str) -> str:
    """Returns the name of what a reference means, which may be that of a folder.

    Raises:
        InputError: it is none; of timm's, one of a network that jaxcnn does not have is too.

    >>> name_of("hf:timm/resnet50.a1_in1k")
    'resnet50.a1_in1k'
    """
    return _parts(reference)[1]


def require_known(reference: str) -> None:
    """Refuses a reference to weights of timm's for a network that jaxcnn lacks, without a network.

    Raises:
        InputError: it names such a network.
    """
    owner, name, _ = _parts(reference)
    if owner == "timm":
        with as_input_error(reference):
            timm_names.network(name)


def fetch(reference: str) -> Published:
    """Fetches weights, or finds them in the cache.

    Args:
        reference: ``hf:OWNER/NAME`` or ``hf:OWNER/NAME@REVISION``.

    Raises:
        InputError: it is neither; there is no such thing, or it needs a login; the Hub cannot be
            reached and the cache lacks it; huggingface-hub is not installed.
    """
    owner, name, revision = _parts(reference)
    try:
        import huggingface_hub
    except ImportError as error:
        raise InputError(f"{reference}: needs `pip install 'jaxcnn[hub]'`") from error
    repository, revision = f"{owner}/{name}", revision or "main"

    # Asked first, since a download tries for half a minute whether a network comes back.
    with _explained(reference, CONFIG):
        url = huggingface_hub.hf_hub_url(repository, CONFIG, revision=revision)
        unreachable = _fault_of(lambda: huggingface_hub.get_hf_file_metadata(url))

    def get(file: str) -> Path:
        with _explained(reference, file, unreachable):
            return Path(
                huggingface_hub.hf_hub_download(
                    repository, file, revision=revision, local_files_only=bool(unreachable)
                )
            )

    config, weights = get(CONFIG), get(WEIGHTS)
    commit = weights.parent.name  # the cache is laid out as snapshots/COMMIT/FILE
    return Published(weights, _read(reference, config), f"{SCHEME}{repository}@{commit}")


def _parts(reference: str) -> tuple[str, str, str]:
    match = REFERENCE.fullmatch(reference)
    if match is None or ".." in reference or match[2].strip(".") == "":
        raise InputError(f"{shown(reference)}: must be {ACCEPTED}")
    return match[1], match[2], match[3] or ""


def _fault_of(ask: Callable[[], Any]) -> str:
    """Returns why the Hub gives no answer, "" if it gives one, and raises what it answers."""
    from huggingface_hub import errors

    answers = (errors.RepositoryNotFoundError, errors.RevisionNotFoundError)
    try:
        ask()
    except (*answers, errors.EntryNotFoundError, errors.HFValidationError):
        raise
    except Exception as error:  # httpx has many, a proxy that answers makes others
        return _one_line(error)
    return ""


@contextlib.contextmanager
def _explained(reference: str, file: str, unreachable: str = "") -> Iterator[None]:
    """Turns the errors of huggingface-hub into one line.

    Args:
        reference: what was asked for.
        file: the file of it.
        unreachable: why the cache alone is looked at.
    """
    from huggingface_hub import constants, errors

    cache = constants.HF_HUB_CACHE
    try:
        yield
    except errors.GatedRepoError as error:
        page = f"https://huggingface.co/{'/'.join(_parts(reference)[:2])}"
        reason = f"is for those who accept its terms, at {page}, and log in with `hf auth login`"
        raise InputError(f"{reference}: {reason}") from error
    except errors.RepositoryNotFoundError as error:
        near = _others(reference)
        instead = f"has {near}" if near else "lists timm's"
        raise InputError(
            f"{reference}: the Hub has no such repository, or shows it to none without a login; "
            f"https://huggingface.co/timm {instead}"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise InputError(f"{reference}: the repository has no such revision") from error
    except errors.LocalEntryNotFoundError as error:
        reason = unreachable or _one_line(error)
        raise InputError(
            f"{reference}: the Hub cannot be reached ({reason}), and the cache {cache} does not "
            f"hold its {file}; fetch it once with a network, or let HF_HUB_CACHE name where it is"
        ) from error
    except errors.EntryNotFoundError as error:
        instead = "; weights in another format are not read" if file == WEIGHTS else ""
        raise InputError(f"{reference}: the repository has no {file}{instead}") from error
    except errors.HFValidationError as error:
        raise InputError(f"{reference}: must be {ACCEPTED} ({_one_line(error)})") from error
    except Exception as error:
        reason = getattr(error, "strerror", None) or _one_line(error)
        raise InputError(
            f"{reference}: {file} cannot be brought into the cache {cache} ({reason}); give the "
            "command again to go on, or let HF_HUB_CACHE name another folder"
        ) from error


def _others(reference: str) -> str:
    """Returns the names of timm's weights of the same network, the nearest first, as far as known.

    They are asked for: a tag that does not exist is the commonest fault of a name.
    """
    import huggingface_hub

    owner, name, _ = _parts(reference)
    base, found = name.partition(".")[0], []
    if owner == "timm":
        with contextlib.suppress(Exception):  # it is a hint: without it, the fault is said
            listed = huggingface_hub.HfApi().list_models(author=owner, search=base, limit=LISTED)
            found = [one.id.partition("/")[2] for one in listed]
    found = [one for one in found if one.partition(".")[0] == base]
    return ", ".join(difflib.get_close_matches(name, found, n=NEAR, cutoff=0))


def _one_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _read(reference: str, path: Path) -> Config:
    """Reads config.json.

    Raises:
        InputError: it is none that timm writes.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError("it is larger than 100 MB")
        return msgspec.json.decode(path.read_bytes(), type=Config)
    except (OSError, ValueError) as error:  # msgspec's errors are ValueErrors
        raise InputError(f"{reference}: its {CONFIG} cannot be used ({error})") from error
