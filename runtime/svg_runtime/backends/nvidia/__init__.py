"""NVIDIA GPUs through cuda-bindings: one stream, memory and CUDA graphs, for the backends in `onnxruntime` and `tensorrt`."""
