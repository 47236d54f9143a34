"""Laws of the configuration: sources in order, unknown keys refused, the token kept and never shown."""

from __future__ import annotations

import dataclasses
import stat
from pathlib import Path
from typing import Any

import pytest

from executor.config import FIELDS, Config, load, read_admin_token, with_admin_token
from executor.core.errors import Refused


def test_a_flag_wins_over_the_environment_over_the_file_over_the_default(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('port = 1\nhost = "h1"\nlog_level = "debug"\n')
    environment = {"PERDURE_PORT": "2", "PERDURE_HOST": "h2", "PERDURE_DATA": str(tmp_path)}
    config = load({"port": 3, "host": None}, environment=environment)
    assert (config.port, config.host, config.log_level, config.sandboxes_max) == (3, "h2", "debug", 64)


def test_the_file_is_found_by_flag_by_variable_or_in_the_data_directory(tmp_path: Path) -> None:
    for name in ("flag", "variable", "config"):
        (tmp_path / f"{name}.toml").write_text(f'host = "{name}"\n')
    environment = {"PERDURE_CONFIG": str(tmp_path / "variable.toml")}
    flags = {"data_dir": tmp_path}
    assert load(flags, environment=environment, file=tmp_path / "flag.toml").host == "flag"
    assert load(flags, environment=environment).host == "variable"
    assert load(flags, environment={}).host == "config"
    with pytest.raises(Refused, match="There is no configuration file"):
        load(flags, environment={}, file=tmp_path / "absent.toml")


def test_an_unknown_key_refuses_to_start_and_names_the_near_one(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("prot = 1\n")
    with pytest.raises(Refused) as refused:
        load({"data_dir": tmp_path}, environment={})
    assert refused.value.message == f'There is no setting "prot" (found in {tmp_path / "config.toml"}).'
    assert refused.value.hint == 'Did you mean "port"?'
    with pytest.raises(Refused, match=r"found in the environment \(PERDURE_SANDBOX_MAX\)"):
        load({}, environment={"PERDURE_SANDBOX_MAX": "3"})
    with pytest.raises(Refused, match="found in the flags"):
        load({"ports": 3}, environment={})


def test_other_programs_variables_of_our_prefix_are_left_alone(tmp_path: Path) -> None:
    """Container links make such names; refusing them would refuse to start for no fault of the operator."""
    assert load({"data_dir": tmp_path}, environment={"PERDURE_SERVICE_PORT_8420_TCP": "tcp://x"}).port == 8420


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("port", "x", "The setting \"port\" must be a int, is 'x'."),
        ("port", 70_000, 'The setting "port" must be between 0 and 65535, is 70000.'),
        ("port", True, 'The setting "port" must be a int, is True.'),
        ("port", 1.5, 'The setting "port" must be a int, is 1.5.'),
        ("unconfined", "maybe", "The setting \"unconfined\" must be a bool, is 'maybe'."),
        ("sandbox_idle_s", -1, 'The setting "sandbox_idle_s" must not be negative, is -1.'),
        ("active_runs_max", 0, 'The setting "active_runs_max" must be at least 1, is 0.'),
        ("log_level", "loud", "The setting \"log_level\" must be one of debug, info, warning, error, is 'loud'."),
        ("host", 5, 'The setting "host" must be a str, is 5.'),
        ("admin_token", " ", 'The setting "admin_token" is empty, or not ASCII.'),
        ("admin_token", 5, 'The setting "admin_token" must be a str, is (hidden).'),
    ],
)
def test_a_wrong_value_is_refused_and_named(key: str, value: Any, message: str) -> None:
    with pytest.raises(Refused) as refused:
        load({key: value}, environment={})
    assert (refused.value.message, refused.value.details) == (message, {"key": key})


@pytest.mark.parametrize(("text", "value"), [("1", True), ("TRUE", True), ("no", False), ("off", False)])
def test_the_environments_words_for_yes_and_no(text: str, value: bool) -> None:
    assert load({}, environment={"PERDURE_UNCONFINED": text}).unconfined is value


def test_what_is_no_toml_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("port: 1\n")
    with pytest.raises(Refused, match="is no TOML"):
        load({"data_dir": tmp_path}, environment={})


def test_every_setting_has_unit_and_reason_and_is_frozen() -> None:
    for name, item in FIELDS.items():
        assert item.metadata["unit"], name
        assert len(item.metadata["reason"]) > 10, name
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().port = 1  # type: ignore[misc]


def test_the_token_is_never_shown() -> None:
    config = Config(admin_token="0123456789abcdef-secret")
    assert "secret" not in repr(config)
    assert "(hidden)" in repr(config)


def test_the_token_is_the_configured_one_else_the_kept_one_else_a_new_one(tmp_path: Path) -> None:
    given = Config(data_dir=tmp_path / "a", admin_token="x" * 16)
    assert with_admin_token(given) is given
    assert not (tmp_path / "a").exists()
    made = with_admin_token(Config(data_dir=tmp_path / "b"))
    assert (
        made.admin_token
        == read_admin_token(tmp_path / "b")
        == with_admin_token(Config(data_dir=tmp_path / "b")).admin_token
    )
    assert stat.S_IMODE((tmp_path / "b" / "admin-token").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "b").stat().st_mode) == 0o700
    assert with_admin_token(Config(data_dir=tmp_path / "c")).admin_token != made.admin_token


def test_a_guessable_token_is_taken_and_warned_of_without_showing_it(caplog: pytest.LogCaptureFixture) -> None:
    config = Config(admin_token="short-one")
    assert with_admin_token(config) is config
    assert "the administrator's token is short enough to be guessed" in caplog.text
    assert "short-one" not in caplog.text
