"""Published checkpoints of every shape, and what is wrong with a file: all in one message, and no code of it runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from svg_common.errors import UsageError
from svg_train.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from svg_train.families.srvp import published
from svg_train.reference.checkpoint import load_any_checkpoint
from tests.svg_train.reference.option_classes import CLASSES
from tests.svg_train.reference.reference_files import Made, Name, OldTorch, stream_file, zip_file
from tests.svg_train.srvp.published_network import SETTINGS, PublishedSrvp, write_published

PROGRAM = Path(__file__).parents[1] / "reference" / "hostile_import.py"

# Relatives that no golden file shows.
SHAPES = {
    "dcgan with skips, three channels": {"archi": "dcgan", "skipco": True, "nc": 3},
    "vgg without skips": {"archi": "vgg"},
    "vgg with skips, three channels, ny < nz": {"archi": "vgg", "skipco": True, "nc": 3, "ny": 2, "nz": 7},
    "3 residual steps": {"n_euler_steps": 3},
    "5 residual steps, all observed frames infer": {"n_euler_steps": 5, "nt_inf": 4},
    "6 residual steps, one frame infers": {"n_euler_steps": 6, "nt_inf": 1},
    "7 residual steps, two frames observed": {"n_euler_steps": 7, "nt_cond": 2},
    "shallow": {"nlayers_inf": 2, "nlayers_res": 2},
    "deep": {"nlayers_inf": 4, "nlayers_res": 6, "nh_res": 3},
    "a linear residual function": {"nlayers_res": 1, "nh_res": 0},
    "more observed than trained on": {"nt_cond": 9},
}


def probe(
    network: PublishedSrvp, batch: int = 2, horizon: int = 4
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Observed frames, noise, noise while they are read, and true frames after them."""
    s, rng = network.settings, torch.Generator().manual_seed(1)
    x = torch.rand(s["nt_cond"] + horizon, batch, s["nc"], 64, 64, generator=rng)
    size = max(s["ny"], s["nz"])
    noise, context = (torch.randn(n, batch, size, generator=rng) for n in (horizon, s["nt_cond"]))
    return x[: s["nt_cond"]], noise, context, x[s["nt_cond"] :]


@pytest.mark.parametrize("stream", [False, True], ids=["zip", "stream"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_an_imported_model_computes_what_the_published_network_computes(shape, stream, tmp_path):
    network = PublishedSrvp(**shape)
    model = load_any_checkpoint(write_published(tmp_path, network, stream=stream)).build()
    assert not model.training
    x, noise, context, truth = probe(network)
    expected = network.roll_out(x, noise, context)
    assert expected.std(1).mean() > 1e-3, "samples that do not differ prove nothing"
    torch.testing.assert_close(model.generate(x, noise, context), expected, atol=2e-5, rtol=0)
    reconstructed = network.roll_out(x, noise, context, truth)
    assert (reconstructed - expected).abs().max() > 1e-3
    torch.testing.assert_close(model.reconstruct(torch.cat([x, truth]), noise, context), reconstructed, atol=2e-5, rtol=0)


def test_tensors_on_a_gpu_and_old_containers_are_read(tmp_path):
    network = PublishedSrvp()
    expected = load_any_checkpoint(write_published(tmp_path, network)).weights
    for version, write in ((1, stream_file), (4, stream_file), (16, zip_file)):
        torch_of_then = OldTorch(version, "cuda:0")
        content = torch_of_then.state_dict(network)
        (tmp_path / "gpu.pt").write_bytes(write(content, torch_of_then.storages))
        given = load_any_checkpoint(tmp_path / "gpu.pt").weights
        torch.testing.assert_close(given, expected, atol=0, rtol=0)


def test_half_precision_is_widened_and_missing_counters_are_no_loss(tmp_path):
    network = PublishedSrvp()
    path = write_published(tmp_path, network)
    state = {name: value.half() for name, value in network.state_dict().items() if "num_batches" not in name}
    torch.save(state, path)
    weights = load_any_checkpoint(path).weights
    torch.testing.assert_close(weights["content.mix.weight"], network.w_inf[0].weight.detach().half().float())
    assert weights["encoder.head.1.num_batches_tracked"] == 0


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"epoch": 3, "state_dict": {f"model.{name}": value for name, value in state.items()}},
        lambda state: {f"module.{name}": value for name, value in state.items()},
        lambda state: {"model": state, "optimizer": {"lr": 1.0}},
        lambda state: {"discriminator": {"conv.weight": torch.zeros(3)}, "generator": {"state_dict": state}},
        lambda state: {**{f"ema.module.{name}": torch.zeros_like(value) for name, value in state.items()}, **state},
        lambda state: {
            **{f"ema.{name}": torch.zeros_like(value) for name, value in state.items()},
            **{f"srvp.{name}": value for name, value in state.items()},
        },
        lambda state: [1, state],
    ],
    ids=[
        "Lightning",
        "DataParallel",
        "with the optimizer",
        "beside another network",
        "beside moving averages",
        "moving averages first",
        "a list",
    ],
)
def test_weights_in_other_arrangements_are_found(wrap, tmp_path):
    network = PublishedSrvp(archi="vgg", skipco=True)
    path = write_published(tmp_path, network)
    expected = load_any_checkpoint(path)
    torch.save(wrap(network.state_dict()), path)
    given = load_any_checkpoint(path)
    assert given.config == expected.config
    torch.testing.assert_close(given.weights, expected.weights, atol=0, rtol=0)


def test_settings_reach_the_configuration(tmp_path):
    network = PublishedSrvp(n_euler_steps=2)
    config = load_any_checkpoint(write_published(tmp_path, network)).config
    model, train = config.model, config.train
    assert (model.family, model.n_past, model.n_euler_steps, model.nt_inf) == ("srvp", 4, 2, 2)
    assert (model.obs_scale, model.beta_y, model.l2_res, model.res_gain) == (0.5, 1, 1, 1.2)
    assert (train.batch_size, train.lr, train.n_future, train.seed) == (100, 3e-4, 11, 3)
    assert train.beta == 2 * 0.5**2 * 2.0 / 64**2
    assert (config.data.name, config.data.num_digits) == ("smmnist", 2)
    assert load_any_checkpoint(write_published(tmp_path, network, dataset="human")).config.data.name == "video"
    nothing_of_training = (
        "obs_scale",
        "beta_y",
        "beta_z",
        "l2_res",
        "res_gain",
        "seed",
        "batch_size",
        "lr",
        "seq_len",
        "dataset",
    )
    sparse = write_published(tmp_path, network, **dict.fromkeys(nothing_of_training))
    assert load_any_checkpoint(sparse).config.model.n_euler_steps == 2


def test_what_the_weights_tell_need_not_be_stated(tmp_path):
    network = PublishedSrvp(archi="vgg", skipco=True, nc=3, ny=4, nz=9)
    expected = load_any_checkpoint(write_published(tmp_path, network)).config.model
    left = {name: None for name in SETTINGS if name not in ("nt_cond", "n_euler_steps", "obs_scale", "res_gain")}
    assert load_any_checkpoint(write_published(tmp_path, network, **left)).config.model == expected


def test_the_users_settings_win_over_those_beside_the_file(tmp_path):
    path = write_published(tmp_path, PublishedSrvp(), n_euler_steps=2)
    mine = tmp_path / "mine.json"
    mine.write_text(json.dumps({**SETTINGS, "n_euler_steps": 3}), encoding="utf-8-sig")
    assert load_any_checkpoint(path, mine).config.model.n_euler_steps == 3
    (tmp_path / "config.json").unlink()
    assert load_any_checkpoint(path, mine).config.model.n_euler_steps == 3


@pytest.mark.parametrize("key", ["opt", "hyper_parameters", "config"])
def test_settings_in_the_file_itself_serve_where_none_are_beside_it(key, tmp_path):
    network = PublishedSrvp(n_euler_steps=2)
    path = write_published(tmp_path, network)
    expected, table = load_any_checkpoint(path).config, json.loads((tmp_path / "config.json").read_text())
    for given in (table, SimpleNamespace(**table)):
        torch.save({"model": network.state_dict(), key: given}, path)
        assert load_any_checkpoint(path).config == expected
        (tmp_path / "config.json").unlink(missing_ok=True)
    torch.save({"model": network.state_dict(), key: {**table, "nhx": 7}}, path)
    assert f"nhx is 7 in '{path}', but the weights imply 6" in refusal(path)


@pytest.mark.parametrize("kind", CLASSES.values(), ids=CLASSES)
@pytest.mark.parametrize(
    "place", [lambda table: {"cfg": {"model": table}}, lambda table: {"hyper_parameters": {"args": table}}]
)
def test_settings_are_found_in_any_class_and_table(place, kind, tmp_path):
    network = PublishedSrvp(n_euler_steps=2)
    path = write_published(tmp_path, network)
    expected, table = load_any_checkpoint(path).config.model, json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").unlink()
    torch.save({"model": network.state_dict(), **place(kind(table))}, path)
    assert load_any_checkpoint(path).config.model == expected
    arrays = {name: value if isinstance(value, str) else np.array(value) for name, value in table.items()}
    torch.save({"model": network.state_dict(), **place(arrays)}, path)
    assert load_any_checkpoint(path).config.model == expected


def test_settings_in_the_file_are_completed_by_the_users_and_not_by_what_lies_beside_it(tmp_path):
    network = PublishedSrvp(n_euler_steps=2)
    path = write_published(tmp_path, network)
    expected, table = load_any_checkpoint(path).config, json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**SETTINGS, "n_euler_steps": 3}))  # of another run
    torch.save({"model": network.state_dict(), "opt": table}, path)
    assert load_any_checkpoint(path).config == expected
    del table["n_euler_steps"]
    torch.save({"model": network.state_dict(), "opt": table}, path)
    assert "n_euler_steps is missing" in refusal(path)
    (tmp_path / "mine.json").write_text('{"n_euler_steps": 2}')
    assert load_any_checkpoint(path, tmp_path / "mine.json").config == expected


@pytest.mark.parametrize("name", ["q_z.weight", "encoder.conv.0.0.weight"])
def test_a_weight_without_dimensions_is_refused_also_where_it_tells_a_size(name, tmp_path):
    path = write_published(tmp_path, network := PublishedSrvp(), nz=None, ny=None, nf=None, nc=None)
    torch.save({**network.state_dict(), name: torch.tensor(1.0)}, path)
    assert f"{name}: given (), expected " in refusal(path)


def test_an_imported_model_is_saved_and_read_as_one_of_ours(tmp_path):
    imported = load_any_checkpoint(write_published(tmp_path, PublishedSrvp(archi="vgg", skipco=True)))
    save_checkpoint(tmp_path / "ckpt.pt", imported)
    again = load_checkpoint(tmp_path / "ckpt.pt")
    assert again.config == imported.config
    torch.testing.assert_close(again.build().state_dict(), imported.build().state_dict(), atol=0, rtol=0)


def refusal(path: Path, model_config: Path | None = None) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_any_checkpoint(path, model_config)
    return str(caught.value)


def test_without_its_settings_the_message_says_what_they_are_for_and_how_to_give_them(tmp_path):
    path = write_published(tmp_path, PublishedSrvp())
    (tmp_path / "config.json").unlink()
    message = refusal(path)
    assert "nt_cond is missing in config.json, and cannot be inferred from the weights" in message
    assert "n_euler_steps is missing in config.json" in message
    assert "--model-config FILE" in message
    assert str(path) in message


def test_all_that_is_missing_or_contradictory_is_in_one_message(tmp_path):
    network = PublishedSrvp(archi="vgg", skipco=True)
    del network.w_inf
    network.p_z.module[1][1].weight = torch.nn.Parameter(torch.zeros(10, 9))
    network.extra = torch.nn.Linear(2, 2)
    network.q_z.weight = torch.nn.Parameter(torch.zeros(6, 8, dtype=torch.int64), requires_grad=False)
    path = write_published(tmp_path, network, archi="dcgan", skipco=False, nx=128, nf=64, nt_cond=None, n_euler_steps="two")
    message = refusal(path)
    for expected in (
        f"archi is 'dcgan' in '{tmp_path / 'config.json'}', but the weights imply 'vgg'",
        "skipco is False in",
        "nx is 128 in",
        "nf is 64 in",
        "nt_cond is missing in",
        "n_euler_steps is 'two' in",
        "w_inf.0.weight: missing, expected (8, 8)",
        "p_z.module.1.1.weight: given (10, 9), expected (10, 10)",
        "q_z.weight: given type torch.int64, expected floating point",
        "extra.weight: unexpected, (2, 2)",
    ):
        assert expected in message
    assert len(message.splitlines()) < 20


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"nt_cond": 1}, "n_past"),
        ({"nt_inf": 2, "nt_cond": 2000}, "n_past"),
        ({"n_euler_steps": 0}, "n_euler_steps"),
        ({"n_euler_steps": 10**9}, "n_euler_steps"),
        ({"n_euler_steps": True}, "expected a whole number"),
        ({"nt_cond": 4.5}, "expected a whole number"),
        ({"skipco": 1}, "skipco is 1 in"),
        ({"skipco": 2}, "skipco is 2 in"),
        ({"skipco": "true"}, "skipco is 'true' in"),
        ({"skipco": "perhaps"}, "skipco is 'perhaps' in"),
        ({"nf": "7"}, "nf is '7' in"),
        ({"archi": ["vgg"] * 10**4}, "archi is"),
    ],
)
def test_settings_that_no_model_can_have_are_refused(changed, expected, tmp_path):
    message = refusal(write_published(tmp_path, PublishedSrvp(), **changed))
    assert expected in message
    assert len(message) < 3000


@pytest.mark.parametrize(
    "changed",
    [
        {"nt_cond": "4", "nf": 2.0, "skipco": 0, "archi": "DCGAN"},
        {"beta_z": float("inf"), "lr": 0, "seed": -1, "batch_size": "many", "seq_len": 15.5, "ndigits": 99},
        {"skipco": "False"},
        {"skipco": "none"},
        {"obs_scale": 1e300},
        {"obs_scale": 0, "l2_res": -1, "res_gain": float("nan"), "beta_y": None},
        {"obs_scale": [1], "l2_res": "x" * 10**5, "res_gain": "orthogonal", "beta_y": {"start": 0}},
    ],
)
def test_numbers_may_be_text_and_what_only_training_needs_may_be_anything(changed, tmp_path):
    model = PublishedSrvp()
    for folder in ("plain", "changed"):
        (tmp_path / folder).mkdir()
    plain = load_any_checkpoint(write_published(tmp_path / "plain", model)).config
    taken = load_any_checkpoint(write_published(tmp_path / "changed", model, **changed)).config
    fields = set(type(plain.model).model_fields) - {"obs_scale", "l2_res", "res_gain", "beta_y"}
    assert taken.model.model_dump(include=fields) == plain.model.model_dump(include=fields)


@pytest.mark.parametrize(
    ("changed", "theirs", "ours"),
    [
        ({"nc": 2}, "nc is 2", "channels: Input should be 1 or 3"),
        ({"nt_cond": 1}, "nt_cond is 1", "model.n_past: Input should be greater than or equal to 2"),
        ({"nt_cond": 2000}, "nt_cond is 2000", "model.n_past: Input should be less than or equal to 1024"),
        ({"nt_inf": 3, "nt_cond": 2}, "nt_inf is 3, nt_cond is 2", "nt_inf is 3, but only n_past, 2"),
        ({"n_euler_steps": 257}, "n_euler_steps is 257", "model.n_euler_steps: Input should be less than or equal to 256"),
    ],
)
def test_limits_are_said_with_the_names_of_the_settings_in_the_file(changed, theirs, ours, tmp_path):
    message = refusal(write_published(tmp_path, PublishedSrvp(**changed)))
    reason, problem, advice = message.splitlines()
    assert reason.endswith("of a model beyond the limits of svg-edge:")
    assert problem.strip().startswith(f"{theirs}, which svg-edge does not take: ")
    assert ours in problem
    assert "correct them" in advice


@pytest.mark.parametrize(
    ("layer", "missing"),
    [
        ("encoder", 55), ("encoder.conv.0", 10), ("encoder.last_conv.1", 5), ("decoder.conv.0", 15), ("inf_z", 4),
        ("p_z.module.1.1", 2), ("dynamics.module.0.0", 2), ("dynamics.module.3.1", 2), ("q_y.module.2.1", 2),
    ],
)  # fmt: skip
def test_a_layer_that_is_missing_is_named(layer, missing, tmp_path):
    path = write_published(tmp_path, network := PublishedSrvp(archi="vgg", skipco=True))
    state = network.state_dict()
    torch.save({name: value for name, value in state.items() if not name.startswith(f"{layer}.")}, path)
    message = refusal(path)
    assert f"a whole layer is missing, {layer}: {missing} of 138 weights; the file is not whole" in message
    first = next(name for name in state if name.startswith(f"{layer}."))
    assert f"{first}: missing, expected {tuple(state[first].shape)}" in message
    assert "given" not in message


def test_sizes_that_a_missing_layer_would_tell_are_not_guessed(tmp_path):
    """Without settings beside the weights, nothing tells how many channels the first convolution has."""
    path = write_published(tmp_path, network := PublishedSrvp(archi="vgg"), nf=None)
    torch.save({name: value for name, value in network.state_dict().items() if not name.startswith("encoder.conv.0")}, path)
    message = refusal(path)
    assert "encoder.conv.0.0.0.weight: missing\n" in message
    assert "given" not in message


def test_fewer_observed_frames_than_y_needs_are_refused(tmp_path):
    assert "nt_inf is 3, but only n_past, 2" in refusal(write_published(tmp_path, PublishedSrvp(nt_inf=3), nt_cond=2))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "cannot read the model's settings"),
        (b"{", "cannot read the model's settings"),
        (b"[1]", "it is not a table"),
        (b"[" * 10**5, "cannot read the model's settings"),
        (b'{"nt_cond": ' + b"9" * 5000 + b"}", "too many digits"),
        (b'{"nt_cond": NaN, "n_euler_steps": 1}', "nt_cond is nan"),
        (b'{"nt_cond": ' + b"[" * 900 + b"]" * 900 + b', "n_euler_steps": 1}', "nt_cond is [a list]"),
        (b'{"nz": ' + b'{"a": ' * 900 + b"1" + b"}" * 900 + b"}", "nz is a dict"),
        ("{}".encode("utf-16"), "UTF-16"),
        (b'{"a": "' + b"x" * (2 << 20) + b'"}', "more than 1 MiB"),
    ],
)
def test_settings_that_cannot_be_read_are_named(content, expected, tmp_path):
    path = write_published(tmp_path, PublishedSrvp())
    (tmp_path / "config.json").write_bytes(content)
    message = refusal(path)
    assert expected in message
    assert len(message) < 2000


def test_settings_that_are_missing_or_a_folder_are_named(tmp_path):
    path = write_published(tmp_path, PublishedSrvp())
    assert "cannot read the model's settings" in refusal(path, tmp_path / "none.json")
    assert "cannot read the model's settings" in refusal(path, tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="pipe"):
        load_any_checkpoint(path, tmp_path / "pipe")


def test_values_that_are_not_finite_are_named(tmp_path):
    network = PublishedSrvp()
    network.q_z.bias.data[0] = float("nan")
    assert "q_z.bias: contains values that are not finite" in refusal(write_published(tmp_path, network))


def attacked(write, marker: Path) -> bytes:
    """The weights with a command in place of one of them, beside them, and as the state of a known class."""
    torch_of_then = OldTorch(4 if write is stream_file else 16, "cuda:0")
    attack = Made(Name("os", "system"), (f"touch {marker}",))
    state = {name: value for name, value in PublishedSrvp().state_dict().items() if name != "w_proj.0.weight"}
    tensors = {name: torch_of_then.tensor(value) for name, value in state.items()}
    content = Made(Name("collections", "OrderedDict"), (), {"_metadata": attack})
    return write({**tensors, "w_proj.0.weight": attack, "hook": attack, "ordered": content}, torch_of_then.storages)


def save_views_of_one_storage(path: Path, network: PublishedSrvp) -> None:
    """Many large weights in a file of the size of one."""
    state = {name: value for name, value in network.state_dict().items() if not name.startswith(("p_z", "dynamics"))}
    values = torch.zeros(600 * 600)
    for part, sizes in (("p_z", [5, *[600] * 9, 6]), ("dynamics", [8, *[600] * 9, 5])):
        for layer, (given, wanted) in enumerate(pairwise(sizes)):
            name = f"{part}.module.{layer}.{min(layer, 1)}"
            state[f"{name}.weight"] = values[: given * wanted].view(wanted, given)
            state[f"{name}.bias"] = values[:wanted]
    torch.save(state, path)


def test_no_code_of_a_file_runs_and_a_small_file_cannot_ask_for_much_memory(tmp_path):
    files, marker = tmp_path / "files", tmp_path / "marker"
    files.mkdir()
    network = PublishedSrvp()
    write_published(files, network, name="whole.pt", nh_res=None, nlayers_res=None)
    torch_of_then = OldTorch(16)
    (files / "whole zip.pt").write_bytes(zip_file(torch_of_then.state_dict(network), torch_of_then.storages))
    for write in (stream_file, zip_file):
        (files / f"{write.__name__}.pt").write_bytes(attacked(write, marker))
    save_views_of_one_storage(files / "views.pt", network)
    result = subprocess.run([sys.executable, PROGRAM, files], capture_output=True, text=True, timeout=300, check=True)
    report = json.loads(result.stdout)["files"]
    assert report["whole.pt"]["result"] == report["whole zip.pt"]["result"] == "loaded"
    assert all("w_proj.0.weight: missing" in report[f"{write.__name__}.pt"]["result"] for write in (stream_file, zip_file))
    assert "share the same values" in report["views.pt"]["result"]
    assert not marker.exists()
    for name, found in report.items():
        assert found["events"] == [], name
        assert found["grown_mb"] < 100, name


def test_damaged_files_have_one_error_each(tmp_path):
    path = write_published(tmp_path, PublishedSrvp())
    whole = path.read_bytes()
    for cut in (100, len(whole) // 2, len(whole) - 10):
        path.write_bytes(whole[:cut])
        assert "model.pt" in refusal(path)


def test_other_models_are_not_taken_for_this_one(tmp_path):
    network = PublishedSrvp()
    coders = {name: value for name, value in network.state_dict().items() if name.startswith(("encoder", "decoder", "q_z"))}
    for content in (coders, {}, [], None, {"q_y": 1}, {"state_dict": {"p_z.module.0.0.weight": 3}}):
        assert not published.recognizes(content)
    torch.save(coders, tmp_path / "other.pt")
    assert "not those of a model that svg-edge has" in refusal(tmp_path / "other.pt")
