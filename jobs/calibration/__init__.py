"""The calibration job: full reranks of questions become a profile, a certificate, and a run with plots."""
