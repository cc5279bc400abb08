"""Training of SVG models (Denton and Fergus, "Stochastic Video Generation with a Learned Prior", ICML 2018)."""
