"""`python -m chemloop`: compose the configuration, check all of it, run the workflow that it names."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, cast

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from chemloop.runtime.errors import ChemLoopError

HERE = Path(__file__).parent
CONF = HERE / "conf" if (HERE / "conf").is_dir() else HERE.parent / "conf"
LAUNCHERS = CONF.with_name("launchers")


IS_DEBUGGING = "HYDRA_FULL_ERROR" in os.environ


@hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")
def run(node: DictConfig) -> None:
    """One campaign, or one point of a sweep."""
    from chemloop.config import campaign_name, chosen_options, load, prefer_command_line
    from chemloop.runtime.campaign import Campaign

    config = cast(dict[str, Any], OmegaConf.to_container(node, resolve=True))
    try:
        config["options"] = chosen_options(HydraConfig.get(), CONF)
        prefer_command_line(config, HydraConfig.get().overrides.task)
        for key in ("outputs", "label_cache"):
            config[key] = str(Path(config[key]).expanduser().resolve())
        settings = load(config)
        config["campaign"] = campaign_name(config["campaign"], settings)
        settings.workflow.run(Campaign(Path(settings.outputs) / config["campaign"]), settings, config)
    except ChemLoopError as error:
        # Hydra would print all overrides before the message; a sweep has to see the error itself
        if IS_DEBUGGING or HydraConfig.get().mode is RunMode.MULTIRUN:
            raise
        sys.exit(f"chemloop: {error}")


def main() -> None:
    """The command line: mistakes of the user end with one message, mistakes of the program with a traceback."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    os.environ.setdefault("CHEMLOOP_LAUNCHERS", str(LAUNCHERS))
    try:
        run()
    except (ChemLoopError, HydraException) as error:
        if IS_DEBUGGING:
            raise
        from chemloop.config import explain

        sys.exit(f"chemloop: {explain(error)}")
    except OSError as error:
        if IS_DEBUGGING or error.filename is None:
            raise
        reason = f"{error.filename}: {error.strerror}"
        sys.exit(f"chemloop: {reason}; choose a folder that can be written with outputs=FOLDER")
    except KeyboardInterrupt:
        sys.exit("chemloop: stopped; run the same command again to continue")


if __name__ == "__main__":
    main()
