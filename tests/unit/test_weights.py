"""Named weights whose folder or network cannot be used."""

from __future__ import annotations

import pytest

from chemloop.model import weights
from chemloop.model.mattersim import MatterSimForceField
from chemloop.runtime.errors import WeightsUnavailable


def test_weights_are_unavailable_where_they_cannot_be_kept(tmp_path, monkeypatch):
    """On nodes whose home cannot be written, a campaign then begins untrained instead of ending."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("CHEMLOOP_WEIGHTS", str(tmp_path / "file" / "weights"))
    monkeypatch.setattr(weights, "is_reachable", lambda host: True)
    with pytest.raises(
        WeightsUnavailable, match=r"cannot be kept in .*weights \(.+\): set CHEMLOOP_WEIGHTS to a folder"
    ):
        MatterSimForceField().load()


@pytest.mark.parametrize("proxy", ["http://proxy:abc", "http://[proxy", "proxy:99999"])
def test_nothing_is_reached_through_a_proxy_whose_address_is_none(monkeypatch, proxy):
    monkeypatch.setenv("https_proxy", proxy)
    assert not weights.is_reachable("example.org")
