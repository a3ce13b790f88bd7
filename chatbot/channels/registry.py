"""Channels by the name that messages carry."""

from __future__ import annotations

from importlib import import_module

from chatbot.channels.protocols import Channel
from chatbot.config import CHANNELS, Settings


def build(name: str, settings: Settings) -> Channel:
    """Return the channel of that name as the settings describe it; its module is imported by this call."""
    module, _, class_ = CHANNELS[name].partition(":")
    return getattr(import_module(module), class_).from_settings(settings)  # type: ignore[no-any-return]  # by name
