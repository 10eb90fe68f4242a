"""Which variant of a tenant's configuration answers a question, and who is told. Read spec.py, then assignment.py."""
