"""Labels from GPAW: PBE, PAW, plane waves; DFT with an open code."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.data import atomic_numbers

from chemloop.labeler.external import LOG, ExternalLabeler, check_kind, check_program, is_same_crystal, log_tail
from chemloop.model.ase import digest
from chemloop.physics.structures import read_structures, set_results, write_structures
from chemloop.runtime.disk import read_json, write_json, write_whole
from chemloop.runtime.errors import ConfigError, ItemFailed
from chemloop.runtime.process import stop_leftovers

JOB = "job.json"
OUTCOME = "outcome.json"
START = "start.extxyz"
FRAMES = "frames.extxyz"
TOLERANCE = 1e-3
"""A, within which the first ionic step is the input."""


@dataclass
class GpawLabeler(ExternalLabeler):
    """GPAW as configured in `conf/labeler/gpaw.yaml`.

    cutoff: eV, of the plane waves
    k_density: k-points per A^-3 of the reciprocal cell, the mesh is centred on Gamma: that of labeler=vasp
    valence: electrons of elements whose PAW data set is to be generated with more of them than GPAW's own has
    smearing: eV, Fermi-Dirac width
    fmax: eV/A at which a relaxation is converged; max_steps: ionic steps after which it is not
    n_ranks: MPI processes per calculation; mpi: what starts them, the number follows
    datasets: folder of generated PAW data sets
    """

    cutoff: float = 520.0
    k_density: int = 64
    valence: dict[str, int] = field(default_factory=lambda: {"Li": 3})
    smearing: float = 0.05
    is_spin_polarized: bool = False
    fmax: float = 0.05
    max_steps: int = 100
    n_ranks: int = 1
    mpi: str = "mpiexec -n"
    datasets: str = "outputs/gpaw-datasets"

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("cutoff", "smearing", "fmax"):
            if not getattr(self, key) > 0:
                raise ConfigError(f"labeler.{key} = {getattr(self, key):g}: must be above 0")
        for key in ("k_density", "max_steps", "n_ranks"):
            if getattr(self, key) < 1:
                raise ConfigError(f"labeler.{key} = {getattr(self, key)}: must be 1 or above")
        for element, n_electrons in self.valence.items():
            if element not in atomic_numbers or not 0 < n_electrons <= atomic_numbers[element]:
                raise ConfigError(f"labeler.valence.{element} = {n_electrons}: must be an element and its electrons")

    @property
    def n_cores(self) -> int:
        """That one calculation keeps busy."""
        return self.n_ranks

    def settings_id(self) -> str:
        theory = (self.cutoff, self.k_density, self.valence, self.smearing, self.is_spin_polarized)
        return f"gpaw-pbe-{digest(*theory)}"

    def relaxation_id(self) -> str:
        return digest(self.fmax, self.max_steps)

    def write(self, atoms: Atoms, kind: str, workdir: Path) -> None:
        """The structure and the settings; steps of an earlier attempt stay where they are.

        Raises: ConfigError without GPAW, MPI, or a PAW data set
        """
        check_kind(kind)
        stop_leftovers(workdir / LOG)
        if importlib.util.find_spec("gpaw") is None:
            raise ConfigError("labeler=gpaw needs GPAW, which is not installed; run: make dft")
        if self.n_ranks > 1:
            check_program(self.mpi, "labeler.mpi", "install Open MPI (make dft), or set labeler.n_ranks=1")
        write_structures(workdir / START, [atoms])
        (workdir / OUTCOME).unlink(missing_ok=True)
        folder = Path(self.datasets).resolve()
        own = {element: "sv" for element in self.valence if element in atoms.symbols}
        for element in sorted(set(atoms.symbols)):
            if element in own:
                generate_dataset(element, self.valence[element], folder)
            else:
                check_dataset(element)
        job = {
            **{"kind": kind, "cutoff": self.cutoff, "mesh": mesh(atoms, self.k_density), "setups": own},
            **{"smearing": self.smearing, "is_spin_polarized": self.is_spin_polarized, "fmax": self.fmax},
            **{"max_steps": self.max_steps, "datasets": str(folder)},
        }
        write_json(workdir / JOB, job)

    def command(self, workdir: Path) -> list[str]:
        module = ["-m", "chemloop.labeler.gpaw_job"]
        if self.n_ranks == 1:
            return [sys.executable, *module]
        # under MPI, GPAW wants its own interpreter; Open MPI asks root twice
        allow = ["env", "OMPI_ALLOW_RUN_AS_ROOT=1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1"] if os.getuid() == 0 else []
        gpaw = str(Path(sys.executable).with_name("gpaw"))
        words = check_program(self.mpi, "labeler.mpi", "install Open MPI (make dft), or set labeler.n_ranks=1")
        return [*allow, *words, str(self.n_ranks), gpaw, "python", *module]

    def n_ionic_steps(self, workdir: Path) -> int:
        from chemloop.labeler.ionic_steps import StepFolder

        return len(StepFolder(workdir / "steps"))

    def read(self, workdir: Path) -> list[Atoms]:
        """Ionic steps of all attempts, first to last; the last of a relaxation carries `converged`.

        Raises: ItemFailed: retryable where the process was killed; fatal where the SCF diverged twice, or the crystal
            exploded
        """
        if not (workdir / OUTCOME).exists():
            tail = f"last lines of {workdir / LOG}: {log_tail(workdir)!r}"
            raise ItemFailed(f"GPAW's process ended early; {tail}", retryable=True)
        outcome: dict[str, Any] = read_json(workdir / OUTCOME)
        if outcome["failure"]:
            raise ItemFailed(f"{outcome['failure']} (log: {workdir / 'gpaw.txt'})")
        frames = read_structures(workdir / FRAMES)
        start = read_structures(workdir / START)[0]
        if not is_same_crystal(frames[0], start, TOLERANCE):
            raise ItemFailed(
                f"{workdir / FRAMES} is of another structure: it begins with {frames[0].symbols} in"
                f" {frames[0].cell.volume:.2f} A^3, the input is {start.symbols} in {start.cell.volume:.2f} A^3"
            )
        for frame in frames:
            results = frame.info["label_energy"], frame.arrays["label_forces"], frame.info["label_stress"]
            set_results(frame, "label", *results, self.settings_id())
        return frames


def mesh(atoms: Atoms, k_density: int) -> list[int]:
    """Divisions of the Gamma-centred mesh that pymatgen's MPRelaxSet has for that density."""
    from pymatgen.io.ase import AseAtomsAdaptor
    from pymatgen.io.vasp.inputs import Kpoints

    structure = AseAtomsAdaptor.get_structure(atoms)
    return [int(n) for n in Kpoints.automatic_density_by_vol(structure, k_density, force_gamma=True).kpts[0]]


def check_dataset(element: str) -> None:
    """Raises: ConfigError where GPAW has no PAW data set for the element"""
    from gpaw import setup_paths

    if not any(list(Path(folder).glob(f"{element}.PBE*")) for folder in setup_paths):
        raise ConfigError(
            f"GPAW has no PAW data set for {element} (PBE) in {', '.join(map(str, setup_paths))}; give its number of"
            f" valence electrons to have one generated, labeler.valence.{element}=N, or install gpaw-data (make dft)"
        )


def generate_dataset(element: str, n_electrons: int, folder: Path) -> None:
    """Have GPAW generate `<element>.sv.PBE` in the folder, unless it is there; some seconds.

    Raises: ConfigError where GPAW's generator cannot
    """
    folder.mkdir(parents=True, exist_ok=True)
    note = folder / f"{element}.sv.electrons"
    if note.exists():
        if int(note.read_text()) != n_electrons:
            raise ConfigError(
                f"labeler.valence.{element} = {n_electrons}: {folder} holds a data set with {note.read_text()}"
                " electrons; choose another folder with labeler.datasets=FOLDER"
            )
        return
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        options = ["-f", "PBE", "-e", str(n_electrons), "-t", "sv", "-w", "-b", element]
        done = subprocess.run([sys.executable, "-m", "gpaw", "dataset", *options], cwd=scratch, capture_output=True)
        made = list(Path(scratch).glob(f"{element}.sv.*"))
        if done.returncode != 0 or not made:
            reason = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
            raise ConfigError(
                f"labeler.valence.{element} = {n_electrons}: GPAW cannot generate this PAW data set ({reason})"
            )
        for path in made:
            os.replace(path, folder / path.name)
    write_whole(note, str(n_electrons).encode())
