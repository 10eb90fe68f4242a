"""Many questions of one tenant answered offline, by the line that serves. Read job.py, then pipeline.py."""
