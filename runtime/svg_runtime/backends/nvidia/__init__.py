"""NVIDIA devices: one stream, memory and CUDA graphs, by cuda-bindings. What runs on them is in `ort_gpu` and `tensorrt`."""
