"""Engine -> execution context: loaded once, one context for every set of shapes and addresses that it is bound with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from svg_runtime.backends.nvidia.arrays import DeviceMemory
from svg_runtime.backends.nvidia.device import CudaDevice
from svg_runtime.backends.tensorrt.build import dtype_name
from svg_runtime.backends.tensorrt.local import LocalEngines
from svg_runtime.backends.tensorrt.nvidia_library import Library
from svg_runtime.errors import BackendError, EngineError, UsageError

Shape = tuple[int, ...]

_OF_THE_DEVICE = re.compile(r"out of memory|could not be allocated|cuda (runtime|driver|initialization)", re.IGNORECASE)


class ExecutionMaker:
    """Loads engines when they are first asked for, and makes contexts of them.

    Contexts compute in memory that they share, as they run one after another on one stream: with memory of its own each, a
    forecast of 10 frames would need that of `step` ten times.
    """

    def __init__(self, library: Library, device: CudaDevice, engines: LocalEngines) -> None:
        self._library, self._device, self._source = library, device, engines
        self._runtime = library.start("Runtime")
        self._engines: dict[str, Any] = {}
        self._scratch: DeviceMemory | None = None
        self._kernels: Any = None  # that TensorRT-RTX compiled, for all contexts

    def make(self, graph_name: str, shapes: Mapping[str, Shape]) -> tuple[Any, list[Any]]:
        """A context for inputs of these shapes, and what must live as long: memory that it computes in, its kernels.

        Raises:
            EngineError: the engine cannot be built or loaded.
            UsageError: the batch is larger than the engine was built for.
            BackendError: TensorRT does not make the context.
        """
        engine = self._engine(graph_name)
        _check_profile(graph_name, engine, shapes)
        with self._library.collect_messages() as messages:
            context = engine.create_execution_context(self._configured(engine))
            ready = context is not None and all(context.set_input_shape(name, shape) for name, shape in shapes.items())
            missing = _missing_inputs(context) if ready else []
        if not ready or missing:
            words = _errors(messages) or "; ".join(missing) or "no reason given"
            raise BackendError(f"{self._library.name} cannot create an execution context for {graph_name}: {words}")
        return context, [self._give_memory(engine, context), self._kernels]

    def outputs(self, graph_name: str, context: Any) -> dict[str, tuple[Shape, str]]:
        """Shape and type of every output, for the shapes that the context was made for."""
        engine, modes = self._engine(graph_name), self._library.module.TensorIOMode
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        return {
            name: (tuple(context.get_tensor_shape(name)), dtype_name(engine.get_tensor_dtype(name)))
            for name in names
            if engine.get_tensor_mode(name) == modes.OUTPUT
        }

    def close(self) -> None:
        """Keep the kernels that were compiled for the next start, and let go of the engines."""
        compiled = None if self._kernels is None else self._kernels.serialize()
        if compiled is not None:
            self._source.runtime_cache.save(bytes(compiled))
        self._engines.clear()
        self._scratch = self._kernels = None

    def _engine(self, graph_name: str) -> Any:
        if graph_name not in self._engines:
            engine = self._load(graph_name)
            self._source.check(graph_name, engine)
            self._engines[graph_name] = engine
        return self._engines[graph_name]

    def _load(self, graph_name: str) -> Any:
        """From a plan that was found or built. One of another driver or system may not load: then from another plan."""
        plans = [self._source.plan(graph_name)]
        while True:
            with self._library.collect_messages() as messages:
                engine = self._runtime.deserialize_cuda_engine(plans[-1])
            if engine is not None:
                return engine
            words = _errors(messages) or "no reason given"
            if graph_name in self._source.built or plans[-1] in plans[:-1] or _OF_THE_DEVICE.search(words):
                raise EngineError(
                    f"{self._library.name} {self._library.version} cannot load the engine of {graph_name}: {words}"
                )
            plans.append(self._source.replace(graph_name, plans, words))

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
            if kept is not None and not self._kernels.deserialize(kept):  # of another driver
                self._kernels = config.create_runtime_cache()
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


def _missing_inputs(context: Any) -> list[str]:
    """Names of inputs without which the shapes are not known."""
    try:
        return list(context.infer_shapes())
    except RuntimeError as error:  # any other reason
        return [str(error)]


def _errors(messages: list[tuple[bool, str]]) -> str:
    return "; ".join(message for is_error, message in messages if is_error)


def _check_profile(graph_name: str, engine: Any, shapes: Mapping[str, Shape]) -> None:
    for name, shape in shapes.items():
        *_, largest = (tuple(dims) for dims in engine.get_tensor_profile_shape(name, 0))
        if len(largest) == len(shape) and any(size > most for size, most in zip(shape, largest, strict=True)):
            over = next((size, most) for size, most in zip(shape, largest, strict=True) if size > most)
            raise UsageError(
                f"the engine of {graph_name} was built for up to {over[1]} samples, but {over[0]} were requested\n"
                f"  open the forecaster with samples={over[0]}, or use --samples {over[0]}"
            )
