"""Is the chemical space exhausted? What an iteration says of it, the stop rule, and one sentence for people."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

import numpy as np

from chemloop.physics.unseen import (
    Estimate,
    bunching,
    chao1,
    coverage_with_error,
    expected_new_with_error,
    most_further,
)

# Of the stop rule: what may be asked for, and what it is about.
CRITERIA = ("entropy", "growth", "environment_coverage", "motif_coverage")


@dataclass(frozen=True)
class Seen:
    """What the generated structures so far say of the kinds of environment, or of motif, that they have not shown.

    n_samples: structures generated that count as samples; references do not
    n_seen: kinds that they hold; n_known: how many of those a reference holds too
    coverage: share of the kinds in a further structure that is expected to have been seen
    estimated: number of kinds seen and unseen, a lower bound (Chao2)
    further: structures that an iteration brought on average; expected_new: kinds that as many more would bring
    predicted: kinds that as many structures as this iteration brought were expected to bring, by those before it alone;
        None where they could not tell
    """

    n_samples: int
    n_seen: int
    coverage: Estimate
    estimated: Estimate
    further: int
    expected_new: Estimate
    n_known: int = 0
    predicted: Estimate | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain numbers; estimates as {value, standard_error, low, high}."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        return {key: value._asdict() if isinstance(value, Estimate) else value for key, value in plain.items()}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Seen:
        values: dict[str, Any] = {k: Estimate(**v) if isinstance(v, dict) else v for k, v in content.items()}
        return cls(**values)


@dataclass(frozen=True)
class Completeness:
    """How complete the space was after one iteration; None where there is nothing that could tell.

    entropy, entropy_error: nats, at the campaign's fixed sample size of n_environments, which caps it at log
        n_environments; None in campaigns of older versions
    growth, growth_error: dH/dN of the training set, nats per frame
    overlap, overlap_error: share of this iteration's new environments that were known before it
    environments, motifs: kinds of them in the generated structures of all iterations up to this one
    """

    iteration: int
    entropy: float
    entropy_error: float | None
    growth: float
    overlap: float | None = None
    overlap_error: float | None = None
    environments: Seen | None = None
    motifs: Seen | None = None
    growth_error: float | None = None
    n_environments: int | None = None

    @property
    def cap(self) -> float | None:
        """Nats; what the entropy cannot exceed, however much is missing: all environments of the sample differ."""
        return None if self.n_environments is None else math.log(self.n_environments)

    def to_json(self) -> dict[str, Any]:
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        return {key: value.to_json() if isinstance(value, Seen) else value for key, value in plain.items()}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Completeness:
        values: dict[str, Any] = {k: Seen.from_json(v) if isinstance(v, dict) else v for k, v in content.items()}
        return cls(**values)


@dataclass(frozen=True)
class Verdict:
    """complete: the answer, also the truth value of the whole; reason: why or why not, in words."""

    complete: bool
    reason: str

    def __bool__(self) -> bool:
        return self.complete


def seen(
    counts: np.ndarray,
    n_samples: int,
    is_in_references: np.ndarray,
    first_hosts: Sequence[Hashable],
    further: int,
    seed: int = 0,
    predicted: Estimate | None = None,
) -> Seen | None:
    """What generated structures say of the kinds that they hold, and of those that nobody has seen; None where no
    structure holds any.

    References are no samples: they were not drawn by the generator. A kind that only they hold counts as not seen, for
    whether the generator finds again what is known tells what else it would find.

    counts, is_in_references: (n_kinds,) structures generated that hold each kind, and whether a reference does
    first_hosts: (n_kinds,) the first structure generated that holds it; anything where none does
    further: number of structures for which to predict
    predicted: what `predict` said of this iteration before it
    """
    if not np.any(counts):
        return None
    clusters = _bunching(counts, first_hosts)
    return Seen(
        n_samples=n_samples,
        n_seen=int(np.sum(counts > 0)),
        coverage=coverage_with_error(counts, n_samples, seed=seed, bunching=clusters),
        estimated=chao1(counts, n_samples, clusters),
        further=further,
        expected_new=expected_new_with_error(counts, further, n_samples, seed=seed, bunching=clusters),
        n_known=int(np.sum((counts > 0) & is_in_references)),
        predicted=predicted,
    )


def predict(
    counts: np.ndarray, n_samples: int, first_hosts: Sequence[Hashable], further: int, seed: int = 0
) -> Estimate | None:
    """How many new kinds so many further structures would bring; None where nothing has been seen, or too little for
    so many.

    Arguments as those of `seen`.
    """
    if not further or not np.any(counts) or further > most_further(n_samples):
        return None
    clusters = _bunching(counts, first_hosts)
    return expected_new_with_error(counts, further, n_samples, seed=seed, bunching=clusters)


def _bunching(counts: np.ndarray, first_hosts: Sequence[Hashable]) -> float:
    return bunching(host for host, count in zip(first_hosts, counts, strict=True) if count == 1)


def is_complete(history: Sequence[Completeness], limits: Mapping[str, float], patience: int) -> Verdict:
    """The stop rule: the space is complete when all criteria that are asked for are met.

    history: one per iteration from the first to the last
    limits: the criteria in use, any of CRITERIA. entropy: nats, its growth over the last `patience` iterations must be
        below; growth: nats per frame, the last dH/dN must be below; environment_coverage, motif_coverage: the lower end
        of the 95 % interval must not be below
    Raises: ValueError for patience below 1, no criterion or one that does not exist
    """
    unknown = sorted(limits.keys() - set(CRITERIA))
    if patience < 1 or not limits or unknown:
        raise ValueError(
            f"patience = {patience} and criteria {', '.join(unknown or limits) or 'none'}:"
            f" patience must be above 0, criteria are any of {', '.join(CRITERIA)}"
        )
    if len(history) <= patience:
        return Verdict(False, f"not complete: {len(history)} iterations so far, the stop rule needs {patience + 1}")
    judged = [_judge(history, criterion, limits[criterion], patience) for criterion in CRITERIA if criterion in limits]
    complete = all(is_met for is_met, _ in judged)
    reason = " and ".join(words for _, words in judged)
    return Verdict(complete, f"{'complete' if complete else 'not complete'}: {reason}")


def _judge(history: Sequence[Completeness], criterion: str, limit: float, patience: int) -> tuple[bool, str]:
    last = history[-1]
    if criterion == "entropy":
        growth = last.entropy - history[-1 - patience].entropy
        is_met = bool(growth < limit)
        words = (
            f"the entropy at fixed sample size grew by {growth:.3g} nats over {patience} iterations"
            f" ({'below' if is_met else 'not below'} the tolerance of {limit:g})"
        )
        if last.cap is not None and last.cap - last.entropy < limit:
            words += (
                f", but {last.entropy:.3f} is within the tolerance of its cap, log {last.n_environments} ="
                f" {last.cap:.3f}, where it cannot grow whatever is missing"
            )
        return is_met, words
    if criterion == "growth":
        is_met = bool(last.growth < limit)
        return is_met, (
            f"dH/dN is {last.growth:.3g} nats per frame ({'below' if is_met else 'not below'} the limit of {limit:g})"
        )
    kind = criterion.removesuffix("_coverage")
    seen = last.environments if kind == "environment" else last.motifs
    if seen is None:
        return False, f"the coverage of {kind}s is not known, because no structure with any has been generated"
    is_met = bool(seen.coverage.low >= limit)
    return is_met, (
        f"the coverage of {kind}s is {seen.coverage.value:.3f}, 95 % interval from {seen.coverage.low:.3f}"
        f" ({'not below' if is_met else 'below'} the limit of {limit:g})"
    )


def sentence(history: Sequence[Completeness]) -> str:
    """What fraction of environments and motifs is expected to be known, how surely, and what more structures bring.

    history: one per iteration that measured it, at least one; the last is spoken of, the others say how many of the
        earlier predictions held
    """
    known, new, held = [], [], []
    for name, what, kinds in (
        ("environments", "environments", "new kinds of environment"),
        ("motifs", "anion motifs", "new motifs"),
    ):
        seen: Seen | None = getattr(history[-1], name)
        if seen is None:
            continue
        low, high = (_percent(end) for end in (seen.coverage.low, seen.coverage.high))
        known.append((what, f"{_percent(seen.coverage.value)} % (95 % interval {low} to {high} %)"))
        e = seen.expected_new
        new.append(f"{e.value:.0f} ({max(0.0, e.low):.0f} to {e.high:.0f}) {kinds}")
        further = seen.further
        tested = predictions(history, name)
        if tested:
            n_held = sum(estimate.low <= found <= estimate.high for _, estimate, found in tested)
            held.append(f"{n_held} of {len(tested)} for {what}")
    if not known:
        return (
            "No structure has been generated so far that converged, is unique and novel, so nothing is known of what"
            " has not been seen."
        )
    (what, share), *others = known
    text = f"Of the {what} of a further new structure (converged, unique and novel), {share} are expected to be known"
    text += "".join(f", of its {what} {share}" for what, share in others)
    text += f"; another {further} such structures would bring about {' and '.join(new)}."
    return text + (f" Earlier predictions whose interval held what was found: {', '.join(held)}." if held else "")


def predictions(history: Sequence[Completeness], name: str) -> list[tuple[int, Estimate, int]]:
    """Iterations whose new kinds were predicted by those before them: the number, the prediction, how many were found.

    name: `environments` or `motifs`
    """
    kinds = [(each.iteration, getattr(each, name)) for each in history]
    measured = [(iteration, seen) for iteration, seen in kinds if seen is not None]
    return [
        (iteration, seen.predicted, seen.n_seen - before.n_seen)
        for (_, before), (iteration, seen) in pairwise(measured)
        if seen.predicted is not None
    ]


def _percent(share: float) -> str:
    """Without decimals below 99 %; never 100 where something is missing."""
    if share < 0.99:
        return f"{100 * share:.0f}"
    return "100" if share == 1 else f"{min(100 * share, 99.9):.1f}"
