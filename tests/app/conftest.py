"""An app over each broker, and a worker's part played by hand."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from app_under_test import Desk

from ropeway import Ropeway


@pytest.fixture(params=["memory", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "memory://" if request.param == "memory" else f"sqlite:///{tmp_path / 'jobs.db'}"


@pytest.fixture
def app(url: str) -> Ropeway[None]:
    return Ropeway(url)


@pytest.fixture
async def desk(app: Ropeway[None]) -> AsyncIterator[Desk]:
    """An open app with one task of each kind, and a worker's hands."""
    async with app:
        yield Desk(app)
