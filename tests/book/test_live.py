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

pytestmark = pytest.mark.slow
browser = pages.browser
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


@pytest.fixture
def visit(browser, address):
    """Open a page; afterwards nothing may have gone wrong, and nothing may have been asked of another machine."""
    asked, wrong = [], []

    def visited(path="live.html", width=1280, scheme="light", before=lambda page: None):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page = stack.enter_context(contextlib.closing(context)).new_page()
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


MODULE = "const aalp = await import(new URL('../_static/live/attack.js', location.href)), book = await aalp.contents();"
TRACES = f"""async ([names, digits, settings]) => {{ {MODULE}
  const found = [], plain = (values) => Array.from(values);
  for (const name of names) for (const k of digits) {{
    const {{ image, label }} = book.digit(k), run = new aalp.Run(await aalp.network(name), image, label, settings);
    const last = await run.to(settings.steps), {{ clean, looks }} = run, scores = aalp.scores(last);
    found.push({{
      name, k, label, first: plain(looks[0].image), image: plain(last.image), logits: plain(last.logits),
      read: aalp.decision(last.logits), scores: plain(scores), mask: aalp.mask(scores), told: {{
        loss: run.losses().at(-1), margin: run.margins().at(-1), pairing: aalp.pairing(clean.logits, last.logits),
        weight: aalp.weight(clean.logits, label), slope: Math.max(...aalp.contributions(last)) }},
    }});
  }}
  return found; }}"""


@pytest.mark.parametrize("attack", LOSSES)
def test_the_numbers_are_the_library_s(visit, sample, attack):
    """Each attack on each network and three digits: logits to 1e-4, the same decision, and the equations on top.

    A pixel whose gradient is 0 but for rounding may step either way. So one attack in twenty-one may end elsewhere, as
    the library's own loop and a bare loop in torch do; what the page says of its image is exact all the same.
    """
    loop = aalp.FGSM(EPS) if attack == "fgsm" else Attack(EPS, STEP, STEPS, loss=LOSSES[attack], start="clean")
    settings = {"attack": attack, "eps": EPS, "step": STEP, "steps": loop.steps, "seed": 5}
    settings["start"] = "random" if attack == "trades" else "image"
    found = visit().evaluate(TRACES, [list(TABLE_2), list(DIGITS), settings])
    assert len(found) == len(TABLE_2) * len(DIGITS)
    images, labels = next(sample.test.batches(max(DIGITS) + 1))
    apart = []
    for one in found:
        model, x, y = aalp.pretrained(f"mnist/{one['name']}"), images[one["k"]][None], labels[one["k"]][None]
        first, last = (torch.tensor(one[name]).view_as(x) for name in ("first", "image"))
        with torch.no_grad():
            ended, clean, seen = (model(at) for at in (loop(model, x, y, start=first), x, last))
        where, z = f"{attack} on {one['name']}, digit {one['k']}", torch.tensor([one["logits"]])
        assert (z - seen).abs().max() <= 1e-4, where
        assert (one["label"], one["read"]) == (int(y), int(ended.argmax())), where
        apart += [where] if (z - ended).abs().max() > 1e-4 else []
        expected = {
            "loss": losses.trades_kl(clean, z) if attack == "trades" else getattr(losses, LOSSES[attack])(z, y),
            "margin": losses.margin(z, y),
            "pairing": losses.alp(clean, z),  # Eq. 1
            "weight": losses.confidence(clean, y),  # Eq. 9
            "slope": contributions.loss_gradient(model, last, y).max(),  # Eq. 5
        }
        assert one["told"] == pytest.approx({k: float(v) for k, v in expected.items()}, rel=1e-3, abs=1e-5), where
        scores = torch.tensor(one["scores"])
        torch.testing.assert_close(scores, contributions.scores(model, last, y), rtol=1e-3, atol=1e-5)  # Eq. 7
        assert contributions.guided_dropout_mask(scores).tolist() == one["mask"]  # Eq. 8
    assert len(apart) <= 1, apart


def test_what_is_asked_for_at_once_is_done_in_turn(visit):
    """A reader who presses faster than the steps come gets every iterate once."""
    steps = visit().evaluate(f"""async () => {{ {MODULE}
      const {{ image, label }} = book.digit(0);
      const settings = {{ attack: "pgd", eps: 0.3, step: 0.01, start: "image", seed: 0 }};
      const run = new aalp.Run(await aalp.network("raw"), image, label, settings);
      await Promise.all([3, 1, 5, 4].map((k) => run.to(k)));
      return run.looks.map((look) => Math.max(...look.image.map((x, i) => Math.abs(x - image[i])))); }}""")
    assert steps == pytest.approx([0, 0.01, 0.02, 0.03, 0.04, 0.05], abs=1e-6)


def test_the_smallest_radius_fools_and_the_next_smaller_does_not(visit, sample):
    smallest = visit().evaluate(f"""async () => {{ {MODULE}
      return aalp.smallest(await aalp.network('aalp'), book.digit(0).image, book.digit(0).label); }}""")
    model, (x, y) = aalp.pretrained("mnist/aalp"), next(sample.test.batches(1))
    loops = [Attack(eps, eps / 30, 40, start="clean") for eps in (smallest - 0.005, smallest)]
    assert [bool(loop.survivors(model, x, y, [40]).all()) for loop in loops] == [True, False]


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
    page.get_by_role("slider", name="step of the attack").press("Home")
    page.wait_for_function("document.querySelector('.live-verdict').textContent.startsWith('RAW reads 7')")
    for _ in range(step):
        page.get_by_role("button", name="a step on").press("Enter")
    page.wait_for_function("document.querySelector('.live-verdict').textContent.includes('fooled')")
    assert f"at={step}" in page.url
    page.get_by_role("button", name="a step back").press("Enter")
    page.wait_for_function("document.querySelector('.live-verdict').textContent.startsWith('RAW reads 7')")


def test_an_address_opens_its_state_and_is_kept_up(visit):
    page = visit("live.html#digit=14&network=aalp_sw&attack=cw&eps=0.25&start=random&seed=8&open=features")
    page.locator(".live-app").wait_for()
    assert page.locator("[aria-pressed=true]").all_inner_texts() == ["", "AALP (sw)\nuntouched"]
    assert page.get_by_role("radio", name="CW").is_checked()
    assert page.locator("[data-set=eps]").input_value() == "0.25"
    assert page.locator("details[open]").count() == 1
    page.get_by_role("radio", name="FGSM").check()
    page.get_by_role("button", name="RAW untouched").click()
    page.wait_for_function("location.hash.includes('attack=fgsm')")
    assert page.evaluate("location.hash") == "#digit=14&network=raw&attack=fgsm&eps=0.25&seed=8&open=features"
    wild = visit("live.html#digit=-4&network=nobody&attack=%3Cimg%3E&eps=900&steps=1e9&drawn=zz")
    wild.get_by_role("button", name="RAW untouched", pressed=True).wait_for()


def test_a_drawing_is_attacked_and_travels_in_the_address(visit):
    page = visit("live.html#network=raw&eps=0.3")
    page.get_by_role("button", name="Draw one").press("Enter")
    for key in ["ArrowUp"] * 8 + ["Space", "ArrowDown"] * 16:  # the pen is where the keys go
        page.keyboard.press(key)
    assert "drawn=" in page.url
    ran(page)
    assert "reads" in page.locator(".live-verdict").inner_text()
    other = visit(f"live.html{page.evaluate('location.hash')}")
    ran(other)
    assert other.locator(".live-verdict").inner_text() == page.locator(".live-verdict").inner_text()


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


def test_the_landing_page_attacks_two_networks(visit):
    page = visit("intro.html")
    page.get_by_role("button", name="Attack both").press("Enter")
    page.wait_for_function("document.querySelector('.live-note').textContent.startsWith('PGD')")
    undefended, defended = page.locator(".live-side p").all_inner_texts()
    assert undefended.startswith("is fooled: reads")
    assert defended.startswith("reads 7")
    page.locator(".live-side a").last.click()
    page.get_by_role("button", name="AALP untouched", pressed=True).wait_for()


WITHOUT = {
    "WebAssembly": lambda page: page.add_init_script("delete window.WebAssembly"),
    "networks": lambda page: page.route("**/live.json", lambda route: route.fulfill(status=404)),
    "npm": lambda page: page.route("**/live.json", lambda route: route.fulfill(json={"runtime": None})),
}


@pytest.mark.parametrize("missing", WITHOUT)
def test_where_it_cannot_run_a_sentence_says_why_and_a_slider_stands_there(visit, missing):
    page = visit(before=WITHOUT[missing])
    page.wait_for_function("word => document.querySelector('.live-why').innerText.includes(word)", arg=missing)
    assert page.locator(".live .aalp-slider").is_visible()
    assert page.locator(".live-app").count() == 0


def test_opened_as_a_file_it_says_how_to_serve_it(browser):
    page = browser.new_page()
    page.goto((pages.HTML / "book" / "live.html").as_uri())
    assert "python -m http.server" in page.locator(".live-why").inner_text()
    assert page.locator(".live .aalp-slider").is_visible()
    page.close()


def test_a_lost_connection_is_said_and_another_press_works(visit):
    mended = []
    answer = lambda route: route.continue_() if mended else route.abort()  # noqa: E731
    page = visit(before=lambda page: page.route("**/ort-wasm.bin", answer))
    page.locator("[data-do=run]").click()
    page.wait_for_function("document.querySelector('.live-note').textContent.includes('Press again')")
    mended.append(True)
    ran(page)
    assert "reads" in page.locator(".live-verdict").inner_text()
