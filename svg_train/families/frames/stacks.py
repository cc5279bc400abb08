"""The layers of a network and the path of its memories through them. Every state has a name and starts at zero."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from svg_train.families.frames.cells import (
    CausalCell,
    ConvLstmCell,
    EideticCell,
    GradientHighway,
    MemorylessConvLstmCell,
    MimBlock,
    PeepholeCell,
    SpatioTemporalCell,
)
from svg_train.families.frames.config import FramesConfig

States = dict[str, Tensor]
Increments = list[tuple[Tensor, Tensor]]  # what a step adds to c and to m, of each layer


class Stack(nn.Module):
    """All layers of a network.

    Attributes:
        state_shapes: name -> shape without the batch, in the order of the states.
        outputs: channels of the top layer's output.
    """

    state_shapes: dict[str, tuple[int, ...]]
    outputs: int

    @abstractmethod
    def forward(self, x: Tensor, states: States, increments: Increments | None = None) -> tuple[Tensor, States]:
        """Patches x (B, channels, H, W) and states -> the top layer's output (B, outputs, H, W) and the next states."""


class PlainStack(Stack):
    """ConvLSTM: each layer reads the h of the one below."""

    def __init__(self, config: FramesConfig) -> None:
        super().__init__()
        cell = ConvLstmCell if config.dialect == "openstl-1.0" else MemorylessConvLstmCell
        self.cells = nn.ModuleList(cell(inputs, hidden, config) for inputs, hidden in _sizes(config))
        self._names = [[f"{name}{layer}" for name in cell.state_names] for layer in range(len(self.cells))]
        self.outputs = config.hidden[-1]
        self.state_shapes = {
            name: (hidden, *config.plane) for names, hidden in zip(self._names, config.hidden, strict=True) for name in names
        }

    def forward(self, x: Tensor, states: States, increments: Increments | None = None) -> tuple[Tensor, States]:
        """As `Stack.forward`."""
        following: States = {}
        for names, cell in zip(self._names, self.cells, strict=True):
            own = cell(x, *(states[name] for name in names))
            following.update(zip(names, own, strict=True))
            x = own[0]
        return x, following


class ClimbingStack(Stack):
    """PredRNN and PredRNN++: m climbs through the layers, and from the top to the bottom of the next step."""

    def __init__(self, config: FramesConfig) -> None:
        super().__init__()
        causal = config.cell == "predrnnpp"
        cell = CausalCell if causal else SpatioTemporalCell
        self.cells = nn.ModuleList(cell(inputs, hidden, config) for inputs, hidden in _sizes(config))
        self.highway = GradientHighway(config.hidden[0], config) if causal else None
        self.outputs = config.hidden[-1]
        names = [f"{name}{layer}" for layer in range(len(self.cells)) for name in "hc"]
        self.state_shapes = dict.fromkeys([*names, "m", *(["z"] if causal else [])], (self.outputs, *config.plane))

    def forward(self, x: Tensor, states: States, increments: Increments | None = None) -> tuple[Tensor, States]:
        """As `Stack.forward`."""
        following: States = {}
        m = states["m"]
        for layer, cell in enumerate(self.cells):
            x, c, m = cell(x, states[f"h{layer}"], states[f"c{layer}"], m, increments)
            following[f"h{layer}"] = x
            following[f"c{layer}"] = c
            if layer == 0 and self.highway is not None:
                x = following["z"] = self.highway(x, states["z"])
        return x, {**following, "m": m}


class MimStack(Stack):
    """MIM: the layers above the first get differences, which a second column of layers carries upwards.

    d is the output and e the cell of a layer of that column, s the cell of the stationary module. `started` is 0 at the first
    step, at which there is no difference: the column's output and state count from the second step on. In OpenSTL s outlives
    a sequence, which is a defect.
    """

    def __init__(self, config: FramesConfig) -> None:
        super().__init__()
        (inputs, hidden), *upper = _sizes(config)
        self.first = SpatioTemporalCell(inputs, hidden, config)
        self.blocks = nn.ModuleList(MimBlock(hidden, config) for _ in upper)
        self.differences = nn.ModuleList(PeepholeCell(hidden, config) for _ in upper)
        self.outputs = hidden
        names = [f"{name}{layer}" for layer in range(len(config.hidden)) for name in ("hc" if layer == 0 else "hcdes")]
        self.state_shapes = {**dict.fromkeys([*names, "m"], (hidden, *config.plane)), "started": (1, 1, 1)}

    def forward(self, x: Tensor, states: States, increments: Increments | None = None) -> tuple[Tensor, States]:
        """As `Stack.forward`."""
        started = states["started"]
        h, c, m = self.first(x, states["h0"], states["c0"], states["m"])
        following: States = {"h0": h, "c0": c, "started": started * 0 + 1}
        d = h - states["h0"]
        for layer, (block, difference) in enumerate(zip(self.blocks, self.differences, strict=True), start=1):
            own = {name: states[f"{name}{layer}"] for name in "hcdes"}
            d, e = (value * started for value in difference(d, own["d"], own["e"]))
            h, c, m, s = block(h, d, own["h"], own["c"], m, own["s"])
            following.update({f"h{layer}": h, f"c{layer}": c, f"d{layer}": d, f"e{layer}": e, f"s{layer}": s})
        return h, {**following, "m": m}


class EideticStack(Stack):
    """E3D-LSTM: reads the last two frames at once, and attends to its own past cells, the last K of them.

    With at least as many entries as steps it equals the original, which keeps all. `filled` says which entries there are.
    """

    def __init__(self, config: FramesConfig) -> None:
        super().__init__()
        self.cells = nn.ModuleList(EideticCell(inputs, hidden, config) for inputs, hidden in _sizes(config))
        self.outputs = 2 * config.hidden[-1]
        length, rows = config.history_length, 2 * config.plane[0] * config.plane[1]
        self.state_shapes = {"previous": (config.patch_channels, *config.plane)}
        for layer, hidden in enumerate(config.hidden):
            planes = (2 * hidden, *config.plane)
            self.state_shapes.update({f"h{layer}": planes, f"c{layer}": planes, f"history{layer}": (length, rows, hidden)})
        self.state_shapes["filled"] = (length,)

    def forward(self, x: Tensor, states: States, increments: Increments | None = None) -> tuple[Tensor, States]:
        """As `Stack.forward`."""
        filled = _appended(states["filled"], states["filled"][:, :1] * 0 + 1)
        following: States = {"previous": x, "filled": filled}
        x = torch.stack([states["previous"], x], dim=2).flatten(1, 2)
        for layer, cell in enumerate(self.cells):
            c, past = states[f"c{layer}"], states[f"history{layer}"]
            history = _appended(past, c.reshape(-1, 1, *past.shape[2:]))
            x, c = cell(x, states[f"h{layer}"], c, history, filled)
            following.update({f"h{layer}": x, f"c{layer}": c, f"history{layer}": history})
        return x, following


def build_stack(config: FramesConfig) -> Stack:
    """The layers of a configuration's network."""
    kinds: dict[str, type[PlainStack | ClimbingStack | MimStack | EideticStack]] = {
        "convlstm": PlainStack,
        "predrnn": ClimbingStack,
        "predrnn-v2": ClimbingStack,
        "predrnnpp": ClimbingStack,
        "mim": MimStack,
        "e3d-lstm": EideticStack,
    }
    return kinds[config.cell](config)


def _sizes(config: FramesConfig) -> list[tuple[int, int]]:
    """Input channels and hidden channels of each layer."""
    return list(zip((config.patch_channels, *config.hidden), config.hidden, strict=False))


def _appended(entries: Tensor, new: Tensor) -> Tensor:
    """Without the oldest entry along axis 1, and with the new one."""
    return torch.cat([entries[:, 1:], new], dim=1)
