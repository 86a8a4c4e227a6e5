"""The pytest door: options, collection of the laws for every target, and the report.

This module is a `pytest11` entry point: it is loaded in every pytest run of an environment, so it imports neither torch
nor Hypothesis before a law is collected. Its hooks are written where they belong:

* `options`: which options there are and what they mean;
* `subjects`: the targets in their dtypes, and what is known to fail;
* `collection`, `item`: the laws as tests, and one law on one subject;
* `gathering`, `session`, `workers`, `apart`: what laws leave, from the start of a run to its report, whoever dies;
* `terminal`: what is said about it;
* `launch`: all of that in a process that another one watches.
"""

from properties.plugin.collection import pytest_collect_file, pytest_collection, pytest_collection_modifyitems
from properties.plugin.item import pytest_runtest_makereport
from properties.plugin.options import pytest_configure, pytest_load_initial_conftests
from properties.plugin.session import pytest_sessionfinish, pytest_sessionstart, pytest_unconfigure
from properties.plugin.terminal import pytest_report_header, pytest_report_teststatus, pytest_terminal_summary

__all__ = [
    "pytest_collect_file",
    "pytest_collection",
    "pytest_collection_modifyitems",
    "pytest_configure",
    "pytest_load_initial_conftests",
    "pytest_report_header",
    "pytest_report_teststatus",
    "pytest_runtest_makereport",
    "pytest_sessionfinish",
    "pytest_sessionstart",
    "pytest_terminal_summary",
    "pytest_unconfigure",
]
