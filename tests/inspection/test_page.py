"""The page of a file works in a real browser: by mouse, by keyboard, and on paper."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from carfilter.commands.inspect import carfilter_inspect
from carfilter.restore.int8.rows import compiled_kind
from clips import make_clip, tiny_weights


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    options = {"qp": "36", "g": "8", "sc_threshold": "0"}
    clip = make_clip(folder / "a.mp4", frames=24, size=(320, 192), options=options)
    target = folder / "a.html"
    given = [str(clip), "--html", str(target), "--weights", str(tiny_weights(folder / "t.pt"))]
    assert CliRunner().invoke(carfilter_inspect, given).exit_code == 0
    return target


@pytest.mark.skipif(compiled_kind() is None, reason="nothing is compiled for this CPU")
def test_a_page_needs_no_torch(tmp_path: Path) -> None:
    clip, target = make_clip(tmp_path / "a.mp4"), tmp_path / "a.html"
    code = (
        "import sys; from carfilter.inspection import inspect, page; from pathlib import Path\n"
        "options, target = inspect.InspectOptions(weights='fast', device='cpu'), sys.argv[2]\n"
        "text = page.page(inspect.look_at(sys.argv[1], options), options)\n"
        "Path(target).write_text(text)\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(clip), str(target)], check=True)
    assert "<html" in target.read_text()


@pytest.mark.browser
def test_sliders_and_layers_follow_the_keyboard_and_nothing_is_fetched(
    browser: object, page: Path
) -> None:
    from selenium.webdriver.chrome.webdriver import WebDriver
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    assert isinstance(browser, WebDriver)
    browser.get_log("browser"), browser.get_log("performance")
    browser.get(page.as_uri())
    sliders = browser.find_elements(By.CSS_SELECTOR, ".compare input[type=range]")
    assert len(sliders) == 4
    assert all(slider.get_attribute("aria-label") for slider in sliders)
    sliders[1].send_keys(Keys.HOME)
    cut = "return arguments[0].closest('.compare').style.getPropertyValue('--cut')"
    assert browser.execute_script(cut, sliders[1]) == "0%"

    section = browser.find_elements(By.TAG_NAME, "section")[1]
    shown = lambda: [  # noqa: E731
        part.get_attribute("data-layer")
        for part in section.find_elements(By.CSS_SELECTOR, ".whole [data-layer]")
        if part.is_displayed()
    ]
    assert shown() == []
    section.find_element(By.CSS_SELECTOR, "input[value='']").send_keys(Keys.ARROW_RIGHT)
    assert shown() == ["qp"]
    box = section.find_element(By.CLASS_NAME, "show-difference")
    box.send_keys(Keys.SPACE)
    assert section.find_element(By.CLASS_NAME, "difference").is_displayed()

    assert all(
        browser.execute_script("return [...document.images].map((i) => i.naturalWidth && i.alt)")
    )
    assert browser.get_log("browser") == []
    asked = set()
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            asked.add(message["params"]["request"]["url"].split(":")[0])
    assert asked <= {"file", "data"}


@pytest.mark.browser
def test_on_paper_both_pictures_and_their_difference_stand(browser: object, page: Path) -> None:
    from selenium.webdriver.chrome.webdriver import WebDriver
    from selenium.webdriver.common.by import By

    assert isinstance(browser, WebDriver)
    browser.get(page.as_uri())
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        compare = browser.find_element(By.CLASS_NAME, "compare")
        after, before, difference = compare.find_elements(By.TAG_NAME, "img")
        boxes = [one.rect for one in (before, after, difference)]
        assert all(box["width"] > 100 and box["height"] > 50 for box in boxes)
        assert boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"] + 1
        assert boxes[0]["y"] == pytest.approx(boxes[1]["y"], abs=1)
        assert not compare.find_element(By.TAG_NAME, "input").is_displayed()
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
