"""Relaxation on a GPU: any `Potential` inside TorchSim, hundreds of structures in one batch.

The batches are cut here and the steps are counted per structure: TorchSim's own driver counts the steps of the whole
run, and tests the change of the energy for convergence. Its optimisers take det(cell) for the volume, so a left-handed
cell would be driven uphill: TorchSim gets its negative, which spans the same lattice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from ase import Atoms
from torch_sim.io import atoms_to_state
from torch_sim.models.interface import ModelInterface
from torch_sim.optimizers import frechet_cell_fire
from torch_sim.state import SimState

from chemloop.physics.batching import FAILURES, Batching, OutOfMemory, out_of_memory, reason_of, release_memory
from chemloop.physics.calculator import Results
from chemloop.physics.stepping import Run


class PotentialModel(ModelInterface):
    """Any `Potential` as a TorchSim model."""

    def __init__(self, potential: Any):
        super().__init__()
        weight = next(potential.parameters())
        self.potential = potential.eval()
        self._device = weight.device
        self._dtype = weight.dtype
        self._compute_forces = True
        self._compute_stress = True

    def forward(self, state: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        state = state if isinstance(state, SimState) else SimState(**state)
        prediction = self.potential(self.potential.collate(state.to_atoms()))
        return {"energy": prediction.energies, "forces": prediction.forces, "stress": prediction.stresses}


def step_in_batches(runs: Sequence[Run], potential: Any, max_steps: int, batching: Batching) -> None:
    """FIRE in positions and the logarithm of the deformation, until each run is done or has made max_steps."""
    model = PotentialModel(potential)
    moving = [run for run in runs if run.is_moving]
    for chosen in batching.cut([len(run.atoms) for run in moving]):
        _step_batch([moving[index] for index in chosen], model, max_steps, batching)


def _step_batch(runs: list[Run], model: PotentialModel, max_steps: int, batching: Batching) -> None:
    """One batch; what fails together (a structure out of bounds, memory) is tried in halves, from where it was."""
    try:
        _step_together(runs, model, max_steps)
        return
    except (*FAILURES, MemoryError) as error:
        reason, lack = reason_of(error), out_of_memory(error)
    # outside of the handler, whose traceback keeps the tensors of the failed batch alive
    if lack is not None:
        release_memory()
        try:
            batching.lower(len(runs), sum(len(run.atoms) for run in runs), lack)
        except OutOfMemory as error:
            reason = reason_of(error)
    if len(runs) == 1:
        runs[0].rejection = reason
        return
    for half in (runs[: len(runs) // 2], runs[len(runs) // 2 :]):
        _step_batch(half, model, max_steps, batching)


def _step_together(runs: list[Run], model: PotentialModel, max_steps: int) -> None:
    initialize, update = frechet_cell_fire(model=model)
    runs = [run for run in runs if run.is_moving and run.n_evaluated <= max_steps]
    if not runs:
        return
    state = initialize(atoms_to_state([_right_handed(run.atoms) for run in runs], model.device, model.dtype))
    while True:
        _observe(runs, state)
        keep = [k for k, run in enumerate(runs) if run.is_moving and run.n_evaluated <= max_steps]
        if not keep:
            return
        if len(keep) < len(runs):
            runs, state = [runs[k] for k in keep], state[keep]
        state = update(state)


def _right_handed(atoms: Atoms) -> Atoms:
    """The same crystal, positions, forces and stress; only the signs of the lattice vectors differ, if anything."""
    copy = atoms.copy()
    copy.set_cell(atoms.cell.handedness * atoms.cell.array)
    return copy


def _observe(runs: Sequence[Run], state: Any) -> None:
    energies, forces, stresses, positions, cells = (
        tensor.detach().cpu().numpy().astype(float)
        for tensor in (state.energy, state.forces, state.stress, state.positions, state.row_vector_cell)
    )
    start = 0
    for k, run in enumerate(runs):
        own = slice(start, start + len(run.atoms))
        start = own.stop
        # no step changes the handedness
        run.atoms.set_cell(run.atoms.cell.handedness * cells[k])
        run.atoms.positions = positions[own]
        run.check_shape()
        if run.rejection is None:
            run.observe(Results(float(energies[k]), forces[own], stresses[k]))
