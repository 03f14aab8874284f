"""What processes exchange, in two real ones; and how rows are shared."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from vlm3d_gs.spread.ranks import Ranks, join, joined

PROGRAM = Path(__file__).with_name("two_ranks.py")


def test_two_processes_see_what_one_sees(tmp_path: Path) -> None:
    commands = [[sys.executable, str(PROGRAM), str(tmp_path / "meeting"), rank] for rank in "01"]
    others = subprocess.Popen(commands[1], stderr=subprocess.PIPE)
    try:
        first = subprocess.run(commands[0], capture_output=True, timeout=300, check=False)
        _, said = others.communicate(timeout=60)
    finally:
        others.kill()
    assert first.stdout == b"sound\n", first.stderr.decode() + said.decode()
    assert others.returncode == 0, said.decode()


def test_shares_are_even_and_keep_units_whole() -> None:
    shares = Ranks(0, 3).shares(7, 4)
    assert [(share.start, share.stop) for share in shares] == [(0, 8), (8, 16), (16, 28)]
    few = Ranks(0, 3).shares(2)
    assert [share.stop - share.start for share in few] == [0, 1, 1]


def test_a_single_process_is_joined_to_nobody() -> None:
    with join(Ranks()):
        assert joined() is None
    with join(Ranks(0, 2)) as ranks:
        assert joined() is ranks
    assert joined() is None
