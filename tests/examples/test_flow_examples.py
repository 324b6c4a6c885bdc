"""The examples of flow control: each with a worker process beside it, as its first lines say."""

import os
import re
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def said_by(name: str, place: Path, *options: str) -> str:
    """What an example prints while a worker of its app runs."""
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES)}
    command = [sys.executable, "-m", "ropeway", "worker", f"{name}:app", *options]
    with subprocess.Popen(command, cwd=place, env=environment) as worker:
        try:
            done = subprocess.run(
                [sys.executable, str(EXAMPLES / f"{name}.py")],
                cwd=place,
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
        finally:
            worker.terminate()
    assert worker.returncode == 0
    assert done.returncode == 0, done.stderr
    return done.stdout


def number(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    assert found is not None, text
    return float(found[1].replace(",", ""))


def test_a_tenant_is_answered_while_ten_thousand_jobs_of_another_one_wait(tmp_path: Path) -> None:
    said = said_by("fair_api", tmp_path, "--concurrency", "10")
    assert "flood: 10,000 jobs accepted" in said
    for tenant in ("small", "gold"):
        answer = rf"{tenant}: 'page 1 of {tenant}' after \d+ ms, ([\d,]+) waiting"
        assert number(answer, said) > 5_000
    assert number(r"429 Too Many Requests, (\d+) refused", said) > 0
    assert number(r"Retry-After: (\d+) s", said) >= 1


def test_documents_are_indexed_in_batches_and_one_bad_one_fails_alone(tmp_path: Path) -> None:
    said = said_by("indexer", tmp_path)
    assert "failed: ValueError: document 1000 has no words" in said
    assert "1,000 documents, 6,000 words" in said
    assert "“story” is in 1000" in said
    for shelf in ("novels", "plays"):
        assert 3 <= number(rf"{shelf}: (\d+) batches", said) <= 10, "of 200 documents at most"


def test_sites_are_crawled_whole_and_no_faster_than_they_were_promised(tmp_path: Path) -> None:
    said = said_by("crawler", tmp_path)
    sites = re.findall(r"^site \d: 23 pages, 2 again, at most (\d+) at a time$", said, re.MULTILINE)
    assert len(sites) == 3, said
    assert all(int(most) <= 2 for most in sites)
    requests, burst, per_second = 25, 3, 10
    assert number(r"60 fetched, 9 not found, in ([\d.]+) s", said) >= (
        (requests - burst) / per_second
    )
