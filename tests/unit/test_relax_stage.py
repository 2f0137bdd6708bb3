"""The relax stage: what is known comes first, is relaxed once for a force field, and whom a coarse part gives up."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.lj import LennardJones
from ase.io import write

from chemloop import physics
from chemloop.config import load
from chemloop.physics.structures import read_structures, write_structures
from chemloop.runtime.campaign import Campaign
from chemloop.runtime.disk import read_json, write_json
from chemloop.runtime.errors import ConfigError, StageFailed
from chemloop.runtime.ledger import Ledger
from chemloop.runtime.submit import is_settled
from chemloop.stages import crystal_keys
from chemloop.stages.achieved import relaxing_seconds
from chemloop.stages.crystal_keys import write_keys
from chemloop.stages.known import known_folder, known_structures
from chemloop.stages.prepare import Prepare
from chemloop.stages.relax import CoarseSettings, Known, Relax, RelaxSettings
from chemloop.stages.stage import current_model, stage_folder
from tests.unit.explored import run

SIGMA = 2.4
LJ = {"_target_": "ase.calculators.lj.LennardJones", "sigma": SIGMA, "epsilon": 0.3, "rc": 6.0}
COARSE = ("loop.relax.coarse.max_steps=4", "loop.relax.coarse.fmax=0.5")


class Fussy(LennardJones):
    """Fails for the first of the candidates, or for another formula."""

    def __init__(self, formula: str = "LiS2Li", **keywords):
        super().__init__(**keywords)
        self.formula = formula

    def calculate(self, atoms=None, *arguments, **keywords):
        if atoms.symbols.get_chemical_formula("reduce") == self.formula:
            raise RuntimeError("does not converge")
        super().calculate(atoms, *arguments, **keywords)


def candidates(n: int = 3) -> list[Atoms]:
    """One that is as close packed as the elements and so near the hull, and simple cubic ones, far above it."""
    found = [bulk("Li", "fcc", a=3.9, cubic=True)]
    found[0].symbols[[1, 2]] = "S"
    found += [bulk("LiS", "rocksalt", a=5.2).repeat((2, 1, 1)) for _ in range(n - 1)]
    for number, atoms in enumerate(found):
        atoms.rattle(0.05, seed=number)
        atoms.info["id"] = f"i01-g000-{number:04d}"
    return found


@pytest.fixture
def begin(tmp_path, compose_config):
    """begin("loop.relax.fmax=0.1", ...) -> a campaign with a Lennard-Jones model whose iteration 1 has candidates."""

    def begun(*overrides: str, structures=None, calculator=LJ) -> Campaign:
        known = [bulk(element, "fcc", a=3.9) for element in ("Li", "P", "S")]
        write(tmp_path / "known.extxyz", known)
        reference = f"system.reference={tmp_path / 'known.extxyz'}"
        config = compose_config("model=ase", reference, "loop.relax.per_item=2", *overrides)
        config["model"]["calculator"] = calculator
        if config["loop"]["relax"]["coarse"]["model"] is not None:
            config["loop"]["relax"]["coarse"]["model"]["calculator"] = LJ | {"sigma": 1.05 * SIGMA}
        campaign = Campaign(tmp_path / "c")
        campaign.begin(config)
        run(Prepare(campaign, load(config), 0))
        generated(campaign, 1, structures or candidates())
        return campaign

    return begun


def generated(campaign: Campaign, iteration: int, structures: list[Atoms]) -> None:
    folder = stage_folder(campaign, iteration, "generate")
    folder.mkdir(parents=True)
    write_structures(folder / "output.extxyz", structures)


def relaxed(campaign: Campaign, iteration: int = 1) -> tuple[dict[str, float], dict[str, Atoms]]:
    settings = load(campaign.config())
    if settings.loop.relax.coarse.is_race:
        run(Known(campaign, settings, iteration))
    stage = Relax(campaign, settings, iteration)
    metrics = run(stage)
    return metrics, {atoms.info["id"]: atoms for atoms in stage.output()}


def in_this_process(stage: Relax | Known, failing: str | None = None) -> Callable[..., None]:
    """In the place of workers: runs what is not settled; an item with the structure of that id fails."""

    def run_items(items, *_):
        for item in (item for item in items if not is_settled(item)):
            if failing in {atoms.info["id"] for atoms in read_structures(item.folder / "input.extxyz")}:
                item.fail("its worker ended 3 times without a result")
            else:
                item.finish(stage.run(item), 0.0)

    return run_items


@pytest.mark.parametrize("is_race", [True, False])
def test_a_hull_that_lacks_what_is_known_stops_the_campaign(begin, monkeypatch, is_race):
    overrides = (*COARSE, "loop.relax.coarse.stop_above=9") if is_race else ()
    campaign = begin("loop.relax.per_item=1", "loop.max_failed_fraction=0.9", *overrides)
    settings = load(campaign.config())
    stage = (Known if is_race else Relax)(campaign, settings, 1)
    (lost,) = [atoms.info["id"] for atoms in known_structures(stage)[0] if atoms.symbols[0] == "P"]
    monkeypatch.setattr("chemloop.stages.stage.run_to_end", in_this_process(stage, lost))
    n_items, number = (3, 1) if is_race else (6, 4)
    folder = stage.folder / f"items/{number:04d}"
    message = (
        rf"1 of {n_items} items of {stage.folder} failed, and without them the hull would lack {lost};"
        rf" the first: its worker ended 3 times without a result \(log: {folder}/log\.out\)\. To try them again, delete"
        " their FAILED files and run the same command"
    )
    with pytest.raises(StageFailed, match=message):
        stage.ensure()
    assert not stage.is_done
    monkeypatch.setattr("chemloop.stages.stage.run_to_end", in_this_process(stage))
    with pytest.raises(StageFailed, match=lost):
        stage.ensure()
    (folder / "FAILED").unlink()
    stage.ensure()
    assert stage.is_done and lost in {atoms.info["id"] for atoms in stage.output()}


def test_candidates_may_fail_and_so_may_the_relaxation_of_what_is_known(begin, monkeypatch):
    """A reference that does not converge, or that the force field cannot compute, is there and says so."""
    fussy = LJ | {"_target_": f"{__name__}.Fussy", "formula": "P"}
    campaign = begin("loop.relax.max_steps=1", "loop.relax.per_item=1", calculator=fussy)
    stage = Relax(campaign, load(campaign.config()), 1)
    monkeypatch.setattr("chemloop.stages.stage.run_to_end", in_this_process(stage, "i01-g000-0001"))
    stage.ensure()
    known = [atoms for atoms in stage.output() if atoms.info["role"] == "reference"]
    assert len(known) == 3 and not any(atoms.info["converged"] for atoms in known if atoms.symbols[0] == "P")
    assert stage.metrics["relax/n_relaxed"] == 2 and len(stage.failures()) == 1


def test_the_same_force_field_relaxes_what_is_known_once(begin):
    campaign = begin()
    first, before = relaxed(campaign)
    assert (first["n_references"], first["n_carried"]) == (3, 0)
    screened = [atoms for atoms in before.values() if atoms.info["role"] == "candidate"]
    flags = {"e_above_hull": 0.1, "is_stable": True, "is_unique": True, "is_novel": True, "spacegroup": "P1"}
    for atoms in screened[:2]:
        atoms.info |= flags
    folder = stage_folder(campaign, 1, "screen")
    folder.mkdir()
    write_structures(folder / "output.extxyz", screened[:2])
    generated(campaign, 2, [])
    second, after = relaxed(campaign, 2)
    assert (second["n_references"], second["n_finds"], second["n_carried"]) == (3, 2, 5)
    assert not (stage_folder(campaign, 2, "relax") / "items").exists(), "there was nothing to relax"
    for id, atoms in after.items():
        np.testing.assert_array_equal(atoms.positions, before[id].positions)
        assert atoms.info["mlff_energy"] == before[id].info["mlff_energy"]
        assert not {"e_above_hull", "is_stable", "spacegroup"} & atoms.info.keys()


def test_another_force_field_relaxes_what_is_known_again(begin):
    campaign = begin()
    relaxed(campaign)
    path = stage_folder(campaign, 1, "relax") / "output.extxyz"
    structures = read_structures(path)
    for atoms in structures:
        atoms.info["energy_frame"] = "before fine-tuning"
    write_structures(path, structures)
    generated(campaign, 2, [])
    second, _ = relaxed(campaign, 2)
    assert (second["n_references"], second["n_carried"]) == (3, 0)


def test_a_race_needs_the_hull_first_and_gives_some_up(begin):
    campaign = begin(*COARSE, "loop.relax.coarse.stop_above=0.1")
    metrics, found = relaxed(campaign)
    given_up = {id for id, atoms in found.items() if atoms.info.get("dropped", "").startswith("hopeless: ")}
    assert 0 < len(given_up) == metrics["n_dropped_hopeless"] < 3
    assert metrics["n_relaxed"] == 3 and metrics["n_kept"] == metrics["n_converged"] == 3 - len(given_up)
    for id, atoms in found.items():
        assert atoms.info["converged"] is (id not in given_up)
        if atoms.info["role"] == "candidate":
            assert bool(atoms.info["n_relax_steps"] <= 4) is (id in given_up)
    assert (campaign.iteration(1) / "known" / "output.extxyz").exists()
    inputs = sorted(stage_folder(campaign, 1, "relax").glob("items/*/input.extxyz"))
    assert all(atoms.info["role"] == "candidate" for path in inputs for atoms in read_structures(path))


def test_another_force_field_may_begin(begin):
    """Its energies go nowhere: what counts is the current one's at the end of the coarse part."""
    campaign = begin(*COARSE, "loop.relax.coarse.stop_above=9", "+model@loop.relax.coarse.model=ase")
    metrics, found = relaxed(campaign)
    assert metrics["n_converged"] == 3
    assert len({atoms.info["energy_frame"] for atoms in found.values()}) == 1


def test_the_current_force_field_rejects_what_it_cannot_compute_after_another_one(begin):
    fussy = LJ | {"_target_": f"{__name__}.Fussy"}
    overrides = *COARSE, "loop.relax.coarse.stop_above=9", "+model@loop.relax.coarse.model=ase"
    campaign = begin(*overrides, calculator=fussy)
    metrics, found = relaxed(campaign)
    assert metrics["n_dropped_failed"] == 1 and metrics["n_converged"] == 2
    failed = found["i01-g000-0000"]
    assert failed.info["dropped"].startswith("failed: ") and "does not converge" in failed.info["dropped"]
    assert failed.info["converged"] is False and "mlff_energy" not in failed.info


def test_the_parts_have_their_own_time(begin):
    campaign = begin(*COARSE, "loop.relax.coarse.stop_above=0.1")
    _, found = relaxed(campaign)
    for atoms in (atoms for atoms in found.values() if atoms.info["role"] == "candidate"):
        assert atoms.info["n_coarse_steps"] <= 4
        is_finished = atoms.info["n_relax_steps"] > atoms.info["n_coarse_steps"]
        assert bool(is_finished) is ("dropped" not in atoms.info)
    costs = [read_json(path) for path in sorted(campaign.folder.glob("iter-001/*-relax/items/*/costs.json"))]
    assert costs and all(cost["coarse"] > 0 for cost in costs) and any(cost["fine"] > 0 for cost in costs)


def test_who_is_given_up_pays_for_the_coarse_part_alone(tmp_path):
    """A step of the fine part may cost several of the coarse one."""
    made = []
    for name, n_coarse, n_steps, dropped in (("a", 9, 9, "hopeless: 1 eV"), ("b", 9, 28, None), ("c", 19, 19, None)):
        made.append(Atoms("Li", cell=[3] * 3, pbc=True, info={"generator": name, "role": "candidate"}))
        made[-1].info |= {"n_coarse_steps": n_coarse, "n_relax_steps": n_steps}
        made[-1].info |= {} if dropped is None else {"dropped": dropped}
    item = tmp_path / "items/0000"
    item.mkdir(parents=True)
    write_structures(item / "output.extxyz", made)
    write_json(item / "costs.json", {"coarse": 4.0, "fine": 84.0})
    write_json(item / "DONE", {"wall_s": 500.0})
    assert relaxing_seconds(tmp_path) == {"a": 1.0, "b": 81.0, "c": 6.0}


def test_a_twin_is_given_up_early(begin):
    structures = candidates(1) * 2
    structures[1] = structures[1].copy()
    structures[1].info["id"] = "i01-g000-0001"
    structures[1].rattle(0.001, seed=9)
    metrics, found = relaxed(begin(*COARSE, "loop.relax.coarse.stop_known=true", structures=structures))
    assert metrics["n_dropped_known_early"] == 1
    (given_up,) = [atoms for atoms in found.values() if "dropped" in atoms.info]
    other = {"i01-g000-0000": "i01-g000-0001", "i01-g000-0001": "i01-g000-0000"}[given_up.info["id"]]
    assert given_up.info["dropped"] == f"known early: equals {other}"


def test_the_twin_of_a_hopeless_one_is_relaxed(begin):
    """Volumes are made equal where structures are compared, so one far too wide equals a good one."""
    near = candidates(1)[0]
    wide = near.copy()
    wide.set_cell(wide.cell * 1.4, scale_atoms=True)
    near.info["id"] = "i01-g000-0001"
    overrides = "loop.relax.coarse.max_steps=1", "loop.relax.coarse.stop_above=0.1", "loop.relax.coarse.stop_known=true"
    metrics, found = relaxed(begin(*overrides, structures=[wide, near]))
    assert found["i01-g000-0000"].info["dropped"].startswith("hopeless: ")
    assert metrics["n_kept"] == 1 and "dropped" not in found["i01-g000-0001"].info


@pytest.mark.parametrize("is_converged", [True, False])
def test_only_what_was_relaxed_to_the_end_is_known_early(begin, is_converged):
    campaign = begin(*COARSE, "loop.relax.coarse.stop_known=true", structures=candidates(1))
    _, found = relaxed(campaign)
    screened = stage_folder(campaign, 1, "screen")
    screened.mkdir()
    flags = {"e_above_hull": 0.5, "is_stable": False, "is_unique": True, "is_novel": True, "converged": is_converged}
    found["i01-g000-0000"].info |= flags
    write_structures(screened / "output.extxyz", [found["i01-g000-0000"]])
    again = candidates(1)
    again[0].info["id"] = "i02-g000-0000"
    generated(campaign, 2, again)
    metrics, _ = relaxed(campaign, 2)
    assert metrics.get("n_dropped_known_early", 0) == is_converged


def test_a_worker_reads_once_what_its_items_race_against(begin, monkeypatch):
    campaign = begin(*COARSE, "loop.relax.per_item=1", "loop.relax.coarse.stop_known=true", structures=candidates(1))
    before = relaxed(campaign)[1]["i01-g000-0000"]
    before.info |= {"e_above_hull": 0.5, "is_stable": False, "is_unique": True, "is_novel": True, "converged": True}
    again = [candidates(1)[0], candidates(1)[0]]
    for number, atoms in enumerate(again):
        atoms.info["id"] = f"i02-g000-{number:04d}"
    generated(campaign, 2, again)
    stage = Relax(campaign, load(campaign.config()), 2)
    run(Known(campaign, stage.settings, 2))
    screened, known = stage_folder(campaign, 1, "screen") / "output.extxyz", known_folder(campaign, 2) / "output.extxyz"
    screened.parent.mkdir()

    def leave(structures: list[Atoms]) -> None:
        matcher = stage.settings.loop.screen.matcher
        write_structures(screened, structures)
        write_keys(screened.parent / "keys.jsonl", matcher.keys(structures), matcher.bond_cutoffs, screened)

    def dropped() -> list[str | None]:
        items = stage.plan()
        read.clear()
        for item in items:
            stage.run(item)
        return [read_structures(item.folder / "output.extxyz")[0].info.get("dropped") for item in items]

    read: list[str] = []
    noted(monkeypatch, crystal_keys, "read_keys", read)
    noted(monkeypatch, physics.structures, "parse_structures", read)
    leave([before])
    assert dropped() == ["known early: equals a known structure"] * 2
    assert sum("keys.jsonl" in path for path in read) == sum(str(known) in path for path in read) == 1
    leave([])
    assert dropped() == [None, None], "what is written anew is read anew"
    write_structures(known, [*read_structures(known), before])
    assert dropped() == ["known early: equals a known structure"] * 2


def noted(monkeypatch, module, name: str, calls: list[str]) -> None:
    """Have a function write its arguments down."""
    function = getattr(module, name)

    def wrapped(*arguments):
        calls.append(str(arguments))
        return function(*arguments)

    monkeypatch.setattr(module, name, wrapped)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_steps": -1}, r"loop\.relax\.coarse\.max_steps = -1: must be 0 \(no such part\) or above"),
        ({"max_steps": 5, "fmax": 0.0}, r"loop\.relax\.coarse\.fmax = 0: must be above 0"),
        ({"max_steps": 5, "stop_above": -0.1}, r"loop\.relax\.coarse\.stop_above = -0\.1: must be above 0"),
        (
            {"stop_above": 0.1},
            r"coarse\.stop_above is set, but loop\.relax\.coarse\.max_steps = 0 leaves no coarse part",
        ),
        (
            {"stop_known": True},
            r"coarse\.stop_known is set, but loop\.relax\.coarse\.max_steps = 0 leaves no coarse part",
        ),
        ({"max_steps": 5, "model": {"checkpoint": "x"}}, r"loop\.relax\.coarse\.model must name its component"),
        (
            {"max_steps": 5, "model": {"_target_": "chemloop.model.chgnet.CHGNetForceField", "python": "/opt/python"}},
            r"loop\.relax\.coarse\.model\.python = /opt/python: .* set model\.python",
        ),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(ConfigError, match=message):
        CoarseSettings(**settings)


def test_torchsim_keeps_no_symmetry():
    with pytest.raises(ConfigError, match=r"coarse\.symprec = 0\.1: only loop\.relax\.engine = ase keeps symmetry"):
        RelaxSettings(engine="torchsim", coarse=CoarseSettings(max_steps=5, symprec=0.1))


@pytest.mark.parametrize("give_up", ["stop_above=0.1", "stop_known=true"])
def test_energies_of_a_coarse_force_field_do_not_reach_the_ledger(begin, give_up):
    """Its energies have no level of theory, so those of two such force fields would mix."""
    near, far = candidates(2)
    twin = far.copy()
    twin.info["id"] = "i01-g000-0002"
    campaign = begin(
        *COARSE, f"loop.relax.coarse.{give_up}", "+model@loop.relax.coarse.model=ase", structures=[far, twin, near]
    )
    stage = Relax(campaign, load(campaign.config()), 1)
    relaxed(campaign)
    stage.record_in(Ledger(campaign.ledger))
    rows = {row["structure_id"]: row for row in Ledger(campaign.ledger).rows()}
    (frame,) = {row["mlff_frame"] for row in rows.values() if "mlff_frame" in row}
    assert frame == current_model(stage)[1]
    given_up = rows["i01-g000-0002"]
    assert given_up["dropped"].startswith("hopeless" if give_up == "stop_above=0.1" else "known early")
    assert given_up["converged"] is False
    if give_up == "stop_known=true":
        assert "mlff_energy" not in given_up
    else:
        (atoms,) = [atoms for atoms in stage.output() if atoms.info["id"] == given_up["structure_id"]]
        atoms.calc = LennardJones(sigma=SIGMA, epsilon=0.3, rc=6.0)
        assert given_up["mlff_energy"] == pytest.approx(atoms.get_potential_energy(), rel=1e-6)
