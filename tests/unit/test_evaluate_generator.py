"""The evaluation of generators without any backend: its stages, its numbers, its files, and what it refuses."""

from __future__ import annotations

import base64
import csv
import gzip
import re
from dataclasses import asdict, replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from chemloop.config import campaign_name, load
from chemloop.physics.displacement import rmsd_to_relaxed
from chemloop.physics.structures import read_structures, set_results, write_structures
from chemloop.report.evaluation import write_evaluation
from chemloop.report.evaluation_data import EvaluationData, EvaluationRow, markdown, table
from chemloop.runtime.campaign import Campaign
from chemloop.runtime.disk import write_json
from chemloop.runtime.errors import CampaignError, ConfigError, ItemFailed, StructureError
from chemloop.stages.evaluation import ANY_SIZE, Judge, RelaxReferences, RelaxSamples, Sample, references_folder
from chemloop.workflow.evaluate_generator import begin, evaluate
from chemloop.workflow.evaluation_summary import read_comparisons, rows_of
from chemloop.workflow.status import stages
from tests.toy_generator import ScriptedGenerator
from tests.unit import explored

OVERRIDES = ("workflow=evaluate_generator", "workflow.n=4", "workflow.n_atoms=[3,4]", "loop.generate.per_item=4")


@pytest.fixture
def started(compose_config, tmp_path):
    """started("key=value", ...) -> campaign and settings of an evaluation whose force field is there."""

    def made(*overrides: str):
        config = compose_config(*OVERRIDES, *overrides)
        campaign = Campaign(tmp_path / "outputs" / "mine")
        begin(campaign, config, {"n": 4, "max_reference_atoms": None})
        folder = campaign.folder / "iter-000" / "prepare"
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "base.json", {"energy_frame": "toy", "checkpoint": None, "notice": None, "batch_size": 8})
        return campaign, load(config)

    return made


def crystal(name: str, id: str, **info) -> Atoms:
    (atoms,) = explored.crystals([name])
    atoms.info = {"id": id, "generator": "random", **info}
    return atoms


def relaxed(atoms: Atoms, energy: float, is_converged: bool = True, role: str = "candidate") -> Atoms:
    """As the relax stage leaves it; energy: eV/atom."""
    copy = set_results(atoms.copy(), "mlff", energy * len(atoms), np.zeros((len(atoms), 3)), np.zeros((3, 3)), "toy")
    copy.info |= {"converged": is_converged, "n_relax_steps": 5, "role": role}
    return copy


def write_references(campaign: Campaign) -> None:
    names = ("mp-51", "mp-157", "mp-77", "mp-1153")
    references = [relaxed(crystal(name, name), -3.0, role="reference") for name in names]
    references_folder(campaign).mkdir(parents=True)
    write_structures(references_folder(campaign) / "output.extxyz", references)


def finish(stage) -> None:
    write_json(stage.folder / "metrics.json", {})
    write_json(stage.folder / "DONE", {"outputs": {}})


def test_displacements_are_those_of_atoms_alone():
    before = bulk("NaCl", "rocksalt", 5.6, cubic=True)
    after = before.copy()
    after.positions += [1.3, 2.6, -4.0]
    after.rotate(40, (1, 1, 0), rotate_cell=True)
    after.set_cell(after.cell.array * 1.1, scale_atoms=True)
    assert rmsd_to_relaxed(before, after) == pytest.approx(0, abs=1e-9)
    after.wrap()
    assert rmsd_to_relaxed(before, after) == pytest.approx(0, abs=1e-9)
    moved = before.copy()
    moved.positions[0] += [0.8, 0, 0]
    assert rmsd_to_relaxed(before, moved) == pytest.approx(np.sqrt((0.7**2 + 7 * 0.1**2) / 8))
    with pytest.raises(ValueError, match="not the same atoms"):
        rmsd_to_relaxed(before, moved[::-1])


def test_the_generator_is_asked_for_each_size(started):
    campaign, settings = started("loop.generate.per_item=3")
    stage = Sample(campaign, settings, 4)
    assert [(item.task["n"], item.task["conditions"]) for item in stage.plan()] == [
        (3, {"energy_above_hull": 0.0, "n_atoms": 4.0}),
        (1, {"energy_above_hull": 0.0, "n_atoms": 4.0}),
    ]
    assert stage.folder == campaign.folder / "atoms-004" / "generate"
    free = Sample(campaign, settings, ANY_SIZE)
    assert sum(item.task["n"] for item in free.plan()) == 8
    assert "n_atoms" not in free.plan()[0].task["conditions"]


def test_another_size_than_asked_for_is_a_fault(started):
    campaign, settings = started()
    proposed = [crystal("mp-1153", ""), crystal("mp-736", ""), crystal("mp-1153", ""), bulk("NaCl", "rocksalt", 5.6)]
    stage = Sample(campaign, replace(settings, generator=ScriptedGenerator(proposed)), 3)
    explored.run(stage)
    finish(stage)
    (row,) = rows_of(campaign, settings, 3)
    assert (row.n_asked, row.n_valid, row.n_duplicates) == (4, 1, 1)
    assert row.faults == {"outside the system": 1, "too many atoms": 1, "duplicate": 1}


def test_what_another_size_proposed_is_no_repetition(started):
    campaign, settings = started("workflow.n=1", "workflow.n_atoms=[3,6]")
    small = crystal("mp-1153", "")
    for n_atoms, atoms in ((3, small), (6, small.repeat((2, 1, 1))), (ANY_SIZE, small)):
        stage = Sample(campaign, replace(settings, generator=ScriptedGenerator([atoms])), n_atoms)
        assert explored.run(stage)["n_valid"] == 1


def judged(campaign, settings, n_atoms: int) -> None:
    """Three valid samples of four that were asked for: a known one, a new low one, one that did not converge."""
    sample, relax, judge = (kind(campaign, settings, n_atoms) for kind in (Sample, RelaxSamples, Judge))
    made = [crystal("mp-1153", "a"), crystal("mp-736", "b"), crystal("mp-985583", "c")]
    settings = replace(settings, generator=ScriptedGenerator(made))
    if n_atoms == ANY_SIZE:
        explored.run(Sample(campaign, settings, ANY_SIZE))
    else:
        write(sample, made)
    energies = ((-3.0, True), (-3.1, True), (-9.0, False))
    ends = [relaxed(atoms, *energy) for atoms, energy in zip(sample.output(), energies, strict=True)]
    ends[1].positions[0] += [0.3, 0, 0]
    write(relax, ends)
    item = relax.plan_item(0)
    write_json(item.folder / "cpu.json", {"cpu_seconds": 30.0})
    explored.run(judge)
    for stage in (sample, relax, judge):
        finish(stage)


def write(stage, structures) -> None:
    stage.folder.mkdir(parents=True)
    write_structures(stage.folder / "output.extxyz", structures)
    rows = [{"generator": "random", "operator": "", "n_proposed": 3, "n_valid": 3, "dropped": {}}]
    content = {"made": rows, "n_attempts": {}, "rejected": {}, "n_missing": 1}
    write_json(stage.folder / "proposals.json", content)


def test_samples_are_judged_as_in_the_loop(started):
    campaign, settings = started()
    write_references(campaign)
    judged(campaign, settings, 3)
    found = {atoms.info["id"]: atoms.info for atoms in Judge(campaign, settings, 3).output()}
    assert found["a"]["e_above_hull"] == pytest.approx(0) and not found["a"]["is_novel"]
    assert found["b"]["e_above_hull"] == pytest.approx(-0.1) and found["b"]["rmsd"] > 0.05
    assert not found["c"]["is_stable"], "it did not converge"
    (row,) = rows_of(campaign, settings, 3)
    assert asdict(row) | {"e_above_hull": None, "rmsd": None} == asdict(
        EvaluationRow("random", "3", 3, 4, 3, 2, 2, 1, 2, 1, 0, {"not generated": 1}, relax_cpu_s=30.0)
    ) | {"e_above_hull": None, "rmsd": None}
    assert row.e_above_hull == pytest.approx([-0.1, -0.075, -0.05, -0.025])
    assert row.sun_per_cpu_minute == 2.0


def test_samples_of_any_size_are_sorted_by_size(started):
    campaign, settings = started("workflow.n_atoms=[3,8]")
    write_references(campaign)
    judged(campaign, settings, ANY_SIZE)
    rows = {row.atoms: row for row in rows_of(campaign, settings, ANY_SIZE)}
    assert list(rows) == ["any", "1-3", "4-8", "9-32"]
    assert (rows["any"].n_asked, rows["any"].n_valid, rows["any"].faults) == (8, 3, {"not generated": 5})
    assert [(row.n_asked, row.n_converged, row.n_sun) for row in rows.values()] == [
        (8, 2, 1), (1, 1, 0), (1, 1, 1), (1, 0, 0),
    ]  # fmt: skip
    assert rows["4-8"].shown("valid") is None, "what was not valid has no size"
    data = EvaluationData("mine", {}, list(rows.values()))
    assert data.line("random", "S.U.N.")[:, 0].tolist() == [3, 8, 32]


def test_sizes_that_are_added_later_ask_for_no_more_samples_of_any_size(started):
    """The stage that all sizes share is finished; before, 8 samples would have been shown as 8 of 12."""
    campaign, settings = started()
    write_references(campaign)
    judged(campaign, settings, ANY_SIZE)
    _, more = started("workflow.n_atoms=[3,4,8]")
    total, *ranges = rows_of(campaign, more, ANY_SIZE)
    assert total.n_asked == 8
    assert [row.atoms for row in ranges] == ["1-3", "5-8", "9-32"]


def test_a_size_at_which_the_generator_fails_is_a_result(started, monkeypatch):
    campaign, settings = started()
    empty = Sample(campaign, replace(settings, generator=ScriptedGenerator([])), 3)
    explored.run(empty)
    finish(empty)
    assert evaluate(campaign, settings, 3) == []
    (row,) = rows_of(campaign, settings, 3)
    assert (row.n_asked, row.n_valid, row.faults) == (4, 0, {"not generated": 4})

    def fail(items, *_):
        for item in items:
            item.fail("no memory for so many atoms")

    monkeypatch.setattr("chemloop.stages.stage.run_to_end", fail)
    (notice,) = evaluate(campaign, settings, 4)
    assert "cells of 4 atoms" in notice and "no memory for so many atoms" in notice
    assert rows_of(campaign, settings, 4)[0].n_valid == 0


def test_a_size_that_a_generator_refuses_ends_no_other(started):
    """A ConfigError ends a campaign, and substitution has one for every size of which it knows no prototype."""
    campaign, settings = started()

    class Refusing(ScriptedGenerator):
        def generate(self, *arguments):
            raise ConfigError("no crystal of 3 to 3 atoms")

    settings = replace(settings, generator=Refusing([]))
    (item,) = Sample(campaign, settings, 3).plan()
    with pytest.raises(ItemFailed, match="no crystal of 3 to 3 atoms"):
        Sample(campaign, settings, 3).run(item)
    item = Sample(campaign, settings, ANY_SIZE).plan()[0]
    with pytest.raises(ConfigError):
        Sample(campaign, settings, ANY_SIZE).run(item)


def row(generator: str = "random", n_atoms: int = 12, **values) -> EvaluationRow:
    given = {
        "n_asked": 20, "n_valid": 18, "n_converged": 16, "n_unique": 15, "n_novel": 14, "n_stable": 4, "n_sun": 3,
        "faults": {"too close": 2}, "e_above_hull": [-0.05, 0.1, 0.2, 0.4], "rmsd": [0.1, 0.4, 0.6, 0.9],
        "generate_cpu_s": 0.5, "relax_cpu_s": 59.5,
    }  # fmt: skip
    return EvaluationRow(generator, str(n_atoms), n_atoms, **given | values)


@pytest.fixture
def data() -> EvaluationData:
    rows = [row(n_atoms=n) for n in (8, 16, 24)] + [row("mattergen", n, n_sun=n // 8) for n in (8, 16, 24)]
    rows.append(EvaluationRow("mattergen", "40", 40, n_asked=20, faults={"not generated": 20}))
    record = {
        "generator": "mattergen", "model": "chgnet", "elements": ["Li", "P", "S"], "energy_frame": "chgnet-0.3.0",
        "stable_below": 0.1, "fmax": 0.1, "max_steps": 150, "e_above_hull": [0.0], "trained_max_atoms": 20, "n": 20,
        "max_reference_atoms": 33,
    }  # fmt: skip
    return EvaluationData("mine", record, rows, ["cells of 40 atoms: none"])


def test_shares_have_intervals():
    assert row().share("valid") == pytest.approx((90.0, 69.9, 97.2), abs=0.1)
    assert row().share("unique")[0] == pytest.approx(100 * 15 / 16)
    assert row(n_duplicates=4).share("unique")[0] == 75.0
    assert row(n_converged=0, n_unique=0).share("unique") is None
    assert row().shown("e_above_hull") == (0.2, 0.1, 0.4)
    assert row().shown("cpu") == (3.0, 3.0, 3.0)
    assert (
        row(e_above_hull=[]).shown("e_above_hull") is None and row(relax_cpu_s=0, generate_cpu_s=0).shown("cpu") is None
    )


def test_figures_are_files_that_need_no_network(data, tmp_path):
    write_evaluation(data, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "evaluation.html", "evaluation.md", "evaluation.png", "evaluation.svg",
    ]  # fmt: skip
    page = (tmp_path / "evaluation.html").read_text()
    packed = re.search(r'id="figures">([^<]*)<', page)
    assert packed is not None
    page += gzip.decompress(base64.b64decode(packed[1])).decode()
    for text in ("Energy above hull (eV/atom)", "RMSD to relaxed", "S.U.N. (% of asked)", "cells of 40 atoms: none",
                 "beyond the 20 atoms", "of up to 33 atoms", "not generated", "not by DFT"):  # fmt: skip
        assert text in page
    assert "<script src" not in page and "<link" not in page
    assert (tmp_path / "evaluation.png").read_bytes().startswith(b"\x89PNG")


def test_tables_hold_every_row_with_units(data):
    lines = list(csv.DictReader(table(data.rows).splitlines()))
    assert len(lines) == 7 and lines[0]["e_above_hull_median_ev_per_atom"] == "0.2"
    assert lines[0]["n_dropped_too_close"] == "2" and lines[-1]["n_dropped_not_generated"] == "20"
    assert lines[-1]["rmsd_median_ang"] == "" and lines[0]["sun_per_cpu_minute"] == "3.0"
    shown = markdown(data.rows).splitlines()
    assert len({len(line) for line in shown}) == 1 and len(shown) == 9


def test_evaluations_side_by_side(started, data, tmp_path):
    campaign, settings = started()
    record = {"generator": "random", "elements": ["Li", "P", "S"], "energy_frame": "toy", "stable_below": 0.1,
              "max_reference_atoms": None, "fmax": 0.1, "max_steps": 150, "rows": [asdict(row())]}  # fmt: skip
    outputs = tmp_path / "outputs"
    for name, changed in (("one", {}), ("two", {"generator": "mix"}), ("other", {"energy_frame": "x", "fmax": 0.05})):
        (outputs / name).mkdir()
        write_json(outputs / name / "evaluation.json", record | changed)
    found = read_comparisons(["one", "two"], outputs, campaign, settings)
    assert [(row.generator, row.n_sun) for row in found] == [("one", 3), ("mix", 3)], "random is this one's own"
    with pytest.raises(ConfigError, match="other, which was evaluated with energy_frame x instead of toy; fmax 0.05"):
        read_comparisons(["other"], outputs, campaign, settings)
    with pytest.raises(ConfigError, match="nowhere: no finished evaluation in .*; there are one, other, two"):
        read_comparisons(["nowhere"], outputs, campaign, settings)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("workflow.n_atoms=[]", r"workflow.n_atoms = \[\]: must be one number of atoms or more"),
        ("workflow.n_atoms=[8,0]", r"workflow.n_atoms = \[8, 0\]"),
        ("workflow.n=0", "workflow.n = 0: must be 1 or above"),
        ("workflow.trained_max_atoms=0", "workflow.trained_max_atoms = 0: must be 1 or above, or null"),
        ("workflow.max_reference_atoms=-1", "workflow.max_reference_atoms = -1"),
    ],
)
def test_bad_settings_are_refused(compose_config, override, message):
    with pytest.raises(ConfigError, match=message):
        load(compose_config("workflow=evaluate_generator", override))


def test_status_shows_every_size(started):
    campaign, settings = started("loop.generate.per_item=2")
    Sample(campaign, settings, 4).plan()
    RelaxReferences(campaign, settings, ANY_SIZE).plan()
    shown = {standing.name.strip(): standing.items for standing in stages(campaign.folder)}
    assert shown == {"references relax": 10, "atoms-004 generate": 2}


def test_folders_that_are_something_else(started, compose_config, tmp_path):
    campaign, settings = started()
    assert campaign_name(None, settings) == "li-p-s_random_chgnet_evaluation_s0"
    config = compose_config(*OVERRIDES)
    with pytest.raises(CampaignError, match=r"other settings; changed: workflow.n: 4 -> 5\. .*campaign=NAME"):
        begin(campaign, config, {"n": 5, "max_reference_atoms": None})
    with pytest.raises(CampaignError, match="changed: generator.max_atoms: 12 -> 20"):
        begin(campaign, compose_config(*OVERRIDES, "generator.max_atoms=20"), {"n": 4, "max_reference_atoms": None})
    begin(campaign, compose_config(*OVERRIDES, "workflow.n_atoms=[3,4,9]"), {"n": 4, "max_reference_atoms": None})
    other = Campaign(tmp_path / "outputs" / "campaign")
    other.begin(compose_config())
    with pytest.raises(CampaignError, match="is a campaign, an evaluation needs a folder of its own"):
        begin(other, config, {"n": 4, "max_reference_atoms": None})


def test_references_are_those_of_the_workflow(started):
    campaign, settings = started("workflow.max_reference_atoms=2", "loop.relax.per_item=50")
    (item,) = RelaxReferences(campaign, settings, ANY_SIZE).plan()
    planned = read_structures(item.folder / "input.extxyz")
    assert {atoms.info["role"] for atoms in planned} == {"reference"} and len(planned) < 15
    assert {"Li", "P", "S"} <= {symbol for atoms in planned for symbol in atoms.symbols}
    write_structures(item.folder / "output.extxyz", [relaxed(crystal("mp-51", "a"), -3.0, role="reference")])
    with pytest.raises(StructureError, match="no reference of P converged with the current force field"):
        RelaxReferences(campaign, settings, ANY_SIZE).collect([item])


def test_samples_race_against_the_references_of_all_sizes(started):
    campaign, settings = started("loop.relax.coarse.max_steps=20", "loop.relax.coarse.stop_above=0.5")
    write_references(campaign)
    known = RelaxSamples(campaign, settings, 3)._known
    assert known is not None and len(known.output()) == 4
    settings.loop.relax.coarse.stop_above = None
    assert RelaxSamples(campaign, settings, 3)._known is None
