"""A listener for the progress of builds, and engines that can be opened without a GPU."""

from __future__ import annotations

import threading
from types import SimpleNamespace


class Watched:
    """Records all progress; `act` is called each time."""

    def __init__(self) -> None:
        self.shares: dict[str, list[float]] = {}
        self.act = lambda share: None

    def progress(self, task: str, share: float) -> None:
        assert threading.current_thread() is threading.main_thread()
        self.shares.setdefault(task, []).append(share)
        self.act(share)


class Opened:
    """An ICudaEngine as the manifest describes it, in place of one that opens only on a GPU."""

    def __init__(self, spec, max_batch: int, layers: str = "{}") -> None:
        self.spec, self.max_batch, self.layers = spec, max_batch, layers
        self.tensors = [*spec.inputs, *spec.outputs]
        self.num_io_tensors = len(self.tensors)
        self.dtypes: dict[str, str] = {}

    def get_tensor_name(self, index: int) -> str:
        return self.tensors[index].name

    def get_tensor_mode(self, name: str):
        return SimpleNamespace(name="INPUT" if name in {tensor.name for tensor in self.spec.inputs} else "OUTPUT")

    def get_tensor_dtype(self, name: str):
        found = self.dtypes.get(name) or {"float32": "FLOAT", "float16": "HALF"}[self.spec.tensor(name).dtype]
        return SimpleNamespace(name=found)

    def get_tensor_shape(self, name: str):
        return [size if isinstance(size, int) else -1 for size in self.spec.tensor(name).shape]

    def get_tensor_profile_shape(self, name: str, profile: int):
        tensor = self.spec.tensor(name)
        return [tensor.sized(batch) for batch in (1, self.max_batch, self.max_batch)]

    def create_engine_inspector(self):
        return SimpleNamespace(get_engine_information=lambda form: self.layers)
