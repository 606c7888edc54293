"""The state of modules and optimisers as named arrays, for checkpoints and artifacts."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from imagination.recorder import Arrays

Named = dict[str, NDArray[np.generic]]
Modules = Mapping[str, nn.Module]
Optimizers = Mapping[str, torch.optim.Optimizer]


def arrays(module: nn.Module) -> Named:
    """The parameters and buffers of a module."""
    return {name: _array(value) for name, value in module.state_dict().items()}


def load(module: nn.Module, state: Arrays) -> None:
    """Puts the arrays of `arrays` into a module of the same shape."""
    module.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in state.items()})


def state(step: int, modules: Modules, optimizers: Optimizers) -> Named:
    """A checkpoint of these, each under its own name."""
    found: Named = {"step": np.array(step)}
    for name, module in modules.items():
        found |= {f"{name}.{part}": value for part, value in arrays(module).items()}
    for name, optimizer in optimizers.items():
        for number, values in optimizer.state_dict()["state"].items():
            found |= {f"{name}.{number}.{part}": _array(value) for part, value in values.items()}
    return found


def restore(saved: Arrays, modules: Modules, optimizers: Optimizers) -> int:
    """Puts what `state` returned back, and returns its step."""
    for name, module in modules.items():
        load(module, {part: saved[f"{name}.{part}"] for part in module.state_dict()})
    for name, optimizer in optimizers.items():
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in saved.items():
            if key.startswith(f"{name}."):
                number, part = key.removeprefix(f"{name}.").split(".")
                moments.setdefault(int(number), {})[part] = torch.from_numpy(np.array(value))
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": moments, "param_groups": groups})
    return int(saved["step"])


def _array(value: Tensor) -> NDArray[np.generic]:
    """A copy, so that training on does not change it."""
    return np.array(value.detach().cpu().numpy())
