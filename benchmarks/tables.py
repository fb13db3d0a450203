"""Tables on the terminal: rich's, or plain lines where rich is not installed."""

from typing import Any

try:
    from rich.console import Console
    from rich.table import Table
except ImportError:

    class Table:  # type: ignore[no-redef]
        """The part of rich's table that the benchmarks use."""

        def __init__(self, *headers: str, title: str = "") -> None:
            self.title, self.rows = title, [list(headers)]

        def add_column(self, header: str, **style: Any) -> None:
            """One more column; its style is ignored."""
            self.rows[0].append(header)

        def add_row(self, *cells: str) -> None:
            """One more row."""
            self.rows.append(list(cells))

        def __str__(self) -> str:
            widths = [max(map(len, column)) for column in zip(*self.rows, strict=True)]
            lines = [
                "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
                for row in self.rows
            ]
            return "\n".join([self.title, *lines])

    class Console:  # type: ignore[no-redef]
        """Prints."""

        def __init__(self, **style: Any) -> None:
            pass

        def print(self, *things: Any) -> None:
            """One line, or a table."""
            print(*things)


__all__ = ["Console", "Table"]
