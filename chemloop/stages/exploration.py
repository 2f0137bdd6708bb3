"""How far the explored space has come: kinds of environment and motif so far, and what they say of the rest."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from chemloop.physics.completeness import Completeness, Seen, predict, seen
from chemloop.runtime.disk import read_json, write_json
from chemloop.runtime.errors import ConfigError
from chemloop.stages.describe import read_arrays, read_environments, read_motifs, write_arrays

if TYPE_CHECKING:
    from chemloop.physics.entropy_series import Measured
    from chemloop.physics.environment_kinds import EnvironmentKinds
    from chemloop.physics.motifs import MotifCatalogue
    from chemloop.stages.curate import Curate

COMPLETENESS = "completeness.json"
CATALOGUE = "catalogue.json"
KINDS = "kinds.npz"
SUMS = "sums.npz"
COUNTED = ("n_structures", "n_references", "first_host", "first_iteration")


def measure(
    stage: Curate, train: Sequence[np.ndarray], reference_energies: Mapping[str, float], folder: Path
) -> dict[str, float]:
    """Write completeness.json, catalogue.json, kinds.npz and sums.npz into the folder; returns the metrics.

    train: environments of the training frames in the order in which they were chosen
    reference_energies: eV/atom above the hull by id
    """
    from chemloop.physics.entropy_series import entropy_at, is_within, share

    settings, seed, iteration = stage.settings.loop.curate, stage.settings.seed, stage.iteration
    *before, new = [read_environments(path) for path in stage.earlier("describe")]
    known = [part for parts in before for part in parts]
    n_explored = sum(map(len, known + new))
    check_sample_size(settings.n_environments, n_explored, "the structures that converged so far")
    entropy = entropy_at(known + new, settings.n_environments, settings.n_repeats, settings.bandwidth, seed)
    growth = grow(stage, train, folder)
    environments, is_known = count_kinds(stage, new, folder)
    found = Completeness(
        iteration=iteration,
        entropy=entropy.value,
        entropy_error=finite(entropy.standard_error),
        growth=growth.value,
        growth_error=finite(growth.standard_error),
        environments=environments,
        motifs=count_motifs(stage, reference_energies, len(new), folder),
        n_environments=settings.n_environments,
    )
    statistics = {"n_explored_environments": float(n_explored)}
    if iteration and new:
        overlap = share(is_known, seed=seed)
        by_gain = share(is_within(new, np.vstack(known), settings.bandwidth), seed=seed)
        found = replace(found, overlap=overlap.value, overlap_error=finite(overlap.standard_error))
        statistics |= known_numbers(
            {"overlap_by_gain_fraction": by_gain.value, "overlap_by_gain_fraction_error": by_gain.standard_error}
        )
    write_json(folder / COMPLETENESS, found.to_json())
    return metrics_of(found) | statistics


def grow(stage: Curate, train: Sequence[np.ndarray], folder: Path) -> Measured:
    """dH/dN of the training set, and the sums that the next iteration begins with, in sums.npz.

    A training set that has not grown has the dH/dN that it had.
    """
    from chemloop.physics.entropy_series import Measured, entropy_growth

    files = [path / SUMS for path in stage.earlier("curate")[-1:] if (path / SUMS).exists()]
    known = read_arrays(files[0])["log_sums"] if files else None
    if known is not None and len(known) == sum(map(len, train)):
        write_arrays(folder / SUMS, {"log_sums": known})
        last = Completeness.from_json(read_json(files[0].with_name(COMPLETENESS)))
        return Measured(last.growth, math.nan if last.growth_error is None else last.growth_error)
    growth = entropy_growth(train, bandwidth=stage.settings.loop.curate.bandwidth, known=known)
    write_arrays(folder / SUMS, {"log_sums": growth.log_sums})
    return growth.measured


def count_kinds(stage: Curate, new: Sequence[np.ndarray], folder: Path) -> tuple[Seen | None, list[np.ndarray]]:
    """What the kinds of environment say, with those of this iteration; and which environments are of known kinds.

    Writes kinds.npz.
    """
    seed = stage.settings.seed
    kinds = read_kinds(stage.earlier("curate"), stage.settings.loop.curate.kind_radius)
    n_before = len(kinds.leaders)
    expected = predict(kinds.n_structures, kinds.n_samples, kinds.first_host.tolist(), len(new), seed)
    is_known = kinds.add(new, stage.iteration, is_reference=stage.iteration == 0).is_known
    write_kinds(folder / KINDS, kinds, n_before)
    further = average(kinds.n_samples, stage.iteration)
    hosts, in_references = kinds.first_host.tolist(), kinds.n_references > 0
    return seen(kinds.n_structures, kinds.n_samples, in_references, hosts, further, seed, expected), is_known


def count_motifs(stage: Curate, reference_energies: Mapping[str, float], n_new: int, folder: Path) -> Seen | None:
    """What the motifs say, with those of this iteration's n_new structures; writes catalogue.json."""
    seed, catalogue = stage.settings.seed, read_catalogue(stage.earlier("curate"))
    expected = predict(catalogue.occurrences(), catalogue.n_structures, first_hosts(catalogue), n_new, seed)
    add_motifs(catalogue, stage, reference_energies)
    write_json(folder / CATALOGUE, catalogue.to_json())
    in_references = np.array([entry.n_references for entry in catalogue.entries], dtype=int) > 0
    counts, n, hosts = catalogue.occurrences(), catalogue.n_structures, first_hosts(catalogue)
    return seen(counts, n, in_references, hosts, average(n, stage.iteration), seed, expected)


def average(n_structures: int, iteration: int) -> int:
    """Structures that an iteration brought so far, at least 1: for how many more to predict."""
    return max(1, round(n_structures / max(1, iteration)))


def check_sample_size(n: int, n_explored: int, of: str) -> None:
    """Check that samples of n environments can be drawn.

    of: what holds the n_explored environments, in words
    Raises: ConfigError
    """
    if n_explored < n:
        raise ConfigError(
            f"loop.curate.n_environments = {n}: {of} hold {n_explored} environments, and entropies are compared at one"
            " sample size that all iterations have, also the first. It cannot change within a campaign: begin a new one"
            f" with campaign=NAME loop.curate.n_environments={n_explored} or below; labels that are computed already"
            " are taken from the label cache"
        )


def read_catalogue(folders: Sequence[Path]) -> MotifCatalogue:
    """The catalogue as the last of these curate stages left it."""
    from chemloop.physics.motifs import MotifCatalogue

    return MotifCatalogue.from_json(read_json(folders[-1] / CATALOGUE)) if folders else MotifCatalogue()


def add_motifs(catalogue: MotifCatalogue, stage: Curate, reference_energies: Mapping[str, float]) -> None:
    """Enter the motifs of the stage's iteration."""
    is_reference = stage.iteration == 0
    for atoms, motifs in read_motifs(stage.earlier("describe")[-1]):
        id = atoms.info["id"]
        energy = reference_energies[id] if is_reference else float(atoms.info["e_above_hull"])
        catalogue.add(motifs, id, stage.iteration, energy, is_reference)


def first_hosts(catalogue: MotifCatalogue) -> list[str | None]:
    """Of each motif, the first structure generated that holds it."""
    return [entry.first_structure for entry in catalogue.entries]


def read_kinds(folders: Sequence[Path], radius: float) -> EnvironmentKinds:
    """The kinds as the last of these curate stages left them; each holds the leaders that it added."""
    from chemloop.physics.environment_kinds import EnvironmentKinds

    if not folders:
        return EnvironmentKinds(radius)
    files = [read_arrays(folder / KINDS) for folder in folders]
    leaders = np.vstack([arrays["leaders"] for arrays in files])
    counted = {key: files[-1][key] for key in COUNTED}
    return EnvironmentKinds(radius, leaders, **counted, n_samples=int(files[-1]["n_samples"]))


def write_kinds(path: Path, kinds: EnvironmentKinds, n_before: int) -> None:
    counted = {key: getattr(kinds, key) for key in COUNTED}
    write_arrays(path, {"leaders": kinds.leaders[n_before:], "n_samples": np.array(kinds.n_samples), **counted})


def metrics_of(completeness: Completeness) -> dict[str, float]:
    """What trackers and reports plot; what is not known is left out."""
    metrics = {
        "entropy_nats": completeness.entropy,
        "entropy_error_nats": completeness.entropy_error,
        "entropy_growth_nats_per_frame": completeness.growth,
        "entropy_growth_error_nats_per_frame": completeness.growth_error,
        "overlap_fraction": completeness.overlap,
        "overlap_fraction_error": completeness.overlap_error,
    }
    for kind, found in (("environment", completeness.environments), ("motif", completeness.motifs)):
        metrics |= {} if found is None else metrics_of_kind(kind, found)
    return known_numbers(metrics)


def metrics_of_kind(kind: str, seen: Seen) -> dict[str, float | None]:
    estimates = {
        f"{kind}_coverage": seen.coverage,
        f"n_{kind}s_estimated": seen.estimated,
        f"n_new_{kind}s_expected": seen.expected_new,
    }
    return {
        f"n_{kind}s_seen": seen.n_seen,
        f"n_{kind}s_known_before": seen.n_known,
        **{key: estimate.value for key, estimate in estimates.items()},
        **{f"{key}_low": estimate.low for key, estimate in estimates.items()},
        **{f"{key}_high": estimate.high for key, estimate in estimates.items()},
    }


def known_numbers(metrics: Mapping[str, float | None]) -> dict[str, float]:
    return {key: value for key, value in metrics.items() if value is not None and math.isfinite(value)}


def finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
