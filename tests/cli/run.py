#!/usr/bin/env python3
"""Tests of the crnet executable, end to end. Needs nothing but Python's standard library.

Usage: run.py --crnet EXECUTABLE --work FOLDER (--make-fixture | MODULE [unittest arguments])
    run.py --crnet build/release/crnet --work /tmp/cli-tests errors_test -v
"""
import argparse
import pathlib
import sys
import unittest

import harness


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crnet", required=True, type=pathlib.Path)
    parser.add_argument("--work", required=True, type=pathlib.Path)
    parser.add_argument("--make-fixture", action="store_true")
    parser.add_argument("module", nargs="?")
    arguments, rest = parser.parse_known_args()
    launcher = arguments.crnet.resolve(strict=True)
    harness.Setup.crnet = str(launcher)
    one_of_two = launcher.with_name("crnet-cpu")
    harness.Setup.program = one_of_two if one_of_two.exists() else launcher
    arguments.work.mkdir(parents=True, exist_ok=True)
    harness.Setup.work = arguments.work.resolve()
    if arguments.make_fixture or not harness.fixture("complete").exists():
        harness.make_fixture()
    if arguments.module:
        unittest.main(module=arguments.module, argv=[sys.argv[0], *rest])
    elif not arguments.make_fixture:
        parser.error("expected --make-fixture or the name of a module")


if __name__ == "__main__":
    main()
