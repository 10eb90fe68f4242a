"""Alembic's revisions of the control plane's schema; run by `tenants.database`, never by hand."""
