from __future__ import annotations

from typing import Any

import pytest

from llmgate.config import ConfigError, from_data

ENGINE = {"url": "http://node-a:8000"}


def problems(data: dict[str, Any], **environment: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        from_data(data, "test", environment)
    return caught.value.problems


def test_a_url_is_all_that_an_endpoint_needs() -> None:
    config = from_data({"endpoints": [ENGINE]}, "test", {})
    assert config.endpoints[0].name == "node-a:8000"
    assert (config.server.port, config.admin.host, config.admin.port) == (8080, "127.0.0.1", 8081)
    assert (config.timeouts.connect, config.timeouts.first_byte, config.timeouts.drain) == (2, 300, 110)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://node-a", "node-a:80"),
        ("https://node-a", "node-a:443"),
        ("http://[::1]:8000", "[::1]:8000"),
        ("http://node-a:8000/v2/", "node-a:8000"),
        ("unix:/run/vllm.sock", "/run/vllm.sock"),
    ],
)
def test_an_endpoint_is_named_after_its_address(url: str, name: str) -> None:
    assert from_data({"endpoints": [{"url": url}]}, "test", {}).endpoints[0].name == name


def test_models_of_an_endpoint_are_names_or_mappings() -> None:
    config = from_data(
        {"endpoints": [{**ENGINE, "models": ["a", {"name": "b", "served_as": "b-fp8", "precision": "fp8"}]}]},
        "test",
        {},
    )
    assert [(m.name, m.served_as) for m in config.endpoints[0].models or []] == [("a", None), ("b", "b-fp8")]


def test_variables_come_from_the_environment_or_their_default() -> None:
    data = {
        "server": {"port": "${PORT}"},
        "endpoints": [{"url": "http://${HOST:-localhost}:${PORT}", "api_key": "${KEY:-}"}],
    }
    config = from_data(data, "test", {"PORT": "9000"})
    assert config.server.port == 9000
    assert config.endpoints[0].url == "http://localhost:9000"
    assert config.endpoints[0].api_key.get_secret_value() == ""


def test_a_variable_without_value_or_default_is_an_error_with_its_path() -> None:
    assert problems({"endpoints": [{**ENGINE, "api_key": "${NO_SUCH}"}]}) == [
        "endpoints[0].api_key: the environment variable NO_SUCH is not set and has no default"
    ]


def test_every_mistake_is_reported_at_once_with_its_path() -> None:
    found = problems(
        {
            "servr": {},
            "server": {"prot": 1, "port": 70000},
            "endpoints": [{"url": "ftp://x"}, {"weight": 0}],
            "timeouts": {"connect": "soon"},
        }
    )
    starts = ["servr: there is no such key", "server.prot: there is no such key", "server.port: ", "endpoints[0].url: "]
    starts += ["endpoints[1].url: is required", "endpoints[1].weight: ", "timeouts.connect: "]
    for start in starts:
        assert any(problem.startswith(start) for problem in found), (start, found)
    assert len(found) == len(starts), found


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({}, "endpoints: is required"),
        ({"endpoints": []}, "endpoints: must have at least one entry"),
        ({"endpoints": [ENGINE, ENGINE]}, "are named 'node-a:8000'"),
        ({"endpoints": [{"url": "http://me:pw@node-a"}]}, "must not contain credentials"),
        ({"endpoints": [{"url": "http://node-a:99999"}]}, "endpoints[0].url: "),
        ({"endpoints": [{"url": "http://node-a/caf\xe9"}]}, "endpoints[0].url: must not have a path beyond ASCII"),
        ({"endpoints": [{"url": "http://node-a/v1/"}]}, "endpoints[0].url: must not end in /v1"),
        ({"endpoints": [{"url": "http://node-a/a b"}]}, "endpoints[0].url: must not contain blanks"),
        ({"endpoints": [{"url": "http://node-a\n"}]}, "endpoints[0].url: must not contain blanks"),
        ({"endpoints": [{**ENGINE, "engine": "vlm"}]}, "endpoints[0].engine: "),
        ({"endpoints": [{**ENGINE, "name": "a\nb"}]}, "endpoints[0].name: "),
        ({"endpoints": [{**ENGINE, "weight": float("nan")}]}, "endpoints[0].weight: "),
        ({"endpoints": [ENGINE], "router": {"policy": "token-awre"}}, "did you mean token-aware"),
        (
            {"endpoints": [ENGINE], "router": {"policy": "prefix-affinity", "options": {"patience": -1}}},
            "patience must be 0 or more",
        ),
        ({"endpoints": [ENGINE], "admin": {"host": "0.0.0.0"}}, "a token is required when the host is not loopback"),
        ({"endpoints": [ENGINE], "server": {"host": "127.0.0.1", "port": 8081}}, "is the data port already"),
        ({"endpoints": [ENGINE], "server": {"host": "0.0.0.0", "port": 8081}}, "is the data port already"),
        ({"endpoints": [ENGINE], "server": {"host": "::", "port": 8081}}, "is the data port already"),
        ({"endpoints": [ENGINE], "server": {"host": "", "port": 8081}}, "is the data port already"),
        (
            {
                "endpoints": [ENGINE],
                "server": {"host": "10.0.0.1", "port": 8081},
                "admin": {"host": "0.0.0.0", "token": "t"},
            },
            "is the data port already",
        ),
        (
            {"endpoints": [ENGINE], "models": [{"name": "a", "aliases": ["x"]}, {"name": "b", "aliases": ["x"]}]},
            "'x' is the name or alias of 2 models",
        ),
    ],
)
def test_what_cannot_work_is_refused(data: dict[str, Any], says: str) -> None:
    found = problems(data)
    assert len(found) == 1
    assert says in found[0], found


@pytest.mark.parametrize(
    "ports", [{"server": {"host": "10.0.0.1", "port": 8081}}, {"server": {"port": 0}, "admin": {"port": 0}}]
)
def test_ports_may_be_equal_on_different_addresses_and_when_any_will_do(ports: dict[str, Any]) -> None:
    from_data({"endpoints": [ENGINE], **ports}, "test", {})


def test_a_secret_loses_the_blanks_around_it() -> None:
    data = {"endpoints": [{**ENGINE, "api_key": "${KEY}"}], "admin": {"token": " t\u00f6ken\r\n"}}
    config = from_data(data, "test", {"KEY": "sk-1\n"})
    assert config.endpoints[0].api_key.get_secret_value() == "sk-1"
    assert config.admin.token.get_secret_value() == "t\u00f6ken"


@pytest.mark.parametrize("inner", [" ", "\n", "\t", "\x00", "\x7f", "\u00a0", "\udce9"])
def test_a_secret_that_no_header_can_carry_is_refused_and_not_shown(inner: str) -> None:
    secret = f"do{inner}not-show"
    found = problems({"endpoints": [{**ENGINE, "api_key": secret}], "admin": {"token": secret}})
    says = "must not contain blanks or control characters: it is sent in a header"
    assert found == [f"admin.token: {says}", f"endpoints[0].api_key: {says}"]


def test_no_value_of_a_secret_is_shown_in_an_error_or_a_dump() -> None:
    secret = "sk-do-not-show"
    found = problems({"endpoints": [{**ENGINE, "api_key": [secret]}], "admin": {"token": {"x": secret}}})
    config = from_data({"endpoints": [{**ENGINE, "api_key": secret}], "admin": {"token": secret}}, "test", {})
    assert secret not in str(found) + repr(config) + config.model_dump_json()


def test_a_variable_that_is_set_but_empty_is_empty_unless_there_is_a_default() -> None:
    labels = {"a": "${EMPTY}", "b": "${EMPTY:-other}"}
    config = from_data({"endpoints": [{**ENGINE, "labels": labels}]}, "test", {"EMPTY": ""})
    assert config.endpoints[0].labels == {"a": "", "b": "other"}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"server": {"trusted_proxies": ["10.0.0.1/8"]}}, "server.trusted_proxies[0]: must be an address or a network"),
        ({"server": {"trusted_proxies": ["proxy"]}}, "server.trusted_proxies[0]: must be an address or a network"),
        ({"server": {"forwarded_header": "x-real-ip"}}, "server.forwarded_header: "),
        ({"server": {"stream_keep_alive": -1}}, "server.stream_keep_alive: "),
        ({"cors": {"origins": ["chat.example.com"]}}, "cors.origins[0]: must be what browsers send"),
        ({"cors": {"origins": ["https://chat.example.com/"]}}, "cors.origins[0]: must be what browsers send"),
        ({"cors": {"max_age": -1}}, "cors.max_age: "),
        ({"access_log": {"prefix_blocks": -1}}, "access_log.prefix_blocks: "),
        ({"access_log": {"to": 5}}, "access_log.to: "),
        ({"reload": {"watch": -1}}, "reload.watch: "),
        ({"models": [{"name": "m", "timeouts": {"idle": 0}}]}, "models[0].timeouts.idle: "),
        ({"models": [{"name": "m", "timeouts": {"drain": 1}}]}, "models[0].timeouts.drain: there is no such key"),
    ],
)
def test_values_out_of_range_are_refused_with_their_path(data: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_data({"endpoints": [{"url": "http://a"}], **data}, "test", {})
    assert caught.value.problems[0].startswith(said)


def test_a_log_that_is_off_may_be_said_in_yamls_own_words() -> None:
    for off in (False, None, ""):
        assert (
            from_data({"endpoints": [{"url": "http://a"}], "access_log": {"to": off}}, "test", {}).access_log.to == ""
        )


@pytest.mark.parametrize("off", ["off", False])
def test_kv_events_that_are_off_may_be_said_in_yamls_own_words(off: object) -> None:
    data = {"endpoints": [{"url": "http://a:1", "kv_events": off}, {"url": "http://b:1"}]}
    assert [endpoint.kv_events for endpoint in from_data(data, "test", {}).endpoints] == ["off", "auto"]


@pytest.mark.parametrize(
    ("key", "address", "says"),
    [
        ("endpoint", "tcp://a", "must be tcp://HOST:PORT"),
        ("endpoint", "http://a:5557", "must be tcp://HOST:PORT"),
        ("endpoint", "tcp://a:5557/x", "must be tcp://HOST:PORT"),
        ("endpoint", "tcp://a:99999", "Port out of range"),
        ("replay", "tcp://*:5558", "the engine's own address"),
    ],
)
def test_kv_events_need_addresses_that_zeromq_takes(key: str, address: str, says: str) -> None:
    stated = {"endpoint": "tcp://*:5557", "topic": "kv", key: address}
    assert any(says in problem for problem in problems({"endpoints": [{"url": "http://a:1", "kv_events": stated}]}))
