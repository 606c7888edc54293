"""The loop that trains networks and decoders: checkpoints, progress and traces."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from imagination import saving
from imagination.chess.config import DecoderConfig, NetworkConfig
from imagination.function import FunctionRecorder

SAVE_EVERY = 20
"""Steps between two offers of a checkpoint, because a GPU must copy it."""


def train(
    config: NetworkConfig | DecoderConfig,
    recorder: FunctionRecorder,
    *,
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, torch.optim.Optimizer],
    update: Callable[[int], Mapping[str, Tensor]],
) -> None:
    """Takes all steps from the last checkpoint on.

    Args:
        config: how many steps, and how often their losses are traced.
        recorder: receives them, and the metric `steps`.
        modules: what is saved.
        optimizers: what is saved, too.
        update: takes the step of this number, and returns its losses by name.
    """
    step = 0 if recorder.restored is None else saving.restore(recorder.restored, modules, optimizers)
    while step < config.max_steps:
        if step % SAVE_EVERY == 0 or recorder.stopping:
            recorder.checkpoint(saving.state(step, modules, optimizers))
        losses = update(step)
        step += 1
        if step % config.trace_every == 0:
            values = {name: loss.item() for name, loss in losses.items()}
            recorder.progress(step, values)
            for name, value in values.items():
                recorder.trace(name, step, value)
    recorder.metric("steps", step)


def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One step down the slope of this loss."""
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
