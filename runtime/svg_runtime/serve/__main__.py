"""`python -m svg_runtime.serve` is `svg-serve`."""

from svg_runtime.serve.cli import main

if __name__ == "__main__":
    main()
