"""The pieces of a page: sections, and in them panels with a figure each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from chemloop.report.style import embed

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


@dataclass
class Table:
    """Words in the first column, numbers in the others."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass
class Panel:
    """A figure, its caption and tables below it; without a figure the caption says why there is none."""

    name: str
    title: str
    caption: str
    figure: str = ""
    is_wide: bool = False
    tables: Sequence[Table] = ()


@dataclass
class Section:
    """Panels that belong together; name is the anchor."""

    name: str
    title: str
    panels: list[Panel] = field(default_factory=list)


def panel(
    name: str,
    title: str,
    figure: Figure | None,
    caption: Callable[[], str],
    absent: str,
    is_wide: bool = False,
    tables: Sequence[Table] = (),
) -> Panel:
    """A panel with the figure and its caption, or with the reason for which there is no figure."""
    if figure is None:
        return Panel(name, title, absent)
    return Panel(name, title, caption(), embed(figure, name), is_wide, tables)
