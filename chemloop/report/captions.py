"""The words of the report: its summary, its headline numbers, and what each figure shows."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from chemloop.report import curves, distribution
from chemloop.report.data import Parity, ReportData
from chemloop.report.parity import drawn
from chemloop.report.phase_diagram import HullView
from chemloop.report.training import GROWTH, by_size

N_NAMED = 8
"""New stable phases that the caption names."""


@dataclass
class Card:
    """A headline number: what it is, the number, and what it refers to."""

    title: str
    value: str
    note: str


def counted(n: int, noun: str) -> str:
    """A number with its noun: `1 frame`, `2 frames`, `no frames`."""
    return f"{n or 'no'} {noun}{'' if n == 1 else 's'}"


def summary(data: ReportData) -> list[str]:
    """What the campaign did, in a few sentences."""
    judged = screened(data)
    generated, n_sun = data.total("generate/n_generated"), data.total("screen/n_sun")
    n_judged = judged.total("generate/n_generated")
    if not data.iterations:
        sentences = ["Nothing is finished yet."]
    elif generated == 0:
        sentences = ["Only the known structures have been looked at so far; none have been generated."]
    elif n_judged == 0:
        sentences = [f"{counted(generated, 'structure').capitalize()} generated, and not screened yet."]
    else:
        found = counted(n_sun, "structure") + (" is" if n_sun == 1 else " are")
        rounds = counted(len(judged.iterations), "iteration")
        sentences = [
            f"{counted(n_judged, 'structure').capitalize()} generated in {rounds};"
            f" {found} stable, unique and novel (S.U.N.)" + (f", {100 * n_sun / n_judged:.1f} %." if n_sun else ".")
        ]
        if generated > n_judged:
            sentences.append(f"{counted(generated - n_judged, 'other structure')} not screened yet.".capitalize())
    sentences.append(f"{counted(data.n_frames, 'frame').capitalize()} labelled by {data.label_source}.")
    sentences.append(f"Why it ended: {data.stop_reason}." if data.stop_reason else "The campaign has not ended.")
    return sentences


def screened(data: ReportData) -> ReportData:
    """The iterations whose structures have been judged; of the others none can be S.U.N. yet."""
    return replace(data, iterations=[each for each in data.iterations if each.value("screen/n_sun") is not None])


def cards(data: ReportData) -> list[Card]:
    """The numbers that matter, those that are known."""
    found = []
    generated, n_sun = screened(data).total("generate/n_generated"), data.total("screen/n_sun")
    if generated:
        found.append(Card("S.U.N. structures", f"{n_sun:,}", f"of {generated:,} generated"))
    numbers, lowest = data.series("screen/lowest_e_above_hull_ev_per_atom")
    if lowest:
        best = min(range(len(lowest)), key=lowest.__getitem__)
        value = f"{round(1000 * lowest[best]):+d} meV/atom".replace("-", "−")
        found.append(Card("Lowest E_hull", value, f"by the force field, iteration {numbers[best]}"))
    if data.n_frames:
        found.append(Card("Labels", f"{data.n_frames:,} frames", data.label_source))
    numbers, entropies = data.series("curate/entropy_nats")
    if entropies:
        note = f"from {entropies[0]:.2f} in iteration {numbers[0]}" if len(entropies) > 1 else f"iteration {numbers[0]}"
        sample = curves.sample_size(data)
        note += "" if sample is None else f"; at most {math.log(sample):.2f}"
        found.append(Card("Entropy", f"{entropies[-1]:.2f} nats", note))
    for channel, unit, shown in (("energy", "mev_per_atom", "meV/atom"), ("force", "mev_per_ang", "meV/Å")):
        numbers, after = data.series(curves.error_key(channel, "after", unit))
        base = dict(zip(*data.series(curves.error_key(channel, "base", unit)), strict=True))
        if after and numbers[-1] in base:
            value = f"{base[numbers[-1]]:.0f} → {after[-1]:.0f} {shown}"
            note = f"at the start, and now; test set of iteration {numbers[-1]}"
            found.append(Card(f"{channel.capitalize()} RMSE", value, note))
    return found


def e_hull(data: ReportData) -> str:
    """Under the distributions."""
    beyond = distribution.binned(data)[2]
    hidden = (
        f" {counted(beyond, 'structure')} more than {distribution.WIDEST:g} eV/atom above or below the hull not drawn."
    )
    return (
        "Relaxed structures by their energy above the hull that the force field of their iteration sees; heights are"
        f" fractions of the iteration, bars {1000 * distribution.BIN:.0f} meV/atom wide. Green, left of the dotted"
        f" line: stable, below {data.stable_below:g} eV/atom." + (hidden if beyond else "")
    )


def yields(data: ReportData) -> str:
    """Under the fractions."""
    return (
        f"Stable: converged and less than {data.stable_below:g} eV/atom above the hull. Unique: of duplicates within"
        " an iteration, only the first counts. Novel: matches no reference and nothing found earlier. S.U.N.: all"
        " three."
    )


def entropy(data: ReportData) -> str:
    """Under entropy and labels."""
    n = curves.sample_size(data)
    size = "one sample size" if n is None else f"one sample size, {n:,} environments"
    cap = (
        "The entropy cannot exceed the logarithm of that number: near it, it is flat whatever is missing."
        if n is None
        else f"It cannot exceed log {n:,} = {math.log(n):.3f} nats (dotted): near that, it is flat whatever is missing."
    )
    return (
        f"Information entropy of the local environments of all explored structures at {size}, with its standard error:"
        " that of the random samples, and that of the structures they come from (a jackknife over groups of these)."
        f" {cap} All frames labelled so far by {data.label_source}. Iteration 0: known structures."
    )


def training(data: ReportData) -> str:
    """Under the errors by the size of the training set."""
    numbers, _, growth = by_size(data, GROWTH)
    not_grown = [str(number) for number, value in zip(numbers, growth, strict=True) if value <= 0]
    return (
        "One point per iteration. Above: entropy that one more frame adds to the training set; it falls as new frames"
        f" repeat known ones. Below: errors on test frames labelled by {data.label_source} that were never trained on,"
        " and those of the force field as the campaign began with it; each iteration has a larger test set."
        + (f" The entropy did not grow in iteration {', '.join(not_grown)}: no logarithm." if not_grown else "")
    )


def errors(data: ReportData) -> str:
    """Under the test errors."""
    return (
        f"Force field against labels by {data.label_source}, on frames that it was never trained on. Each iteration has"
        " its own, larger test set, so compare before with after rather than one iteration with the next."
    )


def parity(data: ReportData, values: Parity | None) -> str:
    """Under a parity plot."""
    if values is None:
        return ""
    n, n_drawn = len(values.label), len(drawn(values))
    shown = "All" if n == n_drawn else f"{n_drawn:,} of"
    where = "" if data.parity_iteration is None else f" of iteration {data.parity_iteration}"
    sample = "" if values.sampled_from in (None, n) else f", a sample of {values.sampled_from:,}"
    return (
        f"{shown} {n:,} test values{where}{sample}, labelled by {data.label_source}; RMSE over these {n:,}. On the"
        " diagonal, force field and label agree."
    )


def hull(data: ReportData, view: HullView) -> str:
    """Under the phase diagram."""
    when = "" if data.model_iteration is None else f" that relaxes in iteration {data.model_iteration}"
    source = data.label_source if data.hull_energies == "label" else f"the force field{when}"
    where = {
        1: "Each marker is one structure.",
        2: "The line joins what is stable against decomposition.",
        3: "Corners are the pure elements, grey lines the edges of the hull; markers of one composition coincide.",
        4: "Corners are the pure elements, grey lines the edges of the hull. Drag to turn, scroll to zoom.",
    }[len(view.elements)]
    new = f" and {counted(len(data.finds), 'S.U.N. structure')} (diamonds)" if data.finds else ""
    stable = [f"{marker.formula} ({marker.id})" for marker in view.select(True, True)]
    named = ", ".join(stable[:N_NAMED]) + (f" and {len(stable) - N_NAMED} more" if len(stable) > N_NAMED else "")
    hidden = (
        f" {counted(view.n_hidden, 'structure').capitalize()} more than {data.stable_below:g} eV/atom above the hull"
        " not drawn."
        if view.n_hidden
        else ""
    )
    return (
        f"Hull of {counted(len(data.references), 'known structure')} (circles){new} by energies of {source}. {where}"
        + (f" New on the hull: {named}." if stable else "")
        + hidden
    )
