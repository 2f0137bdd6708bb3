"""Pages from the templates beside this module: one file each, with all that they need inside, so without network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from chemloop.report import packing
from chemloop.report.style import DARK
from chemloop.report.typeset import signed, typeset
from chemloop.runtime.disk import write_whole

N_MOTIFS = 24
"""Motifs of the gallery that are seen at once; the rest unfolds."""


def write_page(template: str, path: Path, **values: Any) -> None:
    """Fill in a template and write it; the file appears whole or not at all."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("chemloop", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(typeset=typeset, signed=signed)
    environment.globals.update(
        plotly_pack=packing.plotly_pack,
        figures_pack=packing.figures_pack,
        table_pack=packing.table_pack,
        crystals_pack=packing.crystals_pack,
        motifs_pack=packing.motifs_pack,
        looks=packing.looks,
        dark_colors=DARK,
        n_motifs=N_MOTIFS,
    )
    write_whole(Path(path), environment.get_template(template).render(**values).encode())
