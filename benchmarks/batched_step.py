"""Our training step, as `svg_train.train.Trainer` takes it: batched over time, in the precision that it picks here."""

from __future__ import annotations

import torch
from torch import Tensor

from svg_train.families.video_model import VideoModel
from svg_train.machine import Machine
from svg_train.processes import mean_over_processes
from svg_train.synced_norm import synchronize_norms


class BatchedStep:
    """Forward, backward, gradient clipping and one fused Adam, on the device that `svg-train` would use."""

    def __init__(self, model: VideoModel, lr: float, beta: float, precision: str = "auto") -> None:
        self._beta = beta
        self._fabric = Machine(precision=precision).fabric()
        self._fabric.launch()
        if self._fabric.world_size > 1:
            synchronize_norms(model, self._fabric.device)
        optimizer = torch.optim.Adam(model.parameters(), lr=lr, fused=True)
        wrapped, wrapped_optimizer = self._fabric.setup(model, optimizer)
        self._model = wrapped
        self._optimizer = wrapped_optimizer
        self._model.train()

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self._fabric.device

    @property
    def precision(self) -> str:
        """Fabric's name, such as bf16-mixed."""
        return str(self._fabric.strategy.precision.precision)

    def __call__(self, x: Tensor, eps: Tensor) -> float:
        """The loss of this batch, or of the shares of all processes, before the step."""
        output = self._model(x, eps)
        loss = output.mse + self._beta * output.kl
        if output.auxiliary is not None:
            loss = loss + output.auxiliary
        self._fabric.backward(loss)
        self._fabric.clip_gradients(self._model, self._optimizer, max_norm=1.0, error_if_nonfinite=False)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return mean_over_processes(self._fabric, [float(loss.detach())])[0]
