"""The training loop: batches, one optimizer step each, held-out evaluation, checkpoints that can be resumed exactly."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from svg_common.errors import BackendMissingError, ExitCode, SvgError, UsageError
from svg_common.files import resolved
from svg_common.path_advice import shell_argument
from svg_train.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from svg_train.config import Config
from svg_train.config_options import arguments
from svg_train.data import open_data
from svg_train.data.loading import StepSampler, collate, step_noise, to_unit, training_loader
from svg_train.data.statistics import measure_training_data
from svg_train.evaluation import Evaluation, evaluate, held_out
from svg_train.families import FAMILIES
from svg_train.families.base import FamilyConfig
from svg_train.families.video_model import TrainingOutput, VideoModel
from svg_train.journal import Journal
from svg_train.pictures import save_strips
from svg_train.reference.checkpoint import load_any_checkpoint
from svg_train.run_length import RunLength

BEST, LAST = "ckpt.pt", "last.pt"
LOG_EVERY = 20  # steps between lines of metrics.jsonl
BN_BATCHES = 24  # batches from which the averaged weights get their BatchNorm statistics


class DivergedError(SvgError):
    """The loss or a gradient is no longer finite."""


class StoppedError(SvgError):
    """The run was stopped by a signal; it is saved and can be resumed."""

    exit_code = ExitCode.INTERRUPTED


@dataclass(frozen=True)
class Machine:
    """Where to run: Lightning Fabric's device, number of processes and precision."""

    device: str = "auto"  # auto, cpu, cuda or cuda:N
    processes: int = 1
    precision: str = "auto"  # auto, bf16-mixed, 16-mixed or 32-true
    workers: int = 0

    def fabric(self) -> Fabric:
        """Configure Fabric. `auto` uses a GPU if there is one, and bf16 if the hardware supports it.

        Raises:
            UsageError: the device is unknown.
            BackendMissingError: it is not available.
        """
        name, _, index = self.device.partition(":")
        if name not in ("auto", "cpu", "cuda") or (index and not index.isdigit()):
            raise UsageError(f"unknown device '{self.device}'\n  expected auto, cpu, cuda or cuda:N")
        has_cuda = torch.cuda.is_available()
        if name == "cuda" and not has_cuda:
            raise BackendMissingError(
                "device 'cuda' is not available: PyTorch finds no GPU\n  use --device cpu, or install PyTorch with CUDA"
            )
        accelerator = "cuda" if has_cuda and name != "cpu" else "cpu"
        precision = self.precision if self.precision != "auto" else _best_precision(accelerator)
        devices: int | list[int] = [int(index)] if index else self.processes
        strategy = "ddp" if self.processes > 1 else "auto"
        if accelerator == "cuda" and precision.endswith("-mixed"):
            torch.set_float32_matmul_precision("high")  # what mixed precision leaves in float32 needs no more
        return Fabric(accelerator=accelerator, devices=devices, precision=precision, strategy=strategy)  # type: ignore[arg-type]


class Trainer:
    """One run in one folder. `run()` trains for the configured number of steps, or for the configured time.

    Args:
        config: of the run; ignored when resuming, which uses the saved one.
        out: folder of the run.
        machine: where to run.
        resume: continue the run in `out`.
        init: checkpoint whose weights a new run starts from (fine-tuning), ours or another program's.
        model_config: settings of that model which are not in its checkpoint, in the form that its program writes them.

    Raises:
        CheckpointError: `init` cannot be read, or its model has another shape.
        UsageError: the run in `out` cannot be resumed.
    """

    def __init__(
        self,
        config: Config,
        out: Path,
        machine: Machine,
        resume: bool,
        init: Path | None = None,
        model_config: Path | None = None,
    ) -> None:
        self._out = out
        self._init = _initial_weights(init, config.model, model_config) if init is not None else None
        self._resumed = _resume_point(out) if resume else None
        self._config = self._resumed.config if self._resumed else config
        self._fabric = machine.fabric()
        self._workers = machine.workers
        self._stop_requested = False

    def run(self) -> Evaluation | None:
        """Train, evaluate, save. Returns the last evaluation.

        Raises:
            DivergedError: loss or gradient became non-finite; the last good checkpoint is kept.
            StoppedError: Ctrl-C or SIGTERM; the run is saved.
            SvgError, OSError: unusable data or output folder.
        """
        # 1) start the processes and open the data
        fabric, train = self._fabric, self._config.train
        if fabric.global_rank == 0 and self._resumed is None:
            _refuse_existing(self._out)
        fabric.launch()
        self._data = data = open_data(self._config, "train", self._config.sequence_length)
        test = open_data(self._config, "test", self._config.model.n_past + train.eval_horizon)
        self._frame_interval_s = data.frame_interval_s
        self._training_data = self._resumed.training_data if self._resumed else None
        if self._training_data is None and fabric.global_rank == 0:  # the first process saves
            self._training_data = measure_training_data(data)
        self._held_out = held_out(test, train.eval_sequences)
        resolved(self._out).mkdir(parents=True, exist_ok=True)  # a link may lead to a folder that does not exist yet
        # 2) build model and optimizer, or restore them
        self._build()
        # 3) train from the first step, or from the one after the last save
        sampler = StepSampler(
            count=len(data),
            batch_size=train.batch_size,
            steps=self._length.steps_from(self._step),
            seed=train.seed,
            rank=fabric.global_rank,
            world_size=fabric.world_size,
        )
        loader = training_loader(data, sampler, self._workers, pin_memory=fabric.device.type == "cuda")
        total = None if self._length.timed else train.steps
        with Journal(self._out, total, self._step, fabric.global_rank == 0) as self._journal, self._stop_signals():
            self._journal.log(f"data: {data.description}\nheld out: {test.description}")
            self._journal.log(f"model: {_count(self._raw)} parameters, {fabric.device}, {_precision_name(fabric)}")
            self._length.start()
            for frames in loader:
                self._train_step(frames)
                last = self._is_over()
                self._after_step(last)
                if last:
                    break
        return self._evaluation

    def _build(self) -> None:
        torch.manual_seed(self._config.train.seed)
        train = self._config.train
        raw = self._initial_model()
        if raw.channels_last:
            raw.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = torch.optim.Adam(raw.parameters(), lr=train.lr, fused=True)
        self._length = RunLength(train, _elapsed_s(self._resumed))
        self._schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._length.learning_rate)
        model, wrapped_optimizer = self._fabric.setup(raw, optimizer)
        self._model = model
        self._optimizer = wrapped_optimizer
        self._raw = raw  # the same parameters without the wrappers, whose names would get into checkpoints
        decay = train.ema_decay
        self._average = AveragedModel(self._raw, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True) if decay else None
        if self._average is not None:
            _lay_out_together(self._average)
        self._step = 0
        self._best = float("-inf")
        self._calibrated_at = -1
        self._evaluation: Evaluation | None = None
        if self._resumed is not None:
            self._restore(self._resumed)

    def _initial_model(self) -> VideoModel:
        """A new model, or one that starts from the weights of another run."""
        if self._init is None:
            return FAMILIES[self._config.model.family].build(self._config.model)
        return Checkpoint(self._config, self._init).build()

    def _is_over(self) -> bool:
        """Whether this was the last step, for all processes alike: their clocks differ."""
        over = self._length.is_over(self._step)
        return self._fabric.strategy.reduce_boolean_decision(over, all=False) if self._length.timed else over

    def _train_step(self, frames: Tensor) -> None:
        # 1) forward pass, with noise that depends on the step alone
        train, fabric = self._config.train, self._fabric
        x = to_unit(fabric.to_device(frames))
        draws, size = self._config.model.training_noise(x.shape[0])
        noise = step_noise((draws, x.shape[1], size), train.seed, self._step, fabric.global_rank)
        self._model.train()
        output = self._model(x, noise.to(fabric.device), self._step)
        # 2) loss (paper, equation 3) and its gradient
        loss = output.mse + train.beta_at(self._step) * output.kl
        if output.auxiliary is not None:
            loss = loss + output.auxiliary
        fabric.backward(loss)
        norm = fabric.clip_gradients(self._model, self._optimizer, max_norm=train.gradient_clip, error_if_nonfinite=False)
        if not (torch.isfinite(loss) and norm is not None and torch.isfinite(norm)):
            self._optimizer.zero_grad()
            raise DivergedError(
                f"loss or gradient is not finite at step {self._step} (loss {float(loss.detach())})\n"
                f"  the last good checkpoint is kept in {self._out}; start again with a lower --lr, or with --precision 32-true"
            )
        # 3) update the weights, the learning rate and the averaged weights
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._schedule.step()
        if self._average is not None:
            self._average.update_parameters(self._raw)
        # 4) remember the losses for the journal
        self._step += 1
        values = {"loss": loss, "mse": output.mse, **self._other_terms(output), "grad_norm": norm}
        self._losses = {name: float(value.detach()) for name, value in values.items()}

    def _other_terms(self, output: TrainingOutput) -> dict[str, Tensor]:
        """The terms of the loss that a model has beside the mean squared error."""
        terms = {"kl": output.kl} if self._config.model.noise_dim else {}
        return terms if output.auxiliary is None else {**terms, "auxiliary": output.auxiliary}

    def _after_step(self, last: bool) -> None:
        step, train = self._step, self._config.train
        self._journal.step(step, self._losses["loss"], self._length.share(step))
        if step % LOG_EVERY == 0 or step == 1 or last:
            self._journal.record("train", step, {**self._losses, "lr": float(self._schedule.get_last_lr()[0])})
        if step % train.eval_every == 0 or last:
            self._evaluate()
        stop = self._fabric.strategy.reduce_boolean_decision(self._stop_requested, all=False)
        if step % train.save_every == 0 or last or stop:
            self._save_last()
        if stop and not last:
            raise StoppedError(
                f"stopped at step {step}, saved\n  continue with: svg-train --out {shell_argument(self._out)} --resume"
            )

    def _evaluate(self) -> None:
        """The first process forecasts the held-out sequences, draws them and saves the best model; the others wait."""
        if self._fabric.global_rank == 0:
            train, model = self._config.train, self._evaluated_model()
            evaluation = evaluate(model, self._held_out, train.eval_samples, train.eval_horizon)
            self._evaluation = evaluation
            metrics = evaluation.metrics()
            self._journal.record("eval", self._step, metrics)
            picture = save_strips(self._out / "strips", f"step-{self._step:07d}", evaluation.examples, model.config.n_past)
            self._journal.picture("held out", self._step, picture)
            self._journal.log(_summary(self._step, metrics))
            if metrics["psnr_best"] > self._best:
                self._best = metrics["psnr_best"]
                self._save(BEST, model.state_dict(), training=None)
        self._fabric.barrier()

    def _evaluated_model(self) -> VideoModel:
        """The weights that are evaluated and saved: the averaged ones, if any, with BatchNorm statistics of their own.

        Averaged weights produce activations of smaller variance than the weights that were averaged, so statistics averaged
        along with them would blur the pictures (Izmailov et al., "Averaging Weights Leads to Wider Optima", section 3.2).
        """
        if self._average is None:
            return self._raw
        assert isinstance(self._average.module, VideoModel)
        if self._calibrated_at != self._step:  # a step that evaluates often saves too
            update_bn(self._calibration_batches(), _OnFrames(self._average.module))
            self._calibrated_at = self._step
        return self._average.module

    def _calibration_batches(self) -> Iterator[Tensor]:
        """The first training batches, always the same, so that a resumed run saves the same statistics."""
        batches = StepSampler(len(self._data), self._config.train.batch_size, range(BN_BATCHES), self._config.train.seed)
        for indices in batches:
            yield to_unit(collate([self._data[index] for index in indices]).to(self._fabric.device))

    def _save_last(self) -> None:
        if self._fabric.global_rank != 0:
            return
        training = {
            "weights": self._raw.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "averaged": int(self._average.n_averaged) if self._average is not None else 0,
            "best": self._best,
            "elapsed_s": self._length.elapsed_s,
        }
        self._save(LAST, self._evaluated_model().state_dict(), training)

    def _save(self, name: str, weights: dict[str, Tensor], training: dict[str, object] | None) -> None:
        metrics = self._evaluation.metrics() if self._evaluation else {}
        checkpoint = Checkpoint(
            config=self._config,
            weights=weights,
            step=self._step,
            frame_interval_s=self._frame_interval_s,
            metrics=metrics,
            training=training,
            training_data=self._training_data,
        )
        save_checkpoint(self._out / name, checkpoint)

    def _restore(self, checkpoint: Checkpoint) -> None:
        assert checkpoint.training is not None
        self._raw.load_state_dict(checkpoint.training["weights"])
        self._optimizer.load_state_dict(checkpoint.training["optimizer"])
        self._schedule.load_state_dict(checkpoint.training["schedule"])
        if self._average is not None:
            self._average.module.load_state_dict(checkpoint.weights)
            self._average.n_averaged.fill_(checkpoint.training["averaged"])
        self._step = checkpoint.step
        self._best = checkpoint.training["best"]

    @contextmanager
    def _stop_signals(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM end the run after the step in progress; a second one ends it at once."""

        def request(number: int, frame: FrameType | None) -> None:
            if self._stop_requested:
                raise KeyboardInterrupt
            self._stop_requested = True
            print("stopping after this step; press Ctrl-C again to stop at once without saving", file=sys.stderr)

        old = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)


class _OnFrames(torch.nn.Module):
    """The training forward as a function of frames alone, as `update_bn` calls it."""

    def __init__(self, model: VideoModel) -> None:
        super().__init__()
        self._model = model

    def forward(self, x: Tensor) -> None:
        draws, size = self._model.config.training_noise(x.shape[0])
        self._model(x, step_noise((draws, x.shape[1], size), 0, 0, 0).to(x.device))


def _lay_out_together(model: torch.nn.Module) -> None:
    """A copy's recurrent weights are apart in memory, and cuDNN would gather them again at every call."""
    for module in model.modules():
        if isinstance(module, torch.nn.LSTM):
            module.flatten_parameters()


def _initial_weights(init: Path, model: FamilyConfig, model_config: Path | None) -> dict[str, Tensor]:
    """The weights of a checkpoint, whose model must have the shape of this run's."""
    checkpoint = load_any_checkpoint(init, model_config)
    given, expected = checkpoint.config.model.shape(), model.shape()
    names = ["family"] if given["family"] != expected["family"] else list(expected)
    different = [name for name in names if given[name] != expected[name]]
    if different:
        sizes = "\n".join(f"  {name}: given {given[name]}, expected {expected[name]}" for name in different)
        flags = " ".join(arguments("model", name, given[name]) for name in _flags_of(checkpoint.config.model, different))
        raise CheckpointError(
            f"the model in '{init}' differs in shape from this run's:\n{sizes}\n"
            f"  start from it with: --init {shell_argument(init)} {flags}"
        )
    return checkpoint.weights


def _flags_of(model: FamilyConfig, different: list[str]) -> list[str]:
    """Settings to give, so that a run has the shape of `model`: those that differ, or all if its family does."""
    if "family" not in different:
        return different
    changed = [name for name, value in model.shape().items() if value != type(model).model_fields[name].default]
    return ["family", *(name for name in changed if name != "family")]


def _resume_point(out: Path) -> Checkpoint:
    checkpoint = load_checkpoint(out / LAST)
    if checkpoint.training is None:
        raise UsageError(f"'{out / LAST}' contains no training state\n  expected the last.pt of a run that svg-train started")
    if is_complete(checkpoint):
        raise UsageError(f"the run in '{out}' is complete ({checkpoint.step} steps)\n  start a new one with another --out")
    return checkpoint


def is_complete(checkpoint: Checkpoint) -> bool:
    """Whether the run that saved `checkpoint`, a last.pt, has reached its length."""
    return RunLength(checkpoint.config.train, _elapsed_s(checkpoint)).is_over(checkpoint.step)


def _elapsed_s(checkpoint: Checkpoint | None) -> float:
    """Seconds that a run had trained when it was saved; older checkpoints do not have them."""
    training = checkpoint.training if checkpoint is not None else None
    return 0.0 if training is None else float(training.get("elapsed_s", 0.0))


def _refuse_existing(out: Path) -> None:
    if (out / LAST).exists():
        raise UsageError(f"'{out}' already contains a run\n  continue it with --resume, or choose another --out")
    if (out / BEST).exists():  # the run was killed before its first save
        raise UsageError(f"'{out}' already contains a model, {BEST}, but no {LAST} to continue from\n  choose another --out")


def _best_precision(accelerator: str) -> str:
    if accelerator == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    # oneDNN emulates bf16 on older processors, which is slower than float32.
    supported = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16-mixed" if supported else "32-true"


def _precision_name(fabric: Fabric) -> str:
    return str(fabric.strategy.precision.precision)


def _count(model: torch.nn.Module) -> str:
    return f"{sum(parameter.numel() for parameter in model.parameters()) / 1e6:.2f} M"


def _summary(step: int, metrics: dict[str, float]) -> str:
    return (
        f"step {step}: held-out PSNR best {metrics['psnr_best']:.2f} dB, sample {metrics['psnr_sample']:.2f} dB, "
        f"repeat-last {metrics['psnr_repeat']:.2f} dB, gain {metrics['gain']:+.2f} dB"
    )
