"""Says of pages in Spanish that they are, so that screen readers speak them as such."""

from typing import Any


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Changes the language that a page states."""
    spanish = page.file.src_uri.startswith("course/es/")
    return output.replace('<html lang="en"', '<html lang="es"', 1) if spanish else output
