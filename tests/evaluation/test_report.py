"""The report: one page that loads nothing, and works in a real browser."""

import base64
import io
import json
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from carfilter.commands.evaluate import main
from carfilter.evaluation import measures
from carfilter.evaluation.flow_picture import flow_picture
from carfilter.evaluation.measures import shown_frame
from carfilter.evaluation.record import command_line
from carfilter.media.clips import Clip
from carfilter.pages.document import script_json
from detectors import save_detector, yolox_output
from scenes import draw_clip, save_clip, save_model

# A car over the middle of the picture, in the coarsest grid; a sure one and one in doubt.
BOXES = yolox_output({80: [0.5, 0.5, 0, 0, 0.9, 0, 1, 0], 3: [0, 0, 0, 0, 0.1, 1, 0, 0]})


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of two clips with a network and a detector."""
    folder = tmp_path_factory.mktemp("report")
    clips = [save_clip(folder / f"{name}.mkv", draw_clip(seed)) for seed, name in enumerate("ab")]
    detector = save_detector(folder / "d.onnx", BOXES)
    target = folder / "out" / "report.html"
    target.parent.mkdir()
    options = ("--no-shipped", "--no-vmaf", "--no-spp", "-preset", "veryfast")
    files = ("--weights", save_model(folder / "tiny.pt"), "--detector", detector)
    command = (
        *clips,
        *options,
        *files,
        "--detector-size",
        "file",
        "--paper",
        "--note",
        "One <b>note</b> & more.",
    )
    result = CliRunner().invoke(
        main,
        [str(part) for part in (*command, "--cache", folder / "cache", "--report", target)],
    )
    assert result.exit_code == 0, result.stderr
    return target


def test_the_page_refers_to_nothing_outside(page: Path) -> None:
    text = page.read_text()
    html = text[: text.index("<script")]
    sources = re.findall(r"""\b(?:src|href)="([^"]*)"|url\(([^)]*)\)""", html)
    kinds = {re.split("[:#]", one or other)[0] for one, other in sources}
    assert kinds == {"data", ""}  # pictures, and places on the page itself
    assert "http" not in text[text.rindex("<script>") :].replace("http://www.w3.org/2000/svg", "")
    assert "default-src 'none'" in text


def test_the_page_names_no_folder_of_this_machine(page: Path) -> None:
    assert str(page.parent.parent) not in page.read_text()


def test_the_command_keeps_sentences_and_drops_folders() -> None:
    shown = command_line(["/some/where/clips", "--note", "Set V of models/README.md chose."])
    assert shown == "carfilter-eval clips --note 'Set V of models/README.md chose.'"
    shown = command_line(["/home/me/my clips/a.mp4", "--weights=/home/me/x.pt", "--note=One/two."])
    assert shown == "carfilter-eval a.mp4 --weights=x.pt --note=One/two."


def test_text_from_outside_is_escaped(page: Path) -> None:
    text = page.read_text()
    assert "One &lt;b&gt;note&lt;/b&gt; &amp; more." in text
    assert "<b>note</b>" not in text


def test_data_cannot_end_the_script_element() -> None:
    assert "</script" not in script_json({"name": "</script><script>alert(1)"})


def test_the_page_says_how_it_was_made(page: Path) -> None:
    text = page.read_text()
    assert re.search(r"carfilter-eval a\.mkv b\.mkv (.|\n)*--report report\.html", text)
    assert len(set(re.findall(r"[0-9a-f]{64}", text))) >= 2 + 2 * 4 + 2  # clips, variants, models


def test_the_shown_frame_is_one_that_the_detector_saw() -> None:
    assert [shown_frame(12, every) for every in (1, 4, 5)] == [6, 4, 5]


def test_the_page_shows_what_moves_in_all_variants(page: Path) -> None:
    moving = page.read_text().split('id="moving"')[1].split('id="time"')[0]
    assert "What moves" in moving
    rows = re.findall(r'<th scope="row">(\w+)', moving)
    assert set(rows) == {"decode", "tiny"}


def test_the_page_shows_the_motion_of_each_clip(page: Path) -> None:
    moving = page.read_text().split('id="moving"')[1].split('id="time"')[0]
    flows = re.findall(r'class="flow" src="data:image/webp;base64,([^"]+)"', moving)
    assert len(flows) == 2
    for flow in flows:
        with Image.open(io.BytesIO(base64.b64decode(flow))) as image:
            assert image.size == (128 // 4, 96 // 4)


@pytest.mark.parametrize(
    ("right", "down", "strong"), [(6, 0, "R"), (-6, 0, "GB"), (0, 6, "RG"), (0, -6, "RB")]
)
def test_the_colour_of_motion_is_its_direction(right: int, down: int, strong: str) -> None:
    rough = np.random.default_rng(4).integers(0, 256, (40, 50)).astype(np.uint8)
    whole = np.asarray(Image.fromarray(rough).resize((400, 320), Image.Resampling.BICUBIC))
    before = whole[60:252, 60:316]
    now = whole[60 - down : 252 - down, 60 - right : 316 - right]
    colours, fastest = flow_picture(before, now)
    assert colours.shape == (48, 64, 3)
    assert 5.5 < fastest < 8  # at the sides, where something new comes in, it is a guess
    middle = dict(zip("RGB", np.median(colours[8:-8, 8:-8], (0, 1)), strict=True))
    weak = [middle[name] for name in "RGB" if name not in strong]
    assert min(middle[name] for name in strong) > max(weak) + 60


def test_what_keeps_still_is_white() -> None:
    still = np.random.default_rng(4).integers(0, 256, (96, 128)).astype(np.uint8)
    assert (flow_picture(still, still)[0] == 255).all()


def test_the_square_of_what_moves_lies_on_the_moving_part() -> None:
    luma = np.full((4, 240, 320), 90, np.uint8)
    for at in range(4):
        luma[at, 160:190, 200 + 9 * at : 230 + 9 * at] = 200
    clip = Clip(luma, np.full((4, 2, 120, 160), 128, np.uint8), Fraction(25))
    top, left, size = measures.picture().run(clip, clip)["moving"]
    assert top <= 160 < 190 <= top + size
    assert left <= 209 < 248 <= left + size


# In a browser ------------------------------------------------------------------------------------


@pytest.fixture
def opened(browser: object, page: Path) -> object:
    from selenium.webdriver.chrome.webdriver import WebDriver

    assert isinstance(browser, WebDriver)
    browser.get_log("browser"), browser.get_log("performance")
    browser.get(page.as_uri())
    return browser


def cut(driver: object) -> float:
    """The share of the picture that the left row has, in per cent, as the page draws it."""
    script = """
        const box = document.getElementById("stage").getBoundingClientRect();
        const handle = document.querySelector(".handle").getBoundingClientRect();
        return 100 * (handle.left + handle.width / 2 - box.left) / box.width;"""
    return float(driver.execute_script(script))


@pytest.mark.browser
def test_the_slider_follows_mouse_and_keyboard(opened: object) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    slider = opened.find_element(By.ID, "slider")
    opened.execute_script("arguments[0].scrollIntoView({block: 'center'})", slider)
    width = slider.size["width"]
    assert cut(opened) == pytest.approx(50, abs=0.5)

    mouse = ActionChains(opened)
    mouse.move_to_element(slider).click_and_hold().move_by_offset(int(width * 0.25), 0)
    mouse.release().perform()
    assert cut(opened) == pytest.approx(75, abs=2)

    slider.send_keys(Keys.HOME)
    assert cut(opened) == pytest.approx(0, abs=0.5)
    slider.send_keys(Keys.ARROW_RIGHT)
    assert 0 < cut(opened) < 2


@pytest.mark.browser
def test_the_slider_follows_a_finger(opened: object) -> None:
    from selenium.webdriver.common.by import By

    slider = opened.find_element(By.ID, "slider")
    opened.execute_script("arguments[0].scrollIntoView({block: 'center'})", slider)
    box = opened.execute_script(
        "const box = arguments[0].getBoundingClientRect(); return [box.left, box.top, box.width]",
        slider,
    )
    for kind, share in (("touchStart", 0.5), ("touchMove", 0.4), ("touchMove", 0.2)):
        point = [{"x": box[0] + share * box[2], "y": box[1] + 20}]
        opened.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": point})
    opened.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    assert cut(opened) == pytest.approx(20, abs=2)


@pytest.mark.browser
def test_pictures_follow_the_choices_and_carry_their_boxes(opened: object) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select

    def picture(side: str) -> str:
        image = opened.find_element(By.CSS_SELECTOR, f"#{side} img")
        assert opened.execute_script("return arguments[0].decode().then(() => true)", image)
        return str(image.get_attribute("src"))

    left, right = picture("left"), picture("right")
    assert left != right
    assert "decode" in opened.find_element(By.ID, "left-caption").text
    assert "tiny" in opened.find_element(By.ID, "right-caption").text
    labels = opened.find_elements(By.CSS_SELECTOR, "#right svg text")
    assert [label.get_attribute("textContent") for label in labels] == ["car 0.90"]

    Select(opened.find_element(By.ID, "column")).select_by_index(3)
    assert picture("left") != left
    Select(opened.find_element(By.ID, "right-row")).select_by_visible_text("clean")
    clean = picture("right")
    assert clean != right
    Select(opened.find_element(By.ID, "clip")).select_by_index(1)
    assert picture("right") != clean
    opened.find_element(By.ID, "boxes").click()
    assert not opened.find_elements(By.CSS_SELECTOR, "#right svg rect")


@pytest.mark.browser
def test_the_browser_complains_of_nothing_and_asks_for_nothing(opened: object) -> None:
    opened.execute_script("for (const d of document.querySelectorAll('details')) d.open = true")
    images = "return [...document.images].every((image) => image.complete && image.naturalWidth)"
    assert opened.execute_script(images)
    assert opened.get_log("browser") == []
    asked = set()
    for entry in opened.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            asked.add(message["params"]["request"]["url"].split(":")[0])
    assert asked <= {"file", "data"}
    assert "file" in asked  # the log does see requests
