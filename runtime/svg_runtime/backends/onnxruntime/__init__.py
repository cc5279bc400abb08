"""ONNX Runtime: backend `cpu`, and `cuda` and `ort-tensorrt` on an NVIDIA GPU."""
