"""The page of a live run, `svg-live --serve`: what is seen, forecast and unusual, in a browser and for other programs."""
