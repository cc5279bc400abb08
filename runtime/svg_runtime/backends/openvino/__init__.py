"""OpenVINO: backend `openvino`."""
