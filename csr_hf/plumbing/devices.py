"""Check the names of devices."""

from __future__ import annotations

from typing import Any


def check_device(device: Any, name: str = "`device`") -> Any:
    """Check that torch can use a device, before anything is read, and return it.

    Args:
        device: "cpu", "cuda:1", ..., or several; None for the best there is.
        name: of the argument, for messages.

    Raises:
        ValueError: if one cannot be used, with torch's reason.
    """
    import torch

    for each in [] if device is None else device if isinstance(device, list) else [device]:
        try:
            torch.empty(0, device=each)
        except (RuntimeError, AssertionError, TypeError) as error:
            reason = str(error).partition("\n")[0].rstrip(".")
            raise ValueError(f"{name} {each} cannot be used: {reason}. Leave it out, or give cpu.") from error
    return device
