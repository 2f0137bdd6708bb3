"""How densely the structures are packed, by composition."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from chemloop.report.data import ReportData, StructureCard
from chemloop.report.style import GREY, SEQUENTIAL, VERMILION, finish
from chemloop.report.thinning import drawn_of, extremes, thinned

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

N_BINS = 12
LEAST = 3
"""Intervals of the composition, and the structures that one needs for a median."""


def anion_of(elements: list[str]) -> str:
    """The most electronegative element."""
    from pymatgen.core import Element

    return max(elements, key=lambda symbol: Element(symbol).X)


def shown_cards(data: ReportData) -> list[tuple[str, StructureCard]]:
    """The stable structures: those that lie below the limit."""
    return [
        (id, card)
        for id, card in data.structures.items()
        if card.e_above_hull is not None and card.e_above_hull < data.stable_below
    ]


def volumes(cards: list[tuple[str, StructureCard]], anion: str) -> tuple[np.ndarray, np.ndarray]:
    """Atomic fraction of the anion and A^3 per atom."""
    fractions = [np.mean(np.array(card.atoms.get_chemical_symbols()) == anion) for _, card in cards]
    return np.array(fractions), np.array([card.atoms.cell.volume / len(card.atoms) for _, card in cards])


def drawn(volume: np.ndarray) -> np.ndarray:
    """Indices of the structures to draw."""
    return thinned(len(volume), extremes(volume))


def volume_figure(data: ReportData) -> Figure | None:
    """Volume per atom against the share of the anion, coloured by E_hull, with medians; None without structures.

    Source: supplementary figure 4a of the paper, which has the medians over the triangle of compositions
    """
    import plotly.graph_objects as go

    cards = shown_cards(data)
    if not cards:
        return None
    anion = anion_of(list(data.elements))
    fraction, volume = volumes(cards, anion)
    chosen = drawn(volume)
    figure = go.Figure()
    for is_reference, name, symbol in ((False, "new", "circle"), (True, "known", "diamond")):
        members = [index for index in chosen if cards[index][1].is_reference == is_reference]
        if not members:
            continue
        figure.add_scatter(
            x=fraction[members].astype(np.float32),
            y=volume[members].astype(np.float32),
            name=name,
            legendgroup=name,
            showlegend=False,
            mode="markers",
            marker={
                "symbol": symbol,
                "size": 10 if is_reference else 6,
                "opacity": 0.85,
                "color": [round(1000 * max(0.0, cards[index][1].e_above_hull or 0.0), 1) for index in members],
                "coloraxis": "coloraxis",
                "line": {"color": GREY, "width": 0.8},
            },
            hovertext=[cards[index][1].formula for index in members],
            customdata=[[cards[index][0]] for index in members],
            hovertemplate="<b>%{hovertext}</b> %{customdata[0]}<br>%{y:.1f} Å³/atom<br>"
            "E<sub>hull</sub> %{marker.color:.0f} meV/atom<extra></extra>",
        )
        # The legend of plotly.js 4 takes a number on a colour axis for a colour: it gets a marker of its own.
        mark = {"symbol": symbol, "size": 10, "color": GREY}
        figure.add_scatter(x=[None], y=[None], name=name, legendgroup=name, mode="markers", marker=mark)
    centres, medians = binned_medians(fraction, volume)
    figure.add_scatter(
        x=centres,
        y=medians,
        name="median",
        mode="lines",
        line={"color": VERMILION, "width": 2.5},
        hovertemplate="median %{y:.1f} Å³/atom<extra></extra>",
    )
    bar = {"title": {"text": "E<sub>hull</sub><br>(meV/atom)"}, "thickness": 14, "len": 0.7, "outlinewidth": 0}
    figure.update_xaxes(title=f"Atomic fraction of {anion}", range=[-0.03, 1.03])
    figure.update_yaxes(title="Volume (Å³/atom)")
    finish(figure, 440)
    scale = {"colorscale": SEQUENTIAL, "cmin": 0, "cmax": 1000 * data.stable_below, "colorbar": bar}
    figure.update_layout(coloraxis=scale)
    return figure


def binned_medians(fraction: np.ndarray, volume: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centres of the intervals that hold enough structures, and the median volumes there."""
    place = np.minimum((fraction * N_BINS).astype(int), N_BINS - 1)
    numbers, counts = np.unique(place, return_counts=True)
    filled = numbers[counts >= LEAST]
    return (filled + 0.5) / N_BINS, np.array([np.median(volume[place == number]) for number in filled])


def volume_caption(data: ReportData) -> str:
    """What is drawn, and of which method its energies are."""
    cards = shown_cards(data)
    n_drawn = len(drawn(np.array([card.atoms.cell.volume / len(card.atoms) for _, card in cards])))
    return (
        f"Volume per atom of the {len(cards):,} structures less than {data.stable_below:g} eV/atom above the hull, and"
        " its median by composition; colour: E_hull by the labels where a structure is labelled, else by the force"
        " field that relaxed it (below zero counts as zero)."
    ) + drawn_of(n_drawn, len(cards), "structures")
