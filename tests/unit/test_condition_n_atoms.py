"""A condition n_atoms that is no number of atoms is refused by every generator that understands it."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from chemloop.config import build
from chemloop.runtime.errors import ConfigError

CONF = Path(__file__).parents[2] / "conf"


@pytest.mark.parametrize("option", ["random", "evolution", "substitution", "command"])
def test_part_of_an_atom(option, tmp_path):
    overrides = ["generator.command=[true]"] if option == "command" else []
    with initialize_config_dir(str(CONF), version_base="1.3"):
        node = compose("config", [f"generator={option}", *overrides]).generator
    generator = build(OmegaConf.to_container(node, resolve=True), "generator")
    with pytest.raises(ConfigError, match=r"condition n_atoms = 2.5: must be a whole number of atoms"):
        generator.generate(1, ["Li", "P", "S"], {"n_atoms": 2.5}, 0, tmp_path)
