"""What `python -m bench.soak` is made of: the load, its bookkeeping, and what is read of the server meanwhile."""
