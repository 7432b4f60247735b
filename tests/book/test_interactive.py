"""Sliders, questions and figures for pages: what they hold, how large they are, and what they refuse."""

import base64
import io
import re
import sys

import matplotlib.pyplot as plt
import pytest
from PIL import Image

import aalp_lib as aalp
from aalp_lib.book import interactive


def draw(value):
    figure, axes = plt.subplots(figsize=(4, 2))
    axes.plot([0, value])
    axes.set_title(f"value {value}")
    return figure


def make(values=(1, 2, 3), **options):
    return interactive.slider(draw, values, name="height <m>", alt=lambda v: f'a line up to "{v}"', **options)


def pictures(page):
    return re.findall(r"<img [^>]*>", page.html)


def test_a_slider_holds_a_frame_for_each_value_and_shows_one():
    found = pictures(make(start=1))
    assert len(found) == 3
    assert ["display:block" in image for image in found] == [False, True, False]
    assert [re.search('data-value="(.+?)"', image)[1] for image in found] == ["1", "2", "3"]
    frames = [base64.b64decode(re.search('base64,(.+?)"', image)[1]) for image in found]
    assert len(set(frames)) == 3
    assert {Image.open(io.BytesIO(frame)).size for frame in frames} == {(400, 200)}


def test_a_chart_may_turn_dark_and_a_picture_of_images_may_not():
    figure, axes = plt.subplots()
    axes.imshow([[0, 1]])
    assert 'class="aalp-photo"' in interactive.picture(figure, "two pixels").html
    assert all('class="aalp-chart"' in image for image in pictures(make()))


def test_a_slider_has_a_label_and_each_frame_its_words():
    page = make()
    assert re.search(r"<label[^>]*><span>height &lt;m&gt;</span><input type=\"range\" min=\"0\" max=\"2\"", page.html)
    assert 'aria-valuetext="1"' in page.html
    assert [re.search('alt="(.+?)"', image)[1] for image in pictures(page)] == [
        f"a line up to &quot;{v}&quot;" for v in (1, 2, 3)
    ]
    assert repr(page) == 'height <m> 1: a line up to "1"'


def test_nothing_comes_from_elsewhere_and_no_two_sliders_share_a_name():
    page = make().html + make().html + interactive.predict("Why?", {"so": "yes", "no": "indeed"}, "so").html
    assert not re.search(r"<script|<link|src=\"(?!data:)|href|https?:|\bid=", page)


def test_questions_have_radio_groups_of_their_own():
    pages = [interactive.predict("Why <b>?", {"so": "since", "no": "never"}, "so").html for _ in range(2)]
    groups = [set(re.findall('name="(.+?)"', page)) for page in pages]
    assert all(len(group) == 1 for group in groups)
    assert groups[0] != groups[1]
    assert "Why &lt;b&gt;?" in pages[0]
    assert re.findall("<strong>(Yes|No).</strong> (since|never)", pages[0]) == [("Yes", "since"), ("No", "never")]


def test_frames_are_small_and_figures_are_closed():
    open_before = plt.get_fignums()
    assert len(make(list(range(1, 13))).html) < 60_000
    assert plt.get_fignums() == open_before


def test_a_few_points_keep_their_colour_and_grey_stays_grey():
    figure, axes = plt.subplots(figsize=(4, 2))
    axes.imshow([[k / 40 for k in range(41)]] * 20, cmap="viridis")
    axes.plot([3, 20, 37], [4, 10, 15], ".", color=aalp.plots.COLOURS["aalp"])
    figure.patches.append(plt.Rectangle((0, 0), 0.1, 1, color="0.93", transform=figure.transFigure))
    picture = Image.open(io.BytesIO(interactive.png(figure))).convert("RGB")
    orange = [int(aalp.plots.COLOURS["aalp"][k : k + 2], 16) for k in (1, 3, 5)]
    nearest = min(sum(abs(a - b) for a, b in zip(found, orange, strict=True)) for _, found in picture.getcolors())
    assert nearest < 30
    grey = picture.getpixel((5, 100))
    assert max(grey) - min(grey) <= 3
    assert abs(grey[0] - 237) < 6


def test_a_picture_needs_words():
    assert 'alt="a line"' in interactive.picture(draw(1), "a line").html
    with pytest.raises(aalp.InputError, match="alt text"):
        interactive.picture(draw(1), " ")


def test_bad_input_ends_at_the_door():
    with pytest.raises(aalp.InputError, match="two values, got 1"):
        make([1])
    with pytest.raises(aalp.InputError, match=r"\[0, 2\], got 3"):
        make(start=3)
    with pytest.raises(aalp.InputError, match="unknown answer 'x'"):
        interactive.predict("Why?", {"so": "yes"}, "x")


def test_live_without_ipywidgets_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    assert "install ipywidgets" in repr(interactive.live(draw, value=(0, 1, 0.1)))


def test_live_makes_a_control_for_each_number(monkeypatch):
    widgets = pytest.importorskip("ipywidgets")
    monkeypatch.delenv("AALP_BOOK", raising=False)
    box = interactive.live(draw, value=(0.0, 1.0, 0.25))
    control, output = box.children
    assert isinstance(control, widgets.FloatSlider)
    assert (control.description, control.min, control.max, control.step, control.value) == ("value", 0, 1, 0.25, 0.5)
    assert isinstance(output, widgets.Output)
    monkeypatch.setenv("AALP_BOOK", "1")
    assert "kernel" in repr(interactive.live(draw, value=(0, 1, 0.1)))
