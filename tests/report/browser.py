"""Pages from files in a headless Chromium: what they log, ask for, print and save, and what axe-core finds in them.

with opened(browser, path) as page:
    assert evaluate(page, "document.title") == "..."
    assert errors(page) == requests(page) == axe(page) == []
"""

import base64
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

webdriver = pytest.importorskip("selenium.webdriver")  # of the test extra; a GPU image may lack it

from selenium.common.exceptions import WebDriverException  # noqa: E402
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402

FLAGS = (
    "--headless=new",
    "--no-sandbox",  # which root cannot have
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--window-size=1280,900",
    "--host-resolver-rules=MAP * ~NOTFOUND",  # a request is seen and gets nowhere, nor do the browser's own
)
OF_THE_FILE = {"file", "data", "blob", "about"}


@dataclass(frozen=True)
class Page:
    """A tab, and what it has logged so far; the driver tells everything once."""

    driver: Any
    name: str
    tab: str
    timeout: float
    console: list[str] = field(default_factory=list)
    network: list[str] = field(default_factory=list)
    warned: list[str] = field(default_factory=list)


def lacking() -> str | None:
    """Why there is no browser here, or None."""
    absent = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"no {' and no '.join(absent)} is installed; `make chromium` installs both" if absent else None


@contextmanager
def started() -> Iterator[Any]:
    """A browser with an empty profile; what it writes into its home and its temporary folder goes with it."""
    # In /tmp, since the path of a socket in it may have 107 characters; written to until the last process has ended.
    with tempfile.TemporaryDirectory(prefix="chromium-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium")
        for flag in (*FLAGS, f"--user-data-dir={folder}/profile"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        # where the driver is named, selenium looks for none and downloads none
        own = {"HOME": folder, "TMPDIR": folder, "XDG_CONFIG_HOME": folder, "XDG_CACHE_HOME": folder}
        driver = webdriver.Chrome(options, Service(shutil.which("chromedriver"), env=os.environ | own))
        try:
            driver.get("about:blank")  # the page for new tabs is made of some fifty requests
            yield driver
        finally:
            driver.quit()


@contextmanager
def opened(driver: Any, path: Path, *, timeout: float = 20, scheme: str = "light") -> Iterator[Page]:
    """The page of a file in a tab of its own, once its window.mupcheck.ready has resolved."""
    first = driver.current_window_handle
    driver.switch_to.new_window("tab")
    page = Page(driver, path.name, driver.current_window_handle, timeout)
    try:
        for log in ("browser", "performance"):
            driver.get_log(log)  # of earlier tabs
        emulate(page, scheme)
        if why := _unready(page, path.resolve().as_uri()):
            driver.switch_to.window(first)  # the tab may be closed
            said = "".join(f"\n  {line}" for line in errors(page))
            raise TimeoutError(f"{page.name} was not ready within {timeout:g} s: {why}{said}")
        yield page
    finally:
        _close(page)
        driver.switch_to.window(first)


def _close(page: Page) -> None:
    # Not by the driver, which waits for a tab that hangs without end: past it, so that its waiting ends as well.
    browser = HTTPConnection(page.driver.capabilities["goog:chromeOptions"]["debuggerAddress"], timeout=10)
    browser.request("GET", f"/json/close/{page.tab}")
    browser.getresponse().read()
    browser.close()


@contextmanager
def _answering(page: Page, seconds: float) -> Iterator[None]:
    """Close the page if it has not answered by then; a script that hangs keeps none of the driver's own limits."""
    hung = threading.Event()
    watch = threading.Timer(seconds, lambda: (hung.set(), _close(page)))
    watch.start()
    try:
        yield
    except WebDriverException:
        if not hung.is_set():
            raise
    finally:
        watch.cancel()
        watch.join()
    if hung.is_set():
        raise TimeoutError(f"{page.name} did not answer within {seconds:g} s")


READY = """
(async (late) => {
  const pause = (time) => new Promise((resolve) => setTimeout(resolve, time));
  while (!(window.mupcheck && window.mupcheck.ready)) {
    if (performance.now() > late) return "it has no window.mupcheck.ready";
    await pause(10);
  }
  return await Promise.race([
    window.mupcheck.ready.then(() => null),
    pause(late - performance.now()).then(() => "its window.mupcheck.ready is still pending"),
  ]);
})(performance.now() + 1000 * SECONDS).catch((error) => `its window.mupcheck.ready was rejected: ${error}`)
"""


def _unready(page: Page, address: str) -> str | None:
    late = time.monotonic() + page.timeout
    try:
        with _answering(page, page.timeout):
            page.driver.get(address)
        return evaluate(page, READY.replace("SECONDS", str(late - time.monotonic())))
    except TimeoutError:
        return "it did not load, or hangs"


def evaluate(page: Page, script: str) -> Any:
    """The value of a JavaScript expression in the page; a promise is waited for."""
    asked = {"expression": script, "awaitPromise": True, "returnByValue": True, "userGesture": True}
    with _answering(page, page.timeout + 1):
        answer = page.driver.execute_cdp_cmd("Runtime.evaluate", asked)
    if "exceptionDetails" in answer:
        raise RuntimeError(f"{script}: {answer['result'].get('description', answer['result'])}")
    return answer["result"].get("value")


def errors(page: Page) -> list[str]:
    """The errors in the page's console so far: logged, thrown, rejected, not loaded."""
    _read_console(page)
    return page.console


def warnings(page: Page) -> list[str]:
    """The warnings in the page's console so far."""
    _read_console(page)
    return page.warned


def _read_console(page: Page) -> None:
    for entry in page.driver.get_log("browser"):
        of_level = {"SEVERE": page.console, "WARNING": page.warned}.get(entry["level"], [])
        of_level.append(entry["message"])


def requests(page: Page) -> list[str]:
    """The addresses outside the file that the page has asked for so far."""
    for entry in page.driver.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            address = message["params"]["request"]["url"]
        elif message["method"] in ("Network.webSocketCreated", "Network.webTransportCreated"):
            address = message["params"]["url"]
        else:
            continue
        if urlsplit(address).scheme not in OF_THE_FILE:
            page.network.append(address)
    return page.network


def axe(page: Page) -> list[str]:
    """What axe-core finds in the page that is serious or critical, a line each: rule, impact, help, elements.

    It does not judge the contrast of text in an SVG.
    """
    if not evaluate(page, "'axe' in window"):
        evaluate(page, (files("selenium_axe_python") / "axe-core/axe.min.js").read_text("utf-8") + "; undefined")
    found = evaluate(page, "axe.run(document, { resultTypes: ['violations'] }).then((found) => found.violations)")
    return [
        f"{rule['id']}, {rule['impact']}: {rule['help']}: {', '.join(node['html'] for node in rule['nodes'])}"
        for rule in found
        if rule["impact"] in ("serious", "critical")
    ]


def emulate(page: Page, scheme: str) -> None:
    """Have the reader prefer a "dark" or a "light" page."""
    wish = {"name": "prefers-color-scheme", "value": scheme}
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [wish]})


def printed(page: Page) -> bytes:
    """The page as a PDF, on the paper that its styles ask for, with its backgrounds."""
    asked = {"printBackground": True, "preferCSSPageSize": True}
    return base64.b64decode(page.driver.execute_cdp_cmd("Page.printToPDF", asked)["data"])


def downloaded(page: Page, selector: str, folder: Path, *, timeout: float = 10) -> Path:
    """The file that a click on an element saves, in a new folder below the given one."""
    own = Path(tempfile.mkdtemp(dir=folder))
    allowed = {"behavior": "allow", "downloadPath": str(own)}
    page.driver.execute_cdp_cmd("Browser.setDownloadBehavior", allowed)
    page.driver.find_element(By.CSS_SELECTOR, selector).click()
    late = time.monotonic() + timeout
    while time.monotonic() < late:
        if path := whole(own):
            return path
        time.sleep(0.02)
    raise TimeoutError(f"a click on {selector} in {page.name} saved nothing within {timeout:g} s")


def whole(folder: Path) -> Path | None:
    """The one file of a folder, once it is saved.

    Its name is taken by an empty file while the content is still in a part beside it (.crdownload, or a hidden name),
    which then replaces it: of 240 saved files, 5 were read empty by who asked for the name alone.
    """
    paths = list(folder.iterdir())
    is_part = any(path.name.startswith(".") or path.suffix == ".crdownload" for path in paths)
    return paths[0] if len(paths) == 1 and not is_part and paths[0].stat().st_size else None
