"""Configs as values, and what is typed for them."""

from thetahat.core.config.config import (
    Config as Config,
    changed_keys as changed_keys,
    differences as differences,
    digest as digest,
    from_plain as from_plain,
    from_toml as from_toml,
    kind_of as kind_of,
    override as override,
    pairs_between as pairs_between,
    settings as settings,
    settings_of as settings_of,
    to_plain as to_plain,
    to_toml as to_toml,
)
