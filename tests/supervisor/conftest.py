"""What the supervisor's tests share: supervisors on the real server, and none of their processes left at the end."""

import pytest

from .fleet import Scene


@pytest.fixture
async def scene(redis_url, tmp_path):
    scene = Scene(redis_url, tmp_path)
    yield scene
    await scene.close()
