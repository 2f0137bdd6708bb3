"""The Materials Project's energy corrections, for hulls of labels that are compatible with its own."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from ase import Atoms

from chemloop.physics.hull import one_energy_frame
from chemloop.runtime.errors import EnergyFrameError

COMPATIBLE = ("vasp-mprelaxset-", "imported-mp-")
SUFFIX = "+mp2020"


def corrected_mp2020(structures: Sequence[Atoms]) -> list[Atoms]:
    """Copies whose `label_energy` has the MP2020 correction (eV per cell) and whose energy frame says so.

    Raises: EnergyFrameError for labels of more than one frame, of one that MP's corrections were not fitted to, or
        corrected already
    Source: doi:10.1038/s41598-021-94550-5
    """
    from pymatgen.entries.compatibility import MaterialsProject2020Compatibility
    from pymatgen.entries.computed_entries import ComputedStructureEntry
    from pymatgen.io.ase import AseAtomsAdaptor

    frame = one_energy_frame(structures)
    if frame.endswith(SUFFIX):
        raise EnergyFrameError(f"energies of {frame} are corrected already; take the uncorrected ones")
    if not frame.startswith(COMPATIBLE):
        raise EnergyFrameError(
            f"mp2020 corrections are for VASP labels with MPRelaxSet ({', '.join(COMPATIBLE)}...), not for {frame};"
            " its hull needs none: all its energies have one level of theory"
        )
    compatibility = MaterialsProject2020Compatibility(check_potcar=False)
    corrected = []
    for atoms in structures:
        bare = Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=True)
        parameters = {"run_type": "GGA", "is_hubbard": False, "hubbards": {}, "potcar_symbols": []}
        energy = float(atoms.info["label_energy"])
        entry = ComputedStructureEntry(AseAtomsAdaptor.get_structure(bare), energy, parameters=parameters)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            processed = compatibility.process_entry(entry)
        if processed is None:
            raise EnergyFrameError(f"{atoms.info.get('id', atoms.symbols)}: MP2020 has no correction scheme for it")
        copy = atoms.copy()
        copy.info["label_energy"] = float(processed.energy)
        copy.info["energy_frame"] = f"{frame}{SUFFIX}"
        corrected.append(copy)
    return corrected
