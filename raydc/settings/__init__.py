"""The base of every configuration, training as data, and what is written down without passwords."""

from raydc.settings.base import (
    Settings,
    SettingsError,
    build,
    described,
    differences,
    fields,
    flatten,
    public,
    unflatten,
)

__all__ = ["Settings", "SettingsError", "build", "described", "differences", "fields", "flatten", "public", "unflatten"]
