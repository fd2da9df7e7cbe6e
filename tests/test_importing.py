from __future__ import annotations

import pytest


def test_our_modules_are_imported_as_written_and_those_of_others_are_not(
    pytester: pytest.Pytester,
) -> None:
    pytester.makeconftest(
        """
        import sys

        import pytest

        @pytest.hookimpl(wrapper=True)
        def pytest_unconfigure(config):
            yield
            if not hasattr(config, "workerinput"):
                hook = config.pluginmanager.rewrite_hook
                ours = [
                    module
                    for name, module in sys.modules.items()
                    if name.startswith(("pytest_shardrun.executors.", "pytest_shardrun.course"))
                ]
                print("first:", sys.meta_path[0] is hook)
                print("modules:", len(ours) > 3)
                print("rewritten:", [each for each in ours if each.__loader__ is hook])
        """
    )
    pytester.makepyfile("def test_it():\n    one = 1\n    assert one == 2")

    result = pytester.runpytest_subprocess("--shards=2", "-s")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*assert 1 == 2", "first: True", "modules: True", "rewritten: []"], consecutive=False
    )
