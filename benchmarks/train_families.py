"""Every family of edge size, each trained for the same time of one core, and one table.

    python benchmarks/train_families.py digits --minutes 16 --out runs/ [--at-once 2] [--only SRVP] [--json FILE]
    python benchmarks/train_families.py smmnist --data-root mnist/ --minutes 16 --out runs-smmnist/

    measure    the processor's time of a training step of each family, and so how many steps it gets (OUT/steps.json)
    train      each with one thread, some at once; a run that was interrupted is continued
    evaluate   held-out scenes: best of the samples and average sample, PSNR and SSIM, as svg-eval does
    time       forecasts of all, exported, interleaved on this machine (families.py)

A model trains for a number of steps, not for a time, so that other work on the machine changes nothing. Families that are done
are not trained again: run the command as often as it takes. Other data, or another time, needs another --out. Reading the
table: `digits` has 10 forecast frames and best of 10; `smmnist` is the protocol of papers, 5 -> 20 and best of 100, whose
published values stand below the table.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from families import compare, size_of
from goal_metrics import aligned

from svg_common.files import write_json
from svg_eval.protocols import PROTOCOLS
from svg_runtime.machine.hardware import machine_today
from svg_train.checkpoint import load_checkpoint
from svg_train.reference.checkpoint import load_any_checkpoint
from svg_train.run_folder import LAST
from svg_train.saved_run import is_complete

FAMILIES: dict[str, tuple[str, ...]] = {  # SVG-LP first: times are relative to its own
    "SVG-LP": ("--config", "comparison", "--prior", "learned"),
    "SVG, deterministic": ("--config", "comparison", "--prior", "none"),
    "SVG, spatial": ("--config", "spatial-digits"),
    "SRVP": ("--config", "srvp-digits"),
    **{
        name: ("--config", "frames-digits", "--cell", cell)
        for name, cell in {
            "ConvLSTM": "convlstm", "PredRNN": "predrnn", "PredRNN.v2": "predrnn-v2", "PredRNN++": "predrnnpp", "MIM": "mim",
        }.items()
    },
    "E3D-LSTM": ("--config", "e3d-digits"),
}  # fmt: skip
_RAMPS = {  # of the steps
    "comparison": (("--beta-ramp", 5 / 12, 2 / 3),),
    "frames-digits": (("--sampling-ramp", 0.0, 0.5),),
    "e3d-digits": (("--sampling-ramp", 0.0, 0.5),),
}
_PROBE = 3, (8, 33)  # steps of two runs, whose difference is without what every run needs
_CLEAR_S = 10.0  # of this difference: less could drown in the noise of what every run needs, so more steps are measured
_SAMPLES = {"digits": 10, "smmnist": 100}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=tuple(_SAMPLES))
    parser.add_argument("--data-root", type=Path, help="folder of the MNIST files")
    parser.add_argument("--minutes", type=float, required=True, help="of one core, for each family")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--only", action="append", choices=tuple(FAMILIES), help="one of the families; repeated for more")
    parser.add_argument("--at-once", type=int, default=1, help="families that train at the same time, each on one core")
    parser.add_argument("--sequences", type=int, default=256, help="held-out sequences to evaluate on")
    parser.add_argument("--rounds", type=int, default=20, help="of the timed forecasts")
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    options = parser.parse_args()
    if options.data == "digits" and options.data_root is not None:
        parser.error("--data-root has no effect with digits, which are built in; remove it")
    options.out.mkdir(parents=True, exist_ok=True)
    names = [name for name in FAMILIES if options.only is None or name in options.only]
    steps = measure_steps(names, options)
    with ThreadPoolExecutor(options.at_once) as pool:
        list(pool.map(lambda name: train(name, steps[name], options), names))
    quality = {name: evaluate(name, options) for name in names}
    models = {name: load_any_checkpoint(str(run_of(name, options) / "ckpt.pt")) for name in names}
    seconds = dict(zip(names, compare(models, "cpu", options.rounds), strict=True))
    rows: dict[str, dict[str, Any]] = {}
    for name in names:
        parameters, macs = size_of(models[name])
        sizes = {"parameters": parameters, "macs_per_step": macs}
        rows[name] = {"steps": steps[name], **sizes, "forecast_s": seconds[name], **quality[name]}
    print("\n" + "\n".join(table(rows, options)))
    if options.json is not None:
        about = {"data": options.data, "minutes": options.minutes, "sequences": options.sequences}
        write_json(options.json, {"hardware": machine_today(), **about, "families": rows})


def run_of(name: str, options: argparse.Namespace) -> Path:
    """The folder of a family's run."""
    return Path(options.out / name.replace(" ", "-").replace(",", "").lower())


def measure_steps(names: list[str], options: argparse.Namespace) -> dict[str, int]:
    """Steps that each family makes in the time, measured once and then kept beside the runs.

    Raises:
        SystemExit: the folder has runs on other data, or of another time: their numbers would be taken for those of these.
    """
    file = options.out / "steps.json"
    root = None if options.data_root is None else str(options.data_root.resolve())
    asked = {"data": options.data, "data_root": root, "minutes": options.minutes}
    kept: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {**asked, "steps": {}}
    of_kept = {name: kept.get(name) for name in asked}
    if of_kept != asked:
        raise SystemExit(
            f"{options.out} has runs of {json.dumps(of_kept)}\n"
            f"  expected those of {json.dumps(asked)}: choose another --out, or the same options"
        )
    for name in names:
        if name not in kept["steps"]:
            step_s = seconds_per_step(name, options)
            kept["steps"][name] = max(1, round(60 * options.minutes / step_s))
            print(f"{name}: {step_s:.3f} s per step of one core, {kept['steps'][name]} steps", flush=True)
            write_json(file, kept)
    return {name: kept["steps"][name] for name in names}


def seconds_per_step(name: str, options: argparse.Namespace) -> float:
    """The processor's time of one step."""
    few, counts = _PROBE
    base = processor_s(partial(probe, name, few, options))
    for many in counts:
        more = processor_s(partial(probe, name, many, options)) - base
        if more > _CLEAR_S:
            break
    return more / (many - few)


def processor_s(work: Callable[[], None]) -> float:
    """The processor's time of the processes that `work` starts and waits for."""

    def used() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before = used()
    work()
    return used() - before


def probe(name: str, steps: int, options: argparse.Namespace) -> None:
    """A run of a few steps, which leaves nothing behind that counts."""
    sizes = ("--steps", str(steps), "--eval-sequences", "1", "--eval-samples", "1")
    with tempfile.TemporaryDirectory() as folder:
        svg_train(*FAMILIES[name], *data_flags(options), *sizes, out=Path(folder) / "run")


def train(name: str, steps: int, options: argparse.Namespace) -> None:
    """Train to the end, from where an earlier run was saved."""
    out = run_of(name, options)
    begun = (out / LAST).exists()
    if begun and is_complete(load_checkpoint(out / LAST)):
        return
    print(f"{name}: training", flush=True)
    if begun:
        svg_train("--resume", out=out)
    else:
        ramps = [(flag, round(start * steps), round(end * steps)) for flag, start, end in _RAMPS.get(FAMILIES[name][1], ())]
        given = [text for flag, *bounds in ramps for text in (flag, *map(str, bounds))]
        svg_train(*FAMILIES[name], *given, *data_flags(options), "--steps", str(steps), "--eval-every", str(steps), out=out)


def data_flags(options: argparse.Namespace) -> list[str]:
    """What to train on; nothing for the digits of the recipes."""
    if options.data == "digits":
        return []
    root = [] if options.data_root is None else ["--data-root", str(options.data_root)]
    return ["--data", options.data, "--num-digits", "2", *root]


def svg_train(*arguments: str, out: Path) -> None:
    """Run the command with one thread; what it says goes into a file beside `out`."""
    file = out.with_name(f"{out.name}.log")  # with_suffix would take .v2 for one
    with file.open("a") as log:
        command = [_tool("svg-train"), *arguments, "--device", "cpu", "--out", str(out)]
        done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=log, stderr=log, check=False)
    if done.returncode:
        raise SystemExit(f"svg-train ended with exit code {done.returncode}:\n{file.read_text()[-2000:]}")


def _tool(name: str) -> str:
    """A command of this very environment, whether it is activated or not."""
    return str(Path(sys.executable).with_name(name))


def evaluate(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Quality on held-out scenes, kept beside the checkpoint."""
    file = run_of(name, options) / f"quality-{options.data}-{options.sequences}.json"
    if not file.exists():
        root = [] if options.data_root is None else ["--data-root", str(options.data_root)]
        protocol = ["--protocol", "smmnist", *root] if options.data == "smmnist" else ["--horizon", "10"]
        sizes = ["--sequences", str(options.sequences), "--samples", str(_SAMPLES[options.data])]
        command = [_tool("svg-eval"), str(run_of(name, options) / "ckpt.pt"), *protocol, *sizes]
        subprocess.run([*command, "--json", str(file)], check=True, stdout=subprocess.DEVNULL)
    report = json.loads(file.read_text())
    whole = {"crps": report["pixels"]["all"]["crps"], "psnr_of_mean": report["psnr_mean"]}
    return {
        **whole, "repeat_crps": report["repeat"]["pixels"]["all"]["crps"],
        **{metric: {
            "best": _with_confidence(report["best"][metric]), "one": _with_confidence(report["average_sample"][metric]),
            "repeat": _with_confidence(report["repeat"]["best"][metric]),
        } for metric in ("psnr", "ssim")},
    }  # fmt: skip


def _with_confidence(found: dict[str, Any]) -> list[float]:
    """Mean over the sequences and its 95 % confidence."""
    return [found["mean"], found["ci95"]]


def table(rows: dict[str, dict[str, Any]], options: argparse.Namespace) -> list[str]:
    """Return the lines of the table, and the published values."""
    best = f"best of {_SAMPLES[options.data]}"
    titles = [f"{best}, dB", "one sample, dB", f"{best}, SSIM", "one sample, SSIM", "CRPS, 1/1000"]
    lines = [["", "steps", *titles, "M parameters", "GMAC per step", "time"]]
    first = next(iter(rows.values()))
    for name, row in rows.items():
        psnr = [f"{row['psnr'][kind][0]:.2f} ± {row['psnr'][kind][1]:.2f}" for kind in ("best", "one")]
        ssim = [f"{row['ssim'][kind][0]:.3f}" for kind in ("best", "one")]
        sizes = [f"{row['parameters'] / 1e6:.2f}", f"{row['macs_per_step'] / 1e9:.3f}"]
        ratio = f"{row['forecast_s'] / first['forecast_s']:.2f}"
        lines.append([name, str(row["steps"]), *psnr, *ssim, f"{row['crps'] * 1e3:.2f}", *sizes, ratio])
    (psnr_repeat, _), (ssim_repeat, _) = first["psnr"]["repeat"], first["ssim"]["repeat"]
    repeat = [f"{psnr_repeat:.2f}", "", f"{ssim_repeat:.3f}", "", f"{first['repeat_crps'] * 1e3:.2f}"]
    published = PROTOCOLS["smmnist"].published if options.data == "smmnist" else ()
    values = [f"published, {each.method}: {each.psnr:.2f} dB, SSIM {each.ssim:.3f}" for each in published]
    return [*aligned([*lines, ["repeat", "", *repeat, "", "", ""]]), *values]


if __name__ == "__main__":
    main()
