"""The peers on PyTorch: the reference's networks frame by frame, as they are or through torch.compile."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from peers import Context, Task
from reference_networks import with_weights_of
from torch import Tensor

from svg_train.families.svg.model import SVG

Wrap = Callable[[Callable[..., Any]], Callable[..., Any]]
_LAYOUT_TRIES = 10  # the first ones choose kernels

Hidden = list[tuple[Tensor, Tensor]]  # (h, c) of every LSTM cell


class TorchPeer:
    """The generation rule on concatenating networks.

    Args:
        model: the weights.
        task: what to forecast.
        context: what was observed.
        dtype: of weights, states and frames.
        layout: memory format of weights and skips.
        wrap: applied to the three functions that compute: the context, the encoder, and the rest of a step.
        device: of all inputs. Context and noise are there before a forecast begins.
        submitted: called when all work except the copy of the frames to the host is submitted.
    """

    def __init__(
        self, model: SVG, task: Task, context: Context, dtype: torch.dtype = torch.float32,
        layout: torch.memory_format = torch.contiguous_format, wrap: Wrap = lambda function: function,
        device: str = "cpu", submitted: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        place: dict[str, Any] = {"device": device, "dtype": dtype}
        parts = {name: part.to(**place, memory_format=layout) for name, part in with_weights_of(model).items()}
        self._encoder = parts["encoder"]
        self._decoder = parts["decoder"]
        self._predictor = parts["frame_predictor"]
        self._prior = parts["prior"]
        self._read = wrap(self._read_context)
        self._encode = wrap(self._encode_frames)
        self._advance = wrap(self._decode_next)
        self._samples = task.samples
        self._noise = torch.from_numpy(task.noise).to(**place)
        self._h = torch.from_numpy(context.h).to(**place)
        self._z = torch.from_numpy(context.z).to(**place)
        self._prior_state = torch.from_numpy(context.prior_state).to(**place)
        self._skips = [torch.from_numpy(skip).to(**place, memory_format=layout) for skip in context.skips]
        self._submitted = submitted
        self._pinned: Tensor | None = None  # where a GPU copies frames to

    @torch.inference_mode()
    def forecast(self) -> np.ndarray:
        """(horizon, samples, C, H, W) float32; on a GPU, valid until the next forecast."""
        frames = self._draw_frames()
        self._submitted()
        return self._fetch(frames).numpy()

    def _draw_frames(self) -> Tensor:
        skips = [skip.repeat(self._samples, 1, 1, 1) for skip in self._skips]  # as large as what they are concatenated with
        h_seq = self._h[:, None].repeat(1, self._samples, 1)
        predictor = self._read(h_seq[:-1], self._z)
        state = self._prior_state.repeat(1, self._samples, 1)
        prior = list(zip(state[::2], state[1::2], strict=True))
        frames, h = [], h_seq[-1].clone()
        for eps in self._noise:
            h = self._encode(frames[-1]) if frames else h
            frame, prior, predictor = self._advance(h, eps, skips, prior, predictor)
            frames.append(frame)
        return torch.stack(frames).float()

    def _fetch(self, frames: Tensor) -> Tensor:
        if not frames.is_cuda:
            return frames
        if self._pinned is None:
            self._pinned = torch.empty(frames.shape, dtype=frames.dtype, pin_memory=True)
        self._pinned.copy_(frames, non_blocking=True)
        torch.cuda.current_stream().synchronize()
        return self._pinned

    def _read_context(self, h_seq: Tensor, z_seq: Tensor) -> Hidden:
        self._predictor.reset(self._samples)
        for h, z in zip(h_seq, z_seq, strict=True):
            self._predictor(torch.cat([h, z], 1))
        return self._predictor.hidden

    def _encode_frames(self, frames: Tensor) -> Tensor:
        return self._encoder(frames)[0]

    def _decode_next(
        self, h: Tensor, eps: Tensor, skips: list[Tensor], prior: Hidden, predictor: Hidden
    ) -> tuple[Tensor, Hidden, Hidden]:
        # States are inputs and outputs: the compiler treats a module's own tensors as constants.
        self._prior.hidden = prior
        self._predictor.hidden = predictor
        z, _, _ = self._prior(h, eps)
        frame = self._decoder(self._predictor(torch.cat([h, z], 1)), skips)
        return frame, self._prior.hidden, self._predictor.hidden


class CompiledPeer(TorchPeer):
    """torch.compile with frozen weights, packed for the processor, channels last.

    The fastest settings of the competitor, measured on two cores with AVX-512 and bf16, DCGAN-64 nf 64, 12 interleaved rounds,
    against eager: bf16 2.36x so, 2.27x in the default layout, 2.36x with autocast, 2.34x with max_autotune, 2.20x with
    the encoder and the rest of a step in one function; fp32 1.27x, 1.26x in the default layout. As an option of `torch.compile`
    alone, freezing has no effect: bf16 1.5x, fp32 slower than eager.

    On a GPU: the layout that is given, max-autotune, with CUDA graphs of every function, or with `whole` one of the whole
    forecast, whose steps are then unrolled. Anything that would silently be left out of the graphs is an error.
    """

    def __init__(
        self, model: SVG, task: Task, context: Context, dtype: torch.dtype, device: str = "cpu",
        submitted: Callable[[], None] = lambda: None, whole: bool = False,
        layout: torch.memory_format = torch.channels_last,
    ) -> None:  # fmt: skip
        on_gpu = device != "cpu"

        def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
            return torch.compile(function, dynamic=False, fullgraph=True, mode="max-autotune" if on_gpu else None)

        alone = (lambda function: function) if whole else wrap
        super().__init__(
            model=model, task=task, context=context, dtype=dtype, layout=layout, wrap=alone, device=device, submitted=submitted
        )
        if whole:
            self._draw_frames = wrap(self._draw_frames)  # type: ignore[method-assign]
        # Not as an option of torch.compile, because it also changes how the graph is captured.
        settings = {"freezing": True, **({"triton.cudagraph_or_error": True} if on_gpu else {})}
        with torch._inductor.config.patch(settings):
            for _ in range(3 if on_gpu else 1):  # the first compiles, the second records the graphs, the third replays them
                self.forecast()

    def forecast(self) -> np.ndarray:
        """(horizon, samples, C, H, W) float32; on a GPU, valid until the next forecast."""
        # Frames of a forecast are valid until the next one begins: without this, each call may overwrite those of the last one.
        torch.compiler.cudagraph_mark_step_begin()
        return super().forecast()


def faster_layout(model: SVG, task: Task, context: Context, dtype: torch.dtype, device: str) -> torch.memory_format:
    """The memory format in which the eager networks are faster, which depends on device and type."""

    def fastest_s(layout: torch.memory_format) -> float:
        peer, tries = TorchPeer(model=model, task=task, context=context, dtype=dtype, layout=layout, device=device), []
        for _ in range(_LAYOUT_TRIES):
            start = time.perf_counter()
            peer.forecast()
            tries.append(time.perf_counter() - start)
        return min(tries)

    return min((torch.contiguous_format, torch.channels_last), key=fastest_s)


@torch.inference_mode()
def read_context(model: SVG, task: Task) -> Context:
    """Observe the frames of the task with the reference's networks at batch 1, latents drawn for every sample."""
    parts = with_weights_of(model)
    encoder, posterior, prior = parts["encoder"], parts["posterior"], parts["prior"]
    encoded = [encoder(torch.from_numpy(frame)[None]) for frame in np.moveaxis(task.frames, -1, 1)]
    for part in (posterior, prior):
        part.reset(1)
    latents = []
    for (h_prev, _), (h_now, _), eps in zip(encoded[:-1], encoded[1:], torch.from_numpy(task.context_noise), strict=True):
        latents.append(posterior(h_now, eps)[0])
        prior(h_prev, eps)
    return Context(
        h=torch.cat([h for h, _ in encoded]).numpy(),
        z=torch.stack(latents).numpy(),
        prior_state=torch.stack([tensor for state in prior.hidden for tensor in state]).numpy(),
        skips=[skip.numpy() for skip in encoded[-1 - model.config.skip_lag][1]],
    )
