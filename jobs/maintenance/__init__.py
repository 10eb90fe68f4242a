"""Keeps a corpus healthy: compact, erase, verify, collect garbage. Runs under the tenant's lease."""
