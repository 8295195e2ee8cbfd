"""Pages in headless Chromium that note what a reader should never meet."""

import shutil
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from in_jupyterlab import served

INSTALLED = ("chromium", "chromium-browser", "google-chrome")
HERE = {"", "127.0.0.1", "localhost"}  # files and data: have no host


class Watched:
    """A page, with the errors of its console and the addresses that it asked for.

    Attributes:
        page: the page of playwright.
        errors: what the console reported as errors, and exceptions that nobody caught.
        requests: every address that was asked for, web sockets included.
    """

    def __init__(self, page):
        self.page, self.errors, self.requests = page, [], []
        page.on("console", lambda m: self.errors.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("websocket", lambda socket: self.requests.append(socket.url))

    @property
    def foreign(self):
        """The requests to other hosts."""
        return [url for url in self.requests if (urlsplit(url).hostname or "") not in HERE]


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium: the machine's own, or playwright's.

    It lives no longer than a module: playwright keeps an event loop running, and other tests of
    the process start theirs.
    """
    api = pytest.importorskip("playwright.sync_api", reason="no playwright; make e2e installs it")
    with api.sync_playwright() as playwright:
        own = next(filter(None, map(shutil.which, INSTALLED)), None)
        path = own or playwright.chromium.executable_path
        if not Path(path).exists():
            pytest.skip("no Chromium; make e2e installs one")
        browser = playwright.chromium.launch(executable_path=path)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def open_page(browser):
    """Open a page with a profile of its own; takes the options of playwright's ``new_context``.

    The page lives as long as the module, so that its tests may go on with one.
    """
    contexts = []

    def open_(**options):
        contexts.append(browser.new_context(**options))
        return Watched(contexts[-1].new_page())

    yield open_
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def lab(browser, tmp_path_factory):
    """A JupyterLab over copies of the notebooks (see ``served``); asks for the browser, so that a skip comes first."""
    pytest.importorskip("jupyterlab", reason="no JupyterLab; make e2e installs it")
    with served(tmp_path_factory.mktemp("lab")) as found:
        yield found
