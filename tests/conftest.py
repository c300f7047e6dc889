"""Every test leaves no thread behind, and starts from the same random numbers."""

import functools
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch


@pytest.fixture(autouse=True)
def _no_thread_is_left_and_seeds_are_fixed() -> Iterator[None]:
    torch.manual_seed(0)
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + 5
    while (left := _stages(before)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not left, f"threads left behind: {left}"


def _stages(before: set[threading.Thread]) -> list[threading.Thread]:
    return [
        thread
        for thread in threading.enumerate()
        if thread not in before and thread.name.startswith("carfilter")
    ]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@functools.cache
def _has_rtsp_server() -> bool:
    script = (
        "import gi; gi.require_version('GstRtspServer', '1.0')\n"
        "from gi.repository import Gst, GstRtspServer; Gst.init(None)\n"
        "assert all(map(Gst.ElementFactory.find, ('x264enc', 'rtph264pay', 'alawenc')))"
    )
    try:
        return subprocess.run(["/usr/bin/python3", "-c", script], check=False).returncode == 0
    except OSError:
        return False


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("cuda") and not torch.cuda.is_available():
        if os.environ.get("CARFILTER_REQUIRE_CUDA") == "1":
            pytest.fail("CARFILTER_REQUIRE_CUDA=1, but there is no CUDA device")
        pytest.skip("needs a CUDA device")
    if item.get_closest_marker("rtsp") and not _has_rtsp_server():
        if os.environ.get("CI"):
            pytest.fail("CI must have GStreamer's RTSP server")
        pytest.skip(
            "needs GStreamer's RTSP server (Debian: apt install gir1.2-gst-rtsp-server-1.0"
            " python3-gi gstreamer1.0-plugins-{base,good,bad,ugly})"
        )
    if item.get_closest_marker("ffmpeg") and not shutil.which("ffmpeg"):
        if os.environ.get("CI"):
            pytest.fail("CI must have the ffmpeg program")
        pytest.skip("needs the ffmpeg program (Debian: apt install ffmpeg)")


@pytest.fixture(scope="session")
def browser() -> Iterator[object]:
    """Open Chromium without a window."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        if os.environ.get("CARFILTER_REQUIRE_BROWSER") == "1":
            pytest.fail("CARFILTER_REQUIRE_BROWSER=1, but there is no chromium with chromedriver")
        pytest.skip("needs chromium and chromedriver (Debian: apt install chromium-driver)")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for name in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"):
        options.add_argument(f"--{name}")
    options.add_argument("--window-size=1200,900")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options, webdriver.ChromeService(driver))
    try:
        yield opened
    finally:
        opened.quit()
