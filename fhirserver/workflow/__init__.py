"""The rules of the reading network: pure functions and tables, no I/O."""
