"""The built pages in a real browser. Skipped by name where there is no browser, or where the book was not built."""

import re
import shutil
from pathlib import Path

import pytest

HTML = Path(__file__).resolve().parents[1] / "_build" / "html"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
sync_api = pytest.importorskip("playwright.sync_api", reason="the book's packages are not installed (extra 'book')")
if not CHROMIUM:
    pytest.skip("there is no chromium", allow_module_level=True)
if not (HTML / "index.html").exists():
    pytest.skip("the book was not built (make html)", allow_module_level=True)

PAGES = sorted(p.relative_to(HTML).as_posix() for p in (HTML / "book").glob("*.html"))
CHAPTERS = [page for page in PAGES if re.match(r"book/\d\d-", page)]
HARMLESS = "Got invalid theme mode"  # the theme, on the very first visit


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def open_page(browser):
    """Open a page at a width and in a colour scheme; afterwards nothing may have gone wrong or out."""
    contexts, wrong = [], []

    def opened(name, width=1280, scheme="light"):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda m: wrong.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda e: wrong.append(str(e)))
        page.on("requestfailed", lambda r: wrong.append(f"failed: {r.url}"))
        page.on("request", lambda r: wrong.append(r.url) if not r.url.startswith(("file:", "data:", "blob:")) else None)
        page.goto((HTML / name).as_uri())
        page.wait_for_load_state("load")
        page.wait_for_function("!document.querySelector('.math') || document.querySelector('mjx-container')")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert [text for text in wrong if HARMLESS not in text] == []


@pytest.mark.parametrize("name", PAGES)
def test_loads_alone_with_one_title_and_words_for_pictures(open_page, name):
    page = open_page(name)
    assert page.locator("h1:visible").count() == 1
    for image in page.locator("article img").all():
        assert image.get_attribute("alt"), image.get_attribute("src")[:80]
    assert page.evaluate("[...document.querySelectorAll('article img')].every(i => i.naturalWidth > 0)")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_fits_a_phone(open_page, name, scheme):
    page = open_page(name, 390, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate("document.documentElement.dataset.theme") == scheme


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", CHAPTERS)
def test_text_can_be_read(open_page, name, scheme):
    """Contrast of at least 4.5 between a text and what lies behind it, for paragraphs, labels, code and questions."""
    page = open_page(name, 1280, scheme)
    poor = page.evaluate(CONTRAST, "article p, article li, article label, article output, article legend, article td")
    assert poor == []


CONTRAST = """selector => {
  const light = c => { const v = c.slice(0, 3).map(x => (x /= 255) <= .03928 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4);
                       return .2126 * v[0] + .7152 * v[1] + .0722 * v[2]; };
  const parse = s => { const n = s.match(/[\\d.]+/g).map(Number); return n.length < 4 ? [...n, 1] : n; };
  const behind = e => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor);
                        if (c[3] > .5) return c; } return [255, 255, 255, 1]; };
  return [...document.querySelectorAll(selector)].filter(e => e.offsetParent && e.innerText.trim()).filter(e => {
    const [a, b] = [light(parse(getComputedStyle(e).color)), light(behind(e))];
    return (Math.max(a, b) + .05) / (Math.min(a, b) + .05) < 4.5; }).map(e => e.innerText.slice(0, 60)); }"""


@pytest.mark.parametrize("name", CHAPTERS)
def test_sliders_turn_their_own_picture_by_keyboard(open_page, name):
    page = open_page(name)
    sliders = page.locator("figure.aalp-slider")
    assert sliders.count() >= 1
    before = [visible(sliders.nth(k)) for k in range(sliders.count())]
    assert all(len(frames) == 1 for frames in before)
    for k in range(sliders.count()):
        control = sliders.nth(k).get_by_role("slider")
        control.focus()
        page.keyboard.press("Home")
        first = visible(sliders.nth(k))
        page.keyboard.press("ArrowRight")
        second = visible(sliders.nth(k))
        assert len(first) == len(second) == 1
        assert first != second
        assert control.get_attribute("aria-valuetext") == second[0] == sliders.nth(k).locator("output").inner_text()
        for other in range(k + 1, sliders.count()):
            assert visible(sliders.nth(other)) == before[other]


def visible(slider):
    """The values of the frames that can be seen."""
    return [image.get_attribute("data-value") for image in slider.locator("img").all() if image.is_visible()]


@pytest.mark.parametrize("name", CHAPTERS)
def test_questions_answer(open_page, name):
    page = open_page(name)
    questions = page.locator("fieldset.aalp-predict")
    assert questions.count() >= 1
    for k in range(questions.count()):
        verdicts = []
        for choice in questions.nth(k).get_by_role("radio").all():
            choice.check()
            said = [p.inner_text() for p in questions.nth(k).locator("p").all() if p.is_visible()]
            assert len(said) == 1
            verdicts.append(said[0].split(".")[0])
        assert sorted(set(verdicts)) == ["No", "Yes"]
        assert verdicts.count("Yes") == 1


@pytest.mark.parametrize("name", CHAPTERS)
def test_solutions_are_folded(open_page, name):
    page = open_page(name)
    folded = page.locator("article details:has(summary:text('Solution'))")
    assert folded.count() >= 2
    for k in range(folded.count()):
        source = folded.nth(k).locator("pre")
        assert not source.first.is_visible()
        folded.nth(k).locator("summary").click()
        assert source.first.is_visible()


def test_links_inside_the_book_lead_somewhere():
    ids = {}
    for path in [HTML / "index.html", *(HTML / page for page in PAGES)]:
        text = path.read_text(encoding="utf-8")
        ids[path] = set(re.findall(r'\bid="([^"]+)"', text))
    for path in ids:
        for target in re.findall(r'<a [^>]*href="([^"]+)"', path.read_text(encoding="utf-8")):
            if re.match(r"[a-z]+:", target):
                continue
            file, _, anchor = target.partition("#")
            goal = (path.parent / file).resolve() if file else path
            assert goal.exists(), f"{path.name}: {target}"
            if anchor and goal in ids:
                assert anchor in ids[goal], f"{path.name}: {target}"
