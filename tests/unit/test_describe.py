"""The describe stage: which structures it takes, what it finds out, and that nothing is lost silently."""

from __future__ import annotations

import json

import numpy as np
import pytest

from chemloop.config import load
from chemloop.physics.descriptors import environments
from chemloop.physics.fingerprints import N_FEATURES
from chemloop.runtime.errors import ConfigError, StructureError
from chemloop.stages.describe import Describe, DescribeSettings, read_environments, read_motifs
from tests.unit.explored import FOUND, KNOWN, begin, crystals, run, screened


@pytest.fixture
def campaign(tmp_path, compose_config):
    return begin(tmp_path / "c", compose_config("loop.describe.per_item=4"))


def stage(campaign, iteration: int) -> Describe:
    return Describe(campaign, load(campaign.config()), iteration)


def test_references_are_described(campaign):
    describe = stage(campaign, 0)
    metrics = run(describe)
    assert len(list((describe.folder / "items").iterdir())) == 2
    assert metrics["n_described"] == len(KNOWN)
    motifs = {atoms.info["name"]: {m.title for m in found} for atoms, found in read_motifs(describe.folder)}
    assert motifs["mp-51"] == set() and motifs["mp-77"] == {"S8 ring"} and motifs["mp-985583"] == {"PS4^3-"}
    expected = environments(crystals(KNOWN), ["Li", "P", "S"])
    for part, other in zip(read_environments(describe.folder), expected, strict=True):
        np.testing.assert_allclose(part, other, atol=1e-6)
    assert metrics["n_environments"] == sum(map(len, expected))


def test_fingerprints_and_what_has_none(campaign):
    describe = stage(campaign, 0)
    metrics = run(describe)
    with np.load(describe.folder / "fingerprints.npz") as arrays:
        assert arrays["ids"].tolist() == [f"i00-r{n:04d}" for n in range(len(KNOWN))]
        assert arrays["framework"].shape == arrays["whole"].shape == (len(KNOWN), N_FEATURES)
        # Metallic lithium has no framework.
        lost = np.isnan(arrays["framework"]).any(axis=1) | np.isnan(arrays["whole"]).any(axis=1)
    assert lost[0] and not lost[-1]
    failures = json.loads((describe.folder / "failures.json").read_text())
    assert metrics["n_without_fingerprint"] == len(failures) == lost.sum()
    assert "no atoms besides Li" in failures["i00-r0000"]


def test_only_converged_unique_novel_candidates_count(campaign):
    screened(campaign, 1, crystals(FOUND))
    assert run(stage(campaign, 1))["n_described"] == len(FOUND)
    for iteration, flag in enumerate(("converged", "is_unique", "is_novel"), start=2):
        screened(campaign, iteration, crystals(FOUND), **{flag: False})
        assert run(stage(campaign, iteration))["n_described"] == 0


def test_an_iteration_without_any(campaign):
    screened(campaign, 1, [])
    describe = stage(campaign, 1)
    assert run(describe) == {"n_described": 0, "n_environments": 0, "n_without_fingerprint": 0}
    assert read_environments(describe.folder) == [] and read_motifs(describe.folder) == []
    with np.load(describe.folder / "fingerprints.npz") as arrays:
        assert arrays["whole"].shape == (0, N_FEATURES)
    assert all(path.exists() for path in describe.final_files() if path.name != "metrics.json")


def test_again_the_same_bytes(campaign, tmp_path, compose_config):
    other = begin(tmp_path / "other", compose_config("loop.describe.per_item=4"))
    for each in (campaign, other):
        run(stage(each, 0))
    names = [path.name for path in stage(campaign, 0).final_files() if path.name != "metrics.json"]
    for name in names:
        assert (stage(campaign, 0).folder / name).read_bytes() == (stage(other, 0).folder / name).read_bytes(), name


def test_positions_that_are_not_numbers(campaign):
    describe = stage(campaign, 0)
    describe.folder.mkdir(parents=True)
    item = describe.plan()[0]
    path = item.folder / "input.extxyz"
    lines = path.read_text().splitlines()
    lines[2] = lines[2].replace(lines[2].split()[1], "nan", 1)
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(StructureError, match="i00-r0000 has positions or cell vectors that are not finite numbers"):
        describe.run(item)


def test_settings():
    with pytest.raises(ConfigError, match="loop.describe.per_item = 0: must be 1 or above"):
        DescribeSettings(per_item=0)
