"""Tests; this file decides which Hub they talk to."""

import os
import socket
import tempfile

# Before any of the libraries is imported, since they read it once. The Hub of all tests, in this process and in those
# it starts, is a local one (the fixture `hub`); before its first use connections are refused.
with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    HUB_PORT = probe.getsockname()[1]
_HOME = tempfile.TemporaryDirectory(prefix="hf_home_")
# Two workers share two cores: torch gives one thread to each.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ |= {
    "HF_ENDPOINT": f"http://127.0.0.1:{HUB_PORT}",
    "HF_HOME": _HOME.name,
    "HF_HUB_DISABLE_XET": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
for name in ("HF_TOKEN", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_MODULES_CACHE", "HF_HUB_OFFLINE"):
    os.environ.pop(name, None)
