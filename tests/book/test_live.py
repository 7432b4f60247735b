"""The live attack in a real browser: its numbers are the library's, and it works without a mouse or a network."""

import contextlib
import functools
import http.server
import json
import re
import threading

import pytest
import torch

import aalp_lib as aalp
from aalp_lib import contributions, losses
from aalp_lib.attacks import Attack
from aalp_lib.methods import TABLE_2

pages = pytest.importorskip("test_pages", reason="there is no browser, or the book was not built")
LIVE = pages.HTML / "_static" / "live" / "live.json"
if not LIVE.exists() or json.loads(LIVE.read_text())["runtime"] is None:
    pytest.skip("the book was built without the live attack's runtime (make ort)", allow_module_level=True)

LOSSES = {"fgsm": "cross_entropy", "pgd": "cross_entropy", "cw": "margin", "trades": "trades_kl"}
DIGITS = (0, 3, 7)
EPS, STEP, STEPS = 0.2, 0.02, 10
FALLEN = "#digit=0&network=raw&attack=pgd&eps=0.15&step=0.01&steps=40&start=image"
EVERYTHING = f"{FALLEN}&all=1&open=settings,features,challenge"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def address():
    """The built book, served on this machine."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=pages.HTML))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browser():
    with pages.sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=pages.CHROMIUM, args=pages.FLAGS)
        yield started
        started.close()


@pytest.fixture
def visit(browser, address):
    """Open a page; afterwards nothing may have gone wrong, and nothing may have been asked of another machine."""
    asked, wrong = [], []

    def visited(path="live.html", width=1280, scheme="light", before=lambda page: None):
        context = stack.enter_context(
            contextlib.closing(browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme))
        )
        page = context.new_page()
        page.set_default_timeout(120_000)
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        before(page)
        page.goto(f"{address}/book/{path}")
        page.asked = asked
        return page

    with contextlib.ExitStack() as stack:
        yield visited
    assert wrong == []
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []


def ran(page):
    """Press the button, and wait until the attack is through."""
    page.locator("[data-do=run]").click()
    page.wait_for_function("document.querySelector('.live-note').textContent.includes('of computing')")
    return page


MODULE = "const aalp = await import(new URL('../_static/live/attack.js', location.href)), book = await aalp.contents();"
TRACES = f"""async ([attack, names, digits, settings]) => {{ {MODULE}
  const found = [];
  for (const name of names) for (const k of digits) {{
    const {{ image, label }} = book.digit(k), run = new aalp.Run(await aalp.network(name), image, label, settings);
    const last = await run.to(attack === 'fgsm' ? 1 : settings.steps), looks = [run.looks[0], last];
    const pair = looks.map((look, i) => Array.from(aalp.scores(i ? look : run.clean)));
    const both = pair[0].map((score, i) => (score + pair[1][i]) / 2);
    found.push({{
      name, k, label, first: Array.from(looks[0].image), image: Array.from(last.image),
      logits: Array.from(last.logits), read: aalp.decision(last.logits),
      loss: run.losses().at(-1), margin: run.margins().at(-1), pairing: aalp.pairing(run.clean.logits, last.logits),
      weight: aalp.weight(run.clean.logits, label), slope: Array.from(aalp.contributions(last)), scores: pair[1],
      both, mask: aalp.mask(both),
    }});
  }}
  return found; }}"""


@pytest.mark.slow
@pytest.mark.parametrize("attack", LOSSES)
def test_the_numbers_are_the_library_s(visit, sample, attack):
    """Each attack on each network and three digits: logits to 1e-4, the same decision, and the equations on top.

    A pixel whose gradient is 0 but for rounding may step either way. So one attack in twenty-one may end elsewhere, as
    the library's own loop and a bare loop in torch do; what the page says of its image is exact all the same.
    """
    settings = {"attack": attack, "eps": EPS, "step": STEP, "steps": STEPS, "seed": 5}
    settings["start"] = "random" if attack == "trades" else "image"
    found = visit().evaluate(TRACES, [attack, list(TABLE_2), list(DIGITS), settings])
    assert len(found) == len(TABLE_2) * len(DIGITS)
    images, labels = next(sample.test.batches(max(DIGITS) + 1))
    apart = []
    for one in found:
        model, x, y = aalp.pretrained(f"mnist/{one['name']}"), images[one["k"]][None], labels[one["k"]][None]
        first = torch.tensor(one["first"]).view_as(x)
        loop = aalp.FGSM(EPS) if attack == "fgsm" else Attack(EPS, STEP, STEPS, loss=LOSSES[attack], start="clean")
        with torch.no_grad():
            logits, clean = model(loop(model, x, y, start=first)), model(x)
            seen = model(torch.tensor(one["image"]).view_as(x))
        where = f"{attack} on {one['name']}, digit {one['k']}"
        assert one["label"] == int(y)
        told = torch.tensor([one["logits"]])
        assert told.sub(seen).abs().max() <= 1e-4, where
        assert one["read"] == int(logits.argmax()), where
        apart += [where] if told.sub(logits).abs().max() > 1e-4 else []
        expected = {
            "loss": losses.trades_kl(clean, told) if attack == "trades" else getattr(losses, LOSSES[attack])(told, y),
            "margin": losses.margin(told, y),
            "pairing": losses.alp(clean, told),
            "weight": losses.confidence(clean, y),
        }
        for name, value in expected.items():
            assert one[name] == pytest.approx(float(value), rel=1e-3, abs=1e-5), (where, name)
        both = torch.tensor([one["both"]])
        assert contributions.guided_dropout_mask(both)[0].tolist() == one["mask"]
    assert len(apart) <= 1, apart


@pytest.mark.slow
def test_the_equations_of_the_features_are_the_library_s(visit, sample):
    settings = {"attack": "pgd", "eps": EPS, "step": STEP, "steps": 0, "start": "image", "seed": 0}
    for one in visit().evaluate(TRACES, ["pgd", ["adv", "aalp"], [1], settings]):
        model, (x, y) = aalp.pretrained(f"mnist/{one['name']}"), (t[1:2] for t in next(sample.test.batches(2)))
        torch.testing.assert_close(
            torch.tensor(one["slope"]), contributions.loss_gradient(model, x, y), rtol=1e-3, atol=1e-6
        )
        torch.testing.assert_close(torch.tensor(one["scores"]), contributions.scores(model, x, y), rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_what_is_asked_for_at_once_is_done_in_turn(visit):
    """A reader who presses faster than the steps come gets every iterate once."""
    steps = visit().evaluate(f"""async () => {{ {MODULE}
      const {{ image, label }} = book.digit(0);
      const settings = {{ attack: "pgd", eps: 0.3, step: 0.01, start: "image", seed: 0 }};
      const run = new aalp.Run(await aalp.network("raw"), image, label, settings);
      await Promise.all([3, 1, 5, 4].map((k) => run.to(k)));
      return run.looks.map((look) => Math.max(...look.image.map((x, i) => Math.abs(x - image[i])))); }}""")
    assert steps == pytest.approx([0, 0.01, 0.02, 0.03, 0.04, 0.05], abs=1e-6)


@pytest.mark.slow
def test_the_smallest_radius_fools_and_the_next_smaller_does_not(visit, sample):
    smallest = visit().evaluate(f"""async () => {{ {MODULE}
      const {{ image, label }} = book.digit(0);
      return aalp.smallest(await aalp.network('aalp'), image, label); }}""")
    x, y = (t[:1] for t in next(sample.test.batches(1)))
    model = aalp.pretrained("mnist/aalp")
    right = [_survives(model, x, y, eps) for eps in (smallest - 0.005, smallest)]
    assert right == [True, False]


def _survives(model, x, y, eps):
    attack = Attack(eps, eps / 30, 40, start="clean")
    return bool(attack.survivors(model, x, y, [40]).all())


@pytest.mark.slow
def test_a_first_press_loads_and_a_run_is_shown_step_by_step(visit):
    page = visit(f"live.html{FALLEN}")
    page.locator(".live-app").wait_for()
    assert not any("ort" in url or "onnx" in url for url in page.asked)
    ran(page)
    assert {url.rpartition("/")[2] for url in page.asked} >= {"ort-wasm.bin", "raw.onnx"}
    assert not any("aalp.onnx" in url for url in page.asked)
    verdict = page.locator(".live-verdict")
    assert re.fullmatch(r"RAW is fooled at step \d+: reads \d, .*sure", verdict.inner_text())
    step = int(re.search(r"step (\d+)", verdict.inner_text())[1])
    track = page.get_by_role("slider", name="step of the attack")
    track.focus()
    page.keyboard.press("Home")
    page.wait_for_function("document.querySelector('.live-verdict').textContent.startsWith('RAW reads 7')")
    for _ in range(step):
        page.get_by_role("button", name="a step on").press("Enter")
    page.wait_for_function("document.querySelector('.live-verdict').textContent.includes('fooled')")
    assert f"at={step}" in page.url
    page.get_by_role("button", name="a step back").press("Enter")
    page.wait_for_function("document.querySelector('.live-verdict').textContent.startsWith('RAW reads 7')")


@pytest.mark.slow
def test_an_address_opens_its_state_and_is_kept_up(visit):
    page = visit(
        "live.html#digit=14&network=aalp_sw&attack=cw&eps=0.25&step=0.02&steps=30&start=random&seed=8&open=features"
    )
    page.locator(".live-app").wait_for()
    assert page.get_by_role("button", name="AALP (sw)").get_attribute("aria-pressed") == "true"
    assert page.get_by_role("radio", name="CW").is_checked()
    assert page.get_by_role("button", name="digit 14,").get_attribute("aria-pressed") == "true"
    assert page.locator("[data-set=eps]").input_value() == "0.25"
    assert page.locator(".live-features").get_attribute("open") is not None
    page.get_by_role("radio", name="FGSM").check()
    page.get_by_role("button", name="RAW untouched").click()
    page.wait_for_function("location.hash.includes('attack=fgsm')")
    assert page.evaluate("location.hash") == "#digit=14&network=raw&attack=fgsm&eps=0.25&seed=8&open=features"
    wild = visit("live.html#digit=-4&network=nobody&attack=%3Cimg%3E&eps=900&steps=1e9&drawn=zz")
    wild.locator(".live-app").wait_for()
    assert wild.get_by_role("button", name="RAW untouched").get_attribute("aria-pressed") == "true"


@pytest.mark.slow
def test_a_drawing_is_attacked_and_travels_in_the_address(visit):
    page = visit("live.html#network=raw&eps=0.3")
    page.get_by_role("button", name="Draw one").press("Enter")
    pad = page.locator(".live-pad canvas")
    pad.focus()
    for _ in range(8):
        page.keyboard.press("ArrowUp")
    for _ in range(16):
        page.keyboard.press("Space")
        page.keyboard.press("ArrowDown")
    assert "drawn=" in page.url
    ran(page)
    read = re.search(r"reads (\d)", page.locator(".live-verdict").inner_text())
    assert read
    other = visit(f"live.html{page.evaluate('location.hash')}".replace("&at=40", ""))
    ran(other)
    assert other.locator(".live-verdict").inner_text() == page.locator(".live-verdict").inner_text()


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "dark")])
def test_it_fits_and_can_be_read(visit, width, scheme):
    """All seven networks, everything unfolded, after a run and a search."""
    page = visit(f"live.html{EVERYTHING}", width, scheme)
    ran(page)
    page.locator("[data-do=search]").click()
    page.locator(".live-eps-bar").last.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.documentElement.dataset.theme") == scheme
    assert page.evaluate(pages.CUT_OFF) == []
    assert page.evaluate(pages.SMALL, 11) == []
    texts = "article :is(p, label, output, legend, td, th, b, em, small, strong, figcaption, button, summary)"
    assert page.evaluate(pages.CONTRAST, texts) == []
    if pages.AXE.exists():
        page.evaluate(pages.OPEN)
        assert pages.serious(page) == []


@pytest.mark.slow
def test_the_landing_page_attacks_two_networks(visit):
    page = visit("intro.html")
    page.get_by_role("button", name="Attack both").press("Enter")
    page.wait_for_function("document.querySelector('.live-note').textContent.startsWith('PGD')")
    said = [side.inner_text() for side in page.locator(".live-side p").all()]
    assert said[0].startswith("is fooled: reads")
    assert said[1].startswith("reads 7")
    page.locator(".live-side a").first.click()
    page.locator("[data-set=eps]").wait_for()
    assert page.locator("[data-set=eps]").input_value() == "0.15"


WITHOUT = {
    "WebAssembly": lambda page: page.add_init_script("delete window.WebAssembly"),
    "networks": lambda page: page.route("**/live.json", lambda route: route.fulfill(status=404)),
    "npm": lambda page: page.route("**/live.json", lambda route: route.fulfill(json={"runtime": None})),
}


@pytest.mark.slow
@pytest.mark.parametrize("missing", WITHOUT)
def test_where_it_cannot_run_a_sentence_says_why_and_a_slider_stands_there(visit, missing):
    page = visit(before=WITHOUT[missing])
    page.wait_for_function("word => document.querySelector('.live-why').innerText.includes(word)", arg=missing)
    assert page.locator(".live .aalp-slider").is_visible()
    assert page.locator(".live-app").count() == 0


@pytest.mark.slow
def test_opened_as_a_file_it_says_how_to_serve_it(browser):
    page = browser.new_page()
    page.goto((pages.HTML / "book" / "live.html").as_uri())
    assert "python -m http.server" in page.locator(".live-why").inner_text()
    assert page.locator(".live .aalp-slider").is_visible()
    page.close()


@pytest.mark.slow
def test_a_lost_connection_is_said_and_another_press_works(visit):
    lost = []
    page = visit(
        before=lambda page: page.route(
            "**/ort-wasm.bin", lambda route: route.abort() if not lost else route.continue_()
        )
    )
    page.locator("[data-do=run]").click()
    page.wait_for_function("document.querySelector('.live-note').textContent.includes('Press again')")
    lost.append("mended")
    ran(page)
    assert "reads" in page.locator(".live-verdict").inner_text()
