"""However a training program arranges weights and options in a file, both are found, or the message says what to do."""

from __future__ import annotations

import argparse
import hashlib
import json
import struct
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.reference_networks import build
from svg_common.errors import UsageError
from svg_train.checkpoint import CheckpointError, load_checkpoint
from svg_train.reference import checkpoint
from svg_train.reference.checkpoint import ReferenceCheckpointError, load_any_checkpoint, load_with_sha256
from tests.conftest import random_model, save_model
from tests.families import TINY_MODELS, save_tiny
from tests.svg_train.reference.option_classes import CLASSES, as_omegaconf, omegaconf
from tests.svg_train.reference.reference_files import options

DTYPES = {torch.float32: "F32", torch.float64: "F64", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64"}
NEEDED = {"n_past": 3, "last_frame_skip": False}


class Holder(torch.nn.Module):
    """A module of somebody's training program that holds networks as attributes."""

    def __init__(self, **members: torch.nn.Module) -> None:
        super().__init__()
        for name, member in members.items():
            setattr(self, name, member)


class OptionTable(dict):
    """A dictionary whose entries are attributes, as many training programs have."""


def write_safetensors(path, tensors, metadata=None, change=lambda header: header):
    """A file of the format, by its description."""
    header, body = {} if metadata is None else {"__metadata__": metadata}, b""
    for name, value in tensors.items():
        data = value.contiguous().view(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b""
        header[name] = {
            "dtype": DTYPES[value.dtype],
            "shape": list(value.shape),
            "data_offsets": [len(body), len(body) + len(data)],
        }
        body += data
    text = json.dumps(change(header)).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    return path


@pytest.fixture(scope="module")
def parts():
    return build()


@pytest.fixture(scope="module")
def expected(parts, tmp_path_factory):
    """What the reference's own arrangement gives."""
    path = tmp_path_factory.mktemp("own") / "model.pth"
    torch.save({**parts, "opt": argparse.Namespace(**options(parts))}, path)
    return load_any_checkpoint(path)


def states(parts):
    return {name: part.state_dict() for name, part in parts.items()}


def flat(parts, prefix=""):
    return {f"{prefix}{part}.{name}": v for part, state in states(parts).items() for name, v in state.items()}


def zeros(weights):
    return {name: torch.zeros_like(value) for name, value in weights.items()}


def lightning(weights, **hyper_parameters):
    """As Lightning's Trainer writes it."""
    return {
        "epoch": 3, "global_step": 99, "pytorch-lightning_version": "2.5.0", "state_dict": weights, "loops": {},
        "callbacks": {}, "optimizer_states": [], "lr_schedulers": [], "hparams_name": "hparams",
        "hyper_parameters": hyper_parameters,
    }  # fmt: skip


ARRANGEMENTS = {
    "compiled modules": lambda p: {**{n: torch.compile(m) for n, m in p.items()}, "opt": options(p)},
    "states of compiled modules": lambda p: {**states({n: torch.compile(m) for n, m in p.items()}), "opt": options(p)},
    "compiled in DataParallel": lambda p: {
        **states({n: torch.nn.DataParallel(torch.compile(m)) for n, m in p.items()}), "opt": options(p),
    },
    "DataParallel compiled": lambda p: {
        **states({n: torch.compile(torch.nn.DataParallel(m)) for n, m in p.items()}), "opt": options(p),
    },
    "a part of a module compiled": lambda p: {
        "state_dict": {k.replace("encoder.c1.", "encoder.c1._orig_mod."): v for k, v in flat(p).items()}, "opt": options(p),
    },
    "averaged weights": lambda p: {
        **states({n: torch.optim.swa_utils.AveragedModel(m) for n, m in p.items()}), "opt": options(p),
    },
    "Lightning": lambda p: lightning(flat(p), **options(p)),
    "Lightning around a model": lambda p: lightning(flat(p, "model."), **options(p)),
    "Lightning with metrics beside the model": lambda p: lightning(
        {**flat(p, "svg."), "lpips.lin.weight": torch.zeros(2)}, **options(p)
    ),
    "Lightning around compiled parts": lambda p: lightning(flat(p, "model._orig_mod."), **options(p)),
    "Lightning with the options as one argument": lambda p: lightning(flat(p), opt=argparse.Namespace(**options(p)), lr=1e-3),
    "Lightning with least options": lambda p: lightning(flat(p), **NEEDED),
    "a class that is a dictionary": lambda p: {"model_state_dict": flat(p), "hparams": OptionTable(options(p))},
    "flat beside options": lambda p: {"model_state_dict": flat(p), "args": argparse.Namespace(**options(p))},
    "parts in a table": lambda p: {"model": states(p), "opt": options(p), "epoch": 2},
    "modules in a table": lambda p: {"net": p, "args": options(p)},
    "averaged weights beside the options": lambda p: {"ema": flat(p), "opt": options(p)},
    "averaged weights in a table": lambda p: {"epoch": 3, "ema": {"decay": 0.99, "shadow": flat(p)}, "opt": options(p)},
    "any name, deep": lambda p: {"checkpoint": {"generator": {"weights": states(p)}}, "opt": options(p)},
    "weights and averaged weights": lambda p: {
        "ema": zeros(flat(p)), "model": flat(p), "opt": options(p),
    },
    "a list": lambda p: [flat(p), options(p)],
    "a state_dict per part": lambda p: {**{f"{n}_state_dict": s for n, s in states(p).items()}, "opt": options(p)},
    "a state_dict per part, with optimizers": lambda p: {
        **{f"{n}_state": s for n, s in states(p).items()},
        "encoder_optimizer": torch.optim.Adam(p["encoder"].parameters()).state_dict(),
        **NEEDED,
    },
    "options beside the weights": lambda p: {**flat(p), **NEEDED},
    "options beside the parts": lambda p: {**states(p), **NEEDED},
    "options under any name": lambda p: {"net": flat(p), "cfg": {"train": {"lr": 1}, "model": NEEDED}},
    "Lightning with tables in tables": lambda p: lightning(flat(p, "model."), cfg={"model": NEEDED, "data": {"root": "x"}}),
    "options of numpy": lambda p: {
        **p, "opt": argparse.Namespace(n_past=np.int64(3), last_frame_skip=np.bool_(False), lr=np.float32(0.002)),
    },
    "spectra, quantized tensors and floats of 8 bits beside the weights": lambda p: {
        **p, "opt": options(p), "spectrum": torch.zeros(3, dtype=torch.complex64),
        "small": torch.zeros(3).to(torch.float8_e4m3fn),
        "quantized": torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.quint8),
    },
    "a loss curve of half a million steps in all": lambda p: {**p, "opt": options(p), "losses": [0.25] * 400_000},
    "parts in a defaultdict": lambda p: defaultdict(list, {**states(p), "opt": options(p)}),
    "moving averages before the network": lambda p: lightning(
        {**zeros(flat(p, "ema.module.")), **flat(p, "model.")}, **options(p)
    ),
    "moving averages beside bare names": lambda p: lightning(
        {**zeros(flat(p, "ema.module.")), **flat(p)}, **options(p)
    ),
    "moving averages before a network of any name": lambda p: lightning(
        {**zeros(flat(p, "ema.module.")), **flat(p, "svg.")}, **options(p)
    ),
    "moving averages in the module of the network": lambda p: lightning(
        {**zeros(flat(p, "model.netEMA.")), **flat(p, "model.net.")}, **options(p)
    ),
    "a table of moving averages before one of any name": lambda p: {
        "ema_state_dict": zeros(flat(p)), "netG": flat(p), "opt": options(p),
    },
    "moving averages above the network": lambda p: {
        "shadow": zeros(flat(p)), "checkpoint": {"generator": {"weights": states(p)}}, "opt": options(p),
    },
    "options of numpy arrays": lambda p: {
        "net": flat(p), "opt": {"n_past": np.array(3), "last_frame_skip": np.array(False), "sizes": np.arange(200)},
    },
    **{f"options in {name}": lambda p, kind=kind: {"net": flat(p), "cfg": kind(NEEDED)} for name, kind in CLASSES.items()},
    "one module of all parts": lambda p: {"model": Holder(**p), "args": options(p)},
    "one compiled module of all parts": lambda p: {"model": torch.compile(Holder(net=Holder(**p))), "args": options(p)},
}  # fmt: skip


@pytest.mark.parametrize("arrange", ARRANGEMENTS.values(), ids=ARRANGEMENTS)
@pytest.mark.parametrize("zipped", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["zip", "stream"])
def test_weights_are_found_in_every_arrangement(arrange, zipped, parts, expected, tmp_path):
    torch.save(arrange(parts), tmp_path / "a.ckpt", _use_new_zipfile_serialization=zipped)
    loaded = load_any_checkpoint(tmp_path / "a.ckpt")
    assert loaded.config.model == expected.config.model
    torch.testing.assert_close(loaded.weights, expected.weights, atol=0, rtol=0)


@pytest.mark.parametrize(
    "metadata",
    [
        {"n_past": "3", "last_frame_skip": "false", "opt": "{}"},
        {"opt": json.dumps(NEEDED), "format": "pt"},
    ],
    ids=["beside a table", "in a table"],
)
def test_safetensors_with_the_options_in_its_metadata(metadata, parts, expected, tmp_path):
    if metadata["opt"] == "{}":
        metadata = {"config": json.dumps({"n_past": 3}), "opt": json.dumps({"last_frame_skip": False})}
    loaded = load_any_checkpoint(write_safetensors(tmp_path / "a.safetensors", flat(parts), metadata))
    assert loaded.config.model == expected.config.model
    torch.testing.assert_close(loaded.weights, expected.weights, atol=0, rtol=0)


def test_safetensors_with_all_options_as_texts(parts, expected, tmp_path):
    texts = {name: str(value) for name, value in options(parts).items()}
    loaded = load_any_checkpoint(write_safetensors(tmp_path / "a.safetensors", flat(parts), texts))
    assert loaded.config == expected.config


def incomplete_files(parts, folder):
    torch.save(flat(parts), folder / "flat.pth")
    torch.save(lightning(flat(parts, "model.")), folder / "lightning.ckpt")
    torch.save({"state_dict": states(parts)}, folder / "nested.pth")
    write_safetensors(folder / "plain.safetensors", flat(parts))
    return {
        "flat.pth": "a state_dict",
        "lightning.ckpt": "a Lightning checkpoint",
        "nested.pth": "a dictionary with its weights under 'state_dict'",
        "plain.safetensors": "a safetensors file",
    }


@pytest.mark.parametrize("name", ["flat.pth", "lightning.ckpt", "nested.pth", "plain.safetensors"])
def test_weights_without_settings_are_named_and_the_advice_works(name, parts, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kind = incomplete_files(parts, tmp_path)[name]
    with pytest.raises(ReferenceCheckpointError) as caught:
        load_any_checkpoint(name)
    message = str(caught.value)
    assert f"'{name}' is {kind} with weights of the reference implementation's networks, but not all" in message
    assert "opt.n_past is missing" in message
    loaded = load_any_checkpoint(name, as_advised(message, name, n_past=3))
    torch.testing.assert_close(loaded.weights, expected.weights, atol=0, rtol=0)


def as_advised(message, name, **settings):
    """The file of settings that a message asks for, with the values of the model."""
    *_, example, command, _ = message.splitlines()
    file = Path(command.removeprefix(f"  then: svg-export {name} --model-config "))
    file.write_text(json.dumps(json.loads(example) | settings))
    return file


def test_settings_beside_complete_weights_are_refused(parts, tmp_path):
    torch.save({"state_dict": flat(parts), "opt": {**NEEDED}}, tmp_path / "a.pth")
    (tmp_path / "settings.json").write_text('{"n_past": 4}')
    with pytest.raises(UsageError, match=r"settings\.json' has no effect"):
        load_any_checkpoint(tmp_path / "a.pth", tmp_path / "settings.json")


@pytest.mark.parametrize(
    ("settings", "problem"), [("{}", "opt.n_past is missing"), ('{"n_past": 3, "z_dim": 99}', "z_dim is 99")]
)
def test_settings_that_do_not_suffice_or_contradict_the_weights_are_named(settings, problem, parts, tmp_path):
    torch.save(flat(parts), tmp_path / "a.pth")
    (tmp_path / "settings.json").write_text(settings)
    with pytest.raises(ReferenceCheckpointError, match=problem) as caught:
        load_any_checkpoint(tmp_path / "a.pth", tmp_path / "settings.json")
    assert f"correct the settings in '{tmp_path / 'settings.json'}'" in str(caught.value)


def test_the_reference_files_without_options_take_them_from_a_file(parts, expected, tmp_path):
    torch.save({**states(parts)}, tmp_path / "a.pth")
    with pytest.raises(ReferenceCheckpointError) as caught:
        load_any_checkpoint(tmp_path / "a.pth")
    assert "a.pth' is not a complete checkpoint of the reference implementation" in str(caught.value)
    assert '{"n_past": 5, "last_frame_skip": false}\n  then: svg-export' in str(caught.value)
    (tmp_path / "settings.json").write_text(
        json.dumps({name: value for name, value in options(parts).items() if isinstance(value, (int, float, str))})
    )
    assert load_any_checkpoint(tmp_path / "a.pth", tmp_path / "settings.json").config == expected.config


@pytest.mark.parametrize("table", ["opt", "hyper_parameters", "model", "anything"])
def test_settings_may_be_in_tables_as_in_a_checkpoint(table, parts, expected, tmp_path):
    torch.save(flat(parts), tmp_path / "a.pth")
    for given in (NEEDED, {"n_past": "3", "last_frame_skip": "no"}, {"n_past": 3.0, "last_frame_skip": 0}):
        (tmp_path / "settings.json").write_text(json.dumps({table: given, "epochs": 300}))
        loaded = load_any_checkpoint(tmp_path / "a.pth", tmp_path / "settings.json")
        assert loaded.config.model == expected.config.model


@pytest.mark.parametrize("owner", ["theirs", "ours"])
@pytest.mark.parametrize("value", [None, [5], {"a": 5}])
def test_a_setting_that_is_null_or_no_single_value_is_missing(value, owner, parts, tmp_path):
    torch.save(flat(parts) if owner == "theirs" else random_model().state_dict(), tmp_path / "a.pth")
    (tmp_path / "settings.json").write_text(json.dumps({"n_past": value, "last_frame_skip": value}))
    with pytest.raises(ReferenceCheckpointError, match="n_past is missing") as caught:
        load_any_checkpoint(tmp_path / "a.pth", tmp_path / "settings.json")
    assert f"correct the settings in '{tmp_path / 'settings.json'}'" in str(caught.value)
    assert '{"n_past": 5, ' in str(caught.value)


def test_a_setting_beyond_our_limits_is_corrected_where_it_was_given(parts, tmp_path):
    torch.save({"state_dict": flat(parts), "opt": {**NEEDED, "n_past": 1}}, tmp_path / "a.pth")
    with pytest.raises(ReferenceCheckpointError, match=r"opt\.n_past is 1.*\n.*correct them with --model-config FILE"):
        load_any_checkpoint(tmp_path / "a.pth")
    (tmp_path / "settings.json").write_text('{"n_past": 2.5}')
    with pytest.raises(ReferenceCheckpointError, match=r"opt\.n_past is 2\.5.*\n.*correct them in '.*settings\.json'"):
        load_any_checkpoint(tmp_path / "a.pth", tmp_path / "settings.json")
    (tmp_path / "settings.json").write_text('{"n_past": 4}')
    assert load_any_checkpoint(tmp_path / "a.pth", tmp_path / "settings.json").config.model.n_past == 4


def test_options_that_contradict_the_weights_are_corrected_as_advised(parts, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({**parts, "opt": argparse.Namespace(**options(parts, z_dim=99))}, "a.pth")
    with pytest.raises(ReferenceCheckpointError, match=r"opt\.z_dim is 99") as caught:
        load_any_checkpoint("a.pth")
    assert load_any_checkpoint("a.pth", as_advised(str(caught.value), "a.pth")).config == expected.config


@pytest.mark.parametrize("form", ["flat", "in a table"])
@pytest.mark.parametrize("own", ["flat", "in a table"])
def test_our_weights_take_what_the_file_lacks_however_both_are_arranged(own, form, tmp_path):
    model = random_model(skip_lag=1)
    arranged = {"flat": lambda table: table, "in a table": lambda table: {"model": table}}
    torch.save({"state_dict": model.state_dict(), "config": arranged[own]({"skip_lag": 1})}, tmp_path / "a.pt")
    (tmp_path / "settings.json").write_text(json.dumps(arranged[form]({"n_past": "3", "image_size": "64"})))
    assert load_any_checkpoint(tmp_path / "a.pt", tmp_path / "settings.json").config.model == model.config


@pytest.mark.parametrize("setting", [{"family": "srvp"}, {"nf": 10**5000}, {"model": {"nf": 10**5000}}])
def test_settings_of_ours_that_contradict_the_weights_are_named_in_short(setting, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the message has the path as it is given
    torch.save({"state_dict": random_model().state_dict(), "config": {"n_past": 3, **setting}}, "a.pt")
    with pytest.raises(CheckpointError, match=r"family is 'srvp', but .* svg|nf is a huge number, but .* 4") as caught:
        load_any_checkpoint("a.pt")
    assert len(str(caught.value)) < 500


def test_options_of_omegaconf(parts, expected, tmp_path):
    """As hydra's programs have them; the package is not needed here."""
    with omegaconf() as module:
        config = as_omegaconf(module, {"model": NEEDED, "lr": 0.1})
        torch.save(lightning(flat(parts), cfg=config), tmp_path / "a.ckpt")
    loaded = load_any_checkpoint(tmp_path / "a.ckpt")
    assert loaded.config.model == expected.config.model


def test_options_of_several_runs_are_not_guessed(parts, tmp_path):
    torch.save({"net": flat(parts), "run_1": {**NEEDED}, "run_2": {**NEEDED, "n_past": 9}}, tmp_path / "a.pth")
    with pytest.raises(ReferenceCheckpointError, match=r"opt\.n_past is missing"):
        load_any_checkpoint(tmp_path / "a.pth")


def test_parts_without_tensors_are_named(parts, tmp_path):
    content = {name: {key: value.numpy() for key, value in state.items()} for name, state in states(parts).items()}
    torch.save({**content, "opt": options(parts)}, tmp_path / "a.pth")
    with pytest.raises(ReferenceCheckpointError, match="encoder: no torch module or state_dict"):
        load_any_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [1, 2], torch.zeros(3), None, "text"])
def test_a_file_without_weights_says_so(content, tmp_path):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(ReferenceCheckpointError, match="contains no weights of a model"):
        load_any_checkpoint(tmp_path / "a.pth")


SIZE_OF = {"vector": {}, "spatial": {"image_size": 64}}  # convolutions over maps fit frames of any size

OURS = {
    "Lightning": lambda w, c: lightning({f"model.{n}": v for n, v in w.items()}, **c),
    "Lightning, compiled": lambda w, c: lightning({f"model._orig_mod.{n}": v for n, v in w.items()}, **c),
    "table of the whole configuration": lambda w, c: {"state_dict": w, "config": {"model": c}},
    "least settings": lambda w, c: {"state_dict": w, "config": {"n_past": 3, "skip_lag": 1} | SIZE_OF[c["latent"]]},
    "without the counters of BatchNorm": lambda w, c: {
        "net": {n: v for n, v in w.items() if not n.endswith("num_batches_tracked")}, "opt": c,
    },
    "in double precision": lambda w, c: {
        "model": {n: v.double() if v.is_floating_point() else v for n, v in w.items()}, "opt": c,
    },
}  # fmt: skip


@pytest.mark.parametrize("arrange", OURS.values(), ids=OURS)
@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"prior": "fixed", "image_size": 128},
        {"prior": "none", "backbone": "vgg", "nf": 2},
        {"latent": "spatial", "posterior_layers": 2},
    ],
)
def test_weights_of_our_model_are_found_too(arrange, sizes, tmp_path):
    model = random_model(**sizes)
    torch.save(arrange(model.state_dict(), model.config.model_dump()), tmp_path / "a.ckpt")
    loaded = load_any_checkpoint(tmp_path / "a.ckpt")
    assert loaded.config.model == model.config
    torch.testing.assert_close(dict(loaded.build().state_dict()), dict(model.state_dict()), atol=0, rtol=0)


def test_weights_of_our_model_in_safetensors(tmp_path):
    model = random_model()
    metadata = {"config": json.dumps({"model": model.config.model_dump()})}
    loaded = load_any_checkpoint(write_safetensors(tmp_path / "a.safetensors", model.state_dict(), metadata))
    assert loaded.config.model == model.config
    torch.testing.assert_close(dict(loaded.build().state_dict()), dict(model.state_dict()), atol=0, rtol=0)


def test_our_weights_without_settings_are_named_and_the_advice_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = random_model()
    torch.save(model.state_dict(), "flat.pt")
    with pytest.raises(CheckpointError) as caught:
        load_any_checkpoint("flat.pt")
    message = str(caught.value)
    assert "'flat.pt' is a state_dict with weights of an svg-edge model, but not all that a forecast needs" in message
    assert "n_past is missing, and cannot be inferred from the weights" in message
    loaded = load_any_checkpoint("flat.pt", as_advised(message, "flat.pt", n_past=3, skip_lag=1))
    assert loaded.config.model == model.config


def test_tables_of_another_program_beside_our_weights_are_taken_as_far_as_they_are_ours(tmp_path):
    model = random_model()
    for data, expected in (({"name": "kth", "root": "/x"}, "kth"), ({"name": 7, "odd": 1}, "digits")):
        config = {"model": model.config.model_dump(), "data": data, "train": {"lr": 0.5, "optimizer": "adam", "beta": "x"}}
        torch.save({"state_dict": model.state_dict(), "config": config}, tmp_path / "a.pt")
        loaded = load_any_checkpoint(tmp_path / "a.pt").config
        assert (loaded.model, loaded.data.name, loaded.train.lr) == (model.config, expected, 0.5)


def test_the_size_of_frames_is_asked_for_where_the_weights_cannot_tell_it(tmp_path):
    model = random_model(latent="spatial")
    torch.save({"state_dict": model.state_dict(), "config": {"n_past": 3, "skip_lag": 1}}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="image_size is missing, and cannot be inferred from the weights") as caught:
        load_any_checkpoint(tmp_path / "a.pt")
    (tmp_path / "settings.json").write_text(next(line for line in str(caught.value).splitlines() if "{" in line))
    assert load_any_checkpoint(tmp_path / "a.pt", tmp_path / "settings.json").config.model == model.config


def test_the_hash_of_a_checkpoint_is_that_of_the_file_that_was_loaded(tmp_path, monkeypatch):
    path = save_model(tmp_path / "ckpt.pt", random_model())
    loaded, sha256 = load_with_sha256(path)
    assert (loaded.step, sha256) == (7, hashlib.sha256(path.read_bytes()).hexdigest())
    for missing in (tmp_path / "no.pt", tmp_path, Path("/dev/zero")):  # which has no end
        with pytest.raises(CheckpointError):
            load_with_sha256(missing)

    def load_and_replace(*arguments):
        path.write_bytes(b"the next one")
        return loaded

    monkeypatch.setattr(checkpoint, "load_any_checkpoint", load_and_replace)
    with pytest.raises(CheckpointError, match=r"ckpt.pt' was replaced or changed while it was read\n  run the command again"):
        load_with_sha256(path)


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod.", "_orig_mod.module.", "_forward_module."])
def test_our_checkpoint_with_wrapped_names_is_read(prefix, tmp_path):
    model = random_model()
    path = save_model(tmp_path / "ckpt.pt", model)
    content = torch.load(path, weights_only=True)
    content["weights"] = {prefix + name: value for name, value in content["weights"].items()}
    torch.save(content, path)
    for loaded in (load_checkpoint(path), load_any_checkpoint(path)):
        torch.testing.assert_close(dict(loaded.build().state_dict()), dict(model.state_dict()), atol=0, rtol=0)


def test_contradictions_between_our_weights_and_their_settings_are_listed(tmp_path):
    model = random_model()
    weights = {name: value for name, value in model.state_dict().items() if name != "prior.mu.bias"}
    torch.save({"state_dict": weights, "config": {"n_past": 3, "nf": 99}}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError) as caught:
        load_any_checkpoint(tmp_path / "a.pt")
    assert "nf is 99, but the weights imply 4" in str(caught.value)
    assert "prior.mu.bias: missing, expected (4,)" in str(caught.value)


@pytest.mark.parametrize("kind", [torch.int64, torch.int8, torch.bool, torch.complex64])
def test_our_weights_that_are_no_floats_are_refused(kind, tmp_path):
    weights = {**random_model().state_dict(), "prior.mu.bias": torch.zeros(4, dtype=kind)}
    torch.save({"state_dict": weights, "config": {"n_past": 3, "skip_lag": 1}}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=rf"prior\.mu\.bias: given type {kind}, expected floating point"):
        load_any_checkpoint(tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (lambda: torch.nn.Linear(2, 3).state_dict(), "a state_dict"),
        (lambda: torch.nn.Linear(2, 3), "a pickled module"),
        (lambda: lightning(torch.nn.Linear(2, 3).state_dict()), "a Lightning checkpoint"),
    ],
)
def test_weights_of_another_model_are_named(content, kind, tmp_path):
    torch.save(content(), tmp_path / "a.pth")
    with pytest.raises(ReferenceCheckpointError, match=f"is {kind}, but its weights are not those of a model .*: bias, weight"):
        load_any_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize("name", [name for name, model in TINY_MODELS.items() if "family" in model])
@pytest.mark.parametrize("arrange", [dict, lambda w: lightning({f"model.{n}": v for n, v in w.items()})])
def test_weights_of_our_other_families_alone_are_refused_as_such(name, arrange, tmp_path):
    weights = load_checkpoint(save_tiny(name, tmp_path / "ckpt.pt")).weights
    torch.save(arrange(weights), tmp_path / "a.pth")
    expected = rf"with weights of the family '{TINY_MODELS[name]['family']}', which .* svg-train wrote\n  expected the ckpt\.pt"
    with pytest.raises(ReferenceCheckpointError, match=expected):
        load_any_checkpoint(tmp_path / "a.pth")


def test_a_sharded_checkpoint_is_named(tmp_path):
    (tmp_path / "step-99").mkdir()
    (tmp_path / "step-99" / ".metadata").touch()
    with pytest.raises(CheckpointError, match=r"sharded checkpoint.*\n.*format_utils dcp_to_torch .*step-99 whole.pth"):
        load_any_checkpoint(tmp_path / "step-99")


def test_a_torchscript_archive_is_named(tmp_path):
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 3), torch.zeros(1, 2)), tmp_path / "a.pt")
    with pytest.raises(
        ReferenceCheckpointError, match=r"is a TorchScript archive.*\n.*torch\.jit\.load\(FILE\)\.state_dict\(\)"
    ):
        load_any_checkpoint(tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: {**h, "b": {**h["b"], "data_offsets": [0, 16]}}, "its tensors overlap"),
        (lambda h: {**h, "b": {**h["b"], "data_offsets": [16, 64]}}, "has 48 bytes, but needs 16"),
        (lambda h: {**h, "b": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [16, 16 + (1 << 42)]}}, "bytes short"),
        (lambda h: {**h, "b": {**h["b"], "shape": [-4]}}, "not a plausible number"),
        (lambda h: {**h, "b": {**h["b"], "dtype": "Q4"}}, "unknown type Q4"),
        (lambda h: {**h, "b": 1}, "not described by"),
        (lambda h: {**h, "b": {**h["b"], "shape": [10**300]}}, "a huge number"),
    ],
)  # fmt: skip
def test_hostile_safetensors_are_refused(change, message, tmp_path):
    tensors = {"a": torch.zeros(4), "b": torch.zeros(4)}
    with pytest.raises(ReferenceCheckpointError, match=message):
        load_any_checkpoint(write_safetensors(tmp_path / "a.safetensors", tensors, change=change))


def test_truncated_safetensors_are_refused(parts, tmp_path):
    path = write_safetensors(tmp_path / "a.safetensors", flat(parts), {"opt": json.dumps(NEEDED)})
    whole = path.read_bytes()
    for share in (0.001, 0.01, 0.1, 0.5, 0.999):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(CheckpointError, match=r"damaged, truncated|nor any other file"):
            load_any_checkpoint(path)
    path.write_bytes(struct.pack("<Q", 100_000) + b"{" * 100_000)
    with pytest.raises(CheckpointError, match="not valid JSON"):
        load_any_checkpoint(path)


def test_no_code_runs_in_any_arrangement(parts, tmp_path):
    marker = tmp_path / "ran"

    class Bomb:
        def __reduce__(self):
            return open, (str(marker), "w")

    torch.save({**lightning(flat(parts), **options(parts)), "callbacks": {"bomb": Bomb()}}, tmp_path / "a.ckpt")
    assert load_any_checkpoint(tmp_path / "a.ckpt").config.model.n_past == 3
    assert not marker.exists()


@pytest.mark.parametrize("place", ["beside", "in a table", "opt"])
def test_a_huge_number_of_frames_is_refused_in_words(parts, place, tmp_path):
    huge = {**NEEDED, "n_past": 10**5000}
    content = {"beside": {**states(parts), **huge}, "in a table": {**states(parts), "cfg": huge}}
    torch.save(content.get(place, {**states(parts), "opt": huge}), tmp_path / "file.pth")
    with pytest.raises(CheckpointError, match="n_past") as caught:
        load_any_checkpoint(tmp_path / "file.pth")
    assert len(str(caught.value)) < 1000
