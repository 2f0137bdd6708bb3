"""The errors that ChemLoop raises on purpose: each says what it got, what is allowed and what to do."""


class ChemLoopError(Exception):
    """Something the user can put right; shown as one message, without a traceback."""


class ConfigError(ChemLoopError):
    """A configuration that cannot be run: unknown key, wrong type, value out of range, contradiction."""


class StructureError(ChemLoopError):
    """A structure, or a file of structures, that breaks the conventions of `physics.structures`."""


class EnergyFrameError(ChemLoopError):
    """Energies of different levels of theory met in one hull, training set or error measure."""


class CheckpointError(ChemLoopError):
    """A checkpoint that is missing, damaged, of another architecture or for other elements."""


class WeightsUnavailable(CheckpointError):
    """Named pretrained weights that are neither on this machine nor to be had from where they are published."""


class CampaignError(ChemLoopError):
    """A campaign folder that cannot be used: locked, changed configuration, not writable, damaged."""


class StageFailed(ChemLoopError):
    """More items of a stage failed than `loop.max_failed_fraction` allows, or one that the hull needs."""


class ItemFailed(Exception):
    """One item came to nothing.

    retryable: True where the same item may succeed when it is run again (a lost node, a walltime).
    """

    def __init__(self, reason: str, retryable: bool = False):
        super().__init__(reason)
        self.reason = reason
        self.retryable = retryable
