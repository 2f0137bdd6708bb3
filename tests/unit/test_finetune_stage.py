"""The finetune stage: from which weights a fit starts, and the energy frame of what it leaves."""

from __future__ import annotations

from pathlib import Path

import pytest
from ase.build import bulk

from chemloop.config import load
from chemloop.physics.structures import write_structures
from chemloop.runtime.campaign import Campaign
from chemloop.runtime.disk import file_hash, read_json, write_json
from chemloop.runtime.errors import CheckpointError
from chemloop.stages.curate import SPLIT, Curate
from chemloop.stages.finetune import Finetune
from chemloop.stages.stage import (
    BASE,
    FIT,
    METRICS,
    OUTPUT,
    base_folder,
    checkpoint_hash,
    current_model,
    stage_folder,
)
from chemloop.training.finetune import Fit


@pytest.fixture
def stage_of(tmp_path, compose_config, monkeypatch):
    """stage_of(checkpoint, kept_base, *overrides) -> the second fit of a campaign that began with that checkpoint."""

    def made(checkpoint: str | None, kept_base: float, *overrides: str) -> Finetune:
        campaign = Campaign(tmp_path / "c")
        campaign.begin(compose_config("model=chgnet", *overrides))
        base = {
            "checkpoint": checkpoint,
            "sha256": checkpoint_hash(checkpoint),
            "energy_frame": f"chgnet-{checkpoint or 'untrained'}",
        }
        base_folder(campaign).mkdir(parents=True)
        write_json(base_folder(campaign) / BASE, base)
        first = stage_folder(campaign, 0, "finetune")
        first.mkdir(parents=True)
        (first / "finetuned.pt").write_bytes(b"first")
        write_json(first / FIT, {"checkpoint": "finetuned.pt", "energy_frame": "chgnet-first"})
        write_json(first / METRICS, {"finetune/kept_base": kept_base})
        write_json(first / "DONE", {})
        monkeypatch.setattr(Curate, "pool", lambda self: {})
        for iteration, n_train in enumerate([1, 2]):
            curated = stage_folder(campaign, iteration, "curate")
            curated.mkdir(parents=True)
            write_structures(curated / OUTPUT, [bulk("Li") for _ in range(n_train)])
            write_json(curated / SPLIT, {"train": [f"f{k}" for k in range(n_train)], "test": []})
        return Finetune(campaign, load(campaign.config()), 1)

    return made


@pytest.fixture
def fits(monkeypatch):
    """The checkpoint of each start; a fit leaves `fits.leave` in a file, or the start where that is None."""

    class Fits(list):
        leave: bytes | None = b"second"

    found = Fits()

    def finetune(start, train, recipe, workdir: Path, seed, device):
        found.append(start.checkpoint)
        checkpoint = start.checkpoint
        if found.leave is not None:
            (workdir / "finetuned.pt").write_bytes(found.leave)
            checkpoint = str(workdir / "finetuned.pt")
        return Fit(checkpoint, found.leave is None, {"finetune/n_epochs": 1.0}, workdir / "curves.jsonl")

    monkeypatch.setattr("chemloop.training.finetune.finetune", finetune)
    return found


def fitted(stage: Finetune) -> dict:
    (item,) = stage.plan()
    stage.run(item)
    return read_json(item.folder / FIT)


def test_it_goes_on_from_the_fit_before(stage_of, fits):
    stage = stage_of("0.3.0", 0.0)
    fit = fitted(stage)
    assert fits[0] == str(stage_folder(stage.campaign, 0, "finetune") / "finetuned.pt")
    assert fit["energy_frame"] == f"chgnet-{file_hash(Path(fit['checkpoint']))[:8]}"


@pytest.mark.parametrize(("kept_base", "start"), [(1.0, None), (0.0, "finetuned.pt")])
def test_random_weights_that_a_fit_kept_are_still_random(stage_of, fits, kept_base, start):
    """The next fit takes them for what they are, and so asks less of the new weights."""
    fitted(stage_of(None, kept_base))
    (found,) = fits
    assert (found if found is None else Path(found).name) == start


def test_the_base_that_is_kept_has_its_own_energy_frame(stage_of, fits):
    """Not that of the fit in between, whose weights are not in use any more."""
    fits.leave = None
    fit = fitted(stage_of("0.3.0", 0.0, "training=reewc"))
    assert fits[0] == "0.3.0"
    assert (fit["checkpoint"], fit["energy_frame"]) == ("0.3.0", "chgnet-0.3.0")


def test_a_base_from_elsewhere_that_is_kept_is_watched(stage_of, fits, tmp_path):
    """It is no product of the stage, and an overwritten one is not used under its old energy frame."""
    file = tmp_path / "w.pt"
    file.write_bytes(b"base")
    fits.leave = None
    stage = stage_of(str(file), 0.0, "training=reewc")
    fitted(stage)
    stage.collect(stage.plan())
    assert read_json(stage.folder / FIT)["checkpoint"] == str(file) and file not in stage.final_files()
    write_json(stage.folder / "DONE", {})
    later = Finetune(stage.campaign, stage.settings, 2)
    assert current_model(later)[0].checkpoint == str(file)
    file.write_bytes(b"another")
    with pytest.raises(CheckpointError, match="has changed since it was first used here"):
        current_model(later)


def test_what_a_fit_wrote_is_a_product_of_the_stage(stage_of, fits):
    stage = stage_of("0.3.0", 0.0)
    fit = fitted(stage)
    stage.collect(stage.plan())
    checkpoint = read_json(stage.folder / FIT)["checkpoint"]
    assert not Path(checkpoint).is_absolute() and stage.folder / checkpoint == Path(fit["checkpoint"])
    assert stage.folder / checkpoint in stage.final_files()


def test_the_fit_before_that_is_kept_keeps_its_energy_frame(stage_of, fits):
    fits.leave = None
    fit = fitted(stage_of("0.3.0", 0.0))
    assert fit["energy_frame"] == "chgnet-first" and fit["checkpoint"].endswith("finetuned.pt")
