"""The errors that people who use the package may meet."""


class ConductorError(ValueError):
    """Bad input: one sentence saying what was expected, what came, and how to mend it."""


class FamilyError(ConductorError):
    """A concept file and a checkpoint that do not belong to the same family (SD1.5, SDXL)."""


class ConceptFileError(ConductorError):
    """A concept file that is damaged, hostile, or of a kind that cannot be used."""


class BusyError(RuntimeError):
    """A second sampler was started on a U-Net that one is already working in."""


class NonFiniteError(ConductorError):
    """Numbers of a run became NaN or infinite."""
