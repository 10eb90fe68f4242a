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


async def test_deleting_a_tenant_stops_its_jobs_first(world, monkeypatch) -> None:
    key = world.tenant("acme", "index")
    body = {"sources": ["https://docs.example.com/public/a.md"]}
    queued = (await world.client.post("/t/acme/v1/jobs", json=body, headers=key)).json()["job_id"]
    running = (await world.client.post("/t/acme/v1/jobs", json=body, headers=key)).json()["job_id"]
    store = world.platform.store
    store.update_job(running, state="running")
    seen = []

    async def drop(scope) -> None:
        jobs = {row.job_id: row for row in store.list_jobs(scope)[0]}
        seen.append((jobs[queued].state, jobs[running].cancel_requested, sorted(world.jobs.stopped)))

    monkeypatch.setattr(world.corpus, "drop", drop)
    assert (await world.client.delete("/admin/v1/tenants/acme", headers=world.operator)).status_code == 200
    assert seen == [("cancelled", True, sorted([queued, running]))]
