"""One undisturbed small campaign, shared by all tests of the loop."""

from pathlib import Path

import pytest

from tests.loop import small


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory) -> tuple[Path, str]:
    """Folder of a finished campaign, and what its command printed."""
    outputs = tmp_path_factory.mktemp("undisturbed")
    ended = small.run(outputs)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return outputs / small.NAME, ended.stdout
