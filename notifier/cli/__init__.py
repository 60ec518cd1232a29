"""The `notifier` command: one module per command. Modules import what is heavy inside their functions, because every
invocation, `notifier version` included, pays for what is imported at the top."""
