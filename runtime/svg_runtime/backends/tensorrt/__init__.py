"""NVIDIA TensorRT: engines built from a bundle's ONNX graphs, and where they are kept."""
