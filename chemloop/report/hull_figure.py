"""The interactive drawing of the hull: a line, a triangle or a tetrahedron of compositions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from chemloop.report.phase_diagram import HullView, Marker
from chemloop.report.style import GREEN, GREY, INK, SEQUENTIAL, VERMILION, finish

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

KINDS = (
    (False, False, "known, above the hull", "circle", 9, None),
    (True, False, "new, above the hull", "diamond", 10, None),
    (False, True, "known, on the hull", "circle", 14, GREEN),
    (True, True, "new, on the hull", "diamond", 15, VERMILION),
)
"""is_new, is_on_hull, legend, marker, its size in pixels and its colour; None is the colour of its E_hull."""

CLOSE = 0.07
"""Of the side of the triangle; names of markers closer than that would overlap."""


def hull_figure(view: HullView, limit: float) -> Figure:
    """Known and new structures, coloured by their energy above the hull up to the limit (eV/atom)."""
    import plotly.graph_objects as go

    figure = go.Figure()
    draw = {1: _one_element, 2: _two_elements, 3: _three_elements, 4: _four_elements}[len(view.elements)]
    draw(figure, view)
    for is_new, is_on_hull, name, symbol, size, color in KINDS:
        markers = view.select(is_new, is_on_hull)
        if markers:
            _add_markers(figure, view, markers, name, symbol, size, color)
    bar = {"title": {"text": "E<sub>hull</sub><br>(meV/atom)"}, "thickness": 14, "len": 0.6, "outlinewidth": 0}
    finish(figure, 460 if len(view.elements) < 3 else 620)
    figure.update_layout(coloraxis={"colorscale": SEQUENTIAL, "cmin": 0, "cmax": 1000 * limit, "colorbar": bar})
    if len(view.elements) == 3:
        figure.update_xaxes(visible=False, range=[-0.12, 1.12])
        figure.update_yaxes(visible=False, range=[-0.1, 0.97], scaleanchor="x")
        figure.update_layout(margin={"l": 8, "r": 8, "b": 8})
    return figure


def _add_markers(
    figure: Figure, view: HullView, markers: Sequence[Marker], name: str, symbol: str, size: int, color: str | None
) -> None:
    add = figure.add_scatter3d if len(view.elements) == 4 else figure.add_scatter
    size = round(0.6 * size) if len(view.elements) == 4 else size
    line = {"color": INK, "width": 0.8 if color is None else 1.6}
    # Pure elements are named at the corners of the drawing; in three dimensions names would hide one another.
    names = [
        "" if np.isclose(view.corners, marker.position).all(axis=1).any() else marker.formula for marker in markers
    ]
    is_named = color is not None and len(view.elements) in (2, 3)
    shade = {"color": color} if color else {"color": _mev(markers), "coloraxis": "coloraxis"}
    add(
        **coordinates(view, markers),
        name=name,
        legendgroup=name,
        showlegend=color is not None,
        mode="markers+text" if is_named else "markers",
        text=names if is_named else None,
        textposition=[_text_side(view, marker) for marker in markers],
        marker={"symbol": symbol, "size": size, "line": line, **shade},
        customdata=[[marker.id] for marker in markers],
        hovertext=[marker.text for marker in markers],
        hovertemplate="%{hovertext}<extra></extra>",
    )
    if color is None:
        # The legend of plotly.js 4 takes a number on a colour axis for a colour: it gets a marker of its own.
        nowhere = {axis: [None] for axis in coordinates(view, markers)}
        add(
            **nowhere,
            name=name,
            legendgroup=name,
            mode="markers",
            marker={"symbol": symbol, "size": size, "color": GREY},
        )


def _text_side(view: HullView, marker: Marker) -> str:
    """Where a name does not lie on the edge of the triangle."""
    if len(view.elements) == 3:
        x, y = marker.position
        for distance, side in (
            (y, "bottom center"),
            (np.sqrt(3) * x - y, "middle left"),
            (np.sqrt(3) * (1 - x) - y, "middle right"),
        ):
            if distance < 1e-6:
                return side
        # Of two names that are close to one another the lower one goes below its marker.
        for other in view.markers:
            shift = other.position - marker.position
            if other.is_on_hull and 0 < shift[1] < CLOSE and abs(shift[0]) < CLOSE:
                return "bottom center"
    return "top center"


def _mev(markers: Sequence[Marker]) -> list[float]:
    return [1000 * marker.e_above_hull for marker in markers]


def coordinates(view: HullView, markers: Sequence[Marker]) -> dict[str, list[float]]:
    positions = np.array([marker.position for marker in markers]).T
    if len(view.elements) == 1:
        return {"x": list(positions[0]), "y": [marker.e_above_hull for marker in markers]}
    if len(view.elements) == 2:
        return {"x": list(positions[0]), "y": [marker.formation_energy for marker in markers]}
    return dict(zip("xyz", map(list, positions), strict=False))


def _segments(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, list[Any]]:
    """Coordinates of many separate segments in one trace: None interrupts the line."""
    points = [point for a, b in pairs for point in (a, b, [None] * len(a))]
    return {axis: [point[k] for point in points] for k, axis in enumerate("xyz"[: len(pairs[0][0])])}


def _one_element(figure: Figure, view: HullView) -> None:
    figure.update_xaxes(title=f"Volume of {view.elements[0]} (Å³/atom)")
    figure.update_yaxes(title="Energy above the hull (eV/atom)")


def _two_elements(figure: Figure, view: HullView) -> None:
    hull = sorted(
        (marker for marker in view.markers if marker.is_on_hull), key=lambda marker: float(marker.position[0])
    )
    figure.add_scatter(
        **coordinates(view, hull), mode="lines", line={"color": GREY, "width": 1.5}, hoverinfo="skip", showlegend=False
    )
    first, second = view.elements
    figure.update_xaxes(title=f"Atomic fraction of {second} (0 = {first}, 1 = {second})", range=[-0.05, 1.05])
    figure.update_yaxes(title="Formation energy (eV/atom)")


def _three_elements(figure: Figure, view: HullView) -> None:
    outline = [(view.corners[a], view.corners[b]) for a, b in ((0, 1), (1, 2), (2, 0))]
    for pairs, width, color in ((view.lines, 1.2, GREY), (outline, 1.8, INK)):
        figure.add_scatter(
            **_segments(pairs), mode="lines", line={"color": color, "width": width}, hoverinfo="skip", showlegend=False
        )
    for element, corner, shift in zip(view.elements, view.corners, ((-26, -12), (0, 26), (26, -12)), strict=True):
        figure.add_annotation(
            x=corner[0],
            y=corner[1],
            text=f"<b>{element}</b>",
            showarrow=False,
            xshift=shift[0],
            yshift=shift[1],
            font_size=18,
        )


def _four_elements(figure: Figure, view: HullView) -> None:
    outline = [(view.corners[a], view.corners[b]) for a in range(4) for b in range(a)]
    for pairs, width, color in ((view.lines, 2, GREY), (outline, 3, INK)):
        figure.add_scatter3d(
            **_segments(pairs), mode="lines", line={"color": color, "width": width}, hoverinfo="skip", showlegend=False
        )
    x, y, z = (1.12 * (view.corners - view.corners.mean(axis=0)) + view.corners.mean(axis=0)).T
    figure.add_scatter3d(
        x=x, y=y, z=z, mode="text", text=[f"<b>{element}</b>" for element in view.elements], textfont_size=16,
        hoverinfo="skip", showlegend=False,
    )  # fmt: skip
    hidden = {"visible": False}
    figure.update_layout(
        scene={
            "xaxis": hidden,
            "yaxis": hidden,
            "zaxis": hidden,
            "aspectmode": "data",
            "camera": {"eye": {"x": -0.4, "y": -1.7, "z": 0.3}, "center": {"x": 0, "y": 0, "z": -0.05}},
        }
    )
