"""Labels from VASP: pymatgen's MPRelaxSet, run under custodian, read from vasprun.xml."""

from __future__ import annotations

import difflib
import importlib.util
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ase import Atoms

from chemloop.labeler.external import LOG, ExternalLabeler, check_kind, check_program, check_shapes, log_tail
from chemloop.model.ase import digest
from chemloop.physics.corrections import THEORY
from chemloop.physics.structures import read_structures, set_results, write_structures
from chemloop.runtime.disk import read_json, write_json
from chemloop.runtime.errors import ConfigError, ItemFailed, StructureError
from chemloop.runtime.process import last_lines, stop_leftovers

if TYPE_CHECKING:
    from pymatgen.io.vasp.sets import MPRelaxSet

JOB = "job.json"
OUTCOME = "outcome.json"
START = "start.extxyz"
VASPRUN = "vasprun.xml"
STATIC = {"NSW": 0, "IBRION": -1, "ISIF": 2}
"""What a single point has other than a relaxation; the level of theory is the same."""
OUR_KEYS = frozenset(STATIC)
MESH_KEYS = frozenset(("KSPACING", "KGAMMA"))
HARMLESS = frozenset(
    (
        *("ALGO", "IALGO", "ISEARCH", "TIME", "NELM", "NELMIN", "NELMDL", "NBANDS", "ISTART", "ICHARG"),
        *("AMIN", "AMIX", "BMIX", "AMIX_MAG", "BMIX_MAG", "IMIX", "MAXMIX", "IBRION", "POTIM"),
        *("ISYM", "SYMPREC", "NCORE", "NPAR", "KPAR", "NSIM", "LPLANE", "LSCALU", "LWAVE", "LCHARG"),
    )
)
"""INCAR keys that decide how a result is reached, not what it is."""
PRINTED = ("vasp.out", "std_err.txt")
"""Where custodian sends what VASP itself prints."""
FUNCTIONALS = ("PBE", "PBE_52", "PBE_54", "PBE_64")


@dataclass
class VaspLabeler(ExternalLabeler):
    """VASP as configured in `conf/labeler/vasp.yaml`.

    executable: the command line that runs VASP, e.g. `srun vasp_std`; n_cores: that it keeps busy, for core hours
    k_density: k-points per A^-3 of the reciprocal cell, the mesh is centred on Gamma
    incar: INCAR keys that replace those of MPRelaxSet; all but `HARMLESS` ones change the level of theory
    potcar_functional: the folder of POTCARs in the user's pymatgen configuration
    max_corrections: of custodian per calculation; one that would change the level of theory rejects the label
    poll_s: s between two looks of custodian at a running calculation
    """

    executable: str = "vasp_std"
    n_cores: int = 1
    k_density: int = 64
    incar: dict[str, Any] = field(default_factory=dict)
    potcar_functional: str = "PBE"
    max_corrections: int = 5
    poll_s: float = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for key, least in (("k_density", 1), ("n_cores", 1), ("max_corrections", 0)):
            if getattr(self, key) < least:
                raise ConfigError(f"labeler.{key} = {getattr(self, key)}: must be {least} or above")
        if self.poll_s <= 0:
            raise ConfigError(f"labeler.poll_s = {self.poll_s:g}: must be above 0")
        if self.potcar_functional not in FUNCTIONALS:
            raise ConfigError(f"labeler.potcar_functional = {self.potcar_functional}: allowed are {FUNCTIONALS}")
        self.incar = checked_incar(self.incar)

    def settings_id(self) -> str:
        from pymatgen.io.vasp.sets import MPRelaxSet

        preset = {key: MPRelaxSet.CONFIG[key] for key in ("INCAR", "KPOINTS", "POTCAR")}
        theory = {key: value for key, value in self.incar.items() if key not in HARMLESS}
        return f"vasp-mprelaxset-{digest(preset, self.k_density, theory, self.potcar_functional)}"

    def relaxation_id(self) -> str:
        """The ionic threshold is ten times EDIFF, which is part of the level of theory."""
        return ""

    def input_set(self, atoms: Atoms, kind: str) -> MPRelaxSet:
        """pymatgen's inputs for a structure whose atoms are in POSCAR's order."""
        from pymatgen.io.ase import AseAtomsAdaptor
        from pymatgen.io.vasp.sets import MPRelaxSet

        return MPRelaxSet(
            AseAtomsAdaptor.get_structure(atoms),
            user_incar_settings=self.incar | (STATIC if kind == "static" else {}),
            user_kpoints_settings={"reciprocal_density": self.k_density},
            user_potcar_functional=self.potcar_functional,  # type: ignore[arg-type]  # one of FUNCTIONALS
            force_gamma=True,
            sort_structure=False,
        )

    def write(self, atoms: Atoms, kind: str, workdir: Path) -> None:
        """INCAR, KPOINTS, POSCAR, POTCAR; where an earlier attempt left ionic steps, from the last of them.

        Raises: ConfigError without POTCARs, VASP or custodian, and for a structure that MPRelaxSet gives a Hubbard U
        """
        from chemloop.labeler.vasp_output import set_aside

        check_kind(kind)
        stop_leftovers(workdir / LOG)
        if importlib.util.find_spec("custodian") is None:
            raise ConfigError("labeler=vasp needs custodian, which is not installed; run: pip install 'chemloop[vasp]'")
        remedy = "name the command line that starts VASP here, e.g. labeler.executable='srun vasp_std'"
        words = check_program(self.executable, "labeler.executable", remedy)
        order = _poscar_order(atoms)
        start = atoms[order]
        continued = set_aside(workdir) if (workdir / JOB).exists() and kind == "relax" else []
        if continued:
            start.set_cell(continued[-1].cell)
            start.positions = continued[-1].positions
        self._write_inputs(start, kind, workdir)
        write_structures(workdir / START, [start])
        for name in (OUTCOME, *PRINTED):
            (workdir / name).unlink(missing_ok=True)
        job = {"kind": kind, "order": order, "executable": words}
        write_json(workdir / JOB, {**job, "max_corrections": self.max_corrections, "poll_s": self.poll_s})

    def _write_inputs(self, atoms: Atoms, kind: str, workdir: Path) -> None:
        from pymatgen.io.vasp.inputs import PmgVaspPspDirError

        inputs = self.input_set(atoms, kind)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pymatgen's advice on MPRelaxSet's own settings
            incar = inputs.incar
        if incar.get("LDAU") and "LDAU" not in self.incar:
            raise ConfigError(
                f"MPRelaxSet gives {atoms.symbols} a Hubbard U, and other structures of the same elements none: two"
                " levels of theory; +labeler.incar.LDAU=false computes all with plain PBE, +labeler.incar.LDAU=true"
                " takes MPRelaxSet's mixture as it is"
            )
        try:
            inputs.write_input(str(workdir), potcar_spec=False)
        except (PmgVaspPspDirError, FileNotFoundError) as error:
            raise ConfigError(
                f"no POTCAR for {', '.join(sorted(set(atoms.symbols)))} ({self.potcar_functional}): {error}. VASP's"
                " licence forbids shipping them; tell pymatgen where yours are:"
                " pmg config --add PMG_VASP_PSP_DIR FOLDER"
            ) from error

    def command(self, workdir: Path) -> list[str]:
        return [sys.executable, "-m", "chemloop.labeler.vasp_job"]

    def n_ionic_steps(self, workdir: Path) -> int:
        """Each attempt begins with the structure that the one before ended with, so that one counts once."""
        counts = [path.read_bytes().count(b"</calculation>") for path in workdir.glob("vasprun*.xml")]
        return sum(n - 1 for n in counts if n) + any(counts)

    def read(self, workdir: Path) -> list[Atoms]:
        """Electronically converged ionic steps of all attempts; the last of a relaxation carries `converged`.

        Raises: ItemFailed: retryable where the output is missing or stops half-way; fatal where custodian gave up, a
            correction would have changed the level of theory, the SCF did not converge, or the crystal exploded
        """
        from chemloop.labeler.vasp_output import read_attempts

        job = read_json(workdir / JOB)
        said = printed(workdir)
        if not (workdir / OUTCOME).exists():
            tail = f"last lines of {workdir / LOG}: {log_tail(workdir)!r}"
            raise ItemFailed(f"VASP's process ended early; {tail}; {said}", retryable=True)
        if reason := read_json(workdir / OUTCOME)["failure"]:
            raise ItemFailed(f"{reason} (log: {workdir / 'custodian.json'})")
        try:
            frames, is_converged = read_attempts(workdir)
        except ItemFailed as error:
            raise ItemFailed(f"{error.reason}; {said}", error.retryable) from error
        check_shapes(frames)
        back = sorted(range(len(job["order"])), key=job["order"].__getitem__)
        settings_id = self.settings_id()
        labels = [_label(frame, back, settings_id) for frame in frames]
        if job["kind"] == "relax":
            labels[-1].info["converged"] = is_converged
        return labels


def checked_incar(incar: Mapping[str, Any]) -> dict[str, Any]:
    """The user's INCAR keys in upper case.

    Raises: ConfigError for a key that VASP does not have, and for one that is decided elsewhere
    """
    if not incar:
        return {}
    from pymatgen.io.vasp.inputs import Incar

    keys = [key.upper() for key in incar]
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise ConfigError(f"labeler.incar has {', '.join(twice)} twice; INCAR keys are the same in lower case")
    if ours := sorted(OUR_KEYS.intersection(keys)):
        raise ConfigError(f"labeler.incar has {', '.join(ours)}, which the kind of calculation decides; remove them")
    if meshes := sorted(MESH_KEYS.intersection(keys)):
        raise ConfigError(f"labeler.incar has {', '.join(meshes)}: the mesh is that of labeler.k_density; use it")
    for key in keys:
        if key not in Incar.INCAR_PARAMS:
            close = difflib.get_close_matches(key, Incar.INCAR_PARAMS, n=1)
            hint = f"did you mean {close[0]}?" if close else "allowed are those of pymatgen's Incar.INCAR_PARAMS"
            raise ConfigError(f"labeler.incar has {key}, which is no INCAR key that pymatgen knows; {hint}")
    return dict(zip(keys, incar.values(), strict=True))


def printed(workdir: Path) -> str:
    """The last lines that VASP itself printed, with their files."""
    files = [workdir / name for name in PRINTED if (workdir / name).exists()]
    return "; ".join(f"last lines of {path}: {last_lines(path)!r}" for path in files) or "VASP was not started"


def read_start(workdir: Path) -> Atoms:
    """The structure that the present attempt began with.

    Raises: ItemFailed
    """
    try:
        return read_structures(workdir / START)[0]
    except StructureError as error:
        raise ItemFailed(str(error)) from error


def _poscar_order(atoms: Atoms) -> list[int]:
    """Species together, as pymatgen sorts them: by electronegativity, then name."""
    from pymatgen.core import Element

    symbols = list(atoms.symbols)
    return sorted(range(len(atoms)), key=lambda i: (Element(symbols[i]).X, symbols[i]))


def _label(frame: Atoms, back: list[int], settings_id: str) -> Atoms:
    label = Atoms(frame.numbers, positions=frame.positions, cell=frame.cell, pbc=True)[back]
    forces, stress = frame.get_forces()[back], frame.get_stress(voigt=False)
    label.info[THEORY] = frame.info[THEORY]
    return set_results(label, "label", frame.get_potential_energy(), forces, stress, settings_id)
