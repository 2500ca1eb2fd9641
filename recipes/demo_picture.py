"""Take the picture of the page that README.md shows.

    python recipes/demo_picture.py runs/quickstart recipes/images/demo.png

needs the extras `demo` and `test-browser`, Chromium with its driver, and a run whose latents are named.
"""

from __future__ import annotations

import io
import shutil
import sys
import time
from pathlib import Path

from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By

from csr_hf.demo.app import open_page

_WIDTH, _HEIGHT = 1280, 880
_PATIENCE = 120


def take(run: Path, picture: Path) -> None:
    """Open the page of a run at its latents, open the most frequent one, and write what is seen."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in ("--headless=new", "--no-sandbox", "--hide-scrollbars"):
        options.add_argument(flag)
    page = open_page(run)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        sizes = {"width": _WIDTH, "height": _HEIGHT, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", sizes)
        driver.get(f"{page.url}?__theme=light")
        _wait_for(driver, "#results .csr-hit")
        driver.find_elements(By.CSS_SELECTOR, "button[role=tab]")[1].click()
        _wait_for(driver, "#map .csr-b")
        click = "document.querySelector('#map .csr-b').dispatchEvent(new MouseEvent('click', {bubbles: true}))"
        driver.execute_script(click)
        _wait_for(driver, "#panel .csr-hit")
        time.sleep(1)
        shot = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")
    finally:
        driver.quit()
        page.close()
    shot.quantize(128, dither=Image.Dither.NONE).save(picture, optimize=True)


def _wait_for(driver: webdriver.Chrome, selector: str) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not driver.find_elements(By.CSS_SELECTOR, selector):
        if time.monotonic() > deadline:
            raise TimeoutError(f"the page has shown no {selector} within {_PATIENCE} seconds.")
        time.sleep(0.2)


if __name__ == "__main__":
    take(Path(sys.argv[1]), Path(sys.argv[2]))
