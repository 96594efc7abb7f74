"""The page in a real browser: drop, paste, bad files, keyboard, dark mode, a phone, a token."""

from __future__ import annotations

import base64
import csv
import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from multitask.publishing.proving import serving
from multitask.runs import Run

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Debian's chromium is not installed")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def photos(trained: Run, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Some photos of the demo as files, and a text that calls itself a photo."""
    from multitask.data.archives import open_archive

    folder = tmp_path_factory.mktemp("photos")
    with open_archive(*trained.config.data.images) as archive:
        for name in list(archive)[:5]:
            (folder / f"{name}.jpg").write_bytes(archive[name])
    (folder / "notes.jpg").write_text("no photo")
    return sorted(folder.iterdir())


@pytest.fixture
def page(browser: Any, server: str) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1100, "height": 900})
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: problems.append(request.url) if not is_own(request.url, server) else None)
    # Playwright does not wait until the browser hands over file choosers, so that is asked for long before one opens.
    page.on("filechooser", lambda chooser: None)
    page.goto(server)
    yield page
    context.close()
    assert not problems


def is_own(url: str, server: str) -> bool:
    return url.startswith((server, "data:", "blob:"))


def drop(page: Any, files: list[Path]) -> None:
    """Drop files as a person does with a mouse: a browser cannot be told to, so the event is made in the page."""
    given = [{"name": path.name, "data": base64.b64encode(path.read_bytes()).decode()} for path in files]
    page.evaluate(
        """given => {
            const transfer = new DataTransfer();
            const bytes = data => Uint8Array.from(atob(data), c => c.charCodeAt(0));
            for (const {name, data} of given)
                transfer.items.add(new File([bytes(data)], name, {type: "image/jpeg"}));
            for (const kind of ["dragover", "drop"])
                document.getElementById("drop").dispatchEvent(
                    new DragEvent(kind, {dataTransfer: transfer, bubbles: true, cancelable: true}));
        }""",
        given,
    )


def wait_for_answers(page: Any, count: int) -> None:
    playwright.expect(page.locator("#results .card")).to_have_count(count, timeout=60_000)
    playwright.expect(page.locator("#status")).to_contain_text(" in ", timeout=60_000)


def test_dropped_photos_get_headings_bars_tags_version_and_time(page: Any, photos: list[Path]) -> None:
    drop(page, photos)
    wait_for_answers(page, len(photos))
    good = len(photos) - 1
    assert page.locator("#results h3").count() == 3 * good
    assert page.locator("#results .bar").count() == (2 + 3) * good
    assert page.locator("#results .bar b").count() == 3 * good, "every tag has its threshold as a mark"
    assert {text.split("\n")[0].strip() for text in page.locator("#results h3").all_inner_texts()} >= {
        "Category",
        "Tags",
        "Size",
    }
    assert page.locator("#results .why").inner_text() == "not an image"
    assert page.locator("#model").inner_text() == "model version 1"
    assert "6 photos in" in page.locator("#status").inner_text()
    assert "1 could not be read" in page.locator("#status").inner_text()
    assert "threshold" in page.locator("#results .bar[title]").first.get_attribute("title")


def test_photos_are_shown_in_the_order_they_were_chosen(page: Any, photos: list[Path]) -> None:
    drop(page, photos[:3])
    wait_for_answers(page, 3)
    drop(page, photos[3:])
    wait_for_answers(page, len(photos))
    assert page.locator("#results .card h2").all_inner_texts() == [path.name for path in photos]


def test_names_are_readable_and_doubts_are_words(page: Any) -> None:
    readable = page.evaluate("""['CASUAL_DRESSES', 'polka dot', 'T-shirt', 'A'].map(readable)""")
    assert readable == ["Casual dresses", "Polka dot", "T-shirt", "A"]
    words = page.evaluate(
        """[[.97, .02], [.45, .1], [.52, .47]].map(([a, b]) => classes("c", {classes: [
            {name: "x", score: a, top: true}, {name: "y", score: b, top: true}]})[0].innerText.includes("unsure"))"""
    )
    assert words == [False, True, True]
    number = page.evaluate("""numbers("price", {numbers: [{name: "PRICE_EUR", value: 12.3456}]})[1].textContent""")
    assert number == "Price eur12.35"


def test_the_empty_page_says_what_it_can_tell_and_shows_an_example(page: Any, photos: list[Path]) -> None:
    about = page.locator("#about")
    playwright.expect(about).to_be_visible(timeout=30_000)
    assert "Casual dresses" in about.inner_text()
    assert "made up" in about.inner_text()
    drop(page, photos[:1])
    wait_for_answers(page, 1)
    playwright.expect(about).to_be_hidden()


def test_large_photos_go_in_parts_and_all_are_answered(page: Any, photos: list[Path], tmp_path: Path) -> None:
    """Eight photos of 9 MB are more than a request may hold."""
    large = [tmp_path / f"large {number}.jpg" for number in range(8)]
    for path in large:
        path.write_bytes(photos[0].read_bytes() + bytes(9_000_000))
    with page.expect_file_chooser() as chooser:
        page.locator("#drop").click()
    chooser.value.set_files([str(path) for path in large])
    wait_for_answers(page, 8)
    assert page.locator("#results .bar.best").count() == 8


def test_a_photo_can_be_cancelled_before_it_is_answered(page: Any, photos: list[Path]) -> None:
    held: list[Any] = []
    page.route("**/files", lambda route: held.append(route))
    drop(page, photos[:3])
    playwright.expect(page.locator("#results .card")).to_have_count(3)
    page.get_by_role("button", name=f"Cancel {photos[1].name}").click()
    playwright.expect(page.locator("#results .card")).to_have_count(2)
    while not held:
        page.wait_for_timeout(100)
    held[0].continue_()
    wait_for_answers(page, 2)
    assert page.locator("#results .card h2").all_inner_texts() == [photos[0].name, photos[2].name]


def test_a_photo_larger_than_the_server_takes_leaves_the_others_answered(
    browser: Any, published: Path, photos: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "huge.jpg").write_bytes(photos[0].read_bytes() + bytes(3_000_000))
    with serving(published, "--max-body-mb", "1") as url:
        page = browser.new_page()
        page.goto(url)
        drop(page, [photos[0], tmp_path / "huge.jpg", photos[1]])
        playwright.expect(page.locator("#status.bad")).to_contain_text("1 not answered", timeout=60_000)
        assert page.locator("#results .bar.best").count() == 2
        assert page.get_by_role("button", name="Try again").is_visible()
        page.close()


def test_the_table_can_be_downloaded(page: Any, photos: list[Path]) -> None:
    drop(page, photos)
    wait_for_answers(page, len(photos))
    with page.expect_download() as download:
        page.get_by_role("button", name="Download CSV").click()
    rows = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text(encoding="utf-8-sig"))))
    assert [row["file"] for row in rows] == [path.name for path in photos]
    assert [row["status"] for row in rows].count("ok") == len(photos) - 1
    for row in rows:
        scores = [float(value) for name, value in row.items() if name.startswith("category ") and value]
        assert not scores or (abs(sum(scores) - 1) < 1e-4 and max(scores) == float(row["confidence"]))


def test_the_keyboard_is_enough(page: Any, photos: list[Path]) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "drop"
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files([str(path) for path in photos[:2]])
    wait_for_answers(page, 2)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "save"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.locator("#results .card").count() == 0


def test_a_photo_can_be_pasted(page: Any, photos: list[Path]) -> None:
    data = base64.b64encode(photos[0].read_bytes()).decode()
    page.evaluate(
        """data => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([Uint8Array.from(atob(data), c => c.charCodeAt(0))], "image.png"));
            dispatchEvent(new ClipboardEvent("paste", {clipboardData: transfer}));
        }""",
        data,
    )
    wait_for_answers(page, 1)
    assert page.locator("#results .card h2").inner_text() == "image.png"
    assert page.locator("#results .bar.best").count() == 1


def test_dark_mode_and_a_phone_fit(browser: Any, server: str, photos: list[Path]) -> None:
    light, dark = set(), set()
    for scheme, seen in (("light", light), ("dark", dark)):
        context = browser.new_context(
            viewport={"width": 360, "height": 740}, color_scheme=scheme, device_scale_factor=2, is_mobile=True
        )
        page = context.new_page()
        page.goto(server)
        drop(page, photos)
        wait_for_answers(page, len(photos))
        tops = {page.locator("#results .card").nth(at).bounding_box()["y"] for at in (0, 1)}
        assert len(tops) == 1, "two photos beside each other"
        seen.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        for ratio in page.evaluate(CONTRASTS):
            assert ratio >= 4.5
        context.close()
    assert light != dark


CONTRASTS = """() => {
    const parse = color => color.match(/[\\d.]+/g).map(Number);
    const linear = v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
    const light = ([r, g, b]) => [r, g, b].map(v => linear(v / 255))
        .reduce((sum, v, at) => sum + v * [.2126, .7152, .0722][at], 0);
    const ground = element => {
        for (let at = element; at; at = at.parentElement) {
            const color = parse(getComputedStyle(at).backgroundColor);
            if (color.length < 4 || color[3] > 0) return color;
        }
    };
    const shown = ["h1", "#status", "#model", "#drop small", "#drop strong", "#results h2", "#results h3", ".why"];
    return [...shown, "#results .bar span", "#results .bar.best span"].map(name => {
        const element = document.querySelector(name);
        const [a, b] = [light(parse(getComputedStyle(element).color)), light(ground(element))].sort((x, y) => y - x);
        return (a + .05) / (b + .05);
    });
}"""


def test_a_server_that_asks_for_a_token_gets_it(browser: Any, published: Path, photos: list[Path]) -> None:
    with serving(published, "--token", "secret") as url:
        page = browser.new_page()
        page.goto(url)
        drop(page, photos[:1])
        page.get_by_label("This server asks for a token").fill("secret")
        page.keyboard.press("Enter")
        wait_for_answers(page, 1)
        assert page.locator("#results .bar.best").count() == 1
        page.close()


def test_the_token_dialog_can_be_left_and_says_when_a_token_is_wrong(
    browser: Any, published: Path, photos: list[Path]
) -> None:
    with serving(published, "--token", "secret") as url:
        page = browser.new_page()
        page.goto(url)
        drop(page, photos[:1])
        page.get_by_role("button", name="Not now").click()
        playwright.expect(page.locator("#status.bad")).to_contain_text("asks for a token", timeout=30_000)
        page.get_by_role("button", name="Try again").click()
        page.get_by_label("This server asks for a token").fill("wrong")
        page.keyboard.press("Enter")
        playwright.expect(page.locator("#wrong")).to_have_text("That token is not right.", timeout=30_000)
        page.get_by_label("This server asks for a token").fill("secret")
        page.keyboard.press("Enter")
        wait_for_answers(page, 1)
        assert page.locator("#results .bar.best").count() == 1
        page.close()


def test_a_server_that_is_gone_is_said_in_words(browser: Any, published: Path, photos: list[Path]) -> None:
    with serving(published) as url:
        page = browser.new_page()
        page.goto(url)
    drop(page, photos[:1])
    playwright.expect(page.locator("#status.bad")).not_to_be_empty(timeout=20_000)
    assert "cannot be reached" in page.locator("#results .why").inner_text()
    assert page.get_by_role("button", name="Try again").is_visible()
    page.close()
