"""How many structures a potential is given at once, and what happens when memory runs out."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from chemloop.runtime.errors import ConfigError, ItemFailed

log = logging.getLogger(__name__)
AUTO = "auto"
FAILURES = (ArithmeticError, ValueError, RuntimeError, ItemFailed)
"""What a structure out of bounds, or out of memory, makes backends and optimisers raise."""
FAILED = "failed: "
"""How the reason begins where one of the FAILURES was raised, other than for lack of memory."""


class OutOfMemory(ItemFailed):
    """A single structure that does not fit into memory."""


def reason_of(error: Exception) -> str:
    """Why a structure is given up, from one of the FAILURES.

    Raises: ItemFailed, retryable, for a fault of the GPU: the structure has no part in it, and in this process every
        later call fails too
    """
    if isinstance(error, RuntimeError) and "CUDA error" in str(error) and out_of_memory(error) is None:
        raise ItemFailed(f"the GPU failed: {error}", retryable=True) from error
    return error.reason if isinstance(error, OutOfMemory) else f"{FAILED}{error}"


def check_reasons(reasons: Sequence[str | None]) -> None:
    """What the first evaluation of several structures came to, each None or why it failed.

    Raises: ItemFailed, retryable, where all failed alike: then it is the potential that fails, not the structures
    """
    first = reasons[0] if reasons else None
    if first is not None and len(reasons) > 1 and first.startswith(FAILED) and set(reasons) == {first}:
        raise ItemFailed(f"the force field failed for all of {len(reasons)} structures: {first}", retryable=True)


@dataclass
class Batching:
    """At most so many structures and atoms per batch; one object serves one potential for its lifetime and learns.

    size: structures, or `auto`: measured on the first structures that are relaxed or moved (`throughput.measure`)
    max_atoms: None is no limit; set from free memory on a GPU, and lowered when memory runs out
    ms_per_structure: by batch size, as measured
    n_out_of_memory: batches that were taken apart because they did not fit
    Raises: ConfigError
    """

    size: int | str = AUTO
    max_atoms: int | None = None
    ms_per_structure: dict[int, float] = field(default_factory=dict)
    n_out_of_memory: int = 0

    def __post_init__(self) -> None:
        is_number = isinstance(self.size, int) and not isinstance(self.size, bool)
        if not (self.size == AUTO or (is_number and int(self.size) > 0)):
            raise ConfigError(f"batch_size = {self.size}: must be a number of structures, 1 or above, or {AUTO}")
        if self.max_atoms is not None and self.max_atoms < 1:
            raise ConfigError(f"max_atoms = {self.max_atoms}: must be 1 or above, or null for no limit")

    @classmethod
    def of(cls, value: Batching | int | str) -> Batching:
        """The object itself, or a new one with that size."""
        return value if isinstance(value, Batching) else cls(value)

    @property
    def is_measured(self) -> bool:
        return self.size != AUTO

    def cut(self, sizes: Sequence[int]) -> Iterator[list[int]]:
        """Indices of structures that share a batch, the small ones first; those of similar size share one.

        A structure above max_atoms goes alone. A limit that is lowered between two batches holds for the second.
        sizes: atoms of each structure
        Raises: ValueError before the size was measured
        """
        if not isinstance(self.size, int):
            raise ValueError("the batch size has not been measured yet")
        batch: list[int] = []
        n_atoms = 0
        for index in sorted(range(len(sizes)), key=sizes.__getitem__):
            is_large = self.max_atoms is not None and n_atoms + sizes[index] > self.max_atoms
            if batch and (is_large or len(batch) == self.size):
                yield batch
                batch, n_atoms = [], 0
            batch.append(index)
            n_atoms += sizes[index]
        if batch:
            yield batch

    def lower(self, n_structures: int, n_atoms: int, error: str) -> None:
        """Take note that memory ran out: batches from now on hold half as many atoms at most.

        Raises: OutOfMemory when it was a single structure
        """
        if n_structures == 1:
            raise OutOfMemory(
                f"out of memory: a structure of {n_atoms} atoms does not fit alone ({error}); lower the size of cells"
                " or use a device with more memory"
            )
        half = max(1, n_atoms // 2)
        self.max_atoms = half if self.max_atoms is None else min(half, self.max_atoms)
        self.n_out_of_memory += 1
        log.warning("a batch of %d structures, %d atoms, ran out of memory (%s)", n_structures, n_atoms, error)

    def metrics(self) -> dict[str, float]:
        """What was chosen and measured, as numbers for trackers."""
        numbers = {"n_out_of_memory": float(self.n_out_of_memory)}
        if isinstance(self.size, int):
            numbers["batch_size"] = float(self.size)
            numbers |= {"ms_per_structure": self.ms_per_structure[self.size]} if self.ms_per_structure else {}
        return numbers if self.max_atoms is None else numbers | {"max_atoms": float(self.max_atoms)}


def out_of_memory(error: BaseException) -> str | None:
    """The line of an error that says that memory ran out, or None for any other error.

    CUDA, the CPU allocator, TorchScript and numpy each raise their own kind, three of them plain RuntimeErrors.
    """
    if isinstance(error, MemoryError):
        return str(error) or "MemoryError"
    signs = ("out of memory", "can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")
    lines = str(error).splitlines() if isinstance(error, RuntimeError) else []
    return next((line.strip() for line in lines if any(sign in line for sign in signs)), None)


def release_memory() -> None:
    """Give memory that torch keeps for later back to the GPU, so that smaller batches find it in one piece."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
