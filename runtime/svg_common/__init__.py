"""What training and the runtime share without importing each other: errors, files, command style, metrics, video, digits.

Needs the base install alone (numpy, opencv-python, av, typer, rich), so that it loads on a device that has neither torch nor
an inference engine.
"""
