"""Every combination in conf/experiment/ is a valid configuration, and says what its file says."""

from __future__ import annotations

from pathlib import Path

import pytest

from chemloop.config import load

EXPERIMENTS = sorted(path.stem for path in (Path(__file__).parents[2] / "conf" / "experiment").glob("*.yaml"))
LIMITS = [f"compute.{kind}.time_min=60" for kind in ("gpu", "cpu", "dft")]
"""That only a user knows."""


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_loads(compose_config, experiment):
    limits = LIMITS if experiment == "paper" else []
    assert load(compose_config(f"experiment={experiment}", *limits)).system.elements == ["Li", "P", "S"]


def test_the_paper_as_a_whole(compose_config):
    settings = load(compose_config("experiment=paper", *LIMITS))
    chosen = {group: settings.options[group] for group in ("generator", "model", "labeler", "loop", "compute")}
    assert chosen == {
        "generator": "mattergen", "model": "dpa3", "labeler": "vasp", "loop": "paper", "compute": "slurm",
    }  # fmt: skip
    assert (settings.training.loss, settings.training.epochs) == ("deepmd", 50), "the recipe of DPA-3 in the paper"
    assert (settings.loop.generate.n, settings.loop.hull_quotas) == (9984, [100, 200, 300])
