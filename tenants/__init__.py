"""Whose data, under which rules, at which address and version.

Imports only the standard library, pydantic, pyarrow, sqlalchemy, lance and obstore; never another room.
Read in this order: errors, ids, config, scope, keys, store, then corpus/ (schema, lease, release).
"""
