"""Maps of the structures on which like ones lie together: by motif, and iteration by iteration."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from chemloop.report.data import Embedding, ReportData, StructureCard
from chemloop.report.style import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, finish
from chemloop.report.thinning import drawn_of, extremes, thinned
from chemloop.report.typeset import typeset

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

# Colour and shape together tell groups apart where colours alone are too few or look alike.
LOOKS = (
    (VERMILION, "circle"), (BLUE, "square"), (GREEN, "diamond"), (ORANGE, "triangle-up"), (PURPLE, "star"),
    (SKY, "hexagon"), (VERMILION, "triangle-down"), (BLUE, "cross"), (GREEN, "x"), (ORANGE, "pentagon"),
)  # fmt: skip
OTHERS = "other or none"
SPACES = {"framework": "without the mobile ion", "whole": "with all atoms"}


def spaces(data: ReportData) -> dict[str, str]:
    """The maps to draw, with words for each: one where there is no mobile ion to leave out."""
    return SPACES if data.mobile_ion else {"framework": SPACES["whole"]}


def has_map(data: ReportData, space: str) -> bool:
    """Whether any structure has a place."""
    return data.embedding is not None and bool(known(data.embedding, space).any())


def known(embedding: Embedding, space: str) -> np.ndarray:
    """(n,) whether the structure has a place."""
    return np.asarray(np.isfinite(getattr(embedding, space)).all(axis=1))


def groups(cards: Sequence[StructureCard]) -> list[str]:
    """For each structure the motif whose colour it has: the rarest of its motifs that are among the commonest ten."""
    numbers = Counter(title for card in cards for title in set(card.motifs))
    commonest = dict(numbers.most_common(len(LOOKS)))
    found = [[title for title in card.motifs if title in commonest] for card in cards]
    return [min(titles, key=lambda title: (numbers[title], title)) if titles else OTHERS for titles in found]


def drawn(data: ReportData, space: str) -> np.ndarray:
    """Indices into the embedding of the structures to draw: known ones and the most stable in any case."""
    assert data.embedding is not None
    placed = np.flatnonzero(known(data.embedding, space))
    cards = [data.structures[data.embedding.ids[index]] for index in placed]
    above = np.array([np.inf if card.e_above_hull is None else card.e_above_hull for card in cards])
    keep = [k for k, card in enumerate(cards) if card.is_reference]
    keep += np.argsort(above, kind="stable")[:100].tolist()
    for axis in range(2):
        keep += extremes(getattr(data.embedding, space)[placed, axis])
    return placed[thinned(len(placed), keep)]


def map_figure(data: ReportData, space: str) -> Figure | None:
    """The first two t-SNE components, coloured by motif, known structures ringed.

    space: `framework` or `whole`
    Source: figure 4a of the paper
    """
    import plotly.graph_objects as go

    if not has_map(data, space):
        return None
    embedding = data.embedding
    assert embedding is not None
    chosen = drawn(data, space)
    cards = [data.structures[embedding.ids[index]] for index in chosen]
    names = np.array(groups(cards))
    places = getattr(embedding, space)[chosen].astype(np.float32)
    figure = go.Figure()
    looks = dict(zip([name for name, _ in Counter(names).most_common() if name != OTHERS], LOOKS, strict=False))
    for name, (color, symbol) in {OTHERS: (GREY, "circle"), **looks}.items():
        members = np.flatnonzero(names == name)
        if len(members):
            figure.add_scatter(
                x=places[members, 0],
                y=places[members, 1],
                name=typeset(name),
                mode="markers",
                marker={"color": color, "symbol": symbol, "size": 7, "opacity": 0.8},
                **_identity([embedding.ids[chosen[k]] for k in members], data.structures),
            )
    references = np.array([card.is_reference for card in cards])
    if references.any():
        figure.add_scatter(
            x=places[references, 0],
            y=places[references, 1],
            name="known structure",
            mode="markers",
            marker={"color": GREY, "symbol": "circle-open", "size": 14, "line_width": 2},
            **_identity([embedding.ids[chosen[k]] for k in np.flatnonzero(references)], data.structures),
        )
    hidden = {"showticklabels": False, "ticks": "", "zeroline": False}
    figure.update_xaxes(title="First t-SNE component", **hidden)
    figure.update_yaxes(title="Second t-SNE component", **hidden)
    finish(figure, 600)
    figure.update_xaxes(showgrid=False)
    figure.update_yaxes(showgrid=False)
    # Below the map: a dozen motifs fill several lines, which above it would cover the tool bar.
    figure.update_layout(legend={"y": -0.1, "yanchor": "top"}, margin_t=24)
    return figure


def _identity(ids: Sequence[str], cards: Mapping[str, StructureCard]) -> dict[str, object]:
    """What the pointer shows and a click opens."""
    return {
        "customdata": [[id] for id in ids],
        "hovertext": [hover_text(cards[id]) for id in ids],
        "hovertemplate": "<b>%{customdata[0]}</b> %{hovertext}<extra></extra>",
    }


def hover_text(card: StructureCard) -> str:
    """Formula, energy and motifs."""
    energy = "unknown" if card.e_above_hull is None else f"{1000 * card.e_above_hull:.0f} meV/atom"
    return f"{card.formula}<br>E<sub>hull</sub> {energy}<br>{', '.join(map(typeset, card.motifs)) or 'no motif'}"


def map_caption(data: ReportData, space: str) -> str:
    """What the map is made of, and how to read it."""
    assert data.embedding is not None
    n = int(known(data.embedding, space).sum())
    ion = data.mobile_ion if space == "framework" and data.mobile_ion else None
    what = f"the framework without {ion}" if ion else "all atoms"
    missing = len(data.embedding.ids) - n
    sampled = data.embedding.sampled_from
    return (
        f"t-SNE of the fingerprints (CrystalNN order parameters averaged over the sites) of {what}: {n:,} structures of"
        " all iterations in one map. Neighbours are alike; distances between far groups mean little. Each structure has"
        " the colour of the rarest of its motifs that are among the ten commonest; rings mark known structures."
        + (f" {missing:,} structures without a fingerprint are left out." if missing else "")
        + (f" The map is of a sample of {sampled:,}." if sampled not in (None, len(data.embedding.ids)) else "")
        + drawn_of(len(drawn(data, space)), n, "structures")
    )
