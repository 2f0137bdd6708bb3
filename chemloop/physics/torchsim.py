"""Relaxation on a GPU: any `Potential` inside TorchSim, hundreds of structures in one batch.

The batches are cut here and the steps are counted per structure: TorchSim's own driver counts the steps of the whole
run, and tests the change of the energy for convergence.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch_sim.io import atoms_to_state
from torch_sim.models.interface import ModelInterface
from torch_sim.optimizers import frechet_cell_fire
from torch_sim.state import SimState

from chemloop.physics.calculator import Results
from chemloop.physics.stepping import FAILURES, Run


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


def step_in_batches(runs: Sequence[Run], potential: Any, max_steps: int, max_atoms: int) -> None:
    """FIRE in positions and the logarithm of the deformation, until each run is done or has made max_steps."""
    model = PotentialModel(potential)
    for batch in cut_batches([run for run in runs if run.is_moving], max_atoms):
        _step_batch(batch, model, max_steps)


def cut_batches(runs: Sequence[Run], max_atoms: int) -> Iterator[list[Run]]:
    """Consecutive runs with at most max_atoms atoms together; a single larger one goes alone."""
    batch: list[Run] = []
    for run in runs:
        if batch and sum(len(member.atoms) for member in batch) + len(run.atoms) > max_atoms:
            yield batch
            batch = []
        batch.append(run)
    if batch:
        yield batch


def _step_batch(runs: list[Run], model: PotentialModel, max_steps: int) -> None:
    """One batch; what fails together (a structure out of bounds, memory) is tried in halves, from where it was."""
    try:
        initialize, update = frechet_cell_fire(model=model)
        state = initialize(atoms_to_state([run.atoms for run in runs], model.device, model.dtype))
        while True:
            _observe(runs, state)
            keep = [k for k, run in enumerate(runs) if run.is_moving and run.n_evaluated <= max_steps]
            if not keep:
                return
            if len(keep) < len(runs):
                runs, state = [runs[k] for k in keep], state[keep]
            state = update(state)
    except FAILURES as error:
        if len(runs) == 1:
            runs[0].rejection = f"failed: {error}"
            return
        for half in (runs[: len(runs) // 2], runs[len(runs) // 2 :]):
            _step_batch(half, model, max_steps)


def _observe(runs: Sequence[Run], state: Any) -> None:
    energies, forces, stresses, positions, cells = (
        tensor.detach().cpu().numpy().astype(float)
        for tensor in (state.energy, state.forces, state.stress, state.positions, state.row_vector_cell)
    )
    start = 0
    for k, run in enumerate(runs):
        own = slice(start, start + len(run.atoms))
        start = own.stop
        run.atoms.set_cell(cells[k])
        run.atoms.positions = positions[own]
        run.check_shape()
        if run.rejection is None:
            run.observe(Results(float(energies[k]), forces[own], stresses[k]))
