"""Figures for pages and notebooks: with a text beside each, sliders that need no kernel, questions with answers.

What is made here is HTML with everything inside, pictures as well: no script from outside, nothing to keep beside the
notebook. It works in a static page, in Jupyter, in Colab, and with several on one page.
"""

import base64
import html
import io
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

from aalp_lib import _checks
from aalp_lib._checks import InputError

T = TypeVar("T")
DPI = 100  # of figures in pages; 7 inches fill the text's width
COLOURS = 48  # of the palette that keeps a picture small
_groups = itertools.count()  # radio buttons of one question share a name, which no other question may have

# Both handlers find their parts from the element itself, so that copies of a slider never meet.
_TURN = (
    "const f=this.closest('figure'),k=+this.value,m=[...f.querySelectorAll('img')];"
    "m.forEach((e,i)=>e.style.display=i===k?'block':'none');"
    "f.querySelector('output').textContent=m[k].dataset.value;"
    "this.setAttribute('aria-valuetext',m[k].dataset.value)"
)
_CHOOSE = (
    "this.closest('fieldset').querySelectorAll('p').forEach("
    "e=>e.style.display=e.parentElement.contains(this)?'block':'none')"
)


class Page:
    """A piece of HTML that notebooks show, and the words that stand for it where HTML cannot be shown.

    Attributes
    ----------
    html, words : str
    """

    def __init__(self, html: str, words: str) -> None:
        self.html, self.words = html, words

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return self.words


def picture(figure: Figure, alt: str) -> Page:
    """A figure as a small PNG with `alt`, one or two sentences for those who cannot see it; closes the figure.

    Raises
    ------
    InputError
        If `alt` is empty.
    """
    return Page(f'<figure style="margin:0">{_image(figure, alt)}</figure>', alt)


def slider(
    draw: Callable[[T], Figure],
    values: Sequence[T],
    *,
    name: str,
    alt: Callable[[T], str],
    form: Callable[[T], str] = str,
    start: int = 0,
) -> Page:
    """A slider over figures that are drawn now, one for each value; it turns by mouse, touch and arrow keys.

    Parameters
    ----------
    draw : callable
        Makes the figure of a value; all of the same size.
    values : sequence
        At least two.
    name : str
        What is turned, with its unit: the slider's label.
    alt : callable
        The words for the figure of a value.
    form : callable
        The value as it is shown; by default `str`.
    start : int
        Number of the value that is shown first.

    Raises
    ------
    InputError
        Fewer than two values, or `start` is not the number of one.
    """
    if len(values) < 2:
        raise InputError(f"a slider needs at least two values, got {len(values)}")
    if not 0 <= start < len(values):
        raise InputError(f"start must be in [0, {len(values) - 1}], got {start}")
    shown = [form(value) for value in values]
    frames = [
        _image(draw(value), alt(value), shown=text, visible=k == start)
        for k, (value, text) in enumerate(zip(values, shown, strict=True))
    ]
    control = (
        f'<input type="range" min="0" max="{len(values) - 1}" step="1" value="{start}" autocomplete="off" '
        f'aria-valuetext="{html.escape(shown[start])}" style="flex:1 1 12em;min-width:8em" oninput="{_TURN}">'
    )
    label = (
        '<label style="display:flex;flex-wrap:wrap;gap:.3em .8em;align-items:center;margin:0 0 .6em">'
        f"<span>{html.escape(name)}</span>{control}"
        f'<output style="min-width:4em;font-variant-numeric:tabular-nums">{html.escape(shown[start])}</output></label>'
    )
    return Page(
        f'<figure class="aalp-slider" style="margin:0">{label}{"".join(frames)}</figure>',
        f"{name} {shown[start]}: {alt(values[start])}",
    )


def predict(question: str, answers: Mapping[str, str], right: str) -> Page:
    """A question to think about before the next cell: choosing an answer shows why it is right or wrong.

    Parameters
    ----------
    question : str
    answers : mapping of str to str
        Each answer, and what to say of it.
    right : str
        The answer that is right.

    Raises
    ------
    InputError
        If `right` is not among the answers.
    """
    _checks.known("answer", right, answers)
    group = f"aalp-predict-{os.getpid()}-{next(_groups)}"
    rows = [
        f'<div style="margin:.3em 0"><label><input type="radio" name="{group}" autocomplete="off" '
        f'onchange="{_CHOOSE}"> {html.escape(answer)}</label>'
        f'<p style="display:none;margin:.2em 0 .6em 1.6em"><strong>{"Yes." if answer == right else "No."}</strong> '
        f"{html.escape(why)}</p></div>"
        for answer, why in answers.items()
    ]
    frame = "border:1px solid currentColor;border-radius:.4em;padding:.6em 1em;margin:0;min-width:0"
    legend = "float:left;width:100%;font-size:1em;line-height:inherit;padding:0;margin:0 0 .4em"  # inside the frame
    return Page(
        f'<fieldset class="aalp-predict" style="{frame}"><legend style="{legend}"><strong>Predict first.</strong> '
        f'{html.escape(question)}</legend><div style="clear:both"></div>{"".join(rows)}</fieldset>',
        f"Predict first. {question} " + " / ".join(answers),
    )


def live(draw: Callable[..., Figure], **ranges: tuple[float, float, float]) -> Any:
    """Controls for every number between the frames, where a kernel runs and `ipywidgets` 7 or 8 is installed.

    Parameters
    ----------
    draw : callable
        Makes a figure of the numbers, passed by name.
    **ranges : (low, high, step)
        The range of each number; the control starts in its middle.

    Returns
    -------
    An ipywidgets box, or a Page that says what is missing. While the book is made (environment variable `AALP_BOOK`) it
    is always the latter: a static page has no kernel.
    """
    try:
        import ipywidgets
    except ImportError:
        return Page("<p><em>For a control of every value: install ipywidgets.</em></p>", "install ipywidgets")
    if os.environ.get("AALP_BOOK"):
        return Page("<p><em>With a kernel, this cell shows a control of every value.</em></p>", "needs a kernel")
    controls = {
        name: ipywidgets.FloatSlider(
            value=(low + high) / 2, min=low, max=high, step=step, description=name, continuous_update=False
        )
        for name, (low, high, step) in ranges.items()
    }

    def redraw(**numbers: float) -> None:
        from IPython.display import display

        display(picture(draw(**numbers), ", ".join(f"{name} {number:g}" for name, number in numbers.items())))

    return ipywidgets.VBox([*controls.values(), ipywidgets.interactive_output(redraw, controls)])


def png(figure: Figure) -> bytes:
    """The figure as a PNG with a palette of 48 colours, on white; closes it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=DPI, format="png", facecolor="white")
    plt.close(figure)
    picture = Image.open(buffer).convert("RGB")
    # the default, median cut, mixes a colour that only a few points have with its neighbours
    palette = picture.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    palette.save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def _image(figure: Figure, alt: str, shown: str | None = None, visible: bool = True) -> str:
    if not alt.strip():
        raise InputError("a figure needs an alt text: what does it show?")
    width = round(figure.get_figwidth() * DPI)
    data = base64.b64encode(png(figure)).decode()
    value = "" if shown is None else f' data-value="{html.escape(shown)}"'
    kind = "photo" if any(axes.images for axes in figure.axes) else "chart"  # in a dark page a chart can be turned over
    return (
        f'<img class="aalp-{kind}" src="data:image/png;base64,{data}" alt="{html.escape(alt)}" width="{width}"{value} '
        f'style="display:{"block" if visible else "none"};max-width:100%;height:auto;margin:0 auto;background:#fff">'
    )
