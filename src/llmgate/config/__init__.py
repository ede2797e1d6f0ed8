"""Typed configuration: the schema, and loading it from YAML and the environment."""

from llmgate.config.errors import ConfigError
from llmgate.config.load import from_data, load_file
from llmgate.config.read import read_yaml
from llmgate.config.schema import Config, EndpointConfig, ModelConfig

__all__ = ["Config", "ConfigError", "EndpointConfig", "ModelConfig", "from_data", "load_file", "read_yaml"]
