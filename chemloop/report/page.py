"""report.html: one file that opens from disk, without network, and shows what a campaign found."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from chemloop.report import (
    captions,
    completeness,
    costs,
    curve_tables,
    curves,
    distribution,
    maps,
    origins,
    shift,
    training,
    volume,
)
from chemloop.report.best import best_rows
from chemloop.report.data import Parity, ReportData
from chemloop.report.hull_figure import hull_figure
from chemloop.report.hull_parity import hull_parity_caption, hull_parity_figure
from chemloop.report.panel import Panel, Section, panel
from chemloop.report.parity import parity_figure
from chemloop.report.phase_diagram import MOST_ELEMENTS, hull_view
from chemloop.report.style import embed
from chemloop.report.template import write_page


def write_report(data: ReportData, path: Path) -> None:
    """Write the report.

    Raises: EnergyFrameError, StructureError where references and finds cannot share a hull
    """
    best = best_rows(data)
    write_page(
        "report.html.j2",
        path,
        data=data,
        summary=captions.summary(data),
        cards=captions.cards(data),
        sections=sections(data),
        best=best,
        first=best[0]["id"] if best else next(iter(data.structures), ""),
        drops=sorted(data.drops, key=lambda drop: -drop.count),
    )


def sections(data: ReportData) -> list[Section]:
    """All figures in the order of the page."""
    made = [
        Section("found", "What was found", found_panels(data)),
        Section("completeness", "Is the space complete?", completeness_panels(data)),
        Section("map", "The map of structures", map_panels(data)),
        Section("field", "The force field", field_panels(data)),
        Section("effort", "Effort and losses", effort_panels(data)),
    ]
    numbers = curve_tables.tables(data)
    for each in (each for section in made for each in section.panels if each.figure):
        each.tables = [*each.tables, *numbers.get(each.name, ())]
    return made


def panels(data: ReportData) -> list[Panel]:
    """The panels of all sections."""
    return [each for section in sections(data) for each in section.panels]


def found_panels(data: ReportData) -> list[Panel]:
    """Energies, yields and phase diagrams."""
    known_only = replace(data, finds=())
    by_model = replace(
        data, references=data.model_references, finds=data.model_finds, hull_energies="mlff",
        label_source=f"the force field that relaxes in iteration {data.model_iteration}",
    )  # fmt: skip
    return [
        panel("e-hull", "Energy above the hull", distribution.e_hull_figure(data), lambda: captions.e_hull(data),
              f"No structure has been screened so far, or none within {distribution.WIDEST:g} eV/atom of the hull."),
        panel("yield", "Stable, unique, novel", curves.yield_figure(data), lambda: captions.yields(data),
              "No structure has been screened so far."),
        hull_panel("hull-known", "Phase diagram of the known structures", known_only),
        hull_panel("hull", "Phase diagram of known and labelled new structures", data),
        hull_panel("hull-all", "Phase diagram with every S.U.N. structure, by the force field", by_model,
                   "No force field has relaxed known and new structures together so far."),
        panel("volume", "Volume and composition", volume.volume_figure(data), lambda: volume.volume_caption(data),
              f"No structure less than {data.stable_below:g} eV/atom above the hull so far.", is_wide=True),
    ]  # fmt: skip


def completeness_panels(data: ReportData) -> list[Panel]:
    """Entropy, coverage and estimates of what is missing."""
    return [
        panel("entropy", "Entropy and labels", curves.entropy_figure(data), lambda: captions.entropy(data),
              "No iteration has come as far as the entropy of its environments."),
        panel("coverage", "Coverage", completeness.coverage_figure(data),
              lambda: completeness.COVERAGE_CAPTION, completeness.ABSENT),
        panel("accumulation", "Kinds seen and kinds there are", completeness.accumulation_figure(data),
              lambda: completeness.ACCUMULATION_CAPTION, completeness.ABSENT, is_wide=True),
        panel("overlap", "Environments seen before", completeness.overlap_figure(data),
              lambda: completeness.OVERLAP_CAPTION, completeness.ABSENT),
        panel("news", "What the next iteration would bring", completeness.news_figure(data),
              lambda: completeness.NEWS_CAPTION, completeness.ABSENT),
    ]  # fmt: skip


def map_panels(data: ReportData) -> list[Panel]:
    """Maps of fingerprints."""
    absent = "No structure has a fingerprint so far."
    few = f"No iteration has {shift.LEAST} structures with a fingerprint."
    made = [
        panel(f"map-{space}", f"Structures by motif, {words}", maps.map_figure(data, space),
              partial(maps.map_caption, data, space), absent, is_wide=True)
        for space, words in maps.spaces(data).items()
    ]  # fmt: skip
    return [*made, panel("shift", "Iterations on the map", shift.shift_figure(data), lambda: shift.shift_caption(data),
                         few if maps.has_map(data, "framework") else absent, is_wide=True)]  # fmt: skip


def field_panels(data: ReportData) -> list[Panel]:
    """How good the force field is."""
    return [
        panel("training", "Training set and errors", training.training_figure(data), lambda: captions.training(data),
              "No iteration has come as far as the entropy of its training set."),
        panel("errors", "Errors by iteration", curves.error_figure(data), lambda: captions.errors(data),
              "No fine-tuning is finished, or there were no test frames."),
        parity_panel(data, data.energy_parity, "energies", "Energy", "eV/atom"),
        parity_panel(data, data.force_parity, "forces", "Force component", "eV/Å"),
        panel("parity-hull", "Parity of energies above the hull", hull_parity_figure(data),
              lambda: hull_parity_caption(data), "No new structure has been labelled so far.", is_wide=True),
    ]  # fmt: skip


def effort_panels(data: ReportData) -> list[Panel]:
    """Who proposed what, costs and losses."""
    return [
        panel("origins", "Generators and operators", origins.origin_figure(data), lambda: origins.ORIGIN_CAPTION,
              "Nothing has been generated so far, or by a version of ChemLoop that did not count it.", is_wide=True,
              tables=origins.tables(data)),
        panel("costs", "Costs", costs.cost_figure(data), lambda: costs.cost_caption(data), "Nothing has run so far."),
        panel("losses", "Dropped and failed", costs.loss_figure(data), lambda: costs.loss_caption(data),
              "Nothing was dropped and nothing failed."),
    ]  # fmt: skip


def parity_panel(data: ReportData, parity: Parity | None, name: str, quantity: str, unit: str) -> Panel:
    """Labels against the force field, or that there are none yet."""
    title = f"Parity of {name}"
    if parity is None or len(parity.label) == 0:
        return Panel(f"parity-{name}", title, "No fine-tuning is finished, or there were no test frames.")
    figure = embed(parity_figure(parity, quantity, unit, data.label_source), f"parity-{name}")
    return Panel(f"parity-{name}", title, captions.parity(data, parity), figure, is_wide=True)


def hull_panel(
    name: str, title: str, data: ReportData, absent: str = "No reference has an energy so far, so there is no hull."
) -> Panel:
    """A phase diagram of the references and finds, or why it is not drawn."""
    if not data.references:
        return Panel(name, title, absent)
    if len(data.elements) > MOST_ELEMENTS:
        return Panel(
            name,
            title,
            f"A system of {len(data.elements)} elements has no drawing in three dimensions; the energies above the hull"
            " are in the table of structures and in the database.",
        )
    view = hull_view(data)
    return Panel(name, title, captions.hull(data, view), embed(hull_figure(view, data.stable_below), name), True)
