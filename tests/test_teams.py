"""Workers that are let go are gone, and come back when there is work."""

import sys
from pathlib import Path

import pytest
import torch

from mplug_owl.engine import teams


@pytest.mark.skipif(sys.platform != "linux", reason="counts the threads in /proc")
def test_workers_leave_and_come_back() -> None:
    def threads() -> int:
        return len(list(Path("/proc/self/task").iterdir()))

    large = torch.ones(2**20)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        teams.dismiss_team()
        alone = threads()
        large.exp()
        if threads() == alone:
            pytest.skip("this PyTorch does not compute in threads of OpenMP")
        teams.dismiss_team()
        assert threads() == alone
        assert torch.equal(large.exp(), large.exp())
        assert threads() == alone + 2
    finally:
        teams.dismiss_team()
        torch.set_num_threads(before)


def test_without_gnus_openmp_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teams, "_runtime", lambda: None)
    teams.dismiss_team()
