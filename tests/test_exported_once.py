"""Which graphs the tests take for the same: an export that is not repeated must not hide a difference."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.exported_once import export_key, exported_once

EXAMPLE = (torch.zeros(2, 3),)


class Pair(nn.Module):
    """Two linear layers, which may be one."""

    def __init__(self, tied: bool = False, slope: float = 0.2) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(3, 3)
        self.second = nn.Linear(3, 3)
        self.second.load_state_dict(self.first.state_dict())
        if tied:
            self.second.weight = self.first.weight
        self.slope = slope

    def forward(self, x):
        return nn.functional.leaky_relu(self.second(self.first(x)), self.slope)


def key(module: nn.Module, example: tuple[object, ...] = EXAMPLE, **settings: object) -> str | None:
    return export_key(module, example, settings)


def test_the_same_network_has_the_same_key_whatever_its_example_holds():
    assert key(Pair()) == key(Pair(), (torch.ones(2, 3),)) is not None


@pytest.mark.parametrize("example", [(torch.zeros(2, 4),), (torch.zeros(2, 3, dtype=torch.float16),), (*EXAMPLE, [*EXAMPLE])])
def test_another_example_has_another_key(example):
    assert key(Pair()) != key(Pair(), example)


def test_other_settings_attributes_weights_and_sharing_have_other_keys():
    changed = Pair()
    with torch.no_grad():
        changed.second.bias[0] += 1e-6
    keys = [key(Pair()), key(Pair(), opset_version=18), key(Pair(slope=0.1)), key(changed), key(Pair(tied=True))]
    assert len(set(keys)) == len(keys)


def test_replaced_code_is_seen_in_the_class_and_not_kept_in_the_instance(monkeypatch):
    before = key(Pair())
    monkeypatch.setattr(nn.Linear, "forward", lambda self, x: x)
    assert key(Pair()) != before
    replaced = Pair()
    replaced.forward = lambda x: x
    assert key(replaced) is None


def test_the_exporter_is_asked_once(monkeypatch, tmp_path):
    exporter, asked = torch.onnx.export, []
    exporter = getattr(exporter, "__wrapped__", exporter)

    def count(*arguments, **settings):
        asked.append(arguments[0])
        return exporter(*arguments, **settings)

    monkeypatch.setattr(torch.onnx, "export", count)
    with exported_once(tmp_path):
        graphs = [torch.onnx.export(Pair().eval(), EXAMPLE, dynamo=True, verbose=False).model_proto for _ in range(2)]
    assert len(asked) == 1
    assert graphs[0] == graphs[1]
    assert graphs[0] is not graphs[1]  # export_graph changes what it gets
    assert torch.onnx.export is count
