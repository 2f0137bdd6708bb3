"""What VASP labels say of their level of theory, and the Materials Project's energy corrections for those that are
compatible with its own.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ase import Atoms

from chemloop.physics.hull import one_energy_frame
from chemloop.runtime.errors import EnergyFrameError

THEORY = "vasp_theory"
"""Key of `info`: what vasprun.xml says of the level of theory, see `chemloop.labeler.vasp_output.read_theory`."""
SUFFIX = "+mp2020"
WITHOUT_WIDTH = (-5, -4, -2)
"""ISMEAR of the tetrahedron methods and of fixed occupations, which take no SIGMA."""
DENSITY_FACTOR = 1.5
"""Between k-densities that count as the same: a mesh may be that of the cell before a relaxation, and rules for meshes
differ in how they take the shape of the cell.
"""


def corrected_mp2020(structures: Sequence[Atoms]) -> list[Atoms]:
    """Copies whose `label_energy` has the MP2020 correction (eV per cell) and whose energy frame says so.

    Raises: EnergyFrameError for labels of more than one frame, of one that is not VASP's, corrected already, or
        computed with another functional, Hubbard U or POTCAR than the Materials Project's
    Source: doi:10.1038/s41598-021-94550-5
    """
    from pymatgen.entries.compatibility import MaterialsProject2020Compatibility
    from pymatgen.entries.computed_entries import ComputedStructureEntry
    from pymatgen.io.ase import AseAtomsAdaptor

    frame = one_energy_frame(structures)
    if frame.endswith(SUFFIX):
        raise EnergyFrameError(f"energies of {frame} are corrected already; take the uncorrected ones")
    if any(THEORY not in atoms.info for atoms in structures):
        raise EnergyFrameError(
            f"mp2020 corrections are for VASP labels that say their functional, Hubbard U and POTCARs, not for {frame};"
            " labels from labeler=vasp and from vasprun.xml do. A hull within one frame needs no corrections"
        )
    compatibility = MaterialsProject2020Compatibility()
    corrected = []
    for atoms in structures:
        bare = Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=True)
        parameters = _parameters(atoms.info[THEORY])
        energy = float(atoms.info["label_energy"])
        entry = ComputedStructureEntry(AseAtomsAdaptor.get_structure(bare), energy, parameters=parameters)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            processed = compatibility.process_entry(entry)
        if processed is None:
            raise EnergyFrameError(
                f"{atoms.info.get('id', atoms.symbols)}: MP2020 was not fitted to its level of theory,"
                f" {atoms.info[THEORY]}; it wants PBE with the Hubbard U and the POTCARs of MPRelaxSet"
            )
        copy = atoms.copy()
        copy.info["label_energy"] = float(processed.energy)
        copy.info["energy_frame"] = f"{frame}{SUFFIX}"
        corrected.append(copy)
    return corrected


def check_one_theory(structures: Iterable[Atoms]) -> None:
    """Check that what VASP runs say of their level of theory is the same: functional, cutoff, smearing, spin, density
    of k-points, and for each element that they share its Hubbard U and POTCAR. What labels do not say is not compared.

    Raises: EnergyFrameError
    """
    theories = [atoms.info[THEORY] for atoms in structures if THEORY in atoms.info]
    known: dict[str, Any] = {}
    for theory in theories:
        for what, value in _said(theory).items():
            if known.setdefault(what, value) != value:
                raise _met(f"{what} {known[what]} and {value}")
    densities = [theory["k_densities"] for theory in theories if theory.get("k_densities")]
    if densities:
        coarse, fine = min(densities, key=lambda span: span[1]), max(densities, key=lambda span: span[0])
        if fine[0] > DENSITY_FACTOR * coarse[1]:
            raise _met(
                f"k-meshes of {coarse[0]:.3g} to {coarse[1]:.3g} and of {fine[0]:.3g} to {fine[1]:.3g} points per A^-3"
                f" of the reciprocal cell, more than the allowed factor of {DENSITY_FACTOR:g} apart"
            )


def _said(theory: Mapping[str, Any]) -> dict[str, str]:
    """What has to be equal, in words."""
    said = {"functional": theory["functional"], "cutoff": f"{theory['cutoff']:g} eV"}
    if "ismear" in theory:  # labels of earlier versions do not say it
        width = "" if theory["ismear"] in WITHOUT_WIDTH else f" with SIGMA {theory['sigma']:g} eV"
        said["ISMEAR"] = f"{theory['ismear']}{width}"
        said["ISPIN"] = str(theory["ispin"])
        said["k-points from"] = "a list" if theory["k_densities"] is None else "a mesh"
    for element in theory["potcars"]:
        said[f"POTCAR of {element}"] = theory["potcars"][element]
        said[f"Hubbard U of {element}"] = f"{theory['hubbards'][element]:g} eV"
    return said


def _met(what: str) -> EnergyFrameError:
    return EnergyFrameError(
        f"VASP runs of different levels of theory met: {what}; they are separate energy frames, import them from"
        " separate folders, each with a workflow.frame of its own"
    )


def _parameters(theory: Mapping[str, Any]) -> dict[str, Any]:
    """As pymatgen's entries have them."""
    return {
        "run_type": theory["functional"].replace("PBE", "GGA", 1),
        "is_hubbard": any(theory["hubbards"].values()),
        "hubbards": theory["hubbards"],
        "potcar_symbols": list(theory["potcars"].values()),
    }
