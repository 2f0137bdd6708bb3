"""A short measurement of how many structures at a time a potential computes fastest, on the device it lies on.

On a GPU a large batch is many times faster than single structures; on a CPU it helps small networks two to four
times, and slows others down. It also depends on what else the machine does, so it is measured where it is used.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from ase import Atoms

from chemloop.physics.batching import FAILURES, Batching, OutOfMemory
from chemloop.physics.calculator import evaluate

log = logging.getLogger(__name__)
MAX_SIZE = 1024
LEAST_TRIED = 4
"""Up to this size, whatever it takes: a slow potential gains most, and a campaign keeps what was found."""
N_REPEATS = 3
"""TorchScript compiles in the first two calls with new shapes."""
GAIN = 0.95
"""A larger batch must be cheaper by this factor: small ones stay full longer, and need less memory."""
MEMORY_SHARE = 0.7
"""Of the free memory; the rest is for crystals denser than those measured, and for other processes."""


def measure(batching: Batching, structures: Sequence[Atoms], potential: Any, time_limit_s: float = 2.0) -> None:
    """Set the size of a batching to the fastest per structure of 1, 2, 4, ..., and on a GPU its limit in atoms.

    It ends when twice as many structures twice in a row were not faster, when they would not fit into memory, when
    there are no more structures, or after time_limit_s, though not before 4. The structures should be some of those
    to be computed.
    """
    if batching.is_measured:
        return
    order = sorted(structures, key=len)
    # the first call compiles, and starts the GPU, which is no reason to stop early; what fails, fails again below
    with suppress(*FAILURES):
        evaluate(order[len(order) // 2 :][:1], potential)
    begin = time.perf_counter()
    largest = max(1, min(len(order), MAX_SIZE))
    size, chosen, n_slower = 1, 1, 0
    bytes_per_atom = 0.0
    while order and size <= largest and n_slower < 2:
        if size > LEAST_TRIED and time.perf_counter() - begin >= time_limit_s:
            break
        # those of middle size, so that all sizes of batch are measured on much the same
        start = (len(order) - size) // 2
        sample = order[start : start + size]
        n_atoms = sum(map(len, sample))
        if batching.max_atoms is not None and n_atoms > batching.max_atoms:
            break
        before = reset_peak_memory(potential)
        try:
            seconds = _fastest(sample, potential)
        except FAILURES as error:
            log.warning("the measurement of batch sizes ended at %d structures: %s", size, error)
            break
        bytes_per_atom = max(bytes_per_atom, (peak_memory(potential) - before) / n_atoms)
        if bytes_per_atom > 0:
            batching.max_atoms = max(1, int(MEMORY_SHARE * free_memory(potential) / bytes_per_atom))
        # per atom, because cells differ
        batching.ms_per_structure[size] = 1000 * seconds / n_atoms * sum(map(len, order)) / len(order)
        is_faster = batching.ms_per_structure[size] < GAIN * batching.ms_per_structure[chosen]
        chosen = size if is_faster else chosen
        n_slower = 0 if is_faster or size == 1 else n_slower + 1
        size *= 2
    batching.size = chosen
    table = ", ".join(f"{size}: {ms:.1f}" for size, ms in batching.ms_per_structure.items())
    log.info("batch size %d, at most %s atoms; ms per structure by batch size: %s", chosen, batching.max_atoms, table)


def _fastest(sample: Sequence[Atoms], potential: Any) -> float:
    """Seconds of the fastest of a few calls for all of the sample in one batch.

    Raises: OutOfMemory
    """
    seconds = []
    for _ in range(N_REPEATS):
        whole = Batching(len(sample))
        begin = time.perf_counter()
        evaluate(sample, potential, whole)
        seconds.append(time.perf_counter() - begin)
        if whole.n_out_of_memory:
            raise OutOfMemory(f"out of memory: {len(sample)} structures do not fit together")
    return min(seconds)


def _cuda_device(potential: Any) -> Any:
    """The GPU that a potential lies on, or None."""
    weight = next(iter(potential.parameters()), None)
    return weight.device if weight is not None and weight.device.type == "cuda" else None


def reset_peak_memory(potential: Any) -> int:
    """Bytes in use on the potential's GPU, from which its peak is counted anew; 0 on a CPU."""
    import torch

    device = _cuda_device(potential)
    if device is None:
        return 0
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def peak_memory(potential: Any) -> int:
    """Bytes that were in use at most on the potential's GPU; 0 on a CPU."""
    import torch

    device = _cuda_device(potential)
    return 0 if device is None else torch.cuda.max_memory_allocated(device)


def free_memory(potential: Any) -> int:
    """Bytes that could still be taken on the potential's GPU; 0 on a CPU."""
    import torch

    device = _cuda_device(potential)
    if device is None:
        return 0
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused
