"""The site in a real browser: for every reader, on a desk and a phone, and without a network."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NARROW, WIDE = {"width": 390, "height": 844}, {"width": 1400, "height": 1000}
# Opens all that is folded. Of the thousands of coloured words of code, one of each colour stays an
# element: contrast is measured once for each element, which is nearly all of the time.
PREPARE = """() => {
    document.querySelectorAll("details").forEach(details => details.open = true);
    const kinds = new Set();
    for (const word of document.querySelectorAll("pre span"))
        if (kinds.has(word.className)) word.replaceWith(word.textContent);
        else kinds.add(word.className);
}"""

AXE = {"resultTypes": ["violations"], "preload": False}  # it would ask for the style once more


@pytest.fixture(scope="module")
def site(browser, tmp_path_factory):
    """The site of the repository's notebooks; asks for the browser, so that a skip comes first."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, ROOT / "tools" / "site.py", "--out", out]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.slow
@pytest.mark.parametrize(("viewport", "scheme"), [(WIDE, "light"), (NARROW, "dark")])
def test_every_page_is_accessible_and_asks_nobody(site, open_page, viewport, scheme):
    module = pytest.importorskip("axe_playwright_python.sync_playwright", reason="no axe; make e2e installs it")
    axe, watched, found = module.Axe(), open_page(viewport=viewport, color_scheme=scheme), {}
    for path in sorted(site.glob("*.html")):
        watched.page.goto(path.as_uri())
        watched.page.evaluate(PREPARE)
        for finding in axe.run(watched.page, options=AXE).response["violations"]:
            nodes = [node["html"] for node in finding["nodes"]]
            found[f"{path.name}: {finding['impact']}: {finding['id']}"] = nodes[:3]
        overhang = watched.page.evaluate("document.documentElement.scrollWidth - innerWidth")
        if overhang > 0:
            found[f"{path.name}: wider than the screen"] = overhang
    assert found == {}
    assert watched.errors == []
    assert watched.foreign == []
    assert any(url.endswith("style.css") for url in watched.requests)


def test_every_picture_is_shown(site, open_page):
    page = open_page(viewport=WIDE).page
    for path in sorted(site.glob("*.html")):
        page.goto(path.as_uri())
        widths = page.eval_on_selector_all("img", "images => images.map(i => i.naturalWidth)")
        assert widths and all(widths), path.name


def test_keyboard_reaches_the_content_and_scrolls_code(site, open_page):
    page = open_page(viewport=NARROW).page
    page.goto((site / "00_start_here.html").as_uri())
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"
    region = page.locator(".scroll:has(pre)").first
    region.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("region => region.scrollLeft > 0", arg=region.element_handle())


@pytest.mark.parametrize(
    "put",
    [
        "new Image().src = 'http://192.0.2.1/x.png'",  # TEST-NET-1: nobody's
        "new WebSocket('ws://192.0.2.1/x')",
    ],
)
def test_a_request_to_another_host_is_noted(open_page, tmp_path, put):
    path = tmp_path / "page.html"
    path.write_text(f"<!doctype html><title>x</title><script>{put}</script>")
    watched = open_page()
    watched.page.goto(path.as_uri(), wait_until="commit")
    watched.page.wait_for_timeout(500)
    assert [url.split("//")[1] for url in watched.foreign] in (["192.0.2.1/x.png"], ["192.0.2.1/x"])


def test_an_error_is_noted(open_page, tmp_path):
    path = tmp_path / "page.html"
    path.write_text("<!doctype html><title>x</title><script>console.error('a'); b()</script>")
    watched = open_page()
    watched.page.goto(path.as_uri())
    assert [error.split()[0] for error in watched.errors] == ["a", "b"]
