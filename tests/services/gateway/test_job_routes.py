"""Jobs as a tenant sees them, and as Ray is asked to run them."""

from __future__ import annotations

import shlex

from cluster.ray_jobs import entrypoint


async def test_a_dry_run_shows_its_plan(world) -> None:
    key = world.tenant("acme", "index")
    body = {"sources": ["https://docs.example.com/public/a.md"], "dry_run": True}
    job_id = (await world.client.post("/t/acme/v1/jobs", json=body, headers=key)).json()["job_id"]
    plan = {"documents": 3, "bytes": 900, "seconds": 1.5, "shards": 1}
    world.platform.store.update_job(job_id, state="succeeded", counts={"new": 3, "plan": plan})
    job = (await world.client.get(f"/t/acme/v1/jobs/{job_id}", headers=key)).json()
    assert (job["state"], job["documents"]["new"], job["plan"]) == ("succeeded", 3, plan)


def test_a_submitted_job_is_told_that_its_row_exists() -> None:
    words = shlex.split(entrypoint("acme", "job_1", {"sources": ["https://x/a b"], "dry_run": True}))
    assert words[words.index("--submitted") + 1] == "job_1"
    assert words[words.index("--source") + 1] == "https://x/a b"
    assert "--dry-run" in words
