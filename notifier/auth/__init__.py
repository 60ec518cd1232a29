"""Who may do what: API keys of publishers, tokens of clients."""
