"""A tenant's corpus on disk: its columns (schema), its one writer (lease), its published version (release)."""
