"""Whether the GPU that was asked for is there, in the process that is to compute on it: a driver may have none."""

from __future__ import annotations

from chemloop.runtime.errors import ConfigError


def n_visible_gpus() -> int:
    """GPUs that torch can use in this process."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def no_gpu(asked: str, remedy: str) -> ConfigError:
    """That a GPU is asked for where there is none.

    asked: what asks for it; remedy: what makes do without
    """
    import torch

    return ConfigError(
        f"{asked}: a GPU is asked for, and this process sees none (torch {torch.__version__}); run it where there is"
        f" one, or set {remedy}"
    )


def check_visible(device: str) -> None:
    """Check that torch can use a device in this process.

    device: `cpu`, `cuda` or `cuda:N`
    Raises: ConfigError
    """
    kind, _, number = device.partition(":")
    if kind != "cuda":
        return
    asked, n_visible = f"compute.gpu.device = {device}", n_visible_gpus()
    if n_visible == 0:
        raise no_gpu(asked, "compute.gpu.device=cpu")
    if int(number or 0) >= n_visible:
        raise ConfigError(
            f"{asked}: this process sees {n_visible} GPU{'s' if n_visible > 1 else ''}, and counts from cuda:0 to"
            f" cuda:{n_visible - 1}; choose one of them"
        )
