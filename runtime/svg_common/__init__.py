"""What training and the runtime share without importing each other: errors, files, command style, synthetic digits.

Depends on numpy and rich alone, so that it loads on a device that has neither torch nor an inference engine.
"""
