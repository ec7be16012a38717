"""`make image` itself takes minutes and is not run by the tests."""

import os
import subprocess
import sys

from fmv.devstack import stack


def test_make_image_names_what_this_machine_lacks_and_does_nothing(tmp_path):
    ended = subprocess.run(
        [sys.executable, "-m", "tests.image"],
        cwd=stack.ROOT,
        env=os.environ | {"PATH": str(tmp_path), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    lacking = "buildah, debootstrap, unshare" if sys.platform == "linux" and os.geteuid() == 0 else "Linux and root"
    assert ended.returncode == 2
    assert f"`make image` needs {lacking}" in ended.stderr
    assert list(tmp_path.iterdir()) == []
