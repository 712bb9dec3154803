"""The commands of ``relocate`` beside those that run things: one file for each group of them."""
