"""One record per question: what it holds (record, pure) and where it is kept (log)."""
