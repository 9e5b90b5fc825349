"""crnet starts crnet-cuda where there is a driver for GPUs, else crnet-cpu."""
import os
import pathlib
import re
import shutil
import subprocess
import unittest

from harness import CliTest, Setup, train_arguments

SHOW = '#!/bin/sh\necho "$(basename "$0")" "$@"\nexit 3\n'


def some_shared_library():
    """One that this process has loaded already, so one that loads."""
    maps = pathlib.Path("/proc/self/maps").read_text()
    return re.search(r"\S+/libm[.-]\S*so\S*", maps).group()


@unittest.skipUnless(pathlib.Path(f"{Setup.crnet}-cpu").exists(), "crnet is a single program")
class Launcher(CliTest):
    def setUp(self):
        super().setUp()
        self.program = self.scratch / "bin/crnet"
        self.program.parent.mkdir()
        shutil.copy(Setup.crnet, self.program)
        self.environment = {name: value for name, value in os.environ.items()
                            if name != "CUDA_VISIBLE_DEVICES"}

    def run_it(self, *arguments, program=None, **environment):
        return subprocess.run([program or self.program, *arguments], capture_output=True,
                              text=True, timeout=60, check=False,
                              env={**self.environment, **environment})

    def put_programs_beside(self):
        for name in ("crnet-cpu", "crnet-cuda"):
            path = self.program.with_name(name)
            path.write_text(SHOW)
            path.chmod(0o755)

    def with_driver(self):
        folder = self.scratch / "driver"
        folder.mkdir()
        shutil.copy(some_shared_library(), folder / "libcuda.so.1")
        return {"LD_LIBRARY_PATH": str(folder)}

    def test_it_starts_the_program_that_the_machine_can_use(self):
        self.put_programs_beside()
        driver = self.with_driver()
        for environment, started in ((driver, "crnet-cuda"),
                                     ({**driver, "CUDA_VISIBLE_DEVICES": "0"}, "crnet-cuda"),
                                     ({**driver, "CUDA_VISIBLE_DEVICES": ""}, "crnet-cpu"),
                                     ({**driver, "CUDA_VISIBLE_DEVICES": "-1"}, "crnet-cpu"),
                                     ({"CUDA_VISIBLE_DEVICES": ""}, "crnet-cpu")):
            result = self.run_it("plan", "a b", **environment)
            self.assertEqual((result.stdout, result.returncode), (f"{started} plan a b\n", 3))

    def test_a_link_to_it_finds_them_too(self):
        self.put_programs_beside()
        link = self.scratch / "crnet"
        link.symlink_to(self.program)
        self.assertEqual(self.run_it(program=link, CUDA_VISIBLE_DEVICES="").stdout, "crnet-cpu\n")

    def test_it_says_what_is_missing(self):
        result = self.run_it("--version", CUDA_VISIBLE_DEVICES="")
        self.assertEqual(result.returncode, 70)
        self.assertRegex(result.stderr, r"\Acrnet: expected to start \S+/bin/crnet-cpu, got: "
                                        r"No such file or directory; [^\n]+\n\Z")

    def test_one_program_does_without_cuda(self):
        for name in ("crnet-cpu", "crnet-cuda"):
            program = pathlib.Path(Setup.crnet).with_name(name)
            needed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True)
            self.assertEqual("libtorch_cuda.so" in needed.stdout, name == "crnet-cuda")
            self.assertEqual(self.run_it("--version", program=program).stdout,
                             self.run_it("--version", program=Setup.crnet).stdout)

    def test_the_other_program_trains_to_the_same_bits(self):
        run = self.scratch / "run"
        program = pathlib.Path(Setup.crnet).with_name("crnet-cuda")
        result = self.run_it(*map(str, train_arguments(run)), program=program)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assert_same_end(run, "fp32")
