"""A mix of real generators in the generate and learn stages of two iterations."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from chemloop.config import load
from chemloop.physics.structures import write_structures
from chemloop.runtime.disk import read_json, write_json
from chemloop.stages.generate import Generate
from chemloop.stages.learn import Learn
from chemloop.stages.stage import Stage, current_generator, stage_folder
from tests.unit import explored
from tests.unit.test_learn import curated

MEMBERS = {"random", "evolution", "substitution"}


def names_of(structures) -> Counter[str]:
    return Counter(atoms.info["generator"] for atoms in structures)


def finish(stage: Stage) -> None:
    write_json(stage.folder / "metrics.json", explored.run(stage))
    write_json(stage.folder / "DONE", {"outputs": {}})


def test_two_iterations_of_the_loop(compose_config, tmp_path):
    config = compose_config(
        "generator=mix",
        "selector@candidates=random",
        "loop.generate.n=18",
        "loop.generate.per_item=9",
        "loop.generate.topology=keep",
        "system.topology={sharing:{P:corner}}",
    )
    campaign = explored.begin(tmp_path / "campaign", config)
    settings = load(config)
    curated(campaign, 0)
    finish(Learn(campaign, settings, 0))
    generate = Generate(campaign, settings, 1)
    finish(generate)
    made = generate.output()
    assert names_of(made).keys() == MEMBERS
    assert sum(generate.metrics[f"{name}/n_valid"] for name in MEMBERS) == len(made)
    assert all(atoms.info["operator"] for atoms in made if atoms.info["generator"] == "evolution")

    relaxed = stage_folder(campaign, 1, "relax") / "items/0000"
    relaxed.mkdir(parents=True)
    write_json(relaxed / "DONE", {"wall_s": 100.0, "outputs": {}})
    for atoms in made:
        atoms.info.update(role="candidate", n_relax_steps=10, converged=True)
    for folder in (relaxed, relaxed.parents[1]):
        write_structures(folder / "output.extxyz", made)
    explored.screened(campaign, 1, made)
    curated(campaign, 1)
    learn_stage = Learn(campaign, settings, 1)
    finish(learn_stage)
    newest = Path(current_generator(Generate(campaign, settings, 2)).checkpoint)
    assert newest == learn_stage.item(0).folder / "checkpoint"
    state = read_json(newest / "weights.json")
    assert {name: found["n_sun"] for name, found in state["evidence"].items()} == names_of(made)
    assert sum(found["cpu_seconds"] for found in state["evidence"].values()) > 100
    assert state["checkpoints"].keys() == {"random", "evolution"} and state["failures"] == {}
    assert all((newest / path).exists() for path in state["checkpoints"].values())
    assert learn_stage.metrics["share_random"] == state["weights"]["random"]
    again = Generate(campaign, settings, 2)
    finish(again)
    children = [atoms for atoms in again.output() if atoms.info["generator"] == "evolution"]
    parents = {id for atoms in children for id in str(atoms.info["parents"]).split()}
    assert all(id.startswith(("i00-r", "i01-g")) for id in parents)
    assert names_of(again.output()).keys() <= MEMBERS and len(again.output()) > 6
    assert not any(settings.loop.screen.matcher.is_known(again.output(), made))
