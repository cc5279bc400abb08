"""The published network as its files describe it: names of the original's parameters, convolutions of concatenations.

Written apart from the family, which splits these convolutions, and with its own loop over the residual steps.
"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

SETTINGS: dict[str, Any] = {
    "archi": "dcgan", "skipco": False, "nx": 64, "nc": 1, "nf": 2, "nhx": 6, "ny": 5, "nz": 3, "nt_inf": 2, "nh_inf": 8,
    "nlayers_inf": 3, "nh_res": 10, "nlayers_res": 4, "nt_cond": 4, "n_euler_steps": 1, "obs_scale": 0.5, "beta_y": 1,
    "beta_z": 2.0, "l2_res": 1, "res_gain": 1.2, "seed": 3, "batch_size": 100, "lr": 0.0003, "seq_len": 15,
    "seq_len_test": 30, "dataset": "smmnist", "ndigits": 2, "max_speed": 4, "deterministic": False, "device": [0],
    "save_path": "models/tiny", "n_iter": 1100000,
}  # fmt: skip


class _Mlp(nn.Module):
    def __init__(self, inputs: int, hidden: int, outputs: int, layers: int) -> None:
        super().__init__()
        sizes = [inputs, *[hidden] * (layers - 1), outputs]
        parts = [nn.Linear(a, b) for a, b in pairwise(sizes)]
        self.module = nn.Sequential(*(nn.Sequential(*([nn.ReLU()] if i else []), part) for i, part in enumerate(parts)))

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x)


class _Coder(nn.Module):
    """Encoder or decoder: `conv` and one more part."""


class PublishedSrvp(nn.Module):
    """Random weights that make frames, states and samples differ; in evaluation mode."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.settings = s = {**SETTINGS, **settings}
        vgg, skip = s["archi"] == "vgg", 2 if s["skipco"] else 1
        widths = [s["nf"] * width for width in (1, 2, 4, 8)]
        self.encoder, self.decoder = _Coder(), _Coder()
        if vgg:
            self.encoder.conv, self.encoder.last_conv = _vgg_down(s["nc"], widths, s["nhx"])
            self.decoder.first_upconv = nn.Sequential(
                _up_block(s["nh_inf"] + s["ny"], widths[3], 4, 1, 0), nn.Upsample(scale_factor=2)
            )
            self.decoder.conv = _vgg_up(s["nc"], widths, skip)
        else:
            self.encoder.conv, self.encoder.last_conv = _dcgan_down(s["nc"], widths, s["nhx"])
            self.decoder.first_upconv = _up_block(s["nh_inf"] + s["ny"], widths[3], 4, 1, 0)
            self.decoder.conv = _dcgan_up(s["nc"], widths, skip)
        self.w_proj = nn.Sequential(nn.Linear(s["nhx"], s["nh_inf"]), nn.ReLU())
        self.w_inf = nn.Sequential(nn.Linear(s["nh_inf"], s["nh_inf"]), nn.Tanh())
        self.q_y = _Mlp(s["nhx"] * s["nt_inf"], s["nh_inf"], 2 * s["ny"], s["nlayers_inf"])
        self.inf_z = nn.LSTM(s["nhx"], s["nh_inf"])
        self.q_z = nn.Linear(s["nh_inf"], 2 * s["nz"])
        self.p_z = _Mlp(s["ny"], s["nh_res"], 2 * s["nz"], s["nlayers_res"])
        self.dynamics = _Mlp(s["ny"] + s["nz"], s["nh_res"], s["ny"], s["nlayers_res"])
        self._randomize()
        self.eval()

    def _randomize(self) -> None:
        rng = torch.Generator().manual_seed(5)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                nn.init.kaiming_normal_(module.weight, 0.2, generator=rng)
            elif isinstance(module, nn.BatchNorm2d):
                module.bias.data.normal_(0, 0.2, generator=rng)
                module.running_mean.normal_(0, 0.2, generator=rng)
                module.running_var.uniform_(0.3, 1.5, generator=rng)
            elif isinstance(module, (nn.LSTM, nn.Linear)):
                for parameter in module.parameters():
                    nn.init.normal_(parameter, 0, 0.4, generator=rng)

    def encode(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """x (B, C, 64, 64) -> h (B, nhx), skips, deepest first."""
        skips: list[Tensor] = []
        for block in self.encoder.conv:
            x = block(x)
            skips.insert(0, x.clone())
        return self.encoder.last_conv(x).flatten(1), skips

    def decode(self, w: Tensor, y: Tensor, skips: list[Tensor]) -> Tensor:
        d = self.decoder.first_upconv(torch.cat([w, y], 1)[:, :, None, None])
        for block, skip in zip(self.decoder.conv, skips, strict=True):
            d = block(torch.cat([d, skip], 1) if self.settings["skipco"] else d)
        return torch.sigmoid(d)

    @torch.no_grad()
    def roll_out(self, x: Tensor, noise: Tensor, context_noise: Tensor, horizon_truth: Tensor | None = None) -> Tensor:
        """Forecast after all of x (n, B, C, 64, 64); with the true next frames, each z is from its posterior."""
        s, n = self.settings, len(x)
        encoded = [self.encode(frame) for frame in x]
        h, skips = torch.stack([pair[0] for pair in encoded]), encoded[-1][1]
        truth = [] if horizon_truth is None else [self.encode(frame)[0] for frame in horizon_truth]
        hidden = self.inf_z(torch.cat([h, *(one[None] for one in truth)]))[0]
        w = self.w_inf(self.w_proj(h[n - s["nt_inf"] :]).sum(0))
        y = _draw(self.q_y(torch.cat(list(h[: s["nt_inf"]]), 1)), context_noise[0])
        frames = []
        for index in range(1, n + len(noise)):
            parameters = self.q_z(hidden[index]) if index < n + len(truth) else self.p_z(y)
            z = _draw(parameters, context_noise[index] if index < n else noise[index - n])
            start, steps = y, s["n_euler_steps"]
            for _ in range(steps):
                start = start + self.dynamics(torch.cat([start, z], 1)) * (1 / steps)
            y = start
            if index >= n:
                frames.append(self.decode(w, y, skips))
        return torch.stack(frames)


def _draw(parameters: Tensor, eps: Tensor) -> Tensor:
    size = parameters.shape[1] // 2
    return parameters[:, :size] + (functional.softplus(parameters[:, size:]) + 1e-8) * eps[:, :size]


def _after(convolution: nn.Module, channels: int, last: nn.Module | None = None) -> nn.Sequential:
    return nn.Sequential(convolution, nn.BatchNorm2d(channels), last or nn.LeakyReLU(0.2))


def _up_block(c_in: int, c_out: int, kernel: int, stride: int, padding: int) -> nn.Sequential:
    return _after(nn.ConvTranspose2d(c_in, c_out, kernel, stride, padding, bias=False), c_out)


def _flat(c_in: int, c_out: int) -> nn.Sequential:
    return _after(nn.Conv2d(c_in, c_out, 3, padding=1, bias=False), c_out)


def _dcgan_down(nc: int, widths: list[int], nhx: int) -> tuple[nn.ModuleList, nn.Module]:
    blocks = [nn.Sequential(nn.Conv2d(nc, widths[0], 4, 2, 1, bias=False), nn.LeakyReLU(0.2))]
    for narrow, wide in pairwise(widths):
        blocks.append(_after(nn.Conv2d(narrow, wide, 4, 2, 1, bias=False), wide))
    return nn.ModuleList(blocks), _after(nn.Conv2d(widths[3], nhx, 4, bias=False), nhx, nn.Tanh())


def _dcgan_up(nc: int, widths: list[int], skip: int) -> nn.ModuleList:
    blocks: list[nn.Module] = [_up_block(widths[i] * skip, widths[i - 1], 4, 2, 1) for i in (3, 2, 1)]
    return nn.ModuleList([*blocks, nn.ConvTranspose2d(widths[0] * skip, nc, 4, 2, 1, bias=False)])


def _vgg_down(nc: int, widths: list[int], nhx: int) -> tuple[nn.ModuleList, nn.Module]:
    one, two, three, four = widths
    blocks = [
        nn.Sequential(_flat(nc, one), _flat(one, one)),
        nn.Sequential(nn.MaxPool2d(2), _flat(one, two), _flat(two, two)),
        nn.Sequential(nn.MaxPool2d(2), _flat(two, three), _flat(three, three), _flat(three, three)),
        nn.Sequential(nn.MaxPool2d(2), _flat(three, four), _flat(four, four), _flat(four, four)),
    ]
    last = nn.Sequential(nn.MaxPool2d(2), _after(nn.Conv2d(four, nhx, 4, bias=False), nhx, nn.Tanh()))
    return nn.ModuleList(blocks), last


def _vgg_up(nc: int, widths: list[int], skip: int) -> nn.ModuleList:
    one, two, three, four = widths
    image = nn.ConvTranspose2d(one, nc, 3, 1, 1, bias=False)
    return nn.ModuleList(
        [
            nn.Sequential(_flat(four * skip, four), _flat(four, four), _flat(four, three), nn.Upsample(scale_factor=2)),
            nn.Sequential(_flat(three * skip, three), _flat(three, three), _flat(three, two), nn.Upsample(scale_factor=2)),
            nn.Sequential(_flat(two * skip, two), _flat(two, one), nn.Upsample(scale_factor=2)),
            nn.Sequential(_flat(one * skip, one), image),
        ]
    )


def write_published(folder: Path, network: PublishedSrvp, name: str = "model.pt", stream: bool = False, **changed: Any) -> Path:
    """The weights and, beside them, config.json with `changed` settings; those that are None are left out."""
    torch.save(network.state_dict(), folder / name, _use_new_zipfile_serialization=not stream)
    settings = {key: value for key, value in {**network.settings, **changed}.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder / name
