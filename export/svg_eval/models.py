"""One interface for all that can be evaluated: a checkpoint in PyTorch, a bundle in the runtime, the baselines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from svg_common.errors import BackendMissingError, SvgError, UsageError, first_line
from svg_common.files import folder_name
from svg_common.path_advice import shell_argument
from svg_common.printable import one_line
from svg_runtime.bundle.manifest import Precision
from svg_runtime.bundle.reader import EMBEDDED_MODEL, EMBEDDED_NAMES, find_model
from svg_runtime.bundle.remote.addresses import is_model_address
from svg_runtime.forecast.forecaster import Forecaster
from svg_train.checkpoint import Checkpoint
from svg_train.families.video_model import VideoModel
from svg_train.reference.checkpoint import load_any_checkpoint

_HISTORY = 100  # steps before a sequence from which post-processing learns: as far as it remembers
_MAX_BATCH = 128  # futures per call of a network: enough for full speed, few enough for any memory


@dataclass(frozen=True)
class ModelInfo:
    """What an evaluation needs to know about a model."""

    label: str  # short, for tables
    description: str  # readable: what computes it
    n_past: int
    height: int
    width: int
    channels: int
    z_dim: int  # noise per sample and step; 0: deterministic, one future
    context_draws: int  # vectors of noise that are drawn while the context is read
    frame_interval_s: float | None  # seconds per step that it was trained for
    data: dict[str, Any]  # the [data] settings that it was trained on, as far as known; has at least the name
    n_future: int  # frames after n_past in its training, on which the interval of several videos depends
    history: int = 0  # frames before a sequence that it also observes, and forecasts from
    trained_clips: Mapping[str, int] = field(default_factory=dict)  # as far as known: see svg_train.data.trained_clips
    has_posterior: bool = True  # whether `reconstruct` can draw latents from a posterior; a deterministic model needs none

    @property
    def deterministic(self) -> bool:
        """Whether it has one future only."""
        return self.z_dim == 0


class EvaluatedModel(Protocol):
    """Forecasts of several sequences and samples at once. All tensors are float32 on `device`."""

    info: ModelInfo
    device: torch.device

    def forecast(self, context: Tensor, noise: Tensor, context_noise: Tensor) -> Tensor:
        """Sample futures.

        Args:
            context: (B, n_past, C, H, W) observed frames; of a model with `info.history`, after up to so many earlier ones.
            noise: (B, horizon, S, z_dim) draws of the prior.
            context_noise: (B, context_draws, S, z_dim) draws of the posterior while the context is read.

        Returns:
            (B, S, horizon, C, H, W).
        """
        ...

    def reconstruct(self, sequence: Tensor) -> Tensor:
        """The "approximate posterior": closed loop, z being the posterior's mean for each true next frame.

        Only where `info.has_posterior`.

        Args:
            sequence: (n_past + horizon, C, H, W) true frames.

        Returns:
            (horizon, C, H, W).
        """
        ...

    def close(self) -> None:
        """Free the device."""
        ...


def checkpoint_info(label: str, checkpoint: Checkpoint, engine: str) -> ModelInfo:
    """What an evaluation needs to know about a checkpoint that `engine` runs."""
    config = checkpoint.config
    return ModelInfo(
        label=label,
        description=f"checkpoint of step {checkpoint.step}, {engine}",
        n_past=config.model.n_past,
        height=config.model.height,
        width=config.model.width,
        channels=config.model.channels,
        z_dim=config.model.noise_dim,
        context_draws=config.model.context_draws,
        has_posterior=config.model.has_posterior,
        frame_interval_s=checkpoint.frame_interval_s,
        data={"name": config.data.name, **config.data.model_dump(exclude_defaults=True)},
        n_future=config.train.n_future,
        trained_clips=checkpoint.trained_clips,
    )


class CheckpointModel:
    """A checkpoint in PyTorch, float32."""

    def __init__(self, label: str, checkpoint: Checkpoint, device: torch.device) -> None:
        self.device = device
        self._model: VideoModel = checkpoint.build().to(device)
        self.info = checkpoint_info(label, checkpoint, f"PyTorch {torch.__version__} fp32 on {device}")

    def forecast(self, context: Tensor, noise: Tensor, context_noise: Tensor) -> Tensor:
        """All sequences and samples in rows of one batch, a bounded number at a time."""
        batch, samples = len(context), noise.shape[2]
        past = context.repeat_interleave(samples, dim=0).transpose(0, 1)
        eps, eps_past = (draws.permute(1, 0, 2, 3).flatten(1, 2) for draws in (noise, context_noise))
        rows = zip(past.split(_MAX_BATCH, 1), eps.split(_MAX_BATCH, 1), eps_past.split(_MAX_BATCH, 1), strict=True)
        frames = torch.cat([self._model.generate(*part) for part in rows], dim=1)  # (horizon, B * S, C, H, W)
        futures: Tensor = frames.transpose(0, 1).unflatten(0, (batch, samples))
        return futures

    def reconstruct(self, sequence: Tensor) -> Tensor:
        """As `EvaluatedModel.reconstruct`."""
        n_past, z_dim = self.info.n_past, self.info.z_dim
        noise = sequence.new_zeros(len(sequence) - n_past, 1, z_dim)
        return self._model.reconstruct(sequence[:, None], noise, sequence.new_zeros(self.info.context_draws, 1, z_dim))[:, 0]

    def close(self) -> None:
        """Do nothing."""


class BundleModel:
    """A bundle through the runtime's Forecaster, one sequence after the other, its samples in batches.

    With `history`, all samples of a forecast are one batch: post-processing corrects each by the mean and variance of all.

    Args:
        label: short, for tables.
        forecaster: is closed with the model.
        history: steps before a sequence in which the forecaster already runs, for what post-processing learns.
    """

    device = torch.device("cpu")  # where the runtime returns frames, whatever computes them

    def __init__(self, label: str, forecaster: Forecaster, history: int = 0) -> None:
        manifest = forecaster.manifest
        generation, frame = manifest.generation, manifest.frame
        data = {"name": manifest.provenance.data, "frame_interval_s": generation.frame_interval_s}
        self._forecaster = forecaster
        self.info = ModelInfo(
            label=label,
            description=f"bundle {manifest.bundle_id}, {forecaster.description}"
            + (f"; post-processed, by up to {history} steps before each sequence" if history else ""),
            history=history,
            n_past=generation.n_past,
            height=frame.height,
            width=frame.width,
            channels=frame.channels,
            z_dim=manifest.model.z_dim,
            context_draws=manifest.context_draws,
            frame_interval_s=generation.frame_interval_s,
            data=data,
            n_future=generation.training_horizon,
            has_posterior="posterior" in next(iter(manifest.variants.values())).graphs,
        )

    def forecast(self, context: Tensor, noise: Tensor, context_noise: Tensor) -> Tensor:
        """As `EvaluatedModel.forecast`."""
        return torch.stack([self._sequence(*parts) for parts in zip(context, noise, context_noise, strict=True)])

    def _sequence(self, context: Tensor, noise: Tensor, context_noise: Tensor) -> Tensor:
        horizon, samples, futures = len(noise), noise.shape[1], []
        self._observe(context, samples, horizon)
        batch = samples if self.info.history else _MAX_BATCH
        for eps, eps_past in zip(noise.split(batch, 1), context_noise.split(batch, 1), strict=True):
            arrays = {"noise": eps.numpy(), "context_noise": eps_past.numpy()}
            futures.append(self._forecaster.forecast(eps.shape[1], horizon, **arrays))
        return _channels_first(np.concatenate(futures))

    def reconstruct(self, sequence: Tensor) -> Tensor:
        """As `EvaluatedModel.reconstruct`."""
        n_past = self.info.n_past
        self._observe(sequence[:n_past], 1, 1)
        return _channels_first(self._forecaster.reconstruct(_channels_last(sequence[n_past:])))

    def _observe(self, frames: Tensor, samples: int, horizon: int) -> None:
        """Observe frames, and forecast after each from which a forecast can start, but the last: only with a history."""
        self._forecaster.reset()
        for frame in _channels_last(frames):
            if self._forecaster.ready:
                self._forecaster.forecast(samples, horizon)
            self._forecaster.observe(frame)

    def close(self) -> None:
        """Free the backend."""
        self._forecaster.close()


def open_evaluated(
    model: str | None,
    backend: str | None = None,
    device: str | None = None,
    precision: Precision | None = None,
    samples: int = 8,
    real_video: bool = False,
    post_process: bool = False,
) -> CheckpointModel | BundleModel:
    """Open what the user named.

    Args:
        model: a bundle (folder or address), the name of an embedded one, or a checkpoint (file), of the reference
            implementation too; None: the newest bundle in this folder, else an embedded one.
        backend: of a bundle; None leaves the choice to the runtime.
        device: of the backend, or PyTorch's name of a device for a checkpoint; None leaves the choice to them.
        precision: a bundle's variant; None leaves the choice to the runtime.
        samples: largest number of samples per forecast, for which TensorRT's engines are built.
        real_video: the embedded model that is taken by default is then that for cameras, otherwise the digits.
        post_process: correct forecasts by what came before each sequence, as svg-live does; of a bundle.

    Raises:
        UsageError: options that do not apply to a checkpoint, or an unknown device.
        SvgError: the model does not exist or is damaged.
    """
    if model is not None and is_checkpoint(model):
        return _open_checkpoint(
            path=Path(model), backend=backend, device=device, precision=precision, post_process=post_process
        )
    path = find_model(model, real_video)
    chosen = backend or "auto"
    forecaster = Forecaster.open(
        path=path,
        backend=chosen,
        device=device,
        precision=precision,
        samples=samples,
        calibrate="no" if chosen == "auto" else None,  # so that results do not depend on what was fast at the moment
        post_process=post_process,
    )
    label = one_line(path.name)
    return BundleModel(f"{label}, post-processed", forecaster, _HISTORY) if post_process else BundleModel(label, forecaster)


def is_checkpoint(model: str | None) -> bool:
    """Whether `open_evaluated` opens a checkpoint for this name, and not a bundle.

    Raises:
        SvgError: nothing has this name.
    """
    if model is None or model in EMBEDDED_NAMES or is_model_address(model):
        return False
    if not Path(model).exists():
        raise SvgError(
            f"model '{model}' does not exist\n  expected a checkpoint (ckpt.pt), a bundle (ckpt.svgb), or camera or digits "
            "of the package; make others with svg-train and svg-export"
        )
    return not Path(model).is_dir()


def is_digits_model(model: str | None, real_video: bool) -> bool:
    """Whether `open_evaluated` opens the embedded digits for this name."""
    return (model is None or model in EMBEDDED_NAMES) and find_model(model, real_video) == EMBEDDED_MODEL


def _open_checkpoint(
    path: Path, backend: str | None, device: str | None, precision: Precision | None, post_process: bool
) -> CheckpointModel:
    if backend is not None or precision is not None or post_process:
        raise UsageError(
            f"'{path}' is a checkpoint, which PyTorch runs in float32: --backend, --fp16, --bf16 and --post-process "
            "apply to bundles\n"
            f"  remove them, or export it first: svg-export {shell_argument(path)}"
        )
    # Every run's best checkpoint is called ckpt.pt; its folder distinguishes them.
    label = (folder_name(path.parent) if path.name == "ckpt.pt" else "") or path.name
    return CheckpointModel(one_line(label), load_any_checkpoint(path), _torch_device(device))


def _torch_device(name: str | None) -> torch.device:
    if name in (None, "auto"):
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise _unknown_device(name) from error
    if device.type not in ("cpu", "cuda"):  # PyTorch knows others, such as meta, in which nothing is computed
        raise _unknown_device(name)
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA raises the latter
        reason = first_line(error)
        raise BackendMissingError(
            f"device '{name}' is not available: {reason}\n  expected auto, cpu, cuda or cuda:N"
        ) from error
    return device


def _unknown_device(name: str | None) -> UsageError:
    return UsageError(f"unknown device '{name}'\n  expected auto, cpu, cuda or cuda:N")


def _channels_last(frames: Tensor) -> np.ndarray:
    return np.ascontiguousarray(frames.movedim(-3, -1).numpy())


def _channels_first(frames: np.ndarray) -> Tensor:
    return torch.from_numpy(frames).movedim(-1, -3)
