"""`svg-bench`: how each backend and precision of this machine runs a bundle.

Data flows: cases (what to measure) -> process (one worker process per case) -> worker, measure, probe, operations (in that
process) -> bench_run (rows with errors and shares) -> bench_report (the tables).
"""
