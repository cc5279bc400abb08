"""Fuzzes the readers of foreign bytes: python -m tests.fuzz --minutes 60, or --inputs 1000000, over all targets or named ones.

The exit code is 1 if an input broke a rule; what each rule is, docs/fuzzing.md says.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from svg_common.files import write_json
from tests.fuzz.run import TargetResult, run_target
from tests.fuzz.target import MODULE_OF, SHARES


def main() -> int:
    """Run the targets, print a table, and write the result."""
    options = _options()
    if importlib.util.find_spec("atheris") is None:
        print("fuzzing needs the Python package 'atheris', which exists for Linux on x86-64 and Python 3.11 to 3.13.")
        return 1
    names = options.targets or list(MODULE_OF)
    total = sum(SHARES.get(name, 1.0) for name in names)
    folder = Path(options.folder or tempfile.mkdtemp(prefix="svg-fuzz-")).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    results: dict[str, TargetResult] = {}
    for name in names:
        share = SHARES.get(name, 1.0) / total
        inputs = None if options.inputs is None else -(-options.inputs * share // 1)
        seconds = None if options.minutes is None else options.minutes * 60 / len(names)
        results[name] = run_target(name, None if inputs is None else int(inputs), seconds, options.seed, folder)
        _print_row(name, results[name])
        if options.json:
            write_json(options.json, _summary(results, options.seed))
    read, broken = sum(result.inputs for result in results.values()), sum(len(r.findings) for r in results.values())
    print(f"{read} inputs, {broken} findings" + (f", saved in {folder / 'findings'}" if broken else ""))
    return 1 if broken else 0


def _print_row(name: str, result: TargetResult) -> None:
    print(f"{name:18}{result.inputs:>10} inputs{result.seconds:>9.1f} s  coverage {result.coverage:>5}  ", end="")
    print(f"{len(result.findings)} findings", flush=True)
    for finding in result.findings:
        print(f"  {finding['kind']} {finding['place']}\n  input: {finding['file']}", flush=True)
        print("    " + finding["text"].strip().replace("\n", "\n    ")[-1500:], flush=True)


def _summary(results: dict[str, TargetResult], seed: int) -> dict[str, object]:
    return {
        "inputs": sum(result.inputs for result in results.values()),
        "findings": sum(len(result.findings) for result in results.values()),
        "seed": seed,
        "machine": {"system": platform.platform(), "cores": os.cpu_count(), "python": platform.python_version()},
        "atheris": version("atheris"),
        "targets": {name: vars(result) for name, result in results.items()},
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"default: all of {', '.join(MODULE_OF)}")
    parser.add_argument("--minutes", type=float, help="how long in all; every target gets the same time")
    parser.add_argument("--inputs", type=int, help="how many in all; slow targets get fewer")
    parser.add_argument("--seed", type=int, default=1, help="of the mutations")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    parser.add_argument("--folder", help="keeps corpus and findings; a later run goes on from there. Default: a temporary one")
    options = parser.parse_args()
    if options.minutes is None and options.inputs is None:
        parser.error("give --minutes or --inputs")
    if unknown := set(options.targets) - set(MODULE_OF):
        parser.error(f"unknown target {', '.join(sorted(unknown))}; expected some of {', '.join(MODULE_OF)}")
    return options


if __name__ == "__main__":
    sys.exit(main())
