"""NVIDIA TensorRT: engines built from a bundle's ONNX graphs, and their cache."""
