"""What the report reads from a campaign's folders: structures, their map, motifs, hulls, costs and losses."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from ase import Atoms
from ase.io import read

from chemloop.physics import fingerprints
from chemloop.physics.motifs import MotifCatalogue, find_motifs
from chemloop.physics.structures import write_structures
from chemloop.report.data import ReportData, StructureCard
from chemloop.report.motif_picture import MOST_ATOMS, best_axes, motif_svg, repeated
from chemloop.runtime.campaign import Campaign
from chemloop.runtime.disk import write_json
from chemloop.stages.proposals import Proposals
from chemloop.system import System
from chemloop.workflow import report_map
from chemloop.workflow.report import parities
from chemloop.workflow.report_effort import costs, drops, label_counts
from chemloop.workflow.report_energies import add_hulls, as_find, hull_parity
from chemloop.workflow.report_map import embedding, joined, places
from chemloop.workflow.report_origins import origins
from chemloop.workflow.report_rounds import Round, labelled
from chemloop.workflow.report_structures import best_hosts, gallery, motif_titles, structure_cards, write_motifs

CUTOFFS = {"P-S": 2.35, "S-S": 2.2, "P-P": 2.5}
SYSTEM = System(["Li", "P", "S"], bond_cutoffs=CUTOFFS)
TETRAHEDRON = 2.05 / np.sqrt(3) * np.array([[0, 0, 0], [1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])


@dataclass
class FakeStage:
    name: str
    folder: Path
    structures: list[Atoms] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    failed: list[dict[str, str]] = field(default_factory=list)

    def output(self) -> list[Atoms]:
        return self.structures

    def failures(self) -> list[dict[str, str]]:
        return self.failed


def crystal(name: str, energy: float, id: str, who: str = "mlff", **info: Any) -> Atoms:
    rng = np.random.default_rng(sum(map(ord, id)))
    atoms = Atoms(name, cell=[6, 7, 8], pbc=True)
    atoms.set_scaled_positions(rng.random((len(atoms), 3)))
    frame = {"energy_frame": f"{who}-frame", f"{who}_energy": energy * len(atoms)}
    atoms.info.update({"id": id, "converged": True, **frame, **info})
    return atoms


def thiophosphate() -> Atoms:
    atoms = Atoms("PS4", TETRAHEDRON, cell=[12, 12, 12], pbc=True)
    atoms += Atoms("Li3", [[6, 6, 6], [6, 6, 0], [6, 0, 6]])
    return atoms


def chain() -> Atoms:
    return Atoms("S2", [[0, 0, 0], [1.2, 1.6, 0]], cell=[2.4, 15, 15], pbc=True)


def fake_rounds(tmp_path: Path) -> list[Round]:
    """Iteration 0 with references, then two that find Li2S; the second relaxes the first's find again."""
    elements = [("Li", -1.0, "i00-r0000"), ("S", -1.0, "i00-r0001")]
    find = ("Li2S", -2.0, "i01-g000-0000")
    flags = {"is_stable": True, "is_unique": True, "is_novel": True, "spacegroup": "P1"}
    seed, curate = tmp_path / "0-seed", tmp_path / "7-curate"
    for folder in (seed, curate):
        folder.mkdir()
    references = [crystal(*element, who="label", e_above_hull=0.0) for element in elements]
    write_structures(seed / "relaxed.extxyz", references)
    judged = {"is_stable": True, "is_unique": True, "is_novel": True}
    best = crystal(*find, who="label", e_above_hull=0.0, **judged)
    write_structures(curate / "relaxed.extxyz", [*references, best])

    def relaxed(shift: float, role: str) -> list[Atoms]:
        known = [crystal(*element, role="reference") for element in elements]
        name, energy, id = find
        return [*known, crystal(name, energy + shift, id, role=role)]

    screened = crystal("Li2S", -1.9, find[2], role="candidate", e_above_hull=-0.9, **flags)
    lost = crystal("S", -0.5, "i01-g000-0001", e_above_hull=0.5, **{**flags, "is_unique": False, "is_stable": False})
    unfinished = crystal("Li", 0.0, "i01-g000-0002", e_above_hull=1.0, **flags)
    unfinished.info.update(converged=False, is_stable=False)
    too_small = crystal("S", 0.0, "i01-g000-0003", role="candidate", dropped="volume collapsed: 3 A^3")
    return [
        Round(0, {"seed": FakeStage("seed", seed), "curate": FakeStage("curate", curate)}),  # type: ignore[dict-item]
        Round(
            1,
            {
                "generate": FakeStage("generate", tmp_path, metrics={"generate/n_rejected_too_close": 4.0}),
                "relax": FakeStage("relax", tmp_path, [*relaxed(0.1, "candidate"), too_small]),
                "screen": FakeStage("screen", tmp_path, [screened, lost, unfinished]),
            },  # type: ignore[dict-item]
        ),
        Round(2, {"relax": FakeStage("relax", tmp_path, relaxed(0.05, "find"))}),  # type: ignore[dict-item]
    ]


def test_cards_show_the_labelled_structure_where_there_is_one(tmp_path):
    rounds = fake_rounds(tmp_path)
    cards = structure_cards(rounds, labelled(rounds), MotifCatalogue(), SYSTEM)
    assert list(cards) == ["i00-r0000", "i00-r0001", "i01-g000-0000", "i01-g000-0001"]
    best = cards["i01-g000-0000"]
    assert (best.formula, best.energy_frame, best.e_above_hull, best.is_sun) == ("Li₂S", "label-frame", 0.0, True)
    assert cards["i01-g000-0001"].energy_frame == "mlff-frame" and not cards["i01-g000-0001"].is_sun
    assert cards["i00-r0000"].is_reference and cards["i00-r0000"].spacegroup
    assert cards["i00-r0000"].motifs == []
    assert [card.is_labelled for card in cards.values()] == [True, True, True, False]
    assert not best.atoms.info and not best.atoms.arrays.keys() - {"numbers", "positions"}


def test_a_card_says_the_same_of_a_labelled_structure_as_its_picture(tmp_path):
    """The force field has a chain in I4, the labeler a molecule, with another space group, 0.1 eV/atom higher."""
    rounds = fake_rounds(tmp_path)
    rounds[1].screened[0].info["spacegroup"] = "I4"
    described = tmp_path / "describe"
    described.mkdir()
    rounds[1].stages["describe"] = FakeStage("describe", described)  # type: ignore[assignment]
    catalogue = MotifCatalogue()
    motifs = find_motifs(chain(), CUTOFFS, "Li")
    catalogue.add(motifs, "i01-g000-0000", 1, -0.9)
    catalogue.add(find_motifs(thiophosphate(), CUTOFFS, "Li"), "i01-g000-0001", 1, 0.5)
    write_json(described / "motifs.json", {"i01-g000-0000": [motif.to_json() for motif in motifs]})
    of_label = thiophosphate()
    of_label.info = labelled(rounds)[-1].info | {"e_above_hull": 0.1}
    cards = structure_cards(rounds, [*labelled(rounds)[:-1], of_label], catalogue, SYSTEM)
    card = cards["i01-g000-0000"]
    assert (card.motifs, card.spacegroup != "I4", card.e_above_hull) == (["PS4^3-"], True, 0.1)
    found = {each.title: (each.host, each.e_above_hull, each.is_labelled) for each in gallery(catalogue, cards)}
    assert found["PS4^3-"] == ("i01-g000-0000", 0.1, True)
    assert found["S_n chain"] == ("", -0.9, False), "no structure holds it as the page shows it"


def test_a_labelled_host_comes_before_a_lower_one_of_the_force_field():
    def card(energy: float | None, is_labelled: bool) -> StructureCard:
        return StructureCard(Atoms(), "", "", energy, 1, False, ["S_n chain"], "", is_labelled)

    assert best_hosts({"a": card(-0.3, False), "b": card(0.2, True), "c": card(0.1, True)})["S_n chain"][0] == "c"
    assert best_hosts({"a": card(None, False), "b": card(0.2, False)})["S_n chain"][0] == "b"
    assert best_hosts({}) == {}


def test_parities_are_those_of_the_fit(tmp_path):
    arrays = {f"{who}_{channel}": np.full(2, value) for value, who in enumerate(("label", "base", "before", "after"))
              for channel in ("energy", "force")}  # fmt: skip
    np.savez(tmp_path / "parity.npz", **arrays, n_forces=6)
    energy, force = parities(tmp_path / "parity.npz")
    for parity in (energy, force):
        assert parity is not None and (parity.before[0], parity.after[0]) == (2, 3)


def test_hulls_by_labels_and_by_the_newest_force_field(tmp_path):
    rounds = fake_rounds(tmp_path)
    data = ReportData("c", ["Li", "S"], "teacher", "", {})
    add_hulls(data, rounds, labelled(rounds))
    assert [atoms.info["id"] for atoms in data.references] == ["i00-r0000", "i00-r0001"]
    assert [find.atoms.info["id"] for find in data.finds] == ["i01-g000-0000"]
    # Iteration 2 is not screened yet, so iteration 1 is the newest with all structures.
    assert data.model_iteration == 1
    assert [find.atoms.info["id"] for find in data.model_finds] == ["i01-g000-0000"]
    parity = data.hull_parity
    assert parity is not None and parity.again_iteration == 2
    np.testing.assert_allclose([parity.label, parity.found, parity.again], [[-1.0], [-0.9], [-0.95]])
    assert hull_parity(data, rounds, labelled(rounds)[:2]) is None
    for atoms in rounds[2].relaxed:
        if atoms.info["id"] == "i00-r0001":
            atoms.info["converged"] = False
    parity = hull_parity(data, rounds, labelled(rounds))
    assert parity is not None and np.isnan(parity.again).all()


@pytest.mark.parametrize(("id", "iteration"), [("i07-g000-0001", 7), ("i123-g012-0457", 123)])
def test_finds_know_their_iteration(id, iteration):
    assert as_find(crystal("Li2S", -2.0, id)).iteration == iteration


def test_losses_of_each_stage(tmp_path):
    _, first, _ = fake_rounds(tmp_path)
    first.stages["screen"].failed = [{"reason": "out of memory", "item": "0000"}]  # type: ignore[attr-defined]
    unfinished = {"reason": "self-consistency not reached: after 60 steps", "item": "0003"}
    label = FakeStage("label", tmp_path / "label", metrics={"label/n_too_close": 2.0}, failed=[unfinished])
    first.stages["label"] = label  # type: ignore[assignment]
    (label.folder / "items/0003").mkdir(parents=True)
    write_json(label.folder / "items/0003/label.json", {"reasons": [unfinished["reason"]]})
    found = {(drop.stage, drop.reason): drop.count for drop in drops(first)}
    assert found == {
        ("generate", "attempt: too close"): 4,
        ("relax", "volume collapsed"): 1,
        ("screen", "duplicate"): 1,
        ("screen", "not converged"): 1,
        ("screen", "out of memory"): 1,
        ("label", "frame: too close"): 2,
        ("label", unfinished["reason"]): 1,
    }


def test_costs_are_those_of_the_items(tmp_path):
    def item(where: str, seconds: float | None, **note: int) -> None:
        folder = tmp_path / where
        folder.mkdir(parents=True)
        if seconds is None:
            (folder / "FAILED").write_text("{}")
        else:
            (folder / "DONE").write_text(json.dumps({"wall_s": seconds}))
            (folder / "label.json").write_text(json.dumps(note))

    campaign = Campaign(tmp_path)
    assert costs(campaign) == [] and label_counts(campaign) == (None, None)
    item("iter-000/0-seed/items/0000", 1800.0, n_computed=3, n_from_cache=1)
    item("iter-001/2-relax/items/0000", 3600.0)
    item("iter-002/2-relax/items/0000", 1800.0)
    item("iter-002/2-relax/items/0001", None)
    found = {cost.stage: (cost.core_hours, cost.n_items, cost.n_failed) for cost in costs(campaign)}
    assert found == {"seed": (0.5, 1, 0), "relax": (1.5, 3, 1)}
    assert label_counts(campaign) == (3, 1)
    item("iter-000/0-seed/items/0001", 60.0)
    assert label_counts(campaign) == (None, None)


def test_origins_are_counted_over_all_iterations(tmp_path):
    rounds = fake_rounds(tmp_path)
    assert origins(rounds) == [], "of a version that did not count"
    proposals = Proposals()
    births = [("evolution", "heredity"), ("evolution", "heredity"), ("evolution", "mutation"), ("random", None)]
    screened = rounds[1].screened
    made = [*screened, crystal("S", 0.0, "i01-g000-0009")]
    for atoms, (generator, operator) in zip(made, births, strict=True):
        atoms.info |= {"generator": generator} | ({"operator": operator} if operator else {})
        proposals.count(atoms, "too close" if atoms is made[-1] else None)
    proposals.count_yields({"random": {"attempts": 5, "rejected": {"too close": 4}}})
    write_json(tmp_path / "proposals.json", proposals.to_json())
    evolution, heredity, mutation, random = origins(rounds)
    assert (evolution.generator, evolution.operator, evolution.n_proposed, evolution.n_sun) == ("evolution", "", 3, 1)
    assert (heredity.operator, heredity.n_valid, heredity.n_sun) == ("heredity", 2, 1)
    assert heredity.mean_e_above_hull == pytest.approx((-0.9 + 0.5) / 2)
    assert (mutation.operator, mutation.n_sun, mutation.mean_e_above_hull) == ("mutation", 0, None), "not converged"
    assert (random.n_attempts, random.lost) == (5, {"too close": 1, "attempt: too close": 4})
    # an iteration that is not screened yet can have no finds, so its proposals do not count
    rounds.append(Round(2, {"generate": rounds[1].stages["generate"]}))
    assert origins(rounds)[0].n_proposed == 3


def described(folder: Path, ids: list[str], framework: np.ndarray, whole: np.ndarray) -> Round:
    folder.mkdir()
    np.savez(folder / "fingerprints.npz", ids=np.array(ids, dtype=str), framework=framework, whole=whole)
    return Round(0, {"describe": FakeStage("describe", folder)})  # type: ignore[dict-item]


def test_map_is_made_once_and_keeps_gaps(tmp_path, monkeypatch):
    calls = []

    def embed(x: np.ndarray, seed: int) -> np.ndarray:
        calls.append(len(x))
        return x[:, :2]

    monkeypatch.setattr(fingerprints, "embed", embed)
    whole = np.arange(12.0).reshape(3, 4)
    first = described(tmp_path / "a", ["i00-r0000", "i00-r0001", "i01-g0"], np.zeros((3, 0)), whole)
    second = described(tmp_path / "b", ["i02-g0"], np.ones((1, 4)), np.ones((1, 4)))
    empty = described(tmp_path / "c", [], np.zeros((0, 0)), np.zeros((0, 0)))
    campaign = Campaign(tmp_path)
    made = embedding(campaign, [first, second, empty])
    assert made is not None and made.ids == ["i00-r0000", "i00-r0001", "i01-g0", "i02-g0"]
    assert np.isnan(made.framework[:3]).all() and made.framework[3].tolist() == [1.0, 1.0]
    assert made.whole[:3].tolist() == whole[:, :2].tolist()
    assert calls == [1, 4]
    again = embedding(campaign, [first, second, empty])
    assert calls == [1, 4] and again is not None
    np.testing.assert_array_equal(again.whole, made.whole)
    changed = described(tmp_path / "d", ["i02-g0"], np.ones((1, 4)), 2 * np.ones((1, 4)))
    embedding(campaign, [first, changed])
    assert calls == [1, 4, 1, 4]
    assert embedding(campaign, [empty]) is None and embedding(campaign, []) is None
    monkeypatch.setattr(report_map, "N_EMBEDDED", 3)
    few = embedding(campaign, [first, second])
    assert few is not None and few.sampled_from == 4 and few.ids[:2] == ["i00-r0000", "i00-r0001"]


def test_nothing_but_gaps():
    assert joined([]).shape == (0, 0)
    assert joined([np.zeros((2, 0))]).shape == (2, 0)
    assert places(np.zeros((2, 0))).shape == (2, 2)
    assert np.isnan(places(np.full((2, 3), np.nan))).all()


def test_motifs_as_cards_files_and_titles(tmp_path):
    catalogue = MotifCatalogue()
    motifs = find_motifs(thiophosphate(), CUTOFFS, "Li")
    catalogue.add(motifs, "i01-g0", 1, 0.02)
    catalogue.add(find_motifs(chain(), CUTOFFS, "Li"), "i00-r0", 0, is_reference=True)
    held = StructureCard(thiophosphate(), "", "", 0.02, 1, False, ["PS4^3-"], "")
    first, second = gallery(catalogue, {"i01-g0": held})
    assert {first.title, second.title} == {"PS4^3-", "S_n chain"}
    ps4 = first if first.title == "PS4^3-" else second
    assert (ps4.charge, ps4.dimensionality, ps4.count, ps4.host, ps4.is_known) == (-3, 0, 1, "i01-g0", False)
    write_motifs(catalogue, tmp_path / "motifs")
    names = sorted(path.suffix for path in (tmp_path / "motifs").iterdir())
    assert names == [".svg", ".svg", ".xyz", ".xyz"]
    assert read(tmp_path / "motifs" / f"{ps4.file_stem}.xyz").symbols.formula.count() == {"P": 1, "S": 4}
    before = {path: path.stat().st_ino for path in (tmp_path / "motifs").iterdir()}
    write_motifs(catalogue, tmp_path / "motifs")
    assert before == {path: path.stat().st_ino for path in (tmp_path / "motifs").iterdir()}
    write_motifs(MotifCatalogue(), tmp_path / "none")
    assert not (tmp_path / "none").exists()
    (tmp_path / "motifs.json").write_text(json.dumps({"i01-g0": [motif.to_json() for motif in motifs], "i01-g1": []}))
    rounds = [Round(1, {"describe": FakeStage("describe", tmp_path)})]  # type: ignore[dict-item]
    for known in (catalogue, MotifCatalogue()):
        assert dict(motif_titles(rounds, known)) == {"i01-g0": ["PS4^3-"], "i01-g1": []}


def test_motif_that_is_renamed_leaves_no_files_of_its_former_name(tmp_path):
    catalogue = MotifCatalogue()
    molecule = Atoms("PS3", [[5, 5, 5], [7, 5, 5], [4, 6.7, 5], [4, 3.3, 5]], cell=[14] * 3, pbc=True)
    for n_ions, name in ((1, "PS3_-_"), (2, "PS3_2-_")):
        host = molecule + Atoms(f"Li{n_ions}", [[10 + k, 11, 11] for k in range(n_ions)])
        catalogue.add(find_motifs(host, CUTOFFS, "Li"), f"i01-g000-{n_ions:04d}", 1, 0.1 / n_ions)
        write_motifs(catalogue, tmp_path)
        (tmp_path / "my_notes.txt").touch()
        found = [path.name for path in tmp_path.iterdir() if path.suffix != ".txt"]
        assert len(found) == 2 and all(file.startswith(name) for file in found)
    assert (tmp_path / "my_notes.txt").exists()


def svg_of(atoms: Atoms) -> tuple[ElementTree.Element, str]:
    (motif,) = find_motifs(atoms, CUTOFFS, "Li")
    text = motif_svg(motif.atoms, motif.net.bonds, motif.title)
    return ElementTree.fromstring(text), text


def test_picture_has_all_atoms_and_bonds():
    root, text = svg_of(thiophosphate())
    tag = "{http://www.w3.org/2000/svg}"
    assert len(list(root.iter(f"{tag}circle"))) == 5 and len(list(root.iter(f"{tag}line"))) == 4
    assert root.get("role") == "img" and root.find(f"{tag}title").text == "PS4^3-"  # type: ignore[union-attr]
    assert sorted(element.text for element in root.iter(f"{tag}text")) == ["P", "S", "S", "S", "S"]
    assert "stroke-dasharray" not in text and "nan" not in text
    circles = np.array([[float(c.get("cx")), float(c.get("cy"))] for c in root.iter(f"{tag}circle")])  # type: ignore[arg-type]
    distances = np.linalg.norm(circles[:, None] - circles, axis=2)[np.triu_indices(5, 1)]
    assert distances.min() > 15  # no atom hides another


def test_picture_shows_that_a_chain_goes_on():
    root, text = svg_of(chain())
    tag = "{http://www.w3.org/2000/svg}"
    assert len(list(root.iter(f"{tag}circle"))) == 4  # two units
    assert text.count("stroke-dasharray") == 2
    width, height = (float(root.get(key)) for key in ("width", "height"))  # type: ignore[arg-type]
    assert width > height


def test_picture_of_odd_motifs():
    lone = Atoms("S", cell=[9, 9, 9], pbc=True)
    assert svg_of(lone)[1].count("<circle") == 1
    big = Atoms("S500", np.random.default_rng(0).normal(scale=9, size=(500, 3)))
    text = motif_svg(big, [(k, k + 1, (0, 0, 0)) for k in range(499)], "<500> & more")
    assert text.count("<circle") == 500 and len(text) < 100_000
    assert ElementTree.fromstring(text).get("aria-label") == "<500> & more"
    sheet = Atoms("P", cell=[2.2, 2.2, 0], pbc=[True, True, False])
    atoms, inner, stubs = repeated(sheet, [(0, 0, (1, 0, 0)), (0, 0, (0, 1, 0))])
    assert len(atoms) == 4 <= MOST_ATOMS and len(inner) == 4 and len(stubs) == 8


@pytest.mark.parametrize("positions", [[[0, 0, 0]], [[0, 0, -1], [0, 0, 1]], [[0, 0, 0], [0, 0, 0]]])
def test_view_axes_are_orthonormal(positions):
    axes = best_axes(np.array(positions, dtype=float))
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-9)
    np.testing.assert_allclose(np.linalg.det(axes), 1.0)
