"""The state directory: private or refused, and sockets that fit."""

from pathlib import Path

import pytest

from rpcmesh.errors import RpcmeshError
from rpcmesh.paths import SUN_PATH_MAX, Home, private_dir


def test_ensure_makes_private_directories(tmp_path: Path) -> None:
    home = Home(tmp_path / "home").ensure()
    for path in (home.root, home.identity, home.logs, home.run):
        assert path.stat().st_mode & 0o777 == 0o700


def test_a_directory_that_others_can_enter_is_refused_with_the_command_that_mends_it(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with pytest.raises(RpcmeshError) as caught:
        private_dir(tmp_path)
    assert "0755" in caught.value.message
    assert caught.value.hint == f"chmod 700 {tmp_path}"


def test_a_link_to_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(RpcmeshError, match="not a directory"):
        private_dir(tmp_path / "link")


def test_a_file_in_the_way_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RpcmeshError):
        private_dir(tmp_path / "file" / "home")


def test_sockets_of_a_deep_home_still_fit(tmp_path: Path) -> None:
    home = Home(tmp_path / ("deep" * 30))
    assert len(bytes(home.socket("a" * 32 + ".agent"))) <= SUN_PATH_MAX
    assert home.run != Home(tmp_path / ("other" * 30)).run


def test_a_socket_name_that_cannot_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RpcmeshError, match="longer than"):
        Home(tmp_path).socket("x" * 100)
