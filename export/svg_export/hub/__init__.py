"""Bundles on the Hugging Face Hub: the model card, and one commit with everything."""
