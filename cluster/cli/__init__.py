"""The operator's hand: typer verbs, one file a family."""
