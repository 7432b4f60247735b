"""The built pages in a real browser. Skipped by name where there is no browser, or where the book was not built."""

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).resolve().parents[2]
HTML = ROOT / "_build" / "html"
AXE = ROOT / ".axe" / "node_modules" / "axe-core" / "axe.min.js"
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

BOOK = sorted(p.relative_to(HTML).as_posix() for p in (HTML / "book").glob("*.html"))
PAGES = ["genindex.html", "search.html", *BOOK]
CHAPTERS = [page for page in PAGES if re.match(r"book/\d\d-", page)]
INSIDE = (HTML.as_uri() + "/", "data:", "blob:")  # all that a page may ask for: nothing from another folder or place
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
        page.on("request", lambda r: wrong.append(r.url) if not r.url.startswith(INSIDE) else None)
        page.goto(HTML.as_uri() + "/" + name)
        page.wait_for_load_state("load")
        page.wait_for_function("!document.querySelector('.math') || document.querySelector('mjx-container')")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert [text for text in wrong if HARMLESS not in text] == []


def test_the_door_leads_in(open_page):
    page = open_page("index.html")
    page.wait_for_url(HTML.as_uri() + "/book/intro.html")


@pytest.mark.parametrize("name", PAGES)
def test_loads_alone_with_one_title_and_words_for_pictures(open_page, name):
    """Everything comes from the pages' own folder, the fonts of formulas too."""
    page = open_page(name)
    assert page.locator("h1:visible").count() == 1
    for image in page.locator("img").all():
        assert image.get_attribute("alt"), image.get_attribute("src")[:80]
    assert page.evaluate("[...document.images].every(i => i.naturalWidth > 0)")
    if page.locator("mjx-container").count():
        page.wait_for_function("[...document.fonts].some(f => f.family.startsWith('MJX') && f.status == 'loaded')")
    assert page.evaluate("[...document.fonts].filter(f => f.status == 'error').length") == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_fits_a_phone(open_page, name, scheme):
    page = open_page(name, 390, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate("document.documentElement.dataset.theme") == scheme
    assert page.evaluate(CUT_OFF) == []
    assert page.evaluate(SMALL, 11) == []
    for control in page.get_by_role("slider").all():
        assert control.bounding_box()["width"] >= 100


# What sticks out to the right and cannot be scrolled to.
CUT_OFF = """() => {
  const scrolls = e => { for (; e && e.tagName != 'ARTICLE'; e = e.parentElement)
                         if (/auto|scroll/.test(getComputedStyle(e).overflowX)) return true; return false; };
  return [...document.querySelectorAll('article *')].filter(e => e.offsetParent
    && !e.closest('mjx-container, .visually-hidden')
    && e.getBoundingClientRect().right > innerWidth + 1 && !scrolls(e)).map(e => e.outerHTML.slice(0, 120)); }"""

# Text that is smaller than so many pixels.
SMALL = """least => [...document.querySelectorAll('article *')].filter(e => e.offsetParent
  && !e.closest('mjx-container')
  && [...e.childNodes].some(n => n.nodeType == 3 && n.textContent.trim()) && !e.closest('sup, sub, .headerlink')
  && parseFloat(getComputedStyle(e).fontSize) < least).map(e => e.outerHTML.slice(0, 120))"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", BOOK)
def test_text_can_be_read(open_page, name, scheme):
    """Contrast of at least 4.5 between a text and what lies behind it, for paragraphs, labels, code and questions."""
    page = open_page(name, 1280, scheme)
    poor = page.evaluate(CONTRAST, "article p, article li, article label, article output, article legend, article td")
    assert poor == []


# Rules of axe-core whose finding is the theme's and cannot be mended from here, with the reason.
EXCEPTIONS: dict[str, str] = {}
OPEN = """() => { document.querySelectorAll('details').forEach(e => e.open = true);
  document.querySelectorAll('.aalp-predict p').forEach(e => e.style.display = 'block');
  document.getAnimations().forEach(a => { try { a.finish(); } catch (endless) {} }); }"""


@pytest.mark.skipif(not AXE.exists(), reason="axe-core is not installed (make axe)")
@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 390)])
@pytest.mark.parametrize("name", PAGES)
def test_no_serious_finding_of_axe(open_page, name, scheme, width):
    """With everything open that is folded, and done fading in: half way it has another contrast."""
    page = open_page(name, width, scheme)
    page.evaluate(OPEN)
    assert serious(page) == []


def serious(page):
    """What axe-core calls serious or critical: rule, place, and what is wrong there."""
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run(document, {resultTypes: ['violations'], preload: false})")
    return [
        (rule["id"], node["html"][:150], node["failureSummary"])
        for rule in found["violations"]
        if rule["impact"] in ("serious", "critical") and rule["id"] not in EXCEPTIONS
        for node in rule["nodes"]
    ]


@pytest.mark.skipif(not AXE.exists(), reason="axe-core is not installed (make axe)")
def test_axe_finds(browser):
    page = browser.new_page()
    pale = '<p style="color:#ccc">pale</p>'
    page.set_content(f'<html lang="en"><title>t</title><main><h1>t</h1><img src="">{pale}</main>')
    assert {rule for rule, *_ in serious(page)} == {"image-alt", "color-contrast"}
    assert f"AXE = {page.evaluate('axe.version')}\n" in (ROOT / "Makefile").read_text()
    page.close()


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
    for k in range(sliders.count()):
        before = [visible(sliders.nth(other)) for other in range(sliders.count())]
        assert all(len(frames) == 1 for frames in before)
        control = sliders.nth(k).get_by_role("slider")
        assert control.evaluate("e => e.labels[0].innerText.trim()")
        control.focus()
        page.keyboard.press("Home")
        first, picture = visible(sliders.nth(k)), shown(sliders.nth(k))
        page.keyboard.press("ArrowRight")
        second = visible(sliders.nth(k))
        assert len(first) == len(second) == 1
        assert first != second
        assert shown(sliders.nth(k)) != picture
        assert control.get_attribute("aria-valuetext") == second[0] == sliders.nth(k).locator("output").inner_text()
        page.keyboard.press("End")
        last = sliders.nth(k).locator("img").last.get_attribute("data-value")
        assert visible(sliders.nth(k)) == [last]
        for other in set(range(sliders.count())) - {k}:
            assert visible(sliders.nth(other)) == before[other]


def shown(slider):
    """The picture that can be seen."""
    return next(image.get_attribute("src") for image in slider.locator("img").all() if image.is_visible())


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


class Page(HTMLParser):
    """The names of places in a page, and what it points at."""

    def __init__(self, path):
        super().__init__()
        self.ids, self.targets = set(), set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids |= {found[key] for key in ("id", "name") if found.get(key)}
        self.targets |= {found[key] for key in ("href", "src") if found.get(key)}


def test_links_inside_the_book_lead_somewhere():
    pages = {path: Page(path) for path in [*HTML.glob("*.html"), *(HTML / "book").glob("*.html")]}
    checked = 0
    for path, page in pages.items():
        for target in page.targets:
            if re.match(r"[a-z]+:", target):
                continue
            file, _, anchor = unquote(target).partition("#")
            goal = (path.parent / file.partition("?")[0]).resolve() if file else path
            assert goal.is_file(), f"{path.name}: {target}"
            assert goal.is_relative_to(HTML), f"{path.name}: {target}"
            if anchor and goal in pages and "=" not in anchor:  # a state of the live attack is no place
                assert anchor in pages[goal].ids, f"{path.name}: {target}"
                checked += 1
    assert checked > 100


def test_search_works_without_a_server(open_page):
    page = open_page("search.html?q=pairing")
    page.wait_for_selector("#search-results li a")
    page.wait_for_timeout(500)  # whatever it might fetch comes after that
    assert page.locator("#search-results li a[href*='03-']").count() >= 1


def column(table, name):
    """The texts of a column in the rows that can be seen, in order."""
    heads = [head.inner_text().split("\n")[0] for head in table.locator("thead th").all()]
    cells = f"tbody tr:visible > :nth-child({heads.index(name) + 1})"
    return [text.strip() for text in table.locator(cells).all_inner_texts()]


@pytest.mark.parametrize("width", [1280, 390])
def test_rows_of_results_are_chosen_and_sorted_by_keyboard(open_page, width):
    table = open_page("book/results.html", width).locator("#accuracies")
    table.get_by_label("Data").select_option("all")
    table.get_by_label("Method").select_option("ALP")
    table.get_by_label("Rows").select_option("each network")
    networks, clean = column(table, "Networks"), table.get_by_role("button", name="Clean")
    assert len(networks) > 7
    assert all(text.startswith("seed ") for text in networks)
    assert f"{len(networks)} of " in table.locator("output").inner_text()
    assert "Method: ALP" in table.locator("output").inner_text()  # and not in every row
    for order, reverse in (("ascending", False), ("descending", True)):
        clean.press("Enter")
        numbers = [float(text) for text in column(table, "Clean")]
        assert numbers == sorted(numbers, reverse=reverse)
        assert clean.locator("..").get_attribute("aria-sort") == order
    assert not table.get_by_role("button", name="CW-20").is_visible()
    table.get_by_label("Columns").select_option("Table 2's ten")
    assert table.get_by_role("button", name="CW-20").is_visible()


def test_a_link_to_a_place_shows_its_rows_with_their_intervals(open_page):
    page = open_page("book/results.html#order-mnist")
    table = page.locator("#comparisons")
    assert set(column(table, "Attack")) == {"PGD-100", "CW-100", "AutoAttack"}
    assert {"Madry → ALP", "ALP → AALP"} <= set(column(table, "Step"))
    rows = table.locator("tbody tr:visible")
    assert rows.count() == rows.locator("circle").count() == 12
    assert table.get_by_label("Table").evaluate("e => e.getBoundingClientRect().top") < 300
    page.evaluate("location.hash = 'controls-mnist'")
    page.wait_for_function("document.querySelector('#comparisons select').value.startsWith('Controls')")
    assert "ALP → AALP" not in column(table, "Step")


def test_results_can_be_read_without_a_script(browser):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(HTML.as_uri() + "/book/results.html")
    assert page.locator("#comparisons tbody tr:visible").count() == page.locator("#comparisons tbody tr").count() > 100
    assert not page.locator(".aalp-choices").first.is_visible()
    context.close()


def test_the_landing_page_leads_to_what_it_claims(open_page):
    page = open_page("book/intro.html", 390)
    assert page.locator("#answer circle").count() == 8  # three measures on three data sets, but AutoAttack on SVHN
    assert page.get_by_role("img", name="AALP in training").bounding_box()["width"] > 300
    page.get_by_role("link", name="All comparisons").click()
    page.wait_for_url("**/results.html#comparisons")


def test_charts_go_dark_with_the_page(open_page):
    filters = {
        scheme: open_page("book/speed.html", 1280, scheme).locator("img.aalp-chart").first.evaluate(
            "e => getComputedStyle(e).filter"
        )
        for scheme in ("light", "dark")
    }  # fmt: skip
    assert filters == {"light": "none", "dark": "invert(0.93) hue-rotate(180deg)"}


def test_numbers_of_formulas_cover_nothing_on_a_phone(open_page):
    page = open_page("book/03-logit-pairing.html", 390)
    page.wait_for_timeout(500)
    assert (
        page.evaluate("""() => [...document.querySelectorAll('div.math:has(.eqno)')].filter(e => {
      const [a, b] = ['.eqno', 'mjx-container'].map(inside => e.querySelector(inside).getBoundingClientRect());
      return b.width < 350 || (a.top < b.bottom - 1 && b.top < a.bottom - 1); }).map(e => e.id)""")
        == []
    )
