"""What curate says of completeness, iteration by iteration, on campaigns whose answers are known."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from chemloop.config import load
from chemloop.loop import StopSettings, completeness_of, stop_reason
from chemloop.physics import entropy_series
from chemloop.physics.completeness import predictions, sentence
from chemloop.physics.descriptors import environments
from chemloop.physics.entropy import log_kernel_sums
from chemloop.physics.entropy_series import entropy_growth
from chemloop.physics.motifs import MotifCatalogue
from chemloop.runtime.campaign import STAGES
from chemloop.runtime.disk import read_json
from chemloop.runtime.errors import CampaignError, ConfigError
from chemloop.stages.curate import Curate
from chemloop.stages.curve_pool import read_pool
from chemloop.stages.describe import Describe, read_arrays
from chemloop.stages.exploration import read_kinds
from chemloop.stages.seed import Seed
from chemloop.workflow.ledger import settings_of
from tests.unit.explored import FOUND, begin, crystals, explore, run, screened

SETTINGS = ("loop.curate.n_environments=20", "loop.curate.n_train=6")


@pytest.fixture
def campaign(tmp_path, compose_config):
    return begin(tmp_path / "c", compose_config(*SETTINGS))


def test_references_alone(campaign):
    metrics = explore(campaign, 0)
    found = completeness_of(campaign, load(campaign.config()), 0)
    assert found.environments is None and found.motifs is None and found.overlap is None
    assert not any("coverage" in key or "overlap" in key for key in metrics)
    assert metrics["entropy_nats"] == found.entropy > 1 and metrics["entropy_error_nats"] == found.entropy_error > 0
    assert "No structure has been generated" in sentence([found])


def test_iterations_add_up(campaign):
    explore(campaign, 0)
    screened(campaign, 1, crystals(FOUND))
    first = explore(campaign, 1)
    assert (first["n_motifs_seen"], first["n_motifs_known_before"]) == (4, 1)
    assert 0 < first["overlap_fraction"] < 0.5 and first["motif_coverage"] < 0.3
    # All of iteration 2 was there before: the same crystals, and one of the references.
    screened(campaign, 2, crystals([*FOUND, "mp-985583"]))
    second = explore(campaign, 2)
    assert second["overlap_fraction"] == second["overlap_by_gain_fraction"] == 1
    assert second["overlap_fraction_error"] == 0
    assert second["n_motifs_seen"] == 4 and second["motif_coverage"] > first["motif_coverage"]
    assert second["n_environments_seen"] > first["n_environments_seen"], "the reference's kinds are samples now"
    added = [second[key] - first[key] for key in ("n_environments_seen", "n_environments_known_before")]
    assert added[0] == added[1]
    for kind in ("environment", "motif"):
        low, value, high = (second[f"{kind}_coverage{end}"] for end in ("_low", "", "_high"))
        assert 0 <= low <= value <= high <= 1
        low, value, high = (second[f"n_new_{kind}s_expected{end}"] for end in ("_low", "", "_high"))
        assert 0 <= low <= value <= high
    found = completeness_of(campaign, load(campaign.config()), 2)
    assert (found.environments.n_samples, found.environments.further, found.motifs.n_samples) == (7, 4, 7)
    history = [completeness_of(campaign, load(campaign.config()), number) for number in range(3)]
    assert "another 4 such structures would bring about" in sentence(history)
    assert predictions(history, "motifs") == [], "four structures after three are further than the estimate serves for"


def test_what_an_iteration_finds_is_held_against_what_was_expected_of_it(campaign):
    explore(campaign, 0)
    for iteration in (1, 2):
        screened(campaign, iteration, crystals(FOUND))
        explore(campaign, iteration)
    history = [completeness_of(campaign, load(campaign.config()), number) for number in range(3)]
    for name in ("environments", "motifs"):
        before, after = (getattr(each, name) for each in history[1:])
        assert before.predicted is None and after.predicted == before.expected_new, "three structures, as many as ever"
        assert predictions(history, name) == [(2, after.predicted, 0)] and after.predicted.value > 0
    assert "Earlier predictions whose interval held what was found: " in sentence(history)


def test_catalogue_and_kinds_are_those_of_all_iterations(campaign):
    explore(campaign, 0)
    screened(campaign, 1, crystals(FOUND))
    explore(campaign, 1)
    folders = [Curate(campaign, load(campaign.config()), number).folder for number in (0, 1)]
    catalogue = MotifCatalogue.from_json(read_json(folders[-1] / "catalogue.json"))
    entries = {entry.title: entry for entry in catalogue.entries}
    assert (entries["S8 ring"].n_references, entries["S8 ring"].n_structures) == (1, 0)
    assert entries["P2S7^4-"].first_iteration == 1 and entries["P2S7^4-"].first_structure == "i01-g000-0000"
    assert entries["PS4^3-"].is_known and entries["PS4^3-"].n_structures == 1
    assert entries["S8 ring"].host.startswith("i00-r") and np.isfinite(entries["S8 ring"].e_above_hull)
    kinds = read_kinds(folders, 0.1)
    assert len(kinds.leaders) == len(kinds.n_structures) == len(kinds.n_references)
    assert ((kinds.n_structures > 0) | (kinds.n_references > 0)).all() and kinds.n_samples == len(FOUND)


def test_an_empty_iteration_changes_nothing_that_is_known(campaign):
    explore(campaign, 0)
    screened(campaign, 1, crystals(FOUND))
    first = explore(campaign, 1)
    screened(campaign, 2, [])
    second = explore(campaign, 2)
    assert "overlap_fraction" not in second
    for key in ("motif_coverage", "n_environments_seen", "n_environments_estimated", "entropy_nats"):
        assert second[key] == first[key], key
    assert completeness_of(campaign, load(campaign.config()), 2).motifs.further == 2


def test_nothing_generated_so_far(campaign):
    explore(campaign, 0)
    screened(campaign, 1, [])
    assert not any("coverage" in key for key in explore(campaign, 1))


def test_again_the_same_bytes(campaign, tmp_path, compose_config):
    other = begin(tmp_path / "other", compose_config(*SETTINGS))
    for each in (campaign, other):
        explore(each, 0)
        screened(each, 1, crystals(FOUND))
        explore(each, 1)
    for name in ("completeness.json", "catalogue.json", "kinds.npz", "sums.npz", "items/0000/statistics.json"):
        one, two = (Curate(each, load(each.config()), 1).folder / name for each in (campaign, other))
        assert one.read_bytes() == two.read_bytes(), name


HELP = "begin a new one with campaign=NAME loop.curate.n_environments={} or below; labels .* the label cache"


def test_too_large_a_sample_is_refused_before_anything_is_labelled(tmp_path, compose_config):
    config = compose_config("loop.curate.n_environments=5000", "loop.seed.max_atoms=6")
    campaign = begin(tmp_path / "c", config)
    seed = Seed(campaign, load(config), 0)
    n_atoms = sum(map(len, seed.structures()))
    with pytest.raises(ConfigError, match=f"= 5000: the references hold {n_atoms} env.*{HELP.format(n_atoms)}"):
        seed.plan()
    assert not (seed.folder / "items").exists()


def test_references_that_did_not_converge_may_leave_too_few(tmp_path, compose_config):
    campaign = begin(tmp_path / "c", compose_config("loop.curate.n_environments=5000", "loop.curate.n_train=6"))
    with pytest.raises(ConfigError, match=f"the structures that converged so far hold ([0-9]+) env.*{HELP[:60]}"):
        explore(campaign, 0)


def test_growth_begins_with_the_sums_of_the_iteration_before(tmp_path, compose_config, monkeypatch):
    """Its own size, and what it meets, is what an iteration costs; the values are those of all pairs."""
    campaign, met = begin(tmp_path / "c", compose_config(*SETTINGS[:1], "loop.curate.n_train=18")), []

    def spy(y, x, *arguments):
        met.append(len(y) * len(x))
        return log_kernel_sums(y, x, *arguments)

    monkeypatch.setattr(entropy_series, "log_kernel_sums", spy)
    settings, n = load(campaign.config()), []
    for iteration in range(3):
        if iteration:
            screened(campaign, iteration, crystals(FOUND))
        found = explore(campaign, iteration)
        curate = Curate(campaign, settings, iteration)
        described = environments(curate.output(), settings.system.elements)
        n.append(sum(map(len, described)))
        expected = entropy_growth(described).measured
        assert found["entropy_growth_nats_per_frame"] == pytest.approx(expected.value, rel=1e-6)
        assert found["entropy_growth_error_nats_per_frame"] == pytest.approx(expected.standard_error, rel=1e-6)
        assert len(read_arrays(curate.folder / "sums.npz")["log_sums"]) == n[-1]
        of_stage, of_test = sum(met) - n[-1] ** 2, n[-1] ** 2
        assert of_test > 0 and of_stage == n[-1] ** 2 - (n[-2] ** 2 if iteration else 0)
        met.clear()


def test_a_training_set_that_does_not_grow_keeps_its_growth(tmp_path, compose_config, monkeypatch):
    campaign = begin(
        tmp_path / "c", compose_config(*SETTINGS[:1], "loop.curate.n_train=18", "loop.curate.last_train_iteration=0")
    )
    first = explore(campaign, 0)
    screened(campaign, 1, crystals(FOUND))
    monkeypatch.setattr(entropy_series, "entropy_growth", None)
    second = explore(campaign, 1)
    for key in ("entropy_growth_nats_per_frame", "entropy_growth_error_nats_per_frame"):
        assert second[key] == first[key]


def test_stop_rule_reads_what_iterations_say(campaign):
    settings = load(campaign.config())
    explore(campaign, 0)
    for iteration in (1, 2):
        screened(campaign, iteration, crystals(FOUND))
        explore(campaign, iteration)
    loose = {"tolerance_nats": 9.0, "growth_limit_nats_per_frame": 9.0}
    for criteria, words in (
        (["entropy", "growth"], "^complete: the entropy"),
        (
            ["motif_coverage"],
            "^loop.max_iterations = 2 reached; not complete: the coverage of motifs is 1.000, 95 % interval from 0.6",
        ),
    ):
        stop = StopSettings(criteria=criteria, **loose)
        judged = replace(settings, loop=replace(settings.loop, stop=stop))
        assert re.match(words, stop_reason(campaign, judged, 2))


@pytest.mark.parametrize(
    "override, message",
    [
        (
            "loop.stop.criteria=[]",
            r"loop.stop.criteria = \[\]: must be one or more of entropy, growth, environment_cov",
        ),
        ("loop.stop.criteria=[entropy,noise]", r"loop.stop.criteria = \[entropy, noise\]: must be one or more of"),
        ("loop.stop.motif_coverage=1", "loop.stop.motif_coverage = 1: must be between 0 and 1"),
        ("loop.curate.kind_radius=0", "loop.curate.kind_radius = 0: must be above 0"),
    ],
)
def test_settings(compose_config, override, message):
    with pytest.raises(ConfigError, match=message):
        load(compose_config(override))


def test_all_loops_ask_for_coverage_too(compose_config):
    assert StopSettings().limits.keys() >= {"environment_coverage", "motif_coverage"}
    coverage = {"environment_coverage": 0.95, "motif_coverage": 0.95}
    assert load(compose_config("loop=paper")).loop.stop.limits == {"entropy": 0.01, "growth": 1e-4, **coverage}
    assert load(compose_config()).loop.stop.limits == {"entropy": 0.02, "growth": 1e-3, **coverage}


def test_a_campaign_still_running(campaign):
    """Described, not yet curated: what is finished can be read, what is not is not taken for finished."""
    explore(campaign, 0)
    screened(campaign, 1, crystals(FOUND))
    run(Describe(campaign, load(campaign.config()), 1))
    assert completeness_of(campaign, load(campaign.config()), 0).iteration == 0
    assert not Curate(campaign, load(campaign.config()), 1).is_done


def test_a_campaign_of_another_version(campaign):
    """Before `describe`, curate was the stage number 6."""
    explore(campaign, 0)
    settings_of(campaign)
    folder = campaign.iteration(0)
    (folder / f"{STAGES.index('curate')}-curate").rename(folder / "6-curate")
    message = (
        "campaign c was computed by another version of ChemLoop: it has iter-000/6-curate, which this version calls"
        " 7-curate. Go on with the version that began it, or begin a new one with campaign=NAME"
    )
    for ask in (settings_of, lambda c: c.begin(c.config()), lambda c: read_pool(c.folder)):
        with pytest.raises(CampaignError, match=message):
            ask(campaign)


def test_json_on_disk_is_json(campaign):
    explore(campaign, 0)

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    folder = Curate(campaign, load(campaign.config()), 0).folder
    for name in ("completeness.json", "catalogue.json", "items/0000/statistics.json"):
        json.loads((folder / name).read_text(), parse_constant=refuse)
