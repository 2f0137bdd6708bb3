"""What makes two calculations the same one, so that one label serves both."""

import pytest

from chemloop.labeler.ase import AseLabeler
from chemloop.labeler.gpaw import GpawLabeler
from chemloop.labeler.teacher import TeacherLabeler


@pytest.mark.parametrize("kind", [GpawLabeler, AseLabeler, TeacherLabeler])
def test_limits_of_a_relaxation_are_not_the_level_of_theory(kind):
    labelers = [kind(), kind(fmax=0.01), kind(max_steps=7)]
    assert len({labeler.settings_id() for labeler in labelers}) == 1
    assert len({labeler.relaxation_id() for labeler in labelers}) == 3
