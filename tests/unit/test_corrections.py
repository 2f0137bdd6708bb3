"""VASP labels say their level of theory, and MP's corrections take only those that they were fitted to."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from chemloop.physics.corrections import THEORY, check_one_theory, corrected_mp2020
from chemloop.physics.hull import energies_above_hull
from chemloop.physics.structures import set_results
from chemloop.runtime.errors import EnergyFrameError

TITLES = {"Li": "PAW_PBE Li_sv 10Sep2004", "S": "PAW_PBE S 06Sep2000", "Fe": "PAW_PBE Fe_pv 06Sep2000"}
TITLES["O"] = "PAW_PBE O 08Apr2002"


def labelled(atoms: Atoms, energy: float, frame: str = "vasp-mprelaxset-12345678", **theory) -> Atoms:
    potcars = {element: TITLES[element] for element in set(atoms.symbols)}
    own = {"functional": "PBE", "cutoff": 520.0, "hubbards": dict.fromkeys(potcars, 0.0), "potcars": potcars}
    atoms.info[THEORY] = {**own, **theory}
    return set_results(atoms, "label", energy, np.zeros((len(atoms), 3)), np.zeros((3, 3)), frame)


def test_mp2020_corrects_sulfides_and_says_so():
    sulfide = labelled(bulk("LiS", "zincblende", 4.5), -8.0)
    lithium, sulfur = labelled(bulk("Li"), -1.9), labelled(bulk("S", "fcc", 4.0), -4.0)
    corrected = corrected_mp2020([sulfide, lithium, sulfur])
    # MP2020: -0.503 eV per S of a sulfide, nothing for an element
    assert corrected[0].info["label_energy"] == pytest.approx(-8.503, abs=1e-3)
    assert [atoms.info["label_energy"] for atoms in corrected[1:]] == [-1.9, -4.0]
    assert {atoms.info["energy_frame"] for atoms in corrected} == {"vasp-mprelaxset-12345678+mp2020"}
    assert sulfide.info["label_energy"] == -8.0
    with pytest.raises(EnergyFrameError, match="energies of 2 levels of theory met"):
        energies_above_hull([sulfide], corrected, "label")


def test_mp2020_corrects_oxides_with_a_hubbard_u():
    oxide = bulk("FeO", "rocksalt", 4.3)
    (corrected,) = corrected_mp2020([labelled(oxide, -14.0, "imported-x", hubbards={"Fe": 5.3, "O": 0.0})])
    # MP2020: -0.687 eV per O of an oxide, -2.256 eV per Fe with its U
    assert corrected.info["label_energy"] == pytest.approx(-14.0 - 0.687 - 2.256, abs=1e-3)
    with pytest.raises(EnergyFrameError, match="FeO: MP2020 was not fitted to its level of theory"):
        corrected_mp2020([labelled(oxide, -14.0, "imported-x", hubbards={"Fe": 4.0, "O": 0.0})])


def test_mp2020_refuses_other_levels_of_theory():
    bare = set_results(bulk("Li"), "label", -1.9, np.zeros((1, 3)), np.zeros((3, 3)), "gpaw-pbe-1")
    with pytest.raises(EnergyFrameError, match="mp2020 corrections are for VASP labels.*not for gpaw-pbe-1"):
        corrected_mp2020([bare])
    for theory in ({"functional": "R2SCAN"}, {"potcars": {"Li": "PAW_PBE Li 17Jan2003"}}):
        with pytest.raises(EnergyFrameError, match="Li: MP2020 was not fitted to its level of theory"):
            corrected_mp2020([labelled(bulk("Li"), -1.9, "imported-mp-r2scan", **theory)])
    once = corrected_mp2020([labelled(bulk("Li"), -1.9)])
    with pytest.raises(EnergyFrameError, match="corrected already"):
        corrected_mp2020(once)


@pytest.mark.parametrize(
    ("theory", "message"),
    [
        ({"functional": "R2SCAN"}, "functional PBE and R2SCAN"),
        ({"cutoff": 680.0}, "cutoff 520 eV and 680 eV"),
        ({"hubbards": {"Li": 0.0, "S": 2.0}}, "Hubbard U of S 0 eV and 2 eV"),
        (
            {"potcars": {"Li": "PAW_PBE Li 17Jan2003", "S": TITLES["S"]}},
            "POTCAR of Li PAW_PBE Li_sv .* and PAW_PBE Li 17Jan2003",
        ),
    ],
)
def test_runs_of_different_levels_of_theory(theory, message):
    elements = [labelled(bulk("Li"), -1.9), labelled(bulk("S", "fcc", 4.0), -4.0)]
    sulfide = bulk("LiS", "zincblende", 4.5)
    check_one_theory([*elements, labelled(sulfide.copy(), -8.0)])
    with pytest.raises(EnergyFrameError, match=f"met: {message}; they are separate"):
        check_one_theory([*elements, labelled(sulfide, -8.0, **theory)])
