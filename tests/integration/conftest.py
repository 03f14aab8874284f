"""Fixtures of the integration tests."""

from __future__ import annotations

import pytest

from node_programs import NodeTools, installed_tools


@pytest.fixture(scope="session")
def node_tools() -> NodeTools:
    """The programs of tests/node; skips, with the reason, where they cannot be had."""
    return installed_tools()
