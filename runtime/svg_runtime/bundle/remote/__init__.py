"""Models that lie elsewhere, on the Hugging Face Hub or on a web server: their addresses become folders of the cache."""
