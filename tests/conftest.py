"""Configurations and campaigns for tests, composed from `conf/` as on the command line."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from chemloop.config import chosen_options
from chemloop.runtime.inherited import THREAD_VARIABLES

# As in workers. Otherwise numba's OpenMP threads become torch's too, and sums differ in their last bits.
os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))

CONF = Path(__file__).parents[1] / "conf"


@pytest.fixture
def compose_config(tmp_path) -> Callable[..., dict[str, Any]]:
    """compose_config("model=sevennet", ...) -> the resolved configuration as plain data, outputs below tmp_path."""

    def composed(*overrides: str) -> dict[str, Any]:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            node = compose(
                "config", [f"outputs={tmp_path}/outputs", "tracker=jsonl", *overrides], return_hydra_config=True
            )
            HydraConfig.instance().set_config(node)
            options = chosen_options(node.hydra, CONF)
            config = OmegaConf.to_container(
                OmegaConf.masked_copy(node, [k for k in node if k != "hydra"]), resolve=True
            )
        assert isinstance(config, dict)
        config["options"] = options
        return config

    return composed
