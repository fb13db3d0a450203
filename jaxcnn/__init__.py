"""jaxcnn: a JAX functional research framework for convolutional networks.

Importing this package imports nothing heavy: what it offers is imported when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

try:
    from jaxcnn._version import __version__ as __version__  # written where this is installed
except ImportError:
    __version__ = "0+unknown"

if TYPE_CHECKING:
    from jaxcnn.api import Run as Run
    from jaxcnn.api import open as open  # noqa: A004  (it opens a run)
    from jaxcnn.api import train as train
    from jaxcnn.config import Augment as Augment
    from jaxcnn.config import Comparison as Comparison
    from jaxcnn.config import Data as Data
    from jaxcnn.config import Experiment as Experiment
    from jaxcnn.config import Model as Model
    from jaxcnn.config import Optim as Optim
    from jaxcnn.config import Schedule as Schedule
    from jaxcnn.config import Task as Task
    from jaxcnn.config import Train as Train
    from jaxcnn.config.machines import Resources as Resources
    from jaxcnn.data.augment.own import on_batches as on_batches
    from jaxcnn.data.own import from_arrays as from_arrays
    from jaxcnn.data.own import from_source as from_source
    from jaxcnn.data.sources import Dataset as Dataset
    from jaxcnn.errors import InputError as InputError
    from jaxcnn.models import create_model as create_model
    from jaxcnn.models import list_models as list_models
    from jaxcnn.tasks import BaseTask as BaseTask
    from jaxcnn.tasks import Metric as Metric

_CONFIG = (
    "Augment",
    "Comparison",
    "Data",
    "Experiment",
    "Model",
    "Optim",
    "Schedule",
    "Task",
    "Train",
)
_FOUND_IN = {
    **dict.fromkeys(_CONFIG, "jaxcnn.config"),
    **dict.fromkeys(("Run", "open", "train"), "jaxcnn.api"),
    "BaseTask": "jaxcnn.tasks",
    "Resources": "jaxcnn.config.machines",
    "Dataset": "jaxcnn.data.sources",
    "InputError": "jaxcnn.errors",
    "Metric": "jaxcnn.tasks",
    "create_model": "jaxcnn.models",
    "from_arrays": "jaxcnn.data.own",
    "from_source": "jaxcnn.data.own",
    "list_models": "jaxcnn.models",
    "on_batches": "jaxcnn.data.augment.own",
}
__all__ = sorted(_FOUND_IN)


if not TYPE_CHECKING:  # to which any name would seem to be there

    def __getattr__(name: str) -> Any:
        if name not in _FOUND_IN:
            raise AttributeError(f"module 'jaxcnn' has no attribute {name!r}")
        return getattr(importlib.import_module(_FOUND_IN[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_FOUND_IN]
