"""Which fits are kept."""

import pytest

from chemloop.training.checks import is_better


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ({"energy": 0.036, "force": 0.187, "stress": 0.0049}, True),  # of the quickstart: 3 % for 13 and 10 %
        ({"energy": 0.036, "force": 0.187, "stress": 0.0052}, False),
        ({"energy": 0.0417, "force": 0.207, "stress": 0.0048}, False),
        ({"energy": 0.0417, "force": float("nan"), "stress": 0.001}, False),
    ],
)
def test_a_little_loss_in_one_channel_is_no_reason_to_keep_the_base(after, expected):
    base = {"energy": 0.0418, "force": 0.2078, "stress": 0.004765}
    assert is_better(["energy", "force", "stress"], base, base, after) == expected
