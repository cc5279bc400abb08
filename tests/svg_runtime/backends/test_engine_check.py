"""Engines against the manifest: all differences are named. The engine is a stand-in, with the names of the real class."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from svg_runtime.backends.tensorrt.check import check_engine, check_half, open_engine
from svg_runtime.backends.tensorrt.nvidia_library import Library, Messages
from svg_runtime.bundle.manifest import GraphSpec
from svg_runtime.bundle.reader import Bundle
from svg_runtime.errors import EngineError
from tests.svg_export.engine_helpers import rtx
from tests.svg_runtime.backends.build_helpers import Opened

PLACE = "fp16/step.onnx"


@pytest.fixture
def spec(fused_bundle) -> GraphSpec:
    return Bundle.open(fused_bundle).variant("fp16").graphs["step"]


def test_an_engine_that_matches_the_manifest_passes(spec):
    check_engine(Opened(spec, 8), PLACE, spec, 8)
    check_engine(Opened(spec, 16), PLACE, spec, 8)  # made for more


def test_all_differences_are_named_at_once(spec):
    engine = Opened(spec, 2)
    engine.dtypes = {"cond_0": "FLOAT", "frame": "HALF"}
    engine.tensors = [tensor for tensor in engine.tensors if tensor.name != "eps"]
    engine.num_io_tensors -= 1
    engine.get_tensor_shape = lambda name: [7] if name == "mu" else Opened.get_tensor_shape(engine, name)
    with pytest.raises(EngineError, match=r"the engine of fp16/step\.onnx does not match the manifest") as caught:
        check_engine(engine, PLACE, spec, 8)
    text = str(caught.value)
    for expected in (
        "its inputs are ['cond_0',", "cond_0 is float32, the manifest says float16",
        "frame is float16, the manifest says float32",
        "mu is (7,), the manifest says (-1, 4)", "h accepts (1, 16) to (2, 16), expected (1, 16) to (8, 16)",
    ):  # fmt: skip
        assert expected in text


def test_an_input_that_became_an_output_is_named(spec):
    engine = Opened(spec, 8)
    engine.get_tensor_mode = lambda name: SimpleNamespace(name="OUTPUT")
    with pytest.raises(EngineError, match=r"its inputs are \[\]"):
        check_engine(engine, PLACE, spec, 8)


def layer(kind: str, took: str, gave: str, field: str = "Format/Datatype", pixels: int = 8) -> dict[str, object]:
    def tensor(types: str) -> dict[str, object]:
        return {"Name": "x", "Location": "Device", "Dimensions": [-1, 4, pixels, pixels], field: types}

    return {"Name": f"{kind} of {took}", "LayerType": kind, "Inputs": [tensor(took)], "Outputs": [tensor(gave)]}


@pytest.mark.parametrize(
    "wrong",
    [layer("CaskConvolution", "Row major linear FP32", "Row major linear FP32"), layer("Deconvolution", "Float", "Float"),
     layer("Convolution", "Float", "Float", "DataType")],
    ids=["TensorRT 8", "TensorRT 10", "TensorRT 11"],
)  # fmt: skip
def test_a_convolution_in_float32_is_named(spec, wrong):
    right = [
        layer("CaskConvolution", "Row major linear FP32", "Channel major FP16 format"),  # takes the frame
        layer("CaskDeconvolution", "Half", "Float"),  # gives the frame
        layer("Convolution", "Float", "Float", pixels=1),  # a matrix product of a recurrent part
        layer("Reformat", "Float", "Float"),
        layer("Myelin", "Float", "Float"),
    ]
    check_half(rtx(), Opened(spec, 8, json.dumps({"Layers": right})), PLACE)
    with pytest.raises(EngineError, match=rf"computes in float32: {wrong['Name']}$"):
        check_half(rtx(), Opened(spec, 8, json.dumps({"Layers": [*right, wrong]})), PLACE)


def test_weight_types_decide_where_dynamic_shapes_hide_the_tensor_types(spec):
    """As TensorRT 10 has it, for every batch that is not fixed."""

    def hidden(weights: str) -> dict[str, object]:
        types = "N/A due to dynamic shapes"
        return {**layer("CaskConvolution", types, types), "Name": f"of {weights}", "Weights": {"Type": weights, "Count": 9}}

    check_half(rtx(), Opened(spec, 8, json.dumps({"Layers": [hidden("Half")]})), PLACE)
    with pytest.raises(EngineError, match=r"computes in float32: of Float$"):
        check_half(rtx(), Opened(spec, 8, json.dumps({"Layers": [hidden("Half"), hidden("Float")]})), PLACE)


@pytest.mark.parametrize("text", ["", "no JSON", "[]", "{}", json.dumps({"Layers": ["conv1", "conv2"]}),
                                  json.dumps({"Layers": [{"Name": "a", "LayerType": "Convolution"}]})])  # fmt: skip
def test_without_reported_types_an_engine_passes(spec, text):
    check_half(rtx(), Opened(spec, 8, text), PLACE)


def test_an_engine_that_does_not_load_gives_the_reason():
    logger = SimpleNamespace(messages=Messages())

    class Runtime:
        def __init__(self, given) -> None:
            assert given is logger

        def deserialize_cuda_engine(self, serialized: bytes) -> None:
            logger.messages.append((True, "the engine is of another version"))

    library = Library("tensorrt", SimpleNamespace(__version__="10.3", Runtime=Runtime), logger)
    with pytest.raises(EngineError, match=r"does not load \(tensorrt 10\.3\):\n  the engine is of another version"):
        open_engine(library, b"engine", PLACE)


def test_the_stand_in_has_the_names_of_the_real_engine():
    module = rtx().module
    assert {name for name in vars(Opened) if not name.startswith("_")} <= set(dir(module.ICudaEngine))
    assert "num_io_tensors" in dir(module.ICudaEngine)
    assert {"INPUT", "OUTPUT"} <= set(module.TensorIOMode.__members__)
    assert {"FLOAT", "HALF"} <= set(module.DataType.__members__)
    assert "JSON" in module.LayerInformationFormat.__members__
    assert "get_engine_information" in dir(module.EngineInspector)
    assert "deserialize_cuda_engine" in dir(module.Runtime)
