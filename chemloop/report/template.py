"""Pages from the templates beside this module: one file each, with plotly inside, so that they open without network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from chemloop.runtime.disk import write_whole


def write_page(template: str, path: Path, **values: Any) -> None:
    """Fill in a template and write it; the file appears whole or not at all."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from plotly.offline import get_plotlyjs

    environment = Environment(
        loader=PackageLoader("chemloop", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(template).render(plotly=get_plotlyjs(), **values)
    write_whole(Path(path), page.encode())
