"""What happens to many documents (indexing, maintenance) and to many questions (evaluation).

Imports `tenants` and the Ray-free modules of `services`: offline work runs the very code that serves.
"""
