"""The generate stage: what it keeps of proposals, what it counts, what it refuses, and which checkpoint it uses."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from chemloop.config import load
from chemloop.runtime.campaign import Campaign
from chemloop.runtime.disk import read_json, write_json
from chemloop.runtime.errors import ConfigError, ItemFailed
from chemloop.stages.generate import Generate, GenerateSettings
from chemloop.stages.proposals import Proposals, read_proposals
from tests.toy_generator import ScriptedGenerator
from tests.unit import explored


def crystal(name: str = "mp-1153", scale: float = 1.0, **info) -> Atoms:
    """Li2S or another reference, larger or smaller, with nothing but this info."""
    (atoms,) = explored.crystals([name])
    atoms.info = info
    atoms.set_cell(atoms.cell * scale, scale_atoms=True)
    return atoms


@pytest.fixture
def stage(compose_config, tmp_path):
    """stage(structures, "loop.generate.n=3", ...) -> a generate stage whose generator proposes these structures."""

    numbers = count()

    def made(structures, *overrides, counts=None) -> Generate:
        n = len(structures)
        config = compose_config(f"loop.generate.n={n}", f"loop.generate.per_item={n}", "selector@candidates=random",
                                *overrides)  # fmt: skip
        campaign = Campaign(tmp_path / f"campaign-{next(numbers)}")
        campaign.begin(config)
        settings = replace(load(config), generator=ScriptedGenerator(structures, counts=counts))
        return Generate(campaign, settings, 1)

    return made


def test_what_is_known_of_a_birth_is_kept_and_nothing_else(stage):
    parents = "i01-g000-0001 i00-r0003"
    made = crystal(operator="heredity", parents=parents, e_above_hull="nonsense", converged=True, mlff_energy=None)
    made.arrays["label_forces"] = np.ones((len(made), 3))
    stage = stage([made, crystal("mp-736", generator="evolution")])
    explored.run(stage)
    first, second = stage.output()
    assert first.info == {"id": "i01-g000-0000", "generator": "random", "operator": "heredity", "parents": parents}
    assert second.info == {"id": "i01-g000-0001", "generator": "evolution"}
    assert set(first.arrays) == {"numbers", "positions"}


@pytest.mark.parametrize("is_mix", [False, True])
def test_what_the_generator_warns_of_is_a_notice(stage, is_mix):
    counts = {"attempts": 1, "rejected": {}, "warnings": ["n_atoms = 40 asked for: seen up to 20"]}
    if is_mix:
        quiet = {"attempts": 1, "rejected": {}}
        counts = {"attempts": 2, "rejected": {}, "by_generator": {"mattergen": counts, "random": quiet}}
    stage = stage([crystal(), crystal("mp-736")], "loop.generate.per_item=1", counts=counts)
    explored.run(stage)
    name = "mattergen" if is_mix else "random"
    assert stage.notice == f"{name}: n_atoms = 40 asked for: seen up to 20"


def test_without_warnings_there_is_no_notice(stage):
    stage = stage([crystal()], counts={"attempts": 1, "rejected": {}})
    explored.run(stage)
    assert stage.notice is None


def test_every_rejection_is_counted_by_reason_and_generator(stage):
    flat = crystal()
    flat.positions[0] = np.nan
    proposed = [
        crystal(operator="a"),
        crystal(operator="b", scale=1.01),
        crystal(operator="b", scale=0.5),
        bulk("NaCl", "rocksalt", 5.64),
        flat,
        crystal("mp-736", generator="other"),
    ]
    counts = {"attempts": 9, "rejected": {"too close": 3}, "cpu_seconds": 1.0}
    stage = stage(proposed, "loop.generate.n=8", "loop.generate.per_item=8", counts=counts)
    metrics = explored.run(stage)
    assert metrics == {
        "n_asked": 8, "n_valid": 2, "n_generated": 6, "n_attempts": 9, "n_rejected_too_close": 3,
        "n_dropped_duplicate": 1, "n_dropped_volume_too_small": 1, "n_dropped_outside_the_system": 1,
        "n_dropped_invalid_geometry": 1,
        "random/n_generated": 5, "random/n_attempts": 9, "random/n_valid": 1, "random/n_rejected_too_close": 3,
        "random/n_dropped_duplicate": 1, "random/n_dropped_volume_too_small": 1,
        "random/n_dropped_outside_the_system": 1, "random/n_dropped_invalid_geometry": 1,
        "other/n_generated": 1, "other/n_valid": 1,
    }  # fmt: skip
    assert [atoms.info["id"] for atoms in stage.output()] == ["i01-g000-0000", "i01-g000-0005"]
    proposals = read_proposals(stage.folder)
    assert proposals.n_missing == 2
    assert {key: (row.n_proposed, row.n_valid) for key, row in proposals.made.items()} == {
        ("random", ""): (2, 0), ("random", "a"): (1, 1), ("random", "b"): (2, 0), ("other", ""): (1, 1),
    }  # fmt: skip


def test_duplicates_are_found_across_items(stage):
    stage = stage([crystal(), crystal("mp-736"), crystal(scale=1.02), crystal()], "loop.generate.per_item=1")
    stage.folder.mkdir(parents=True)
    items = stage.plan()
    for item in items:
        item.finish(stage.run(item), 0.0)
    assert stage.collect(items)["n_dropped_duplicate"] == 2
    assert [atoms.info["id"] for atoms in stage.output()] == ["i01-g000-0000", "i01-g001-0000"]
    assert stage.folder / "proposals.json" in stage.final_files()


def following(stage: Generate, structures) -> Generate:
    """The same stage of the next iteration, whose generator proposes these structures."""
    settings = replace(stage.settings, generator=ScriptedGenerator(structures))
    return replace(stage, settings=settings, iteration=stage.iteration + 1)


def test_what_an_earlier_iteration_proposed_is_dropped(stage):
    first = stage([crystal(), crystal("mp-736"), crystal("mp-736")])
    assert "n_dropped_proposed_before" not in explored.run(first)
    second = following(first, [crystal(), crystal("mp-157"), crystal(generator="other", scale=1.01)])
    metrics = explored.run(second)
    assert metrics["n_valid"] == 1 and metrics["n_generated"] == 3
    assert metrics["n_dropped_proposed_before"] == 2 and "n_dropped_duplicate" not in metrics
    assert metrics["random/n_dropped_proposed_before"] == metrics["other/n_dropped_proposed_before"] == 1
    assert metrics["random/n_valid"] == 1 and metrics["other/n_valid"] == 0
    assert [atoms.info["id"] for atoms in second.output()] == ["i02-g000-0001"]

    third = following(second, [crystal("mp-157"), crystal(), crystal("mp-985583")])
    assert explored.run(third)["n_dropped_proposed_before"] == 2
    assert [atoms.info["id"] for atoms in third.output()] == ["i03-g000-0002"]
    before = {path.name: path.read_bytes() for path in second.final_files() if path.exists()}
    assert second.collect(second.plan()) == metrics
    assert {name: (second.folder / name).read_bytes() for name in before} == before and "keys.jsonl" in before


def test_an_iteration_may_propose_nothing_new(stage):
    first = stage([crystal(), crystal("mp-736")])
    explored.run(first)
    second = following(first, [crystal("mp-736"), crystal()])
    assert explored.run(second)["n_valid"] == 0 and second.output() == []
    third = following(second, [crystal(), crystal("mp-157")])
    assert explored.run(third)["n_dropped_proposed_before"] == 1


def test_an_iteration_without_keys_was_still_proposed(stage, capsys):
    first = stage([crystal(), crystal("mp-736")])
    explored.run(first)
    (first.folder / "keys.jsonl").unlink()
    second = following(first, [crystal("mp-736"), crystal("mp-157")])
    assert explored.run(second)["n_dropped_proposed_before"] == 1
    assert "Finding crystal keys anew" in capsys.readouterr().out


def test_several_generators_report_each_for_itself(stage):
    counts = {
        "attempts": 5, "rejected": {"too close": 1, "member failed": 2}, "cpu_seconds": 2.0,
        "by_generator": {
            "random": {"attempts": 3, "rejected": {"too close": 1}, "cpu_seconds": 1.5},
            "evolution": {"attempts": 2, "rejected": {"member failed": 2}, "cpu_seconds": 0.5},
        },
    }  # fmt: skip
    metrics = explored.run(stage([crystal(generator="random")], "generator=random", counts=counts))
    assert metrics["n_attempts"] == 5 and metrics["n_rejected_member_failed"] == 2
    assert metrics["random/n_attempts"] == 3 and metrics["evolution/n_rejected_member_failed"] == 2
    assert metrics["evolution/n_valid"] == 0


@pytest.mark.parametrize(("limit", "fails"), [(0.5, True), (0.7, False)])
def test_leaving_the_system_too_often(stage, limit, fails):
    proposed = [bulk("NaCl", "rocksalt", 5.64), bulk("MgO", "rocksalt", 4.2), crystal()]
    stage = stage(proposed, f"loop.generate.max_outside={limit}")
    if not fails:
        assert explored.run(stage)["n_dropped_outside_the_system"] == 2
        return
    with pytest.raises(
        ItemFailed, match=r"2 of 3 structures by generator random have elements other than Li, P, S;.*0\.5"
    ):
        explored.run(stage)


LI3PS4 = "mp-985583"
RULES = "system.topology={coordination:{P:[4]}}"


def test_topology_is_kept(stage):
    made = [crystal(LI3PS4), crystal("mp-157")]
    assert explored.run(stage(made, RULES))["n_valid"] == 2
    metrics = explored.run(stage(made, RULES, "loop.generate.topology=keep"))
    assert metrics["n_valid"] == 1
    assert metrics["n_dropped_topology_P_with_3_neighbours"] == 1


def test_topology_is_enforced_by_asking_again(stage, tmp_path):
    others = [crystal("mp-157", scale=1 + k / 1000) for k in range(4)]
    scripted = [others[0], crystal(LI3PS4), others[1], crystal("mp-1153"), others[2]]
    stage = stage(
        scripted, RULES, "loop.generate.topology=enforce", "loop.generate.n=2", "loop.generate.per_item=2",
        counts={"attempts": 2, "rejected": {}, "cpu_seconds": 0.1},
    )  # fmt: skip
    metrics = explored.run(stage)
    assert metrics["n_valid"] == 2 and metrics["n_generated"] == 4 and metrics["n_attempts"] == 6
    (first, second, third) = stage.settings.generator.calls
    assert [call[0] for call in (first, second, third)] == [2, 1, 1]
    assert len({first[1], second[1], third[1]}) == 3
    assert [call[2].name for call in (first, second, third)] == ["0000", "round-01", "round-02"]
    item = stage.item(0)
    assert item.is_intact and "round-02/yield.json" in read_json(item.folder / "DONE")["outputs"]


def test_asking_again_has_an_end(stage):
    stage = stage([crystal("mp-157")] * 9, RULES, "loop.generate.topology=enforce", "loop.generate.max_rounds=3",
                  "loop.generate.n=2", "loop.generate.per_item=2")  # fmt: skip
    metrics = explored.run(stage)
    assert metrics["n_valid"] == 0 and metrics["n_generated"] == 6


def test_counts_survive_a_file(tmp_path):
    proposals = Proposals()
    for atoms, fault in ((crystal(generator="a"), None), (crystal(generator="b", operator="o"), "too close")):
        proposals.count(atoms, fault)
    proposals.count_yields({"a": {"attempts": 3, "rejected": {"x": 2}}})
    write_json(tmp_path / "proposals.json", proposals.to_json())
    again = read_proposals(tmp_path)
    assert again == proposals
    again += proposals
    assert again.n_proposed == 4 and again.rejected["a"] == {"x": 4} and again.dropped == {"too close": 2}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"min_distance_scale": 1.5}, "loop.generate.min_distance_scale = 1.5: must be between 0 and 1"),
        ({"max_outside": -0.1}, "loop.generate.max_outside = -0.1: must be between 0 and 1"),
        ({"volume_scale": [2.0, 0.5]}, "volume_scale = .*two numbers above 0, ascending"),
        ({"volume_scale": [0.5]}, "two numbers above 0"),
        ({"min_atoms": 0}, "loop.generate.min_atoms = 0: must be 1 or above, or null"),
        ({"min_atoms": 8, "max_atoms": 4}, "loop.generate.max_atoms = 4: must be 8 or above, or null"),
        ({"topology": "False"}, "'False': must be one of off, keep, enforce, in a file in quotes"),
        ({"max_rounds": 0}, "loop.generate.max_rounds = 0: must be 1 or above"),
    ],
)
def test_bad_values(values, message):
    with pytest.raises(ConfigError, match=message):
        GenerateSettings(**values)


def test_rules_without_topology_are_refused(compose_config):
    with pytest.raises(ConfigError, match="loop.generate.topology = keep, but system.topology is null"):
        load(compose_config("loop.generate.topology=keep"))
