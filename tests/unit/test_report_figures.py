"""Maps, completeness, parities of the hull, volumes, costs: figures say what the data say, and bear missing data."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms

from chemloop.physics.completeness import Completeness, Seen
from chemloop.physics.unseen import Estimate
from chemloop.report.captions import cards
from chemloop.report.completeness import ABSENT
from chemloop.report.costs import N_REASONS, duration, losses
from chemloop.report.data import (
    Cost,
    Drop,
    Embedding,
    Find,
    HullParity,
    Iteration,
    Origin,
    ReportData,
    StructureCard,
)
from chemloop.report.hull_parity import rmse
from chemloop.report.maps import LOOKS, OTHERS, groups
from chemloop.report.page import panels, sections, write_report
from chemloop.report.panel import Panel
from chemloop.report.thinning import N_POINTS, extremes, thinned
from chemloop.report.volume import anion_of, binned_medians

SOURCE = "teacher 7net-0 (not DFT)"
ELEMENTS = ["Li", "P", "S"]


def seen(n: int, n_seen: int) -> Seen:
    coverage = Estimate(0.8, 0.05, 0.7, 0.9)
    return Seen(n, n_seen, coverage, Estimate(2.0 * n_seen, 9.0, 1.5 * n_seen, 3.0 * n_seen), 40, Estimate(5, 2, 1, 9))


def card(name: str, iteration: int, above: float | None, motifs: list[str], volume: float = 20.0) -> StructureCard:
    edge = (volume * len(Atoms(name))) ** (1 / 3)
    return StructureCard(Atoms(name, cell=[edge] * 3, pbc=True), name, "P1", above, iteration, False, motifs, "a")


def structures(n: int) -> dict[str, StructureCard]:
    cards = {"i00-r0000": card("Li3PS4", 0, 0.0, ["PS4^3-"]), "i00-r0001": card("Li2S", 0, 0.02, ["S^2-"])}
    for k in range(n):
        motifs = ["PS4^3-", "S^2-"] if k % 7 == 0 else ["S^2-"] if k % 2 else []
        cards[f"i{1 + k % 3:02d}-g{k:04d}"] = card("LiPS", 1 + k % 3, 0.001 * (k % 300) - 0.01, motifs, 15 + k % 20)
    return cards


def embedding(cards: dict[str, StructureCard], seed: int = 0) -> Embedding:
    rng = np.random.default_rng(seed)
    places = rng.normal(size=(2, len(cards), 2))
    return Embedding(list(cards), places[0], places[1])


@pytest.fixture
def data() -> ReportData:
    cards = structures(60)
    measured = [
        None,
        Completeness(1, 5.0, 0.1, 1e-3, 0.7, 0.05, seen(20, 9), seen(20, 4)),
        Completeness(2, 5.1, 0.1, 1e-4, 0.9, 0.02, replace(seen(40, 12), predicted=Estimate(4, 1, 2, 6)), None),
    ]
    ids = [f"i01-g{k:04d}" for k in (0, 3, 6)]
    return ReportData(
        campaign="figures",
        elements=ELEMENTS,
        label_source=SOURCE,
        config_yaml="",
        versions={},
        structures=cards,
        embedding=embedding(cards),
        completeness=measured,
        hull_parity=HullParity(
            ids, np.array([0.0, 0.1, 0.2]), np.array([0.1, 0.2, 0.3]), np.array([0.05, np.nan, np.nan]), 2
        ),
        costs=[Cost("seed", 0.5, 29, 0), Cost("relax", 2.25, 80, 3)],
        labels_computed=30,
        labels_from_cache=10,
        mobile_ion="Li",
    )


def by_name(data: ReportData) -> dict[str, Panel]:
    return {panel.name: panel for panel in panels(data)}


def traces(panel: Panel) -> list[dict]:
    return json.loads(panel.figure)["data"]


def ids_of(panel: Panel) -> list[str]:
    points = [point for trace in traces(panel) for point in trace.get("customdata", [])]
    return [point[0] for point in points if isinstance(point, list) and isinstance(point[0], str)]


def test_points_are_structures_that_the_page_holds(data):
    made = by_name(data)
    for name in ("map-framework", "map-whole", "volume", "parity-hull"):
        found = ids_of(made[name])
        assert found and set(found) <= set(data.structures), name
    # Both known structures have a ring besides their own marker.
    assert sorted(ids_of(made["map-framework"])) == sorted([*data.structures, "i00-r0000", "i00-r0001"])


def test_groups_are_the_rarest_of_the_common_motifs():
    cards = [card("S", 1, 0.0, motifs) for motifs in (["S^2-"], ["S^2-", "PS4^3-"], [], ["S^2-"])]
    assert groups(cards) == ["S^2-", "PS4^3-", OTHERS, "S^2-"]
    many = [card("S", 1, 0.0, [f"m{k}"]) for k in range(len(LOOKS) + 3) for _ in range(20 - k)]
    named = set(groups(many))
    assert named == {f"m{k}" for k in range(len(LOOKS))} | {OTHERS}


def test_large_figures_keep_the_extremes(data):
    n = 3 * N_POINTS
    cards = structures(n)
    large = replace(data, structures=cards, embedding=embedding(cards))
    lowest = min(cards, key=lambda id: cards[id].e_above_hull)
    assert large.embedding is not None
    large.embedding.framework[7] = [999.0, 999.0]
    panel = by_name(large)["map-framework"]
    found = set(ids_of(panel))
    assert len(found) == N_POINTS
    assert {lowest, "i00-r0000", large.embedding.ids[7]} <= found
    assert f"{N_POINTS:,} of {n + 2:,} structures are drawn" in panel.caption


def test_thinning():
    assert list(thinned(5)) == [0, 1, 2, 3, 4]
    chosen = thinned(1000, [999, 3, 3], 10)
    assert len(chosen) == 10 and {3, 999} <= set(chosen)
    assert list(thinned(1000, range(50), 10)) == list(range(10))
    assert extremes(np.array([2.0, np.nan, 1.0, 3.0]), 1) == [2, 3]


def test_structures_without_fingerprint_are_counted(data):
    assert data.embedding is not None
    data.embedding.framework[:5] = np.nan
    panel = by_name(data)["map-framework"]
    assert "5 structures without a fingerprint are left out" in panel.caption
    assert "57 structures" in panel.caption
    data.embedding.framework[:] = np.nan
    made = by_name(data)
    assert made["map-framework"].caption == made["shift"].caption == "No structure has a fingerprint so far."
    assert made["map-whole"].figure


def test_iterations_on_the_map(data):
    rows = [trace for trace in traces(by_name(data)["shift"]) if trace.get("fill")]
    names = [trace["hovertemplate"].split("<")[0] for trace in rows]
    assert names == 2 * ["iteration 1", "iteration 2", "iteration 3"]  # the two known ones are too few
    assert data.embedding is not None
    data.embedding.framework[:] = 1.0  # identical structures have no spread
    assert "No iteration has 3 structures" in by_name(data)["shift"].caption


def test_completeness_figures(data):
    made = by_name(data)
    environments, motifs = traces(made["coverage"])
    assert environments["y"] == [80.0, 80.0] and motifs["y"] == [80.0]
    assert environments["error_y"]["array"] == pytest.approx([10, 10])
    assert environments["error_y"]["arrayminus"] == pytest.approx([10, 10])
    kinds, estimated = traces(made["accumulation"])[:2]
    assert kinds["x"] == [0, 20, 40] and kinds["y"] == [0, 9, 12]
    assert estimated["y"] == [18.0, 24.0]
    (overlap,) = traces(made["overlap"])
    assert overlap["y"] == [70.0, 90.0]
    # Iteration 1 was predicted by nothing, 2 by what 1 had seen, 3 is to come; motifs were last measured in 1.
    expected, found, motifs = traces(made["news"])
    assert (expected["text"], expected["y"]) == (["2", "3"], [4, 5])
    assert (found["text"], found["y"]) == (["2"], [3]) and found["name"] == "environments, found"
    assert (motifs["text"], motifs["y"]) == (["2"], [5])
    nothing = replace(data, completeness=[None, Completeness(1, 5.0, None, 1e-3)])
    made = by_name(nothing)
    for name in ("coverage", "accumulation", "overlap", "news"):
        assert made[name].caption == ABSENT and not made[name].figure


def test_completeness_in_numbers(data):
    made = by_name(data)
    (coverage,), (kinds,), (overlap,), (news,) = (
        made[n].tables for n in ("coverage", "accumulation", "overlap", "news")
    )
    interval = "95 % interval"
    assert coverage.columns == ("Iteration", "Coverage of environments, %", interval, "Coverage of motifs, %", interval)
    assert coverage.rows == [
        ("1", "80.0", "70.0 to 90.0", "80.0", "70.0 to 90.0"),
        ("2", "80.0", "70.0 to 90.0", "", ""),
    ]
    assert kinds.columns[:4] == (
        *("Iteration", "New structures so far", "Kinds of environments seen"),
        "Environments, seen and unseen, at least (Chao)",
    )
    assert kinds.rows[0] == ("1", "20", "9", "18", "14 to 27", "4", "8", "6 to 12")
    assert kinds.rows[1][:5] == ("2", "40", "12", "24", "18 to 36")
    assert overlap.rows == [("1", "70.0", "5.0"), ("2", "90.0", "2.0")]
    of_one_structure = [replace(each, overlap_error=None) for each in data.completeness if each is not None]
    (overlap,) = by_name(replace(data, completeness=of_one_structure))["overlap"].tables
    assert overlap.rows == [("1", "70.0", "not known"), ("2", "90.0", "not known")]
    assert news.rows[0] == ("1", "5.0", "1.0 to 9.0", "5.0", "1.0 to 9.0")
    made = by_name(replace(data, completeness=[]))
    assert not any(made[name].tables for name in ("coverage", "accumulation", "overlap", "news", "yield", "errors"))


def test_entropy_beside_its_cap(data):
    data.iterations = [Iteration(k, {"curate/entropy_nats": 4.0 + 0.2 * k}) for k in range(3)]
    panel = by_name(data)["entropy"]
    assert not [trace for trace in traces(panel) if trace["name"].startswith("cap")]
    assert "cannot exceed the logarithm of that number" in panel.caption
    data.completeness = [None if c is None else replace(c, n_environments=100) for c in data.completeness]
    panel = by_name(data)["entropy"]
    (cap,) = [trace for trace in traces(panel) if trace["name"].startswith("cap")]
    assert cap["name"] == "cap, log 100" and cap["y"] == pytest.approx([np.log(100)] * 2)
    assert "100 environments" in panel.caption and "It cannot exceed log 100 = 4.605 nats" in panel.caption
    (card,) = [card for card in cards(data) if card.title == "Entropy"]
    assert card.note == "from 4.00 in iteration 0; at most 4.61"


def test_headline_errors_are_those_of_the_start_and_of_now(data):
    """Not those before and after the last fit, which are the same where there was nothing to learn."""
    errors = {"base": 110.0, "before": 40.0, "after": 40.0}
    metrics = {f"finetune/test_force_rmse_{when}_mev_per_ang": error for when, error in errors.items()}
    data.iterations = [
        Iteration(0, metrics | {"finetune/test_force_rmse_after_mev_per_ang": 60.0}),
        Iteration(1, metrics),
    ]
    (card,) = [card for card in cards(data) if "RMSE" in card.title]
    assert (card.title, card.value) == ("Force RMSE", "110 → 40 meV/Å")
    assert card.note == "at the start, and now; test set of iteration 1"


def test_hull_parity(data):
    parity = data.hull_parity
    assert parity is not None
    assert rmse(parity, "found") == pytest.approx(0.1)
    assert rmse(parity, "again") == pytest.approx(0.05)
    panel = by_name(data)["parity-hull"]
    assert "3 structures when found" in panel.figure and "RMSE 100 meV/atom" in panel.figure
    assert "1 structures relaxed again in iteration 2" in panel.figure and "RMSE 50 meV/atom" in panel.figure
    assert "the error when found was 100 meV/atom" in panel.caption
    once = replace(data, hull_parity=replace(parity, again=np.full(3, np.nan), again_iteration=None))
    panel = by_name(once)["parity-hull"]
    assert "relaxed again" not in panel.figure + panel.caption
    only_again = by_name(replace(data, hull_parity=replace(parity, found=np.full(3, np.nan))))["parity-hull"]
    assert "when found" not in only_again.figure and "RMSE 50 meV/atom" in only_again.figure
    assert "nan" not in only_again.caption and "error when found" not in only_again.caption
    empty = HullParity([], np.zeros(0), np.zeros(0), np.zeros(0))
    assert by_name(replace(data, hull_parity=empty))["parity-hull"].figure == ""


def test_volumes():
    assert anion_of(["Li", "P", "S"]) == "S" and anion_of(["Na", "O"]) == "O"
    centres, medians = binned_medians(np.array([0.5, 0.5, 0.51, 0.0, 1.0]), np.array([10.0, 20.0, 40.0, 1.0, 1.0]))
    assert list(medians) == [20.0] and 0.5 < centres[0] < 0.59


def test_costs_and_losses(data):
    panel = by_name(data)["costs"]
    assert "2.75 core hours in 109 items of work, 3 of which failed" in panel.caption
    assert "Of 40 label calculations 10 (25 %) came from the cache." in panel.caption
    assert "cache" not in by_name(replace(data, labels_from_cache=None))["costs"].caption
    assert [duration(hours) for hours in (2.5, 0.25, 0.001)] == ["2.5 h", "15.0 min", "4 s"]
    drops = [Drop("label", "no convergence", 1, "0003"), Drop("label", "no convergence", 1, "0007")]
    drops += [Drop("screen", f"reason {k}", 10 + k) for k in range(N_REASONS + 4)]
    rows = losses(drops)
    assert rows[0] == ("screen", f"reason {N_REASONS + 3}", 13 + N_REASONS)
    assert rows[-1] == ("label", "no convergence", 2)
    panel = by_name(replace(data, drops=drops))["losses"]
    assert "The 5 rarest reasons are in the table only." in panel.caption
    assert len(traces(panel)[0]["x"]) == N_REASONS
    assert by_name(data)["losses"].caption == "Nothing was dropped and nothing failed."


def test_which_operators_pay(data, tmp_path):
    assert by_name(data)["origins"].figure == "" and not by_name(data)["origins"].tables
    data.origins = [
        Origin("evolution", "", 40, 30, 6, 0.12, 50, {"too close": 10, "attempt: too close": 10}),
        Origin("evolution", "heredity", 40, 30, 6, 0.12),
        Origin("random", "", 0, 0, 0, None, 7, {"attempt: too close": 7}),
    ]
    panel = by_name(data)["origins"]
    found, valid, energies = traces(panel)
    assert (found["name"], valid["name"]) == ("S.U.N.", "valid")
    assert json.loads(panel.figure)["layout"]["yaxis"]["ticktext"] == ["· heredity", "evolution"]
    made, lost = panel.tables
    assert made.rows[0] == ("evolution", "50", "40", "30", "6", "15.0", "120")
    assert made.rows[2] == ("random", "7", "0", "0", "0", "", "")
    assert lost.columns == ("Reason", "evolution", "random")
    assert lost.rows == [("attempt: too close", "10", "7"), ("too close", "10", "")]
    write_report(data, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert '<td class="number">15.0</td>' in text and "Why the others fell out" in text


def test_every_panel_has_a_place_and_a_name_of_its_own(data):
    names = [panel.name for panel in panels(data)]
    assert len(names) == len(set(names)) == 22
    assert [section.name for section in sections(data)] == ["found", "completeness", "map", "field", "effort"]


def test_all_finds_by_the_force_field(data):
    def crystal(name: str, energy: float, id: str) -> Atoms:
        atoms = Atoms(name, cell=[5, 5, 5], pbc=True)
        atoms.info.update(id=id, mlff_energy=energy * len(atoms), energy_frame="chgnet-b")
        return atoms

    data.model_references = [crystal(element, -2.0, f"i00-r{element}") for element in ELEMENTS]
    data.model_finds = [Find(crystal("LiPS", -3.0, "i01-g0000"), 1, "P1")]
    data.model_iteration = 3
    panel = by_name(data)["hull-all"]
    assert "by energies of the force field that relaxes in iteration 3." in panel.caption
    assert "New on the hull: LiPS (i01-g0000)." in panel.caption
    assert "i01-g0000" in ids_of(panel)
    assert by_name(data)["hull"].figure == ""


@pytest.mark.parametrize("elements", [["S"], ["Li", "S"], ["Li", "P", "S", "Cl"]])
def test_one_structure_and_other_numbers_of_elements(tmp_path, elements):
    cards = {"i00-r0000": card("S8", 0, 0.0, ["S8 ring"])}
    lone = ReportData(
        "lone", elements, SOURCE, "", {}, structures=cards, embedding=embedding(cards),
        iterations=[Iteration(0, {}), Iteration(1, {"generate/n_generated": 0.0}, np.zeros(0))],
        completeness=[None, None],
    )  # fmt: skip
    write_report(lone, tmp_path / "report.html")
    made = by_name(lone)
    assert made["map-framework"].figure and made["volume"].figure and not made["shift"].figure


def test_without_mobile_ion_nothing_is_said_to_be_left_out(data, tmp_path):
    assert {"map-framework", "map-whole"} <= by_name(data).keys()
    none = replace(data, mobile_ion=None)
    made = by_name(none)
    assert "map-whole" not in made and made["map-framework"].title == "Structures by motif, with all atoms"
    assert made["map-framework"].figure and made["shift"].figure
    write_report(none, tmp_path / "report.html")
    text = re.sub(r"<(script|style)\b.*?</\1>", " ", (tmp_path / "report.html").read_text(), flags=re.DOTALL)
    assert "mobile ion" not in text and "all atoms" in text
