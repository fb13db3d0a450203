"""Tables of the models: where they were published, what they cost, what they were compared with."""

import inspect
import statistics
from collections import defaultdict
from functools import partial
from types import ModuleType
from typing import Any

from benchmarks.readme import read
from docs_site.experiments import FOLDER
from jaxcnn.commands.parsing import load_experiment
from jaxcnn.models import MODELS
from jaxcnn.text import counted


def table() -> str:
    """Returns a table for each family: parameters, MACs, and the error of the logits."""
    measured = read("parity")["results"]
    families: dict[ModuleType | None, list[str]] = defaultdict(list)
    for name, constructor in MODELS.items():
        made_by = constructor.func if isinstance(constructor, partial) else constructor
        families[inspect.getmodule(made_by)].append(name)
    parts = []
    for module, names in families.items():
        title, _, papers = (inspect.getdoc(module) or "").partition("\n\n")
        parts += [f"### {' '.join(title.split()).partition(':')[0].rstrip('.')}", papers]
        headers = "| model | input | parameters | GMACs | against torchvision | against timm |"
        rows = [f"| `{name}` | {' | '.join(_cells(measured[name]))} |" for name in names]
        parts.append("\n".join([headers, "| --- | --: | --: | --: | --: | --: |", *rows]))
    return "\n\n".join(parts)


def _cells(found: dict[str, Any]) -> list[str]:
    """Returns what is known of a model, empty where there is nothing to compare with."""
    errors = [found["max_relative_error"], max(found.get("timm", {}).values(), default=None)]
    known = [
        "x".join(map(str, found["input"])),
        f"{found['parameters']:,}",
        f"{found['gmacs']:.3g}",
    ]
    return [*known, *("" if error is None else f"{error:.0e}" for error in errors)]


def trained() -> str:
    """Lists what networks reached that were trained here, by the records of the experiments."""
    headers = "| model | experiment | test top-1 | parameters | epochs | seeds | on |"
    rows = []
    for record in _records():
        name, top1, where = record["name"], record["test_top1"], record["environment"]
        model = load_experiment(FOLDER / f"{name}.py").model.name
        cells = [
            f"`{model}`",
            f"[{name}](experiments/{name}.md)",
            f"{100 * statistics.mean(top1):.2f} %",
            f"{record.get('parameters') or read('parity')['results'][model]['parameters']:,}",
            str(record["epochs"]),
            str(len(top1)),
            where["devices"][0] if where["platform"] == "gpu" else counted(where["cores"], "core"),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join([headers, "| --- | --- | --: | --: | --: | --: | --- |", *rows])


def _records() -> list[dict[str, Any]]:
    """Returns what was recorded of experiments, on processors and then on a GPU, in one form."""
    records = read("experiments")
    for name in ("resnet20_cifar10", "resnet18_cifar10"):
        found = read(f"h200/{name}")
        records.append(found | found["summary"] | {"test_top1": [found["summary"]["test_top1"]]})
    found = read("h200/speedrun")
    top1, epochs = found["results"]["jaxcnn"]["top1"], found["settings"]["epochs"]
    return [*records, found | {"name": "speedrun_cifar10", "test_top1": top1, "epochs": epochs}]
