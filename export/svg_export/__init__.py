"""Checkpoint -> bundle: ONNX graphs with their manifest, published only after the parity gate."""
