"""The errors a user can cause, in one tree.

CatalographError            carries what, where, why, how to go on, a stable code and an exit code
├── ConfigError             exit 2   an unknown key, a value out of range
├── MissingPrerequisite     exit 3   an extra, a model or a file of ours that is not there
├── UnsafeInput             exit 4   a missing or unsafe input file
├── InvalidData             exit 5   data that was read and is wrong
├── ResourceExhausted       exit 6   disk, memory
├── TooManyBadInputs        exit 8   more rows quarantined than the limit allows
├── TrainingDiverged        exit 9   NaN or infinity in a loss or a gradient
└── RunFolderError          exit 10  locked, or made by another config
"""

from __future__ import annotations


class CatalographError(Exception):
    """A problem whose cause lies with the input, the configuration or the machine, not with our code.

    Args:
        code: stable identifier, a letter and three digits, such as ``D102``.
        what: one line, what is wrong.
        where: the file, row, key or stage.
        why: the values found and the values expected.
        next_step: the exact command or edit that goes on.
    """

    exit_code = 1

    def __init__(self, code: str, what: str, *, where: str = "", why: str = "", next_step: str = "") -> None:
        super().__init__(what)
        self.code, self.what, self.where, self.why, self.next_step = code, what, where, why, next_step

    def __str__(self) -> str:
        lines = [f"error[{self.code}]: {self.what}"]
        for label, text in (("where", self.where), ("why", self.why), ("next", self.next_step)):
            if text:
                lines.append(f"  {label + ':':<6} {text}")
        return "\n".join(lines)


class ConfigError(CatalographError):
    """The run configuration has an unknown key or an impossible value."""

    exit_code = 2


class MissingPrerequisite(CatalographError):
    """A package extra, a model or an earlier stage is missing."""

    exit_code = 3


class UnsafeInput(CatalographError):
    """An input file is missing or may not be read."""

    exit_code = 4


class InvalidData(CatalographError):
    """An input was read and does not hold what it must hold."""

    exit_code = 5


class ResourceExhausted(CatalographError):
    """Disk or memory ran out."""

    exit_code = 6


class TooManyBadInputs(CatalographError):
    """More inputs were quarantined than the limit allows."""

    exit_code = 8


class TrainingDiverged(CatalographError):
    """A loss or a gradient became NaN or infinite; the weights are those before the step."""

    exit_code = 9


class RunFolderError(CatalographError):
    """The run folder is locked by another process or belongs to another configuration."""

    exit_code = 10
