"""One look for all figures: colours that every kind of colour vision tells apart, one font, one grid."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

# Source: Okabe and Ito, https://jfly.uni-koeln.de/color/ (palette for colour-blind readers)
BLUE = "#0072B2"
ORANGE = "#E69F00"
GREEN = "#009E73"
VERMILION = "#D55E00"
SKY = "#56B4E9"
PURPLE = "#CC79A7"
GREY = "#9AA5B1"
INK = "#1F2933"
GRID = "#E4E9EF"
SEQUENTIAL = "Cividis"
"""Of plotly and, in lower case, of matplotlib: even in lightness for every kind of colour vision."""

DARK = {
    BLUE: "#4FA3E0",
    GREEN: "#2DB88E",
    VERMILION: "#F07A3C",
    GREY: "#7B8794",
    INK: "#E4E9EF",
    GRID: "#333D48",
    "rgb(36,36,36)": "#A9B4C0",
    "white": "#1A2129",
}
"""What the page puts in the place of a colour where the reader prefers dark pages; the lower ones are of plotly's
template. Colours that are not named are legible on both."""

CONFIG: dict[str, Any] = {
    "responsive": True,
    "displaylogo": False,
    "showSendToCloud": False,  # on by default since plotly.js 4: a button that uploads the data
    "plotlyServerURL": "",
    "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"],
}


def finish(figure: Figure, height: int = 380) -> Figure:
    """Apply the common look; height in pixels, the width follows the page."""
    figure.update_layout(
        template="simple_white",
        height=height,
        font={"family": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", "size": 13, "color": INK},
        margin={"l": 64, "r": 24, "t": 64 if _has_header(figure) else 28, "b": 52},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.02, "xanchor": "left", "x": 0, "title_text": ""},
        hoverlabel={"font_size": 12, "align": "left"},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": GREY, "activecolor": INK},
    )
    figure.update_xaxes(showgrid=True, gridcolor=GRID, title_standoff=10)
    figure.update_yaxes(showgrid=True, gridcolor=GRID, title_standoff=10)
    return figure


def _has_header(figure: Figure) -> bool:
    """Whether a legend, or titles of panels, take the room above the axes."""
    in_legend = [trace for trace in figure.data if trace.showlegend is not False]
    return len(in_legend) > 1 or bool(figure.layout.annotations)


def embed(figure: Figure, name: str) -> str:
    """The figure as JSON of `data`, `layout` and `config`, for a page to draw; name becomes that of its files."""
    made = json.loads(figure.to_json())
    config = CONFIG | {"toImageButtonOptions": {"format": "svg", "filename": name}}
    return json.dumps(
        {"data": made["data"], "layout": made["layout"], "config": config}, ensure_ascii=False, separators=(",", ":")
    )
