"""The page in a real Chromium: type a prompt, see tokens stream, press stop, see the blocks free."""

from __future__ import annotations

import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest

from .harness import local_engine, serving, slow

playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright brings it")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here; apt install chromium brings one")
USED = "#figure-blocks-in-use"


@pytest.fixture(scope="module")
def guarded():
    with serving(local_engine(**slow(20)), api_keys=("secret",)) as running:
        yield running


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        yield opened
        opened.close()


@pytest.fixture
def page(browser, guarded):
    """A page whose errors fail the test."""
    context = browser.new_context(http_credentials={"username": "me", "password": "secret"})
    opened, problems = context.new_page(), []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("console", lambda line: problems.append(line.text) if line.type == "error" else None)
    opened.goto(guarded.url)
    playwright.expect(opened.locator("#about")).to_contain_text("demo on null", timeout=20_000)
    yield opened
    if shots := os.environ.get("QUIRE_SCREENSHOTS"):
        opened.screenshot(path=f"{shots}/page.png", full_page=True)
    context.close()
    assert not problems


@pytest.mark.parametrize("mode", ["completion", "chat"])
def test_tokens_stream_until_stop_is_pressed_and_the_blocks_are_free(page, guarded, mode):
    expect = playwright.expect
    page.get_by_label("Mode").select_option(mode)
    page.get_by_label("Max tokens").fill("1500")
    page.get_by_label("Prompt").fill("once upon a time " * 20)
    page.get_by_role("button", name="Send").click()
    output = page.get_by_label("Output")
    expect(page.locator("#output span").nth(10)).to_be_attached(timeout=20_000)
    expect(page.locator(USED)).not_to_have_text(re.compile("^0 /"), timeout=10_000)
    expect(page.locator("#running")).to_contain_text("blocks")
    assert "KV blocks are owned" in page.locator("#blocks").get_attribute("aria-label")
    if shots := os.environ.get("QUIRE_SCREENSHOTS"):
        page.screenshot(path=f"{shots}/running-{mode}.png", full_page=True)
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#note")).to_have_text("stopped", timeout=10_000)
    expect(page.locator("#running li")).to_have_count(0, timeout=10_000)
    expect(page.locator("#done li").first).to_contain_text("tokens")
    expect(page.locator(USED)).to_have_text(re.compile("^0 /"), timeout=10_000)
    length = len(output.inner_text())
    page.wait_for_timeout(200)
    assert len(output.inner_text()) == length > 340
    guarded.check_rest()


def test_an_answer_ends_with_what_it_cost(page):
    page.get_by_label("Max tokens").fill("5")
    page.get_by_label("Prompt").fill("hello")
    page.get_by_label("Prompt").press("Control+Enter")
    playwright.expect(page.locator("#note")).to_contain_text("5 new", timeout=20_000)


def test_it_fits_a_phone(page):
    page.set_viewport_size({"width": 360, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_requests_move_from_lane_to_lane_and_the_latency_is_drawn(page, guarded):
    expect, key = playwright.expect, {"Authorization": "Bearer secret"}
    body = {"prompt": [5] * 40, "max_tokens": 100, "ignore_eos": True, "stream": True, "n": 1}
    with ThreadPoolExecutor(20) as pool:
        asked = [pool.submit(guarded.post, "/v1/completions", body, headers=key) for _ in range(20)]
        expect(page.locator("#waiting li")).not_to_have_count(0, timeout=20_000)
        expect(page.locator("#running li")).to_have_count(16, timeout=20_000)
        assert page.locator("#waiting li").first.inner_text().endswith("40 tokens")
        expect(page.locator("#latency")).to_have_attribute(
            "aria-label", re.compile(r"^\d+ milliseconds"), timeout=20_000
        )
        assert all(each.result(60).status_code == 200 for each in asked)
    expect(page.locator("#running li")).to_have_count(0, timeout=20_000)
    expect(page.locator("#done li")).to_have_count(12)
    expect(page.locator("#count-done")).not_to_have_text("0")


def test_pointing_at_a_block_tells_whose_it_is(page, guarded):
    body = {"prompt": [5] * 40, "max_tokens": 100, "ignore_eos": True}
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(guarded.post, "/v1/completions", body, headers={"Authorization": "Bearer secret"})
        shown = page.locator("#blocks")
        playwright.expect(shown).to_have_attribute("aria-label", re.compile("^[1-9].* owned"), timeout=20_000)
        shown.hover(position={"x": 3, "y": 3})
        playwright.expect(page.locator("#block-note")).to_have_text(re.compile(r"^block 1: (http-|free)"))
        assert asked.result(60).status_code == 200
    page.locator("h1").hover()
    playwright.expect(page.locator("#block-note")).to_be_empty()


def test_a_cache_that_is_hardly_used_is_shown_in_part(browser, null):
    opened = browser.new_page()
    opened.goto(null.url)
    playwright.expect(opened.locator("#blocks-rest")).to_have_text(", and 256 more that are free")
    opened.close()


def test_it_tells_what_serves(page):
    playwright.expect(page.locator("#engine")).to_contain_text("null")
    playwright.expect(page.locator("#kernels")).to_contain_text("executor of its own")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_light_and_dark(page, scheme):
    """Contrast of the page's text to its ground, as WCAG 2 counts it: 4.5 and more."""
    page.emulate_media(color_scheme=scheme)
    names = ("--ink", "--faint", "--accent", "--panel")
    colours = page.evaluate(
        "names => names.map(n => getComputedStyle(document.documentElement).getPropertyValue(n))", names
    )
    *texts, ground = [luminance(each.strip()) for each in colours]
    assert all((max(text, ground) + 0.05) / (min(text, ground) + 0.05) >= 4.5 for text in texts), colours


def luminance(colour):
    digits = colour[1:] if len(colour) == 7 else "".join(digit * 2 for digit in colour[1:])
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_the_keyboard_reaches_all_that_can_be_used(page):
    page.get_by_label("Mode").focus()
    reached = []
    for _ in range(14):
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.getAttribute('aria-label')"))
        page.keyboard.press("Tab")
    fields = ["mode", "temperature", "top-p", "max-tokens", "seed", "heat", "prompt"]
    assert reached[:10] == [*fields, "send", "clear", "output"]
    assert "Kernels" in reached
