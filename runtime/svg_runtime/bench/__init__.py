"""`svg-bench`: what each backend and precision of this machine makes of a bundle.

Data flows: cases (what to measure) -> process (one worker process per case) -> worker, measure, probe, operations (in that
process) -> run (rows with errors and shares) -> report (the table).
"""
