"""What VASP left in vasprun.xml: ionic steps, each checked for electronic convergence."""

from __future__ import annotations

import gzip
import warnings
import xml.etree.ElementTree as ElementTree
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress

from chemloop.labeler.external import is_same_crystal
from chemloop.labeler.vasp import VASPRUN, read_start
from chemloop.physics.corrections import THEORY
from chemloop.runtime.errors import ItemFailed

if TYPE_CHECKING:
    from pymatgen.io.vasp.outputs import Vasprun

KILOBAR = 0.1 * units.GPa
TOLERANCE = 1e-3
"""A; POSCAR and vasprun.xml give coordinates with at least eight digits."""


@dataclass
class Steps:
    """frames: the electronically converged ionic steps; n_ionic: all of them; is_whole: the file has its end.

    is_ended: the last step converged, electronically and, in a relaxation, by VASP's ionic criterion
    """

    frames: list[Atoms]
    n_ionic: int
    is_whole: bool
    is_ended: bool
    first: Atoms | None


def read_steps(path: Path) -> Steps:
    """The ionic steps of one vasprun.xml; frames carry energy, forces and stress in a `SinglePointCalculator`.

    The energy is the free energy, whose derivatives the forces are; with the tetrahedron method all of VASP's energies
    are the same. VASP's stress is positive under compression, ours under tension.

    Raises: ItemFailed, retryable, where not even the first step is there
    """
    from pymatgen.io.vasp.outputs import Vasprun

    if not path.exists():
        raise ItemFailed(f"VASP wrote no {path.name}", retryable=True)
    is_whole = _content(path).rstrip().endswith(b"</modeling>")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run = Vasprun(
                path,
                parse_dos=False,
                parse_eigen=False,
                parse_potcar_file=False,
                exception_on_bad_xml=is_whole,
            )
    except (ElementTree.ParseError, ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
        raise ItemFailed(
            f"{path.name} cannot be read: {type(error).__name__} {error}", retryable=not is_whole
        ) from error
    complete = [step for step in run.ionic_steps if {"forces", "stress", "structure"} <= step.keys()]
    flags = [is_converged(step["electronic_steps"], run.parameters) for step in complete]
    frames = [_frame(step) for step, is_good in zip(complete, flags, strict=True) if is_good]
    is_ended = is_whole and bool(flags) and flags[-1] and bool(run.converged_ionic)
    theory = read_theory(run)
    for frame in frames:
        frame.info[THEORY] = theory
    first = _atoms(complete[0]["structure"]) if complete else None
    return Steps(frames, len(complete), is_whole, is_ended, first)


def read_theory(run: Vasprun) -> dict[str, Any]:
    """What of the level of theory vasprun.xml says: functional, cutoff (eV), ISMEAR, SIGMA (eV), ISPIN, `k_densities`,
    per element the Hubbard U (eV) and the title of its POTCAR.
    """
    potcars = {title.split()[1].partition("_")[0]: title for title in run.potcar_symbols}
    functional = str(run.run_type)
    if functional.startswith("GGA") and potcars and all(title.startswith("PAW_PBE ") for title in potcars.values()):
        functional = functional.replace("GGA", "PBE", 1)  # VASP takes it from the POTCARs where INCAR does not say
    hubbards = {element: float(run.hubbards.get(element, 0.0)) for element in potcars}
    return {
        "functional": functional,
        "cutoff": float(run.parameters["ENMAX"]),
        "ismear": int(run.parameters["ISMEAR"]),
        "sigma": float(run.parameters["SIGMA"]),
        "ispin": int(run.parameters["ISPIN"]),
        "k_densities": k_densities(run),
        "hubbards": hubbards,
        "potcars": potcars,
    }


def k_densities(run: Vasprun) -> list[float] | None:
    """The lowest and the highest k-density that a run's mesh may stand for; None where its k-points are no mesh.

    k-points per A^-3 of the reciprocal cell, as pymatgen's `Kpoints.automatic_density_by_vol` takes it, or KSPACING^-3
    where INCAR has that. Both ask for a real number of divisions along each axis, and the mesh has whole ones: whoever
    rounded, up or down, was off by less than one.
    """
    modes = type(run.kpoints).supported_modes
    if run.kpoints.style not in (modes.Gamma, modes.Monkhorst):
        return None
    mesh, lattice = np.array(run.kpoints.kpts[0]), run.initial_structure.lattice
    if "KSPACING" in run.incar:
        lengths = 1 / np.array(lattice.reciprocal_lattice.abc)
    else:
        lengths = np.array(lattice.abc) / (2 * np.pi) * (lattice.volume / np.prod(lattice.abc)) ** (1 / 3)
    # an uneven mesh, which no density gives, stands for all that its axes say
    return sorted([float(((mesh - 1) * lengths).max() ** 3), float(((mesh + 1) * lengths).min() ** 3)])


def _content(path: Path) -> bytes:
    if path.suffix != ".gz":
        return path.read_bytes()
    try:
        return gzip.decompress(path.read_bytes())
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ItemFailed(f"{path.name} cannot be unpacked: {error}") from error


def is_converged(electronic_steps: list[dict[str, Any]], parameters: Mapping[str, Any]) -> bool:
    """Whether an SCF cycle reached EDIFF: it stopped before NELM, or its last step changed the energy by less."""
    if len(electronic_steps) < parameters["NELM"]:
        return True
    energies = [step["e_fr_energy"] for step in electronic_steps[-2:] if "e_fr_energy" in step]
    return len(energies) == 2 and abs(energies[1] - energies[0]) < parameters["EDIFF"]


def read_attempts(workdir: Path) -> tuple[list[Atoms], bool]:
    """The frames of all attempts, in POSCAR's order of atoms, and whether the last one came to its end.

    Raises: ItemFailed for truncated output (retryable), output of another structure, and an SCF that did not converge
    """
    steps = read_steps(workdir / VASPRUN)
    _check_same(steps, _poscar(workdir), workdir)
    if not steps.is_whole:
        raise ItemFailed(f"{VASPRUN} is truncated after {steps.n_ionic} ionic steps", retryable=True)
    if not steps.frames:
        raise ItemFailed(f"the SCF did not converge in any of {steps.n_ionic} ionic steps")
    frames: list[Atoms] = []
    for attempt in (*(read_steps(path).frames for path in _earlier(workdir)), steps.frames):
        # one that continues begins with the structure that the one before ended with
        if frames and is_same_crystal(frames[-1], attempt[0], TOLERANCE):
            frames.pop()
        frames += attempt
    return frames, steps.is_ended


def set_aside(workdir: Path) -> list[Atoms]:
    """Keep the ionic steps of an attempt that was interrupted under another name; returns all frames so far.

    What cannot be read, or belongs to another structure, is removed.
    """
    path = workdir / VASPRUN
    if path.exists():
        try:
            steps = read_steps(path)
            _check_same(steps, _poscar(workdir), workdir)
        except ItemFailed:
            path.unlink()
        else:
            if steps.frames:
                path.rename(workdir / f"vasprun.{len(_earlier(workdir))}.xml")
            else:
                path.unlink()
    return [frame for earlier in _earlier(workdir) for frame in read_steps(earlier).frames]


def _earlier(workdir: Path) -> list[Path]:
    return sorted(workdir.glob("vasprun.[0-9]*.xml"), key=lambda path: int(path.name.split(".")[1]))


def _poscar(workdir: Path) -> Atoms:
    """Where the present run began: custodian may have continued from CONTCAR."""
    from pymatgen.io.vasp.inputs import Poscar

    path = workdir / "POSCAR"
    return _atoms(Poscar.from_file(path).structure) if path.exists() else read_start(workdir)


def _check_same(steps: Steps, start: Atoms, workdir: Path) -> None:
    found = steps.first
    if found is None:
        return
    if not is_same_crystal(found, start, TOLERANCE):
        raise ItemFailed(
            f"{workdir / VASPRUN} is of another structure: it begins with {found.symbols} in {found.cell.volume:.2f}"
            f" A^3, the input is {start.symbols} in {start.cell.volume:.2f} A^3"
        )


def _atoms(structure: Any) -> Atoms:
    return Atoms(
        [site.specie.symbol for site in structure],
        scaled_positions=structure.frac_coords,
        cell=structure.lattice.matrix,
        pbc=True,
    )


def _frame(step: dict[str, Any]) -> Atoms:
    atoms = _atoms(step["structure"])
    stress = -KILOBAR * np.array(step["stress"], dtype=float)
    atoms.calc = SinglePointCalculator(
        atoms,
        energy=float(step["e_fr_energy"]),
        forces=np.array(step["forces"], dtype=float),
        stress=full_3x3_to_voigt_6_stress(stress),
    )
    return atoms
