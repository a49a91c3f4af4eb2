"""Decoding trees of texts on this machine: every shared prefix is evaluated once.

`vocabulary` turns text into tokens, `prefix_tree` knows what the key-value cache holds, `decoder` decides what is
evaluated next, `sampling` draws, and a backend (`llama_backend`, `torch_backend`) does the arithmetic.
"""
