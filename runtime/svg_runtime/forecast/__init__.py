"""Frames in, futures out: the recurrent loop over a bundle's graphs, its state and its noise, independent of the device."""
