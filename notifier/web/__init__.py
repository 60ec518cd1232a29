"""What publishers, operators and administrators ask over HTTP."""
