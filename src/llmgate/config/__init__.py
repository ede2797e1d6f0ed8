"""Typed configuration: the schema, and loading it from YAML and the environment."""

from llmgate.config.errors import ConfigError
from llmgate.config.load import from_data, load_file
from llmgate.config.read import read_yaml
from llmgate.config.schema import Config, DebugLogConfig, EndpointConfig, ModelConfig, SloConfig, TracingConfig
from llmgate.config.source import ConfigFile, FileWatch
from llmgate.config.tls import EndpointTls, ListenerTls
from llmgate.config.tls_files import Tls, TlsFiles

__all__ = [
    "Config",
    "ConfigError",
    "ConfigFile",
    "DebugLogConfig",
    "EndpointConfig",
    "EndpointTls",
    "FileWatch",
    "ListenerTls",
    "ModelConfig",
    "SloConfig",
    "Tls",
    "TlsFiles",
    "TracingConfig",
    "from_data",
    "load_file",
    "read_yaml",
]
