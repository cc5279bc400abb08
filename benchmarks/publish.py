"""Turns a benchmark result into published results: a small JSON, the plot of growth, and tables in Markdown.

python benchmarks/publish.py result.json --results benchmarks/results/NAME.json --plot docs/growth.png
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from gpu_report import case_rows, gpu_markdown
from growth_plot import draw_growth
from peers import Peer, ratio

YARDSTICKS = (("PyTorch eager", "fp32"), ("ONNX Runtime, plain", "fp32"))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path, help="file that pytest --benchmark-json wrote")
    parser.add_argument("--results", type=Path, metavar="FILE", help="write a condensed result to this file")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write the plot of growth (PNG)")
    options = parser.parse_args()
    summary = summarize(json.loads(options.result.read_text(encoding="utf-8")))
    if options.results:
        options.results.parent.mkdir(parents=True, exist_ok=True)
        options.results.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    if options.plot:
        if not summary["growth"]:
            parser.error(
                f"'{options.result}' has no growth benchmark\n  run: pytest benchmarks/test_growth.py --benchmark-json FILE"
            )
        draw_growth(summary["growth"], options.plot)
    print("\n".join(markdown(summary)))


def summarize(result: dict[str, Any]) -> dict[str, Any]:
    """The essentials of a result of pytest-benchmark: hardware, versions, medians and ratios."""
    infos = [item["extra_info"] for item in result["benchmarks"]]
    return {
        "date": result["datetime"][:10],
        "hardware": result["machine_info"]["hardware"],
        "telemetry": result["machine_info"]["telemetry"],
        "versions": result["machine_info"]["versions"],
        "peers": [_peers_of(info) for info in infos if "peers" in info],
        "gpu": [_gpu_of(info) for info in infos if "gpu_case" in info],
        "growth": [_growth_of(info) for info in infos if "points" in info],
        "metrics": [metric for info in infos for metric in info.get("metrics", [])],
    }


def markdown(summary: dict[str, Any]) -> list[str]:
    """A table of peers per model, on the processor and on a GPU."""
    lines = []
    for model in summary["peers"]:
        lines += ["", f"{model['bundle']}, {model['samples']} samples x {model['horizon']} steps:", ""]
        lines += ["| peer | ms | x PyTorch eager | x plain ONNX Runtime |", "|---|---|---|---|"]
        for row in model["rows"]:
            if "reason" in row:
                lines.append(f"| {row['name']}, {row['precision']} | {row['reason']} | | |")
            else:
                faster = " | ".join(f"{row['faster'][name]:.2f}" if name in row["faster"] else "" for name, _ in YARDSTICKS)
                lines.append(f"| {row['name']}, {row['precision']} | {row['median_ms']:.1f} | {faster} |")
    for case in summary["gpu"]:
        lines += ["", f"{case['bundle']}, {case['samples']} samples x {case['horizon']} steps on {case['gpu']['name']}:", ""]
        lines += gpu_markdown(case["rows"])
    hardware = summary["hardware"]
    return [*lines, "", f"{hardware['cores_usable']} cores of {hardware['cpu']}, load {hardware['load_average']}"]


def _peers_of(info: dict[str, Any]) -> dict[str, Any]:
    peers = {(row["name"], row["precision"]): Peer.from_json(row) for row in info["peers"]}
    rows = []
    for row in info["peers"]:
        peer = peers[row["name"], row["precision"]]
        if not peer.seconds:
            rows.append(row)
            continue
        faster = {key[0]: round(ratio(peers[key], peer), 3) for key in YARDSTICKS if peers[key].seconds}
        rows.append({**{key: value for key, value in row.items() if key != "seconds"}, **_times(peer), "faster": faster})
    return {"bundle": _stem(info), **{key: info[key] for key in ("samples", "horizon")}, "rows": rows}


def _gpu_of(info: dict[str, Any]) -> dict[str, Any]:
    case = info["gpu_case"]
    rows = case_rows([Peer.from_json(row) for row in case["peers"]])
    return {"bundle": _stem(info), **{key: value for key, value in case.items() if key != "peers"}, "rows": rows}


def _growth_of(info: dict[str, Any]) -> dict[str, Any]:
    points = [
        {
            "value": point["value"],
            "peers": [{**{k: row[k] for k in ("name", "precision")}, **_times(Peer.from_json(row))} for row in point["peers"]],
        }
        for point in info["points"]
    ]
    return {**{key: info[key] for key in ("bundle", "axis", "samples", "horizon")}, "points": points}


def _stem(info: dict[str, Any]) -> str:
    stem: str = info["bundle"].removesuffix(".svgb")
    return stem


def _times(peer: Peer) -> dict[str, Any]:
    low, _, high = statistics.quantiles(peer.seconds, n=4) if len(peer.seconds) > 1 else peer.seconds * 3
    times = {"median_ms": peer.median_s, "low_ms": low, "high_ms": high}
    return {**{name: round(seconds * 1e3, 3) for name, seconds in times.items()}, "rounds": len(peer.seconds)}


if __name__ == "__main__":
    main()
