"""Runs GPAW in the current folder, on one process or on the ranks of an MPI job.

outcome.json says how it ended: `failure` is null, or why there is no label. Without that file the process was killed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from chemloop.labeler.gpaw import FRAMES, JOB, OUTCOME, START
from chemloop.labeler.ionic_steps import FRAME, StepFolder, continued_trajectory
from chemloop.physics.structures import read_structures, set_results, write_structures
from chemloop.runtime.disk import read_json, write_json
from chemloop.runtime.errors import ItemFailed

GENTLE = {"backend": "pulay", "beta": 0.02, "nmaxold": 5, "weight": 50.0}
"""Slow density mixing: the same result where the usual one does not get there."""
TWICE = "the SCF diverged twice, also with slow mixing"


class PatientGpaw(Calculator):
    """GPAW; where the SCF does not converge it is tried once more with slow mixing.

    Raises: ItemFailed when it diverges twice
    """

    implemented_properties = ["energy", "free_energy", "forces", "stress"]

    def __init__(self, settings: dict[str, Any]):
        super().__init__()
        self.settings = settings
        self.gpaw = self._build()

    def calculate(self, atoms: Any = None, properties: Any = ("energy",), changes: Any = all_changes) -> None:
        from gpaw import KohnShamConvergenceError

        super().calculate(atoms, properties, changes)
        try:
            self._compute()
        except KohnShamConvergenceError:
            self.gpaw = self._build(mixer=GENTLE)
            try:
                self._compute()
            except KohnShamConvergenceError as error:
                raise ItemFailed(TWICE) from error

    def _compute(self) -> None:
        assert self.atoms is not None
        atoms: Atoms = self.atoms.copy()
        if self.settings["is_spin_polarized"]:
            atoms.set_initial_magnetic_moments([0.6] * len(atoms))
        atoms.calc = self.gpaw
        self.results = {
            "forces": atoms.get_forces(),
            "energy": atoms.get_potential_energy(),
            "free_energy": atoms.get_potential_energy(force_consistent=True),
            "stress": atoms.get_stress(),
        }

    def _build(self, **more: Any) -> Any:
        from gpaw import GPAW, PW, FermiDirac

        job = self.settings
        return GPAW(
            mode=PW(job["cutoff"]),
            xc="PBE",
            kpts={"size": job["mesh"], "gamma": True},
            setups=job["setups"],
            occupations=FermiDirac(job["smearing"]),
            spinpol=job["is_spin_polarized"],
            convergence={"energy": 1e-5},
            txt="gpaw.txt",
            **more,
        )


def main(folder: Path) -> None:
    """Compute the label and write frames.extxyz, then outcome.json."""
    job = read_json(folder / JOB)
    from gpaw import setup_paths
    from gpaw.mpi import world

    setup_paths.insert(0, job["datasets"])
    (atoms,) = read_structures(folder / START)
    n_steps = job["max_steps"] if job["kind"] == "relax" else 0
    failure = None
    frames: list[Atoms] = []
    try:
        steps = StepFolder(folder / "steps", writes=world.rank == 0)
        frames = continued_trajectory(atoms, PatientGpaw(job), job["fmax"], n_steps, steps)
    except ItemFailed as error:
        failure = error.reason
    if world.rank == 0:
        for frame in frames:
            results = frame.get_potential_energy(), frame.get_forces(), frame.get_stress(voigt=False)
            set_results(frame, "label", *results, FRAME)
            frame.calc = None
        write_structures(folder / FRAMES, frames)
        write_json(folder / OUTCOME, {"failure": failure})


if __name__ == "__main__":
    main(Path.cwd())
