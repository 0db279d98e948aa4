"""The configuration file: right values pass, a wrong one is a single line that names it."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpcmesh import config
from rpcmesh.errors import RpcmeshError


def test_an_absent_file_means_defaults(tmp_path: Path) -> None:
    assert config.load(tmp_path / "config.toml", {}) == config.Config()


def test_a_section_overrides_its_defaults_only(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('[engine]\nn_ctx = 512\nmodel = "m"\n')
    loaded = config.load(tmp_path / "c.toml", {})
    assert (loaded.engine.n_ctx, loaded.engine.model, loaded.engine.n_batch) == (512, "m", 512)


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("[engine]\nn_ctx = 512\n")
    environ = {"RPCMESH_ENGINE_N_CTX": "1024", "RPCMESH_COORDINATOR_NAMES": "a.lan,b.lan", "RPCMESH_HOME": "/x"}
    loaded = config.load(tmp_path / "c.toml", environ)
    assert loaded.engine.n_ctx == 1024
    assert loaded.coordinator.names == ("a.lan", "b.lan")


@pytest.mark.parametrize(
    ("text", "environ", "named"),
    [
        ("[engine]\nn_ctxx = 1\n", {}, "n_ctxx"),
        ('[engine]\nn_ctx = "many"\n', {}, "$.engine.n_ctx"),
        ("[motor]\n", {}, "motor"),
        ("[node]\ncompute_timeout_s = 0\n", {}, "$.node.compute_timeout_s"),
        ("[node]\ncompute_timeout_s = 86401\n", {}, "$.node.compute_timeout_s"),
        ("[node]\nstall_timeout_s = 0\n", {}, "$.node.stall_timeout_s"),
        ('[node]\nallow_ops = "SILU_BACK"\n', {}, "$.node.allow_ops"),
        ("[engine]\nn_seq_max = 0\n", {}, "$.engine.n_seq_max"),
        ("[engine]\nn_seq_max = 256\n", {}, "$.engine.n_seq_max"),
        ("[engine]\nn_ctx = 1\n", {}, "$.engine.n_ctx"),
        ("[engine]\nn_batch = 0\n", {}, "$.engine.n_batch"),
        ("[engine]\nn_threads = 513\n", {}, "$.engine.n_threads"),
        ("[engine\n", {}, "not valid TOML"),
        ('[build]\nbackend = "abacus"\n', {}, "abacus"),
        ("", {"RPCMESH_ENGINE_N_CTX": "many"}, "RPCMESH_ENGINE_N_CTX"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_it(
    tmp_path: Path, text: str, environ: dict[str, str], named: str
) -> None:
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(RpcmeshError) as caught:
        config.load(tmp_path / "c.toml", environ)
    assert named in caught.value.message
    assert "\n" not in caught.value.message


def test_the_most_that_is_allowed_fits_what_llama_cpp_counts_with(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(f"[engine]\nn_seq_max = 255\nn_ctx = {1 << 24}\n")
    engine = config.load(tmp_path / "c.toml", {}).engine
    assert engine.n_seq_max + 1 <= 256  # one is lent to whoever saves cells
    assert engine.n_seq_max * engine.n_ctx < 1 << 32


@given(
    listen=st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=40),
    names=st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=10), max_size=3),
    n_ctx=st.integers(2, config.N_CTX_MAX),
    local=st.booleans(),
)
def test_what_is_rendered_is_read_back_equal(
    tmp_path_factory: pytest.TempPathFactory, listen: str, names: list[str], n_ctx: int, local: bool
) -> None:
    original = config.Config(
        coordinator=config.Coordinator(listen=listen, names=tuple(names), use_local_device=local),
        engine=config.Engine(n_ctx=n_ctx),
    )
    path = tmp_path_factory.mktemp("config") / "c.toml"
    path.write_text(config.render(original), encoding="utf-8")
    assert config.load(path, {}) == original


@pytest.mark.parametrize(
    ("text", "parsed"),
    [("1.2.3.4:80", ("1.2.3.4", 80)), ("[fd00::1]:7443", ("fd00::1", 7443)), ("host.lan:0", ("host.lan", 0))],
)
def test_addresses_split_and_join(text: str, parsed: tuple[str, int]) -> None:
    assert config.parse_address(text) == parsed
    assert config.join_address(*parsed) == text


@pytest.mark.parametrize(
    "text", ["", "host", ":80", "host:", "host:http", "fd00::1:80", "host:65536", "host:-1", "host:\uff18\uff10"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(RpcmeshError):
        config.parse_address(text)


def test_a_pipe_is_no_config_file(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    os.mkfifo(path)

    with pytest.raises(RpcmeshError, match="not a regular file"):
        config.load(path, {})


def test_a_file_that_is_far_too_long_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(b"#" * (config.MAX_BYTES + 1))

    with pytest.raises(RpcmeshError, match="longer than"):
        config.load(path, {})
