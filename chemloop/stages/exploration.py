"""How far the explored space has come: kinds of environment and motif so far, and what they say of the rest."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from chemloop.physics.completeness import Completeness, Seen
from chemloop.runtime.disk import read_json, write_json
from chemloop.runtime.errors import ConfigError
from chemloop.stages.describe import read_arrays, read_environments, read_motifs, write_arrays

if TYPE_CHECKING:
    from chemloop.physics.environment_kinds import EnvironmentKinds
    from chemloop.physics.motifs import MotifCatalogue
    from chemloop.stages.curate import Curate

COMPLETENESS = "completeness.json"
CATALOGUE = "catalogue.json"
KINDS = "kinds.npz"
COUNTED = ("n_structures", "n_references", "first_host", "first_iteration")


def measure(
    stage: Curate, train: Sequence[np.ndarray], reference_energies: Mapping[str, float], folder: Path
) -> dict[str, float]:
    """Write completeness.json, catalogue.json and kinds.npz into the folder; returns the metrics.

    train: environments of the training frames in the order in which they were chosen
    reference_energies: eV/atom above the hull by id
    """
    from chemloop.physics.completeness import seen
    from chemloop.physics.entropy_series import entropy_at, entropy_growth, is_within, share

    settings, seed, iteration = stage.settings.loop.curate, stage.settings.seed, stage.iteration
    *before, new = [read_environments(path) for path in stage.earlier("describe")]
    known = [part for parts in before for part in parts]
    check_sample_size(settings.n_environments, sum(map(len, known + new)), iteration)
    entropy = entropy_at(known + new, settings.n_environments, settings.n_repeats, settings.bandwidth, seed)
    growth = entropy_growth(train, bandwidth=settings.bandwidth)

    kinds = read_kinds(stage.earlier("curate"), settings.kind_radius)
    n_before = len(kinds.leaders)
    is_known = kinds.add(new, iteration, is_reference=iteration == 0).is_known
    catalogue = grown_catalogue(stage, reference_energies)
    overlaps = {}
    if iteration and new:
        is_near = is_within(new, np.vstack(known), settings.bandwidth)
        overlaps = {
            "overlap": share(is_known, seed=seed),
            "overlap_by_gain": share(is_near, seed=seed),
        }
    further = max(1, round(kinds.n_samples / max(1, iteration)))
    n_references = np.array([entry.n_references for entry in catalogue.entries], dtype=int)
    hosts = [entry.first_structure for entry in catalogue.entries]
    found = Completeness(
        iteration=iteration,
        entropy=entropy.value,
        entropy_error=finite(entropy.standard_error),
        growth=growth.value,
        growth_error=finite(growth.standard_error),
        overlap=overlaps["overlap"].value if overlaps else None,
        overlap_error=finite(overlaps["overlap"].standard_error) if overlaps else None,
        environments=seen(
            kinds.n_structures, kinds.n_samples, kinds.n_references > 0, kinds.first_host.tolist(), further, seed
        ),
        motifs=seen(catalogue.occurrences(), catalogue.n_structures, n_references > 0, hosts, further, seed),
    )
    write_json(folder / COMPLETENESS, found.to_json())
    write_json(folder / CATALOGUE, catalogue.to_json())
    write_kinds(folder / KINDS, kinds, n_before)
    metrics = metrics_of(found) | {"n_explored_environments": sum(map(len, known + new))}
    if overlaps:
        by_gain = overlaps["overlap_by_gain"]
        metrics |= known_numbers(
            {"overlap_by_gain_fraction": by_gain.value, "overlap_by_gain_fraction_error": by_gain.standard_error}
        )
    return metrics


def check_sample_size(n: int, n_explored: int, iteration: int) -> None:
    if n_explored < n:
        raise ConfigError(
            f"loop.curate.n_environments = {n}: the explored structures hold {n_explored} environments at iteration"
            f" {iteration}, and entropies are compared at one sample size that all iterations have; lower it"
        )


def grown_catalogue(stage: Curate, reference_energies: Mapping[str, float]) -> MotifCatalogue:
    """The catalogue of the iteration before with the motifs of this one."""
    from chemloop.physics.motifs import MotifCatalogue

    before, is_reference = stage.earlier("curate"), stage.iteration == 0
    catalogue = MotifCatalogue.from_json(read_json(before[-1] / CATALOGUE)) if before else MotifCatalogue()
    for atoms, motifs in read_motifs(stage.earlier("describe")[-1]):
        id = atoms.info["id"]
        energy = reference_energies[id] if is_reference else float(atoms.info["e_above_hull"])
        catalogue.add(motifs, id, stage.iteration, energy, is_reference)
    return catalogue


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
    for kind, seen in (("environment", completeness.environments), ("motif", completeness.motifs)):
        metrics |= {} if seen is None else metrics_of_kind(kind, seen)
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
