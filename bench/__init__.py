"""The measurements behind the README's figures: `python -m bench`, or `make bench`. bench/README.md explains them."""
