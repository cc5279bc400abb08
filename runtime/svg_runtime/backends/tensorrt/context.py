"""Engine -> execution context: loaded once, one context for every set of shapes and addresses that it is bound with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from svg_runtime.backends.cuda.arrays import DeviceMemory
from svg_runtime.backends.cuda.device import CudaDevice
from svg_runtime.backends.tensorrt.build import dtype_name
from svg_runtime.backends.tensorrt.library import Library
from svg_runtime.backends.tensorrt.local import LocalEngines
from svg_runtime.errors import BackendError, EngineError, UsageError

Shape = tuple[int, ...]


class ContextMaker:
    """Loads engines when they are first asked for, and makes contexts of them.

    Contexts compute in memory that they share, as they run one after another on one stream: with memory of its own each, a
    forecast of 10 frames would need that of `step` ten times.
    """

    def __init__(self, library: Library, device: CudaDevice, engines: LocalEngines) -> None:
        self._library, self._device, self._source = library, device, engines
        self._runtime = library.module.Runtime(library.logger)
        self._engines: dict[str, Any] = {}
        self._scratch: DeviceMemory | None = None
        self._kernels: Any = None  # that TensorRT-RTX compiled, for all contexts

    def make(self, role: str, shapes: Mapping[str, Shape]) -> tuple[Any, DeviceMemory | None]:
        """A context for inputs of these shapes, and the memory that it computes in, which must live as long.

        Raises:
            EngineError: the engine cannot be built or loaded.
            UsageError: the batch is larger than the engine was built for.
            BackendError: TensorRT does not make the context.
        """
        engine = self._engine(role)
        _check_profile(role, engine, shapes)
        with self._library.heard() as complaints:
            context = engine.create_execution_context(self._configured(engine))
            ready = context is not None and all(context.set_input_shape(name, shape) for name, shape in shapes.items())
            missing = context.infer_shapes() if ready else []
        if not ready or missing:
            words = "; ".join(message for is_error, message in complaints if is_error) or "; ".join(missing)
            raise BackendError(f"{self._library.name} makes no context of {role}: {words or 'no reason given'}")
        return context, self._give_memory(engine, context)

    def outputs(self, role: str, context: Any) -> dict[str, tuple[Shape, str]]:
        """Shape and type of every output, for the shapes that the context was made for."""
        engine, modes = self._engine(role), self._library.module.TensorIOMode
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        return {
            name: (tuple(context.get_tensor_shape(name)), dtype_name(engine.get_tensor_dtype(name)))
            for name in names
            if engine.get_tensor_mode(name) == modes.OUTPUT
        }

    def close(self) -> None:
        """Keep the kernels that were compiled for the next start, and let go of the engines."""
        if self._kernels is not None:
            self._source.runtime_cache.save(bytes(self._kernels.serialize()))
        self._engines.clear()
        self._scratch = self._kernels = None

    def _engine(self, role: str) -> Any:
        if role not in self._engines:
            engine = self._load(self._source.plan(role))
            if engine is None:  # it was built with another driver, or the library's own header says no
                engine = self._load(self._source.rebuild(role))
            if engine is None:
                raise EngineError(f"{self._library.name} {self._library.version} cannot load the engine of {role}")
            self._source.check(role, engine)
            self._engines[role] = engine
        return self._engines[role]

    def _load(self, plan: bytes) -> Any:
        with self._library.heard():
            return self._runtime.deserialize_cuda_engine(plan)

    def _configured(self, engine: Any) -> Any:
        """Memory is given by us. TensorRT-RTX compiles the kernels for a shape when it first sees it, not some time later."""
        module = self._library.module
        strategy = module.ExecutionContextAllocationStrategy.USER_MANAGED
        if not hasattr(engine, "create_runtime_config") or not hasattr(module, "DynamicShapesKernelSpecializationStrategy"):
            return strategy
        config = engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(strategy)
        config.dynamic_shapes_kernel_specialization_strategy = module.DynamicShapesKernelSpecializationStrategy.EAGER
        if self._kernels is None:
            self._kernels = config.create_runtime_cache()
            kept = self._source.runtime_cache.load()
            if kept is not None:
                self._kernels.deserialize(kept)
        config.set_runtime_cache(self._kernels)
        return config

    def _give_memory(self, engine: Any, context: Any) -> DeviceMemory | None:
        """The shared memory, or a larger piece; earlier contexts keep theirs."""
        nbytes = int(engine.device_memory_size_v2)
        if nbytes == 0:
            return None
        if self._scratch is None or self._scratch.nbytes < nbytes:
            self._scratch = DeviceMemory(self._device, nbytes)
        context.set_device_memory(self._scratch.address, nbytes)
        return self._scratch


def _check_profile(role: str, engine: Any, shapes: Mapping[str, Shape]) -> None:
    for name, shape in shapes.items():
        *_, largest = (tuple(dims) for dims in engine.get_tensor_profile_shape(name, 0))
        if len(largest) == len(shape) and any(size > most for size, most in zip(shape, largest, strict=True)):
            over = next((size, most) for size, most in zip(shape, largest, strict=True) if size > most)
            raise UsageError(
                f"{over[0]} samples are more than the engine of {role} was built for, {over[1]}\n"
                f"  open the forecaster with samples={over[0]}, or give --samples {over[0]}"
            )
