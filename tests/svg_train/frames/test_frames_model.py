"""The family of deterministic recurrent models: steps and states, training, and what its settings refuse."""

from __future__ import annotations

import pytest
import torch

from svg_common.errors import UsageError
from svg_train.checkpoint import CheckpointError, load_checkpoint
from svg_train.config import build_config
from svg_train.data import open_data
from svg_train.families.frames import FramesConfig
from svg_train.families.frames.config import CELLS_WITH_DIALECTS
from svg_train.families.frames.layers import Convolution, to_frame, to_patches
from svg_train.families.frames.model import FramesModel
from svg_train.train import Trainer
from tests.sample import sampled
from tests.svg_train.frames.predictions import one_step
from tests.svg_train.test_train import CPU, losses

CELLS = ("convlstm", "predrnn", "predrnn-v2", "predrnnpp", "mim", "e3d-lstm")
TINY = {"family": "frames", "image_size": 16, "patch_size": 4, "hidden": (6, 6), "n_past": 3}
HORIZON = 4


def random_frames(model: FramesModel, batch: int = 2, length: int = 3) -> torch.Tensor:
    c = model.config
    return torch.rand(length, batch, c.channels, c.height, c.width, generator=torch.Generator().manual_seed(1))


def random_frames_model(cell: str, **settings) -> FramesModel:
    """With weights large enough that forecasts leave [0, 1] and move."""
    torch.manual_seed(0)
    model = FramesModel(FramesConfig(**{**TINY, "cell": cell, **settings})).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 4 and "norm" not in name and "gm_bias" not in name:
                parameter.normal_(std=1.5 / parameter[0].numel() ** 0.5)
            elif "norm" not in name:
                parameter.normal_(std=0.5)  # peepholes, biases
    return model


@pytest.fixture(params=CELLS)
def model(request) -> FramesModel:
    return random_frames_model(request.param)


def noise(model: FramesModel, length: int, batch: int = 2, seed: int = 0) -> torch.Tensor:
    draws, size = model.config.training_noise(length)
    return torch.randn(draws, batch, size, generator=torch.Generator().manual_seed(seed))


def test_channels_of_a_patch_are_row_column_channel():
    frame = torch.arange(2 * 3 * 4 * 6.0).reshape(2, 3, 4, 6)
    patches = to_patches(frame, 2)
    assert patches.shape == (2, 12, 2, 3)
    for row, column, channel in ((0, 1, 2), (1, 0, 1), (1, 1, 0)):
        assert torch.equal(patches[:, (row * 2 + column) * 3 + channel], frame[:, channel, row::2, column::2])
    assert torch.equal(to_frame(patches, 2), frame)
    assert not torch.equal(patches, torch.nn.functional.pixel_unshuffle(frame, 2))


def test_a_batch_of_two_is_twice_a_batch_of_one(model):
    x = random_frames(model)
    alone = [model.roll_out(x[:, index : index + 1], HORIZON) for index in range(2)]
    torch.testing.assert_close(model.roll_out(x, HORIZON), torch.cat(alone, 1), atol=1e-5, rtol=0)


def test_frames_are_fed_back_as_they_are_and_shown_clipped(model):
    x, empty = random_frames(model), torch.zeros(HORIZON, 2, 0)
    free = model.roll_out(x, HORIZON)
    assert free.min() < -0.02
    shown = model.generate(x, empty, torch.zeros(2, 2, 0))
    assert torch.equal(shown, free.clamp(0, 1))
    states = model.initial_states(2)
    for frame in x:
        predicted, states = model.step(frame, states)
    assert not torch.allclose(model.step(predicted.clamp(0, 1), states)[0], free[1], atol=1e-3)
    assert model.generate(x, empty[:0], torch.zeros(2, 2, 0)).shape == (0, *x.shape[1:])


def test_a_reconstruction_is_the_forecast_of_the_observed_frames(model):
    x = random_frames(model, length=3 + HORIZON)
    empty, context = torch.zeros(HORIZON, 2, 0), torch.zeros(2, 2, 0)
    assert torch.equal(model.reconstruct(x, empty, context), model.generate(x[:3], empty, context))


def test_states_have_names_and_the_shapes_that_a_step_returns(model):
    states = model.initial_states(2)
    assert all(not state.any() for state in states)
    for frame in random_frames(model):
        _, states = model.step(frame, states)
        assert [tuple(state.shape) for state in states] == [(2, *shape) for shape in model.state_shapes.values()]
    assert all(state.any() for state in states)


def test_four_layers_of_mim_have_nineteen_states():
    names = list(random_frames_model("mim", hidden=(4,) * 4).state_shapes)
    assert len(names) == 19
    assert names[:5] == ["h0", "c0", "h1", "c1", "d1"]
    assert names[-2:] == ["m", "started"]


def test_convlstm_before_one_point_zero_has_no_cell_state_and_half_the_weights():
    old, new = (random_frames_model("convlstm", dialect=dialect) for dialect in ("openstl-0.3", "openstl-1.0"))
    assert list(old.state_shapes) == ["h0", "h1"]
    assert 2 * old.stack.cells[1].conv_h.conv.weight.numel() == new.stack.cells[1].conv_h.conv.weight.numel()


def test_a_forecast_leaves_nothing_behind(model):
    x = random_frames(model)
    first = model.roll_out(x, HORIZON)
    model.roll_out(1 - x, HORIZON)
    assert torch.equal(model.roll_out(x, HORIZON), first)


def test_a_history_of_all_steps_is_as_good_as_a_longer_one_and_a_shorter_one_is_not():
    x = random_frames(random_frames_model("e3d-lstm"))
    forecasts = [random_frames_model("e3d-lstm", history=length).roll_out(x, HORIZON) for length in (6, 9, 3)]
    torch.testing.assert_close(forecasts[1], forecasts[0], atol=1e-5, rtol=0)
    assert (forecasts[2] - forecasts[0]).abs().amax(dim=(1, 2, 3, 4))[-1] > 1e-3
    torch.testing.assert_close(forecasts[2][0], forecasts[0][0], atol=1e-5, rtol=0)  # three steps so far


def frames_and_gradients(model: FramesModel, x: torch.Tensor) -> list[torch.Tensor]:
    states, frames = model.initial_states(x.shape[1]), []
    for observed in x:
        frame, states = model.step(observed, states)
        frames.append(frame)
    model.zero_grad()
    torch.stack(frames).square().mean().backward()
    return [*frames, *(parameter.grad for parameter in model.parameters() if parameter.grad is not None)]


@pytest.mark.parametrize(("hidden", "layer_norm"), [((8, 8), False), ((8, 8), True), ((6, 6), False)], ids=str)
def test_e3d_lstm_trains_what_it_runs(hidden, layer_norm):
    """In training it attends to what there is, in a graph to a masked history. (6, 6): rows have parts of both planes."""
    model = random_frames_model("e3d-lstm", hidden=hidden, layer_norm=layer_norm)
    x = random_frames(model, length=3 + HORIZON)
    run, train = (frames_and_gradients(model.train(training), x) for training in (False, True))
    torch.testing.assert_close(train, run, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("cell", CELLS)
def test_in_reduced_precision_only_convolutions_are_reduced(cell):
    model = random_frames_model(cell, layer_norm=True)
    x = random_frames(model)
    whole = model.roll_out(x, 2)
    for module in model.modules():
        if isinstance(module, Convolution):
            module.to(torch.bfloat16)
    states = model.initial_states(2)
    _, states = model.step(x[0], states)
    assert {state.dtype for state in states} == {torch.float32}
    reduced = model.roll_out(x, 2)
    assert reduced.dtype == torch.float32
    assert 0 < (reduced - whole).abs().mean() < 0.05


def test_mixed_precision_computes_nearly_the_same(model):
    """What a run with --precision bf16-mixed does."""
    x, draws = random_frames(model, length=5), noise(model, 5)
    whole = model(x, draws).frames
    with torch.autocast("cpu", torch.bfloat16):
        output = model(x, draws)
    assert output.frames.dtype == output.mse.dtype == torch.float32
    assert 0 < (output.frames - whole).abs().mean() < 0.05


def test_training_reads_true_frames_or_its_own_by_the_step_alone(model):
    model = random_frames_model(model.config.cell, sampling_ramp=(10, 20))
    length = 3 + HORIZON
    x, draws = random_frames(model, length=length), noise(model, length)
    late = model(x, draws, step=20).frames
    torch.testing.assert_close(late[2:], model.roll_out(x[:3], HORIZON), atol=1e-5, rtol=0)
    assert torch.equal(model(x, -draws, step=20).frames, late)
    between = [model(x, noise(model, length, seed=seed), step=15).frames for seed in (1, 2, 1)]
    assert torch.equal(between[0], between[2])
    assert not torch.equal(between[0], between[1])
    if model.config.cell != "predrnn-v2":
        torch.testing.assert_close(model(x, draws, step=9).frames, one_step(model, x), atol=1e-5, rtol=0)


def test_scheduled_sampling_falls_linearly_from_true_frames_to_none():
    config = FramesConfig(sampling_ramp=(100, 300))
    assert [config.true_frame_shares(step) for step in (0, 100, 150, 300, 10**6)] == [
        (1, 1), (1, 1), (1, 0.75), (1, 0), (1, 0),
    ]  # fmt: skip
    assert FramesConfig().true_frame_shares(25000) == (1, 0.5)
    assert FramesConfig(sampling_ramp=(0, 0)).true_frame_shares(0) == (1, 0)
    assert [FramesConfig(sampling_ramp=(10, 10)).true_frame_shares(step) for step in (9, 10)] == [(1, 1), (1, 0)]


def test_reverse_scheduled_sampling_trusts_observed_frames_more_and_more():
    """OpenSTL: r_eta 0.5, then 1 - 0.5 exp(-(step - 25000) / 5000); eta 0.5, then to 0 until 50000."""
    config = FramesConfig(cell="predrnn-v2")
    assert config.true_frame_shares(24999) == (0.5, 0.5)
    assert config.true_frame_shares(30000) == pytest.approx((1 - 0.5 * 0.36787944, 0.4))
    assert config.true_frame_shares(50000) == (1, 0)


def test_the_share_of_true_frames_is_a_probability():
    model = random_frames_model("predrnn-v2", n_past=50, sampling_ramp=(0, 100))
    reads = model._reads_truth(noise(model, 100, batch=400), 30)
    past, later = (reads[part].float().mean() for part in (slice(1, 50), slice(50, None)))
    assert reads[0].all()
    assert (float(past), float(later)) == pytest.approx(model.config.true_frame_shares(30), abs=0.02)


def test_decoupling_punishes_memories_that_are_updated_alike():
    model = random_frames_model("predrnn-v2", decouple_beta=2.0, hidden=(6,), n_past=2, sampling_ramp=(0, 0))
    x = random_frames(model, length=4)
    output = model(x, noise(model, 4))
    increments: list = []
    states, frame = model.initial_states(2), x[0]
    for step in range(3):
        frame, states = model.step(x[step] if step < 2 else frame, states, increments)
    flat = [[torch.einsum("oi,bihw->bohw", model.adapter.weight[..., 0, 0], added).flatten(2) for added in pair]
            for pair in increments]  # fmt: skip
    cosines = [((a * b).sum(2) / a.norm(dim=2) / b.norm(dim=2)).abs().mean() for a, b in flat]
    torch.testing.assert_close(output.auxiliary, 2.0 * sum(cosines), atol=1e-5, rtol=1e-4)  # mean over 3 targets, times 3
    output.auxiliary.backward()
    assert model.adapter.weight.grad.abs().sum() > 0
    assert random_frames_model("predrnn").forward(x, noise(model, 4)).auxiliary is None


def test_e3d_lstm_adds_the_absolute_error():
    model = random_frames_model("e3d-lstm")
    x = random_frames(model, length=5)
    output = model(x, noise(model, 5))
    errors = (output.frames - x[1:]).abs()
    torch.testing.assert_close(output.auxiliary, errors.mean() * 4)
    torch.testing.assert_close(output.mse, (errors**2).mean() * 4)
    assert output.kl == 0


def config(cell: str, **train):
    model = {**TINY, "cell": cell, "image_size": 36, "sampling_ramp": (1, 4)}
    sizes = {
        "steps": 6, "batch_size": 2, "n_future": 2, "eval_every": 6, "eval_sequences": 2, "eval_samples": 1, "eval_horizon": 2,
        "save_every": 2, "warmup_steps": 0, "ema_decay": 0.5,
    }  # fmt: skip
    return build_config({"model": model, "train": {**sizes, **train}})


@pytest.fixture(autouse=True)
def _every_step(monkeypatch):
    monkeypatch.setattr("svg_train.train.LOG_EVERY", 1)


@pytest.mark.parametrize("cell", sampled(CELLS, {"predrnn-v2", "e3d-lstm"}))
def test_training_lowers_the_loss(cell, tmp_path):
    Trainer(config(cell, steps=30, eval_every=30, lr=1e-2), tmp_path / "run", CPU, resume=False).run()
    run = losses(tmp_path / "run")
    assert sum(run[step] for step in range(26, 31)) < 0.8 * sum(run[step] for step in range(1, 6))
    assert load_checkpoint(tmp_path / "run" / "ckpt.pt").build().config.cell == cell


def test_weights_of_another_family_are_refused_with_the_settings_that_fit(tmp_path):
    Trainer(config("mim", steps=1), tmp_path / "run", CPU, resume=False).run()
    with pytest.raises(CheckpointError) as caught:
        Trainer(build_config(), tmp_path / "other", CPU, resume=False, init=tmp_path / "run" / "ckpt.pt")
    message = str(caught.value)
    assert "family: given frames, expected svg" in message
    assert message.endswith("--family frames --image-size 36 --cell mim --hidden 6,6 --n-past 3")
    smaller = build_config({"model": {**TINY, "cell": "mim", "image_size": 36, "hidden": (4, 4)}})
    with pytest.raises(CheckpointError, match=r"hidden: given \(6, 6\), expected \(4, 4\)") as caught:
        Trainer(smaller, tmp_path / "other", CPU, resume=False, init=tmp_path / "run" / "ckpt.pt")
    assert str(caught.value).endswith("ckpt.pt --hidden 6,6")


def test_a_history_covers_training_unless_its_length_is_chosen():
    for settings, length in (({}, 24), ({"history": 7}, 7)):
        built = build_config({"model": {**TINY, "cell": "e3d-lstm", "n_past": 5, **settings}, "train": {"n_future": 20}})
        assert built.model.history_length == length
    assert build_config({"model": {**TINY, "cell": "mim"}}).model.history is None


def test_a_training_sequence_that_no_history_covers_is_refused():
    with pytest.raises(UsageError, match="history: Input should be less than or equal to 4096"):
        build_config({"model": {**TINY, "cell": "e3d-lstm"}, "train": {"n_future": 5000}})


REFUSED = {
    "sides that are not whole patches": ({"image_width": 18}, "width of 18 pixels is not a multiple of patch_size 4"),
    "an even filter": ({"filter_size": 4}, "filter_size is 4; expected an odd number"),
    "unequal layers of a climbing memory": ({"cell": "mim", "hidden": (4, 6)}, "hidden is 4,6; the layers of mim"),
    "one layer with a highway": ({"cell": "predrnnpp", "hidden": (4,)}, "predrnnpp needs two"),
    "no layer": ({"hidden": ()}, "at least 1 item"),
    "sizes that are none": ({"hidden": "4,x"}, "valid integer"),
    "a size of 0": ({"hidden": "4,0"}, "greater than or equal to 1"),
    "a stride without attention": ({"stride": 2}, "stride does not apply to cell 'predrnn', only to e3d-lstm; remove it"),
    "a dialect that makes no difference": ({"cell": "mim", "dialect": "openstl-0.3"}, "only to convlstm, predrnnpp; remove it"),
    "a history without attention": ({"history": 9}, "history does not apply to cell 'predrnn'"),
    "a history of one": ({"cell": "e3d-lstm", "history": 1}, "greater than or equal to 2"),
    "a decoupling loss without decoupling": ({"decouple_beta": 1.0}, "decouple_beta does not apply"),
    "a ramp downwards": ({"sampling_ramp": (5, 2)}, "two steps in ascending order"),
    "settings of another family": ({"g_dim": 8}, "model.g_dim: the family 'frames' has no such setting, only svg"),
    "an unknown cell": ({"cell": "gru"}, "model.cell: Input should be 'convlstm'"),
}  # fmt: skip


@pytest.mark.parametrize(("settings", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(settings, message):
    with pytest.raises(UsageError, match="invalid configuration") as caught:
        build_config({"model": {**TINY, **settings}})
    assert message in str(caught.value)


def test_an_unknown_family_is_refused_with_those_that_there_are():
    with pytest.raises(UsageError, match=r"model: Input tag 'gan' .* 'svg', .*'frames'"):
        build_config({"model": {"family": "gan"}})


def test_both_dialects_belong_to_two_cells():
    assert CELLS_WITH_DIALECTS == ("convlstm", "predrnnpp")


@pytest.mark.parametrize("name", ["digits", "kth", "bair", "smmnist"])
def test_frames_that_are_not_square_need_data_that_can_be_cropped(name, tmp_path):
    built = build_config({"model": {**TINY, "image_width": 32}, "data": {"name": name}})
    with pytest.raises(UsageError, match="has square frames, but the model's have 16 x 32 pixels") as caught:
        open_data(built, "train", 5)
    assert "--data video" in str(caught.value)


@pytest.mark.parametrize("name", ["digits", "smmnist"])
def test_digits_need_room_to_move(name):
    built = build_config({"model": {**TINY, "image_size": 32}, "data": {"name": name}})
    with pytest.raises(UsageError, match="digits of 32 pixels, which cannot move in frames of 32") as caught:
        open_data(built, "train", 5)
    assert str(caught.value).endswith("a model of larger frames, or other --data; svg-train makes one with --image-size 64")


def test_videos_are_cropped_to_frames_that_are_not_square(tmp_path):
    from tests.svg_train.test_data_video import write_video

    write_video(tmp_path / "a.avi")
    data = {"name": "video", "root": str(tmp_path), "cache": str(tmp_path / "cache")}
    built = build_config({"model": {**TINY, "image_width": 32, "channels": 3}, "data": data})
    assert open_data(built, "train", 5)[0].shape == (5, 16, 32, 3)
