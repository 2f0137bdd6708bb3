"""How an item of structures is relaxed: by which force field, how far, and what is written of it."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ase import Atoms

from chemloop.physics.structures import set_results, without, write_structures
from chemloop.protocols import Potential
from chemloop.runtime.disk import read_json, write_json
from chemloop.runtime.item import Item
from chemloop.stages.stage import BASE, OUTPUT, Stage, base_folder, current_model, load_potential

if TYPE_CHECKING:
    from chemloop.physics.batching import Batching
    from chemloop.physics.relaxation import Relaxed

BATCHES = "batches.json"
COSTS = "costs.json"
"""CPU seconds of the two parts: a step of one may cost several of the other."""
COARSE, FINE = "coarse", "fine"
COARSE_FRAME = "coarse"
"""Energy frame within a coarse part with a force field of its own: no level of theory, so its results end there."""


def relax_to_end(stage: Stage, structures: Sequence[Atoms], displacement: float | None = None) -> list[Relaxed]:
    """By the current force field, until they have converged or made all steps.

    displacement: A; None: that of the settings
    """
    from chemloop.physics.relaxation import relax

    settings = stage.settings.loop.relax
    model, frame = current_model(stage)
    potential = load_potential(model, stage.settings.compute.gpu.device)
    return relax(
        structures,
        potential,
        fmax=settings.fmax,
        max_steps=settings.max_steps,
        engine=settings.engine,
        batching=batching_of(stage, potential),
        displacement=settings.displacement if displacement is None else displacement,
        energy_frame=frame,
    )


def relax_coarsely(stage: Stage, structures: Sequence[Atoms]) -> list[Relaxed]:
    """The first part of the relaxation of new structures, by a cheaper force field where there is one.

    The structures then carry the results of the current force field where a race needs them, or none.
    """
    from chemloop.physics.relaxation import relax

    settings = stage.settings.loop.relax
    model, frame = current_model(stage)
    if settings.coarse.model is None:
        potential = load_potential(model, stage.settings.compute.gpu.device)
    else:
        potential, frame = _coarse_potential(stage), COARSE_FRAME
    ends = relax(
        structures,
        potential,
        fmax=settings.coarse.fmax,
        max_steps=settings.coarse.max_steps,
        engine=settings.engine,
        batching=batching_of(stage, potential),
        displacement=settings.displacement,
        symprec=settings.coarse.symprec,
        energy_frame=frame,
    )
    if settings.coarse.model is not None:
        for end in ends:
            is_converged = end.atoms.info["converged"]
            end.atoms = without(end.atoms, "mlff")
            end.atoms.info["converged"] = is_converged
        if settings.coarse.stop_above is not None:
            _evaluate(stage, [end for end in ends if end.rejection is None])
    return ends


def _evaluate(stage: Stage, ends: Sequence[Relaxed]) -> None:
    """Give the structures the results of the current force field, or reject those that it cannot compute."""
    from chemloop.physics.batching import check_reasons
    from chemloop.physics.calculator import Results, evaluate
    from chemloop.physics.stepping import evaluate_each

    model, frame = current_model(stage)
    potential = load_potential(model, stage.settings.compute.gpu.device)
    batching = batching_of(stage, potential)
    found = evaluate_each([end.atoms for end in ends], lambda chosen: evaluate(chosen, potential, batching))
    check_reasons([result if isinstance(result, str) else None for result in found])
    for end, result in zip(ends, found, strict=True):
        if isinstance(result, Results):
            set_results(end.atoms, "mlff", *result, frame)
        else:
            end.rejection = result
            end.atoms.info["converged"] = False


def write_relaxed(stage: Stage, item: Item, results: Sequence[Relaxed]) -> list[str]:
    """The item's outputs; returns the names of the files."""
    relaxed = []
    for result in results:
        atoms = result.atoms
        if result.rejection is not None:
            atoms.info["dropped"] = result.rejection
        atoms.info["n_relax_steps"] = result.n_steps
        atoms.info["n_coarse_steps"] = result.n_coarse_steps
        relaxed.append(atoms)
    write_structures(item.folder / OUTPUT, relaxed)
    potential = load_potential(current_model(stage)[0], stage.settings.compute.gpu.device)
    write_json(item.folder / BATCHES, batching_of(stage, potential).metrics())
    return [OUTPUT, BATCHES]


def batching_of(stage: Stage, potential: Any) -> Batching:
    """How many structures share a batch; kept with the potential, because it learns what fits into memory."""
    from chemloop.physics.batching import Batching

    if not hasattr(potential, "batching"):
        base = read_json(base_folder(stage.campaign) / BASE)
        potential.batching = Batching(base["batch_size"], base["max_atoms"])
    return potential.batching


def _coarse_potential(stage: Stage) -> Potential:
    model = stage.settings.loop.relax.coarse.model
    kind = type(model)
    node = {"_target_": f"{kind.__module__}.{kind.__qualname__}", **asdict(model)}
    return _load(json.dumps(node), stage.settings.compute.gpu.device)


@functools.lru_cache(maxsize=1)
def _load(specification: str, device: str) -> Potential:
    from chemloop.config import build

    return build(json.loads(specification), "loop.relax.coarse.model").load(device, "float32")
