"""The errors that keep a guest from being run at all."""


class GuestError(Exception):
    """A guest cannot be loaded. The message names the cause, for the operator or the author of the guest."""


class EngineError(Exception):
    """The machine lacks what the engine's settings need.

    Parameters:
        message: the resource that is missing.
        remedy: what to change.
        setting: the field of `hostfuncs.limits.EngineSettings` to change; empty if there is none.
    """

    def __init__(self, message: str, *, remedy: str, setting: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy
        self.setting = setting

    def __str__(self) -> str:
        return f"{self.args[0]}; {self.remedy}"
