"""Alembic's entry: runs the revisions in the transaction that `tenants.database` opened and locked.

Alembic executes this file itself; nothing else imports it.
"""

from alembic import context

from tenants.tables import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA, transactional_ddl=False)
context.run_migrations()
