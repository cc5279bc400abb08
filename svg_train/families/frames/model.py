"""The network of the family `frames`: one step from frame to frame, training by scheduled sampling, and the roll-out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from svg_train.families.frames.config import FramesConfig
from svg_train.families.frames.layers import Convolution, to_frame, to_patches
from svg_train.families.frames.stacks import Increments, build_stack
from svg_train.families.video_model import TrainingOutput, VideoModel


class FramesModel(VideoModel):
    """A recurrent network that predicts the next frame from this one and its states.

    Frames are fed back as they come out, without limits, and clipped to [0, 1] where they are shown.

    Attributes:
        state_shapes: name -> shape without the batch of each state, in the order of `step`'s list.
    """

    config: FramesConfig

    def __init__(self, config: FramesConfig) -> None:
        super().__init__()
        self.config = config
        self.stack = build_stack(config)
        self.conv_last = Convolution(self.stack.outputs, config.patch_channels)
        # Of the decoupling loss only, and so of training only.
        self.adapter = Convolution(config.hidden[0], config.hidden[0]) if config.cell == "predrnn-v2" else None
        self.state_shapes = self.stack.state_shapes

    def initial_states(self, batch: int) -> list[Tensor]:
        """Zeros of all states, on the device of the weights, in float32 or in what is finer."""
        weight = self.conv_last.weight
        dtype = torch.promote_types(weight.dtype, torch.float32)  # half precision is too coarse for what is carried
        return [weight.new_zeros(batch, *shape, dtype=dtype) for shape in self.state_shapes.values()]

    def step(self, frame: Tensor, states: list[Tensor], increments: Increments | None = None) -> tuple[Tensor, list[Tensor]]:
        """One frame on.

        Args:
            frame: (B, C, H, W), observed or predicted; a predicted one as it was returned, not clipped.
            states: from `initial_states` or the step before.
            increments: takes what each layer of predrnn and predrnn-v2 adds to its memories.

        Returns:
            the next frame (B, C, H, W), not clipped, and the next states.
        """
        patches = to_patches(frame, self.config.patch_size)
        top, following = self.stack(patches, dict(zip(self.state_shapes, states, strict=True)), increments)
        predicted = to_frame(self.conv_last(top), self.config.patch_size)
        return predicted, [following[name] for name in self.state_shapes]

    def forward(self, x: Tensor, noise: Tensor, step: int = 0) -> TrainingOutput:
        """One pass over whole sequences, each step reading a true frame or the prediction of the step before.

        Args:
            x: (T, B, C, H, W) in [0, 1].
            noise: (T - 1, B, 1) standard normal; a draw below the quantile of the share of true frames reads the true one.
            step: number of the optimizer step, on which that share depends.
        """
        reads_truth = self._reads_truth(noise, step)
        increments: Increments | None = None if self.adapter is None else []
        states, frames = self.initial_states(x.shape[1]), [x[0]]
        for true_frame, is_true in zip(x[:-1], reads_truth, strict=True):
            frame, states = self.step(torch.where(is_true, true_frame, frames[-1]), states, increments)
            frames.append(frame)
        predictions = torch.stack(frames[1:])
        errors = predictions - x[1:]
        mse = (errors**2).mean(dim=(1, 2, 3, 4)).sum()
        return TrainingOutput(predictions, mse, mse.new_zeros(()), self._auxiliary(errors, increments))

    def _reads_truth(self, noise: Tensor, step: int) -> Tensor:
        """Whether a step reads its true frame, (T - 1, B, 1, 1, 1). The first step always does."""
        noise = noise.float()  # mixed precision casts it to a type that has no quantiles
        past, later = (torch.special.ndtri(noise.new_tensor(share)) for share in self.config.true_frame_shares(step))
        n_past = self.config.n_past
        true = torch.cat([torch.ones_like(noise[:1], dtype=torch.bool), noise[1:n_past] < past, noise[n_past:] < later])
        return true[..., None, None]

    def _auxiliary(self, errors: Tensor, increments: Increments | None) -> Tensor | None:
        """Terms beside the mean squared error, summed over the targets as that is.

        E3D-LSTM: the mean absolute error. PredRNN.v2: the similarity of what a layer adds to c and to m (Wang et al. 2021,
        equation 7), which pushes the memories to learn different things.
        """
        if self.config.cell == "e3d-lstm":
            return errors.abs().mean(dim=(1, 2, 3, 4)).sum()
        if self.adapter is None or increments is None:
            return None
        pairs = [[self.adapter(added).flatten(2) for added in pair] for pair in increments]
        similarity = torch.stack([F.cosine_similarity(to_c, to_m, dim=2).abs().mean() for to_c, to_m in pairs])
        return self.config.decouple_beta * similarity.mean() * len(errors)

    @torch.no_grad()
    def roll_out(self, x: Tensor, horizon: int) -> Tensor:
        """The `horizon` frames after x (n, B, C, H, W), each fed back as it is: (horizon, B, C, H, W), not clipped."""
        if horizon == 0:
            return x[:0]
        states = self.initial_states(x.shape[1])
        for observed in x:
            frame, states = self.step(observed, states)
        frames = [frame]
        for _ in range(horizon - 1):
            frame, states = self.step(frames[-1], states)
            frames.append(frame)
        return torch.stack(frames)

    @torch.no_grad()
    def generate(self, x: Tensor, noise: Tensor, context_noise: Tensor) -> Tensor:
        """As `VideoModel.generate`. The noise has no size, and says only how many frames to forecast."""
        return self.roll_out(x, len(noise)).clamp(0, 1)

    @torch.no_grad()
    def reconstruct(self, x: Tensor, noise: Tensor, context_noise: Tensor) -> Tensor:
        """As `VideoModel.reconstruct`: a deterministic model forecasts as always."""
        return self.generate(x[: self.config.n_past], noise, context_noise)
