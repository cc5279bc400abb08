"""Engine -> execution context (short: execution): an engine is loaded once and has one execution per binding."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from svg_runtime.backends.nvidia.arrays import DeviceMemory
from svg_runtime.backends.nvidia.device import CudaDevice
from svg_runtime.backends.tensorrt.build import dtype_name
from svg_runtime.backends.tensorrt.local import LocalEngines
from svg_runtime.backends.tensorrt.nvidia_library import Library, refuse_full_memory
from svg_runtime.errors import BackendError, EngineError, UsageError

Shape = tuple[int, ...]

_DEVICE_ERROR = re.compile(r"cuda (runtime|driver|initialization)", re.IGNORECASE)


class ExecutionFactory:
    """Loads engines on first use, and creates their executions.

    Executions share the memory for activations, because they run one after another on one stream: with separate memory, a
    forecast of 10 frames would need that of `step` ten times.
    """

    def __init__(self, library: Library, device: CudaDevice, engines: LocalEngines) -> None:
        self._library = library
        self._device = device
        self._local_engines = engines
        self._runtime = library.start("Runtime")
        self._engines: dict[str, Any] = {}
        self._scratch: DeviceMemory | None = None
        self._kernels: Any = None  # compiled by TensorRT-RTX, for all executions

    def make(self, graph_name: str, shapes: Mapping[str, Shape]) -> tuple[Any, list[Any]]:
        """Create an execution for inputs of these shapes; also return what must live as long: its memory and kernels.

        Raises:
            EngineError: the engine cannot be built or loaded.
            UsageError: the batch is larger than the engine was built for.
            BackendError: TensorRT cannot create the execution.
            MemoryError: not enough device memory.
        """
        engine = self._engine(graph_name)
        _check_profile(graph_name, engine, shapes)
        with self._library.collect_messages() as messages:
            execution = engine.create_execution_context(self._execution_config(engine))
            ready = execution is not None and all(execution.set_input_shape(name, shape) for name, shape in shapes.items())
            missing = _missing_inputs(execution) if ready else []
        if not ready or missing:
            message = _errors(messages) or "; ".join(missing) or "no reason given"
            problem = f"{self._library.name} cannot create an execution context for {graph_name}: {message}"
            refuse_full_memory(problem)
            raise BackendError(problem)
        return execution, [self._assign_memory(engine, execution), self._kernels]

    def outputs(self, graph_name: str, execution: Any) -> dict[str, tuple[Shape, str]]:
        """Return shape and type of every output, for the input shapes of the execution."""
        engine, modes = self._engine(graph_name), self._library.module.TensorIOMode
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        return {
            name: (tuple(execution.get_tensor_shape(name)), dtype_name(engine.get_tensor_dtype(name)))
            for name in names
            if engine.get_tensor_mode(name) == modes.OUTPUT
        }

    def save_kernels(self) -> None:
        """Cache the kernels that were compiled so far for the next start."""
        compiled = None if self._kernels is None else self._kernels.serialize()
        if compiled is not None:
            self._local_engines.runtime_cache.save(bytes(compiled))

    def close(self) -> None:
        """Cache the compiled kernels for the next start, and free the engines."""
        self.save_kernels()
        self._engines.clear()
        self._scratch = self._kernels = None

    def _engine(self, graph_name: str) -> Any:
        if graph_name not in self._engines:
            engine = self._load(graph_name)
            self._local_engines.check(graph_name, engine)
            self._engines[graph_name] = engine
        return self._engines[graph_name]

    def _load(self, graph_name: str) -> Any:
        """Load an engine that was found or built. One of another driver or system may not load: then try another one."""
        tried = [self._local_engines.engine_bytes(graph_name)]
        while True:
            with self._library.collect_messages() as messages:
                engine = self._runtime.deserialize_cuda_engine(tried[-1])
            if engine is not None:
                return engine
            message = _errors(messages) or "no reason given"
            problem = f"{self._library.name} {self._library.version} cannot load the engine of {graph_name}: {message}"
            refuse_full_memory(problem)
            if graph_name in self._local_engines.built or tried[-1] in tried[:-1] or _DEVICE_ERROR.search(message):
                raise EngineError(problem)
            tried.append(self._local_engines.replace(graph_name, tried, message))

    def _execution_config(self, engine: Any) -> Any:
        """Configure executions to use our memory, and TensorRT-RTX to compile kernels at the first use of a shape."""
        module = self._library.module
        strategy = module.ExecutionContextAllocationStrategy.USER_MANAGED
        if not hasattr(engine, "create_runtime_config") or not hasattr(module, "DynamicShapesKernelSpecializationStrategy"):
            return strategy
        config = engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(strategy)
        config.dynamic_shapes_kernel_specialization_strategy = module.DynamicShapesKernelSpecializationStrategy.EAGER
        if self._kernels is None:
            self._kernels = config.create_runtime_cache()
            cached = self._local_engines.runtime_cache.load()
            if cached is not None and not self._kernels.deserialize(cached):  # of another driver
                self._kernels = config.create_runtime_cache()
        config.set_runtime_cache(self._kernels)
        return config

    def _assign_memory(self, engine: Any, execution: Any) -> DeviceMemory | None:
        """Assign the shared memory, enlarged if necessary; earlier executions keep theirs."""
        nbytes = int(engine.device_memory_size_v2)
        if nbytes == 0:
            return None
        if self._scratch is None or self._scratch.nbytes < nbytes:
            self._scratch = DeviceMemory(self._device, nbytes)
        execution.set_device_memory(self._scratch.address, nbytes)
        return self._scratch


def _missing_inputs(execution: Any) -> list[str]:
    """Return the names of inputs whose shapes are not set."""
    try:
        return list(execution.infer_shapes())
    except RuntimeError as error:  # any other reason
        return [str(error)]


def _errors(messages: list[tuple[bool, str]]) -> str:
    return "; ".join(message for is_error, message in messages if is_error)


def _check_profile(graph_name: str, engine: Any, shapes: Mapping[str, Shape]) -> None:
    for name, shape in shapes.items():
        *_, largest = (tuple(dims) for dims in engine.get_tensor_profile_shape(name, 0))
        if len(largest) == len(shape) and any(size > most for size, most in zip(shape, largest, strict=True)):
            batch, limit = next((size, most) for size, most in zip(shape, largest, strict=True) if size > most)
            raise UsageError(
                f"the engine of {graph_name} was built for up to {limit} samples, but {batch} were requested\n"
                f"  open the forecaster with samples={batch}, or use --samples {batch}"
            )
