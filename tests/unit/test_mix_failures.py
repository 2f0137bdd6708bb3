"""A member of a mix that fails, or leaves the system: what it costs, and what it does not cost the others."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from ase import Atoms

from chemloop.runtime.disk import read_json
from chemloop.runtime.errors import ItemFailed
from tests.unit.test_generator_mix import CONDITIONS, ELEMENTS, Maker, mix, names_of, node

FAULTY = {"_target_": "tests.unit.test_mix_failures.Faulty"}


@dataclass
class Faulty(Maker):
    """Fails as nobody has foreseen."""

    can_learn: ClassVar[bool] = True
    is_disk_full: bool = False
    checkpoint: str | None = None

    def generate(self, n: int, elements: Any, conditions: dict[str, float], seed: int, workdir: Path) -> list[Atoms]:
        raise OSError(28, "No space left on device") if self.is_disk_full else IndexError("no such atom")

    def finetune(self, structures: Any, workdir: Path, seed: int) -> str:
        raise MemoryError("CUDA out of memory")


def test_a_failing_member_is_left_out_and_the_others_do_its_part(tmp_path, capsys):
    members = mix(a="Maker", bad="Failing", b="Maker")
    structures = members.generate(12, ELEMENTS, CONDITIONS, 0, tmp_path)
    counts = read_json(tmp_path / "yield.json")
    assert names_of(structures) == {"a": 6, "b": 6}
    assert counts["by_generator"]["bad"]["rejected"] == {"member failed": 4}
    assert counts["rejected"] == {"too close": 24, "member failed": 4}
    assert counts["failures"] == {"bad": "the command ended with exit code 3"}
    assert "generator.members.bad failed, the others do its part: the command ended" in capsys.readouterr().out
    # what it was asked for is asked for with other seeds, in other folders
    assert read_json(tmp_path / "a.1" / "asked.json")["seed"] != read_json(tmp_path / "a" / "asked.json")["seed"]


def test_a_member_that_leaves_the_system_has_failed(tmp_path):
    members = mix(a="Maker", b=node("Maker", symbol="Ge"))
    assert names_of(members.generate(10, ELEMENTS, CONDITIONS, 0, tmp_path)) == {"a": 10}
    assert read_json(tmp_path / "yield.json")["failures"] == {
        "b": "5 of 5 structures have other elements than Li, P, S; generator.max_outside allows 0.5 of them"
    }
    tolerant = replace(members, max_outside=1.0).generate(10, ELEMENTS, CONDITIONS, 0, tmp_path)
    assert names_of(tolerant) == {"a": 5}
    rejected = read_json(tmp_path / "yield.json")["by_generator"]["b"]["rejected"]
    assert rejected == {"too close": 10, "outside the system": 5}


def test_a_stray_structure_says_nothing_of_its_member(tmp_path):
    members = mix(a="Maker", b=node("Maker", symbol="Ge"))
    assert names_of(members.generate(2, ELEMENTS, CONDITIONS, 0, tmp_path)) == {"a": 1}
    report = read_json(tmp_path / "yield.json")
    assert report["failures"] == {} and report["rejected"] == {"too close": 4, "outside the system": 1}


def test_a_fault_of_a_member_costs_the_others_nothing(tmp_path, capfd):
    faulty = mix(a="Maker", b=FAULTY)
    assert names_of(faulty.generate(4, ELEMENTS, CONDITIONS, 0, tmp_path)) == {"a": 4}
    assert read_json(tmp_path / "yield.json")["failures"] == {"b": "IndexError: no such atom"}
    assert "Traceback" in capfd.readouterr().err
    state = read_json(Path(faulty.finetune([Atoms("Li")], tmp_path, 0)) / "weights.json")
    assert state["failures"] == {"b": "MemoryError: CUDA out of memory"} and state["checkpoints"] == {}
    with pytest.raises(OSError, match="No space left"):
        mix(a="Maker", b=FAULTY | {"is_disk_full": True}).generate(4, ELEMENTS, CONDITIONS, 0, tmp_path)


@pytest.mark.parametrize("is_retryable", [False, True])
def test_when_all_members_fail_the_item_does(tmp_path, is_retryable):
    members = mix(a=node("Failing", is_retryable=is_retryable), b="Failing")
    with pytest.raises(ItemFailed, match="all members of generator=mix failed: a: the command .* 3; b: the") as error:
        members.generate(4, ELEMENTS, CONDITIONS, 0, tmp_path)
    assert error.value.retryable is is_retryable
