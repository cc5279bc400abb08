"""Writes files of `torch.save` byte by byte, as torch 0.1 to 2 wrote them, and hostile pickles."""

from __future__ import annotations

import io
import struct
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
SYSTEM = {"protocol_version": PROTOCOL, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}


@dataclass
class Name:
    """A class or function, written as its name."""

    module: str
    name: str


@dataclass
class Made:
    """The result of calling `maker` (REDUCE, or NEWOBJ), then given `state` (BUILD)."""

    maker: Name
    args: tuple = ()
    state: Any = None
    opcode: bytes = b"R"


@dataclass
class Persistent:
    identity: tuple


@dataclass
class Raw:
    """Opcodes that leave one value on the stack."""

    opcodes: bytes


def pickled(value: Any, protocol: int = 2) -> bytes:
    """A whole pickle of plain values and of the classes above, without memo."""
    return b"\x80" + bytes([protocol]) + opcodes(value) + b"."


def opcodes(value: Any) -> bytes:
    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, int):
        data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        return b"\x8a" + bytes([len(data)]) + data
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, str):
        return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
    if isinstance(value, tuple):
        return b"(" + b"".join(map(opcodes, value)) + b"t"
    if isinstance(value, list):
        return b"](" + b"".join(map(opcodes, value)) + b"e"
    if isinstance(value, dict):
        return b"}(" + b"".join(opcodes(item) for pair in value.items() for item in pair) + b"u"
    if isinstance(value, Name):
        return f"c{value.module}\n{value.name}\n".encode()
    if isinstance(value, Persistent):
        return opcodes(value.identity) + b"Q"
    if isinstance(value, Made):
        state = b"" if value.state is None else opcodes(value.state) + b"b"
        return opcodes(value.maker) + opcodes(value.args) + value.opcode + state
    assert isinstance(value, Raw)
    return value.opcodes


def stream_file(content: Any, storages: dict[str, np.ndarray]) -> bytes:
    """torch.save before 1.6."""
    head = [pickled(value) for value in (MAGIC, PROTOCOL, SYSTEM, content, list(storages))]
    return b"".join(head) + b"".join(struct.pack("<q", data.size) + data.tobytes() for data in storages.values())


def zip_file(content: Any, storages: dict[str, np.ndarray], compression: int = zipfile.ZIP_STORED) -> bytes:
    """torch.save from 1.6 on."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        archive.writestr("model/data.pkl", pickled(content))
        archive.writestr("model/byteorder", "little")
        for key, data in storages.items():
            archive.writestr(f"model/data/{key}", data.tobytes())
        archive.writestr("model/version", "3\n")
    return out.getvalue()


STORAGE_NAMES = {"float32": "FloatStorage", "float64": "DoubleStorage", "float16": "HalfStorage", "int64": "LongStorage"}


@dataclass
class OldTorch:
    """How one version of torch describes modules and tensors.

    version: 1 (0.1: Variables with five values of state, all storages views of one), 3 (0.3: `_rebuild_tensor`, Parameters made
    of a tensor), 4 (0.4: `_rebuild_tensor_v2`), 16 (1.6: `_rebuild_parameter`, no view metadata).
    """

    version: int
    location: str = "cpu"
    dtype: str = "float32"
    storages: dict[str, np.ndarray] = field(default_factory=dict)

    def module(self, module: nn.Module) -> Made:
        """A pickled module, with the hooks and `_backend` object of its time."""
        empty = Made(Name("collections", "OrderedDict"))
        backend = Made(Name("torch.nn.backends.thnn", "_get_thnn_function_backend"))
        state = {
            "_backend": backend,
            "_parameters": self._ordered({name: self._parameter(p) for name, p in module._parameters.items()}),
            "_buffers": self._ordered(self._buffers(module)),
            "_backward_hooks": empty,
            "_forward_hooks": empty,
            "_modules": self._ordered({name: self.module(child) for name, child in module._modules.items()}),
            "training": False,
            **{name: value for name, value in vars(module).items() if name == "image_size"},  # svg-prime's modules have it
        }
        source = (
            "module",
            Name(f"models.old_{type(module).__name__}", type(module).__name__),
            "/home/x/models.py",
            "class X: ...",
        )
        return Made(Persistent(source), (), state, opcode=b"\x81")

    def state_dict(self, module: nn.Module) -> Made:
        """What `module.state_dict()` returns."""
        return self._ordered({name: self.tensor(value) for name, value in module.state_dict().items()})

    def tensor(self, tensor: torch.Tensor) -> Made:
        """A tensor, with its values in a storage of its own."""
        return self._tensor(tensor.numpy())

    def _ordered(self, items: dict[str, Any]) -> Made:
        """An OrderedDict, in the two ways in which Python 2 and 3 write it."""
        if self.version < 3:
            return Made(Name("collections", "OrderedDict"), ([[key, value] for key, value in items.items()],))
        return Raw(opcodes(Made(Name("collections", "OrderedDict"))) + opcodes(items)[1:] if items else b"}")

    def _buffers(self, module: nn.Module) -> dict[str, Any]:
        named = {name: value for name, value in module._buffers.items() if self.version > 3 or "tracked" not in name}
        return {name: self._tensor(value.numpy()) for name, value in named.items()}

    def _parameter(self, parameter: nn.Parameter | None) -> Any:
        if parameter is None:
            return None
        tensor, hooks = self._tensor(parameter.detach().numpy()), Made(Name("collections", "OrderedDict"))
        if self.version == 1:
            state = (tensor, None, hooks, True, False)
            return Made(Name("torch.autograd.variable", "Variable"), (), state, opcode=b"\x81")
        if self.version == 3:
            return Made(Name("torch.nn.parameter", "Parameter"), (tensor,), (True, False, hooks))
        if self.version == 4:
            return Made(Name("torch.nn.parameter", "Parameter"), (tensor, True))
        return Made(Name("torch._utils", "_rebuild_parameter"), (tensor, True, hooks))

    def _tensor(self, array: np.ndarray) -> Made:
        data = array.astype(self.dtype) if array.dtype.kind == "f" else array
        stride = tuple(step // data.itemsize for step in np.ascontiguousarray(data).strides)
        args = (Persistent(self._store(data)), 0, Made(Name("torch", "Size"), (data.shape,)), stride if data.ndim else ())
        if self.version in (1, 3):
            return Made(Name("torch._utils", "_rebuild_tensor"), args)
        return Made(Name("torch._utils", "_rebuild_tensor_v2"), (*args, False, Made(Name("collections", "OrderedDict"))))

    def _store(self, data: np.ndarray) -> tuple:
        package = "torch.cuda" if self.location.startswith("cuda") else "torch"
        kind = Name(package, STORAGE_NAMES[data.dtype.name])
        if self.version == 1:  # one storage of 1 + 2 * numel elements, of which the tensor's are a view
            key = str(94000000000000 + len(self.storages))
            self.storages[key] = np.concatenate([[7], data.ravel(), data.ravel()]).astype(data.dtype)
            return "storage", kind, key, self.location, 2 * data.size + 1, (key + "1", 1, data.size)
        key = str(len(self.storages))
        self.storages[key] = np.ascontiguousarray(data).ravel()
        identity = ("storage", kind, key, self.location, data.size)
        return identity if self.version == 16 else (*identity, None)


def options(parts: dict[str, nn.Module], **given: Any) -> dict[str, Any]:
    """The Namespace of the training of `parts`, with what this project reads, and some that it ignores."""
    predictor, posterior = parts["frame_predictor"], parts.get("posterior")
    encoder = parts["encoder"]
    first = encoder.c1[0].main[0] if encoder.pooled else encoder.c1.main[0]
    g_dim = predictor.output[0].out_features
    values = {
        "model": "vgg" if encoder.pooled else "dcgan", "image_width": 128 if encoder.depth == 5 else 64,
        "channels": first.in_channels, "g_dim": g_dim, "z_dim": predictor.embed.in_features - g_dim,
        "rnn_size": predictor.embed.out_features, "predictor_rnn_layers": len(predictor.lstm),
        "n_past": 3, "n_future": 7, "n_eval": 30, "last_frame_skip": False, "beta": 1e-6, "lr": 0.002, "batch_size": 100,
        "dataset": "kth", "data_root": "/home/x/data", "seed": 1, "optimizer": Name("torch.optim.adam", "Adam"),
    }  # fmt: skip
    if posterior is not None:
        values["posterior_rnn_layers"] = len(posterior.lstm)
    if "prior" in parts:
        values["prior_rnn_layers"] = len(parts["prior"].lstm)
    return {**values, **given}


def write_checkpoint(
    path: Path, parts: dict[str, nn.Module], torch_of_then: OldTorch, container: str = "stream", **given: Any
) -> Path:
    """`torch.save({'encoder': encoder, ..., 'opt': opt}, path)` of the reference's training scripts."""
    return write_parts(path, parts, options(parts, **given), torch_of_then, container)


def write_parts(
    path: Path, parts: dict[str, nn.Module], opt: dict[str, Any], torch_of_then: OldTorch, container: str = "stream"
) -> Path:
    """The same with the given Namespace."""
    content: dict[str, Any] = {name: torch_of_then.module(part) for name, part in parts.items()}
    content["opt"] = Made(Name("argparse", "Namespace"), (), opt, opcode=b"\x81")
    write = stream_file if container == "stream" else zip_file
    path.write_bytes(write(content, torch_of_then.storages))
    return path
