"""A page in headless Chromium, as a person would see it, and what is wrong with it."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

WIDTHS = (390, 1280)        # of a phone and of a laptop, in pixels


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A running Chromium; tests skip where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright looks at pages: pip install -e .[test]")
    binary = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if binary is None:
        pytest.skip("pages are looked at in Chromium, which is not on this machine: apt-get install chromium")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=binary, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@dataclass
class Seen:
    """A page that was opened, with what went wrong meanwhile: lines of the console, and addresses it asked for."""

    page: Any
    console: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def faults(self) -> list[str]:
        """What axe finds that keeps people from using the page: of WCAG 2.2 AA, and good manners."""
        axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe: pip install -e .[test]")
        found = axe.Axe().run(self.page).response
        assert len(found["passes"]) > 10        # it did look
        return [f"{rule['impact']}: {rule['help']}: {rule['nodes'][0]['html'][:200]}" for rule in found["violations"]]

    def broken_pictures(self) -> list[str]:
        """Pictures that can't be shown, those below the fold, too."""
        self.page.evaluate("""() => Promise.all([...document.images].map((image) => {
            image.loading = "eager";
            return image.complete ? null : new Promise((done) => { image.onload = image.onerror = done; });
        }))""")
        return self.page.evaluate("[...document.images].filter((i) => !i.naturalWidth).map((i) => i.src.slice(0, 99))")

    def wider_than_the_window(self) -> int:
        """Pixels by which one would have to scroll sideways."""
        return self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


def opened(browser: Any, address: str | Path, *, width: int = 1280, scheme: str = "light") -> Seen:
    """Opens a file, or an address, in a window of its own."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    seen = Seen(page)
    page.on("console", lambda line: seen.console.append(line.text))
    page.on("pageerror", lambda error: seen.console.append(str(error)))
    page.on("request", lambda request: seen.asked.append(request.url))
    page.goto(address.resolve().as_uri() if isinstance(address, Path) else address)
    return seen


def flawless(seen: Seen) -> None:
    """Fails where a page complains, asks for something from elsewhere, shows no picture, or keeps people out."""
    assert not seen.console
    assert not [address for address in seen.asked if not address.startswith(("file:", "data:", "http://127.0.0.1:"))]
    assert not seen.broken_pictures()
    assert not seen.faults()
    assert seen.wider_than_the_window() == 0
