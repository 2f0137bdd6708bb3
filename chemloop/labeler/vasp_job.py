"""Runs VASP under custodian in the current folder: `python -m chemloop.labeler.vasp_job`.

outcome.json says how it ended: `failure` is null, or why there is no label. Without that file the process was killed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from custodian.custodian import Custodian, CustodianError, ErrorHandler
from custodian.vasp.handlers import (
    NonConvergingErrorHandler,
    PositiveEnergyErrorHandler,
    PotimErrorHandler,
    StdErrHandler,
    UnconvergedErrorHandler,
    VaspErrorHandler,
)
from custodian.vasp.interpreter import VaspModder
from custodian.vasp.io import load_vasprun
from custodian.vasp.jobs import VaspJob
from pymatgen.io.vasp.inputs import Incar

from chemloop.labeler.vasp import HARMLESS, JOB, OUTCOME
from chemloop.runtime.disk import read_json, write_json

HARMLESS_FILES = ("CONTCAR", "WAVECAR", "CHGCAR")


class Guard(ErrorHandler):
    """A handler of custodian that may not change the level of theory: a correction that would ends the run."""

    raises_runtime_error = True

    def __init__(self, handler: ErrorHandler):
        self.handler = handler
        self.is_monitor = handler.is_monitor
        self.refusal: str | None = None

    def check(self, directory: str = "./") -> bool:
        return bool(self.handler.check(directory))

    def correct(self, directory: str = "./") -> dict[str, Any]:
        before = Incar.from_file(Path(directory) / "INCAR")
        correction = self.handler.correct(directory)
        forbidden = drift(correction["actions"] or [], before)
        if forbidden:
            self.refusal = (
                f"{' and '.join(map(str, correction['errors']))}: custodian's correction would change the level of"
                f" theory ({', '.join(forbidden)}), so there is no label"
            )
            return {"errors": correction["errors"], "actions": None}
        if kept := kept_threshold(correction["actions"] or [], before):
            # custodian's handlers apply their actions themselves
            VaspModder(directory=directory).apply_actions(kept)
            correction["actions"] += kept
        return correction

    def as_dict(self) -> dict[str, Any]:
        """What custodian.json names this handler by."""
        return {"@module": type(self.handler).__module__, "@class": type(self.handler).__name__}


class ElectronsUnconverged(UnconvergedErrorHandler):
    """Ionic steps that are used up are for the caller to judge: the steps so far are labels all the same."""

    def check(self, directory: str = "./") -> bool:
        return bool(super().check(directory)) and not load_vasprun(f"{directory}/vasprun.xml").converged_electronic


def drift(actions: list[dict[str, Any]], before: Mapping[str, Any]) -> list[str]:
    """What of custodian's actions changes the level of theory.

    before: the INCAR that they are applied to
    """
    found = []
    for action in actions:
        if "file" in action:
            found += [] if action["file"] in HARMLESS_FILES else [f"file {action['file']}"]
            continue
        if action["dict"] != "INCAR":
            found.append(action["dict"])
            continue
        for change in action["action"].values():
            for key, value in change.items():
                # EDIFF may become smaller, too
                is_tighter = key == "EDIFF" and float(value) <= float(before.get("EDIFF", 1e-4))
                if key not in HARMLESS and not is_tighter:
                    found.append(f"{key} {before.get(key, 'unset')} -> {value}")
    return found


def kept_threshold(actions: Sequence[dict[str, Any]], before: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The action that keeps the ionic threshold, ten times EDIFF where INCAR does not say, when EDIFF is tightened:
    relaxations would run until their steps are used up.
    """
    changed = {key for action in actions for change in action["action"].values() for key in change}
    if "EDIFF" not in changed or "EDIFFG" in before:
        return []
    return [{"dict": "INCAR", "action": {"_set": {"EDIFFG": 10 * float(before.get("EDIFF", 1e-4))}}}]


def main(folder: Path) -> None:
    """Run VASP and write outcome.json."""
    job = read_json(folder / JOB)
    kinds = (VaspErrorHandler, StdErrHandler, ElectronsUnconverged, NonConvergingErrorHandler)
    more = (PotimErrorHandler, PositiveEnergyErrorHandler)
    guards = [Guard(kind()) for kind in (*kinds, *more)]
    custodian = Custodian(
        guards,
        [VaspJob(job["executable"], auto_npar=False, auto_gamma=False)],
        max_errors=job["max_corrections"] + 1,
        polling_time_step=job["poll_s"],
        monitor_freq=2,
        terminate_on_nonzero_returncode=False,
        directory=str(folder),
    )
    failure = None
    try:
        custodian.run()
    except CustodianError as error:
        refusals = [guard.refusal for guard in guards if guard.refusal]
        failure = refusals[0] if refusals else f"custodian gave up: {error}"
    write_json(folder / OUTCOME, {"failure": failure})


if __name__ == "__main__":
    main(Path.cwd())
