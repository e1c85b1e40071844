"""The reports as a reader has them: opened in a headless Chromium, searched, a culprit chosen, with a keyboard, in the dark, on a phone.

FLAVA_PORT_SCREENSHOTS=FOLDER keeps a picture of each page.
"""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from flava_port import convert_flava_checkpoint
from flava_port.cli import main
from flava_port.releases.observation import OURS, write
from tests.proof.faults import FAULTS, plant

pytestmark = pytest.mark.browser

SIZES = {"wide": (1280, 900), "phone": (390, 844)}
CULPRIT = "flava.text_model.encoder.layer.1.attention.attention.query"


@pytest.fixture(scope="session")
def browser():
    """A Chromium without a window. Its console's messages are kept."""
    selenium = pytest.importorskip("selenium.webdriver", reason="selenium is not here: pip install 'flava-port[browser]'")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("there is no Chromium with its driver: apt-get install chromium chromium-driver")
    options = selenium.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = selenium.Chrome(options=options, service=selenium.ChromeService(executable_path=driver))
    yield started
    started.quit()


@pytest.fixture(scope="session")
def pages(tiny, tmp_path_factory):
    """The page of a proven folder, of a faulty one and of a comparison, as the commands write them."""
    from flava_port.releases.observe import observe_in_short

    folder = tmp_path_factory.mktemp("pages")
    convert_flava_checkpoint(tiny.checkpoint, tiny.codebook, folder / "clean", tokenizer=tiny.vocabulary)
    plant(next(fault for fault in FAULTS if fault.name == "query and key swapped"), folder / "clean", folder / "faulty")
    sides = "--checkpoint_path", str(tiny.checkpoint), "--codebook_path", str(tiny.codebook), "--tokenizer", str(tiny.vocabulary)
    for name, status in (("clean", 0), ("faulty", 1)):
        command = ["verify", *sides, "--converted_path", str(folder / name), "--html", str(folder / f"{name}.html"), "--quiet"]
        assert main(command) == status
    observed = observe_in_short()
    other = replace(observed, versions={**observed.versions, "transformers": "9.9.9"}, loaded={**observed.loaded, OURS: "1 wrong"})
    for name, observation in (("old", observed), ("new", other)):
        write(observation, folder / name)
    assert main(["drift", "--from", str(folder / "old"), "--to", str(folder / "new"), "--html", str(folder / "drift.html"), "--quiet"]) == 1
    return folder


@pytest.fixture
def opened(browser, pages):
    """``opened("faulty", "phone", dark=True)`` opens a page at that size; at the end nothing may have been said on the console."""

    def open_page(name: str, size: str = "wide", *, dark: bool = False):
        browser.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]}
        )
        width, height = SIZES[size]
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size == "phone"}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        browser.get((pages / f"{name}.html").as_uri())
        return browser

    browser.get_log("browser")
    yield open_page
    assert browser.get_log("browser") == []


def keep(browser, name: str) -> None:
    """A picture of the whole page, where somebody asks for it."""
    if folder := os.environ.get("FLAVA_PORT_SCREENSHOTS"):
        from base64 import b64decode

        picture = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "format": "png"})
        (Path(folder) / f"{name}.png").write_bytes(b64decode(picture["data"]))


def found(browser, css: str):
    """The elements that a selector finds and that a reader can see."""
    return [element for element in browser.find_elements("css selector", css) if element.is_displayed()]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["clean", "faulty", "drift"])
def test_a_page_opens_and_nothing_is_wider_than_the_screen(opened, name, size, dark):
    """Its verdict is on the first screen, and dark where that is asked for."""
    browser = opened(name, size, dark=dark)
    keep(browser, f"{name}-{size}-{'dark' if dark else 'light'}")
    heading = found(browser, "h1")[0]
    assert heading.location["y"] + heading.size["height"] < SIZES[size][1]
    assert browser.execute_script("return document.documentElement.scrollWidth") <= SIZES[size][0]
    background = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, background.removeprefix("rgb(").removesuffix(")").split(","))) < 200) is dark


def test_a_culprit_is_chosen_and_shown(opened):
    """Its names in all layouts, what is wrong with it, and what was measured."""
    browser = opened("faulty")
    assert not found(browser, "#detail")
    browser.find_element("css selector", f'button.culprit[data-module="{CULPRIT}"]').click()
    [detail] = found(browser, "#detail")
    for text in (CULPRIT, "text_encoder.module.encoder.layer.1.attention.attention.query", "rule 11", "values differ: max", "gradients"):
        assert text in detail.text
    assert [cell.get_attribute("data-module") for cell in found(browser, '[aria-pressed="true"]')] == [CULPRIT]
    assert browser.execute_script("return arguments[0].getBoundingClientRect().top < innerHeight", detail), "it is out of sight"
    browser.switch_to.active_element.send_keys("\ue00c")  # Escape
    assert not found(browser, "#detail") and browser.switch_to.active_element.get_attribute("data-module") == CULPRIT


def test_the_cause_leads_to_its_place_in_the_model(opened):
    """The cell has the focus, so that the keyboard goes on from there."""
    browser = opened("faulty")
    found(browser, ".cause button")[0].click()
    assert browser.switch_to.active_element.get_attribute("data-module") == CULPRIT and found(browser, "#detail")


def test_cells_are_reached_and_chosen_by_the_keyboard(opened):
    """One of a panel by Tab, the others by arrows; Enter chooses."""
    browser = opened("faulty")
    browser.execute_script("document.querySelectorAll('.panel')[1].querySelector('[tabindex=\"0\"]').focus()")
    active = browser.switch_to.active_element
    assert active.get_attribute("data-module") == CULPRIT
    active.send_keys("\ue015")  # down
    assert browser.switch_to.active_element.get_attribute("data-module") == CULPRIT.replace("query", "key")
    browser.switch_to.active_element.send_keys("\ue007")  # Enter
    assert "key" in found(browser, "#detail h3")[0].text
    assert browser.execute_script("return document.querySelectorAll('.panel [tabindex=\"0\"]').length") == len(found(browser, ".panel"))


def test_keys_are_searched_and_filtered(opened):
    """In any layout, by several words; the count is said."""
    browser = opened("faulty")
    assert len(found(browser, "#keys tbody tr")) == 40
    browser.find_element("id", "more").click()
    everything = len(found(browser, "#keys tbody tr"))
    assert everything > 200 and browser.find_element("id", "count").text == f"{everything} keys"
    search = browser.find_element("id", "search")
    search.send_keys("FEEDFORWARD.model.0 text")
    shown = found(browser, "#keys tbody tr")
    assert 0 < len(shown) < everything and all("intermediate.dense" in row.text for row in shown)
    assert browser.find_element("id", "count").text == f"{len(shown)} of {everything} keys"
    search.clear()
    search.send_keys(" ")
    browser.find_element("css selector", '#filter option[value="wrong"]').click()
    assert [row.find_elements("css selector", "button")[0].text for row in found(browser, "#keys tbody tr")] == [
        f"{CULPRIT}.weight",
        f"{CULPRIT}.weight".replace("query", "key"),
    ]


def test_colours_are_of_the_claim_that_is_chosen(opened):
    """Gradients spread from one fault to the whole model, and colour it only where they are asked for."""
    browser = opened("faulty")
    before = len(found(browser, ".panel .cell.far"))
    browser.find_element("css selector", '#colour option[value="gradients"]').click()
    assert len(found(browser, ".panel .cell.far")) > 3 * before
    browser.find_element("css selector", '#colour option[value="codebook"]').click()
    assert not found(browser, ".panel .cell.far") and found(browser, ".panel .cell.culprit")


def test_what_changed_leads_to_the_differences(opened):
    """From the kind in the table to what changed."""
    browser = opened("drift")
    [link] = found(browser, ".matrix a")
    link.click()
    assert browser.current_url.endswith("#loading-1") and "1 wrong" in found(browser, "#loading-1 li")[0].text


def test_a_printed_page_has_everything_open(opened):
    """What is folded on the screen is not on paper."""
    browser = opened("faulty")
    closed = browser.execute_script("return document.querySelectorAll('details:not([open])').length")
    browser.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert closed and browser.execute_script("return document.querySelectorAll('details:not([open])').length") == 0
    browser.execute_script("dispatchEvent(new Event('afterprint'))")
    assert browser.execute_script("return document.querySelectorAll('details:not([open])').length") == closed
