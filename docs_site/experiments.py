"""Pages of the files in experiments/, whose headers say what was measured."""

import ast
import re
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "experiments"
LANGUAGES = {".yaml": "yaml", ".sbatch": "bash"}


def pages() -> dict[str, str]:
    """Returns the pages that show a file, by their names, and one for the files of a cluster."""
    found = {f"experiments/{path.stem}.md": _page(path) for path in sorted(FOLDER.glob("*.py"))}
    shown = [
        f"## {path.name}\n\n```{LANGUAGES[path.suffix]}\n{path.read_text().rstrip()}\n```"
        for path in sorted((FOLDER / "launch").iterdir())
    ]
    found["experiments/launch.md"] = "\n\n".join(["# Files for clusters", *shown])
    return found


def table() -> str:
    """Lists the experiments with the first line of their headers."""
    rows = []
    for path in sorted(FOLDER.glob("*.py")):
        first = _header(path)[0].rstrip(".")
        rows.append(f"| [{path.stem}](experiments/{path.stem}.md) | {first} |")
    return "\n".join(["| experiment | what it is |", "| --- | --- |", *rows])


def _page(path: Path) -> str:
    """Returns a page that says what a file's header does, and shows its code."""
    first, *parts = _header(path)
    lines = [f"# {path.stem}", first]
    for part in parts:
        if not part.startswith("Command:"):
            lines.append(part)
            continue
        lines.append("| | |\n| --- | --- |")
        for name, text in re.findall(r"^(\w+): +(.*(?:\n +.*)*)", part, re.M):
            said = [re.sub(" {2,}#.*", "", line.strip()) for line in text.split("\n")]
            shown = "<br>".join(f"`{line}`" for line in said)
            lines[-1] += f"\n| **{name}** | {shown if name == 'Command' else ' '.join(said)} |"
    code = path.read_text().split('"""\n', 1)[1].strip()
    return "\n\n".join([*lines, f"```python\n{code}\n```"])


def _header(path: Path) -> list[str]:
    """Returns the paragraphs of a file's docstring; the first one is its title."""
    return (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n\n")
