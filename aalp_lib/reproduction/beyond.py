"""What the paper does not ask, in tables by model: stronger attacks, other settings of its own, signs of masking."""

from statistics import mean

from aalp_lib.autoattack import QUERIES
from aalp_lib.diagnosis import LARGE, NOISE
from aalp_lib.evaluation import HEADINGS, paper_name, suite_in_ball
from aalp_lib.methods import METHODS
from aalp_lib.reproduction import paper
from aalp_lib.reproduction.attack_measurements import ALTERED, diagnosis_of
from aalp_lib.reproduction.collect import (
    TITLES,
    UNMEASURED,
    Cell,
    Found,
    Which,
    csv_text,
    gradients,
    grid,
    measured_protocol,
    measured_sets,
    of_the_paper,
    signed,
    spread,
    title,
    training_protocol,
)
from aalp_lib.reproduction.paired import attack_title, attacked
from aalp_lib.reproduction.schema import Measurement, Record, label

GRADIENTS = (
    'Gradients are float32\'s; or "TF32": float32 on a GPU whose convolutions round what they multiply to 10 bits, in '
    "decisions and AutoAttack too; or bfloat16's, with decisions, Square and AutoAttack in float32."
)
COLUMNS = ("data", "method", "protocol", "seed", "gradients", "attack", "percent", "low", "high", "correct", "images")


def strong_table(found: Found, which: Which = "last") -> str:
    """Accuracy under the stronger attacks, a line for each model."""
    made = about(found, "strong", which)
    if not made:
        return f"Stronger attacks: {UNMEASURED}.\n"
    names = list(dict.fromkeys(name for m in made for name in m.values["columns"]))
    lines = [["Data", "Method", "Protocol", "Seed", "Gradients", "Images", *(attack_title(name) for name in names)]]
    for m in made:
        cells = {name: Cell.of([cell]) for name, cell in m.values["columns"].items()}
        counts = sorted({cell.images for cell in cells.values()})
        images = "–".join(str(c) for c in dict.fromkeys((counts[0], counts[-1]))) if counts else ""
        lines.append([*_subject(m, found), gradients(m), images, *(str(cells.get(name, "–")) for name in names)])
    return (
        "Correct images in percent, with 95 % Wilson intervals. The stages of AutoAttack build on each other: each "
        f"attacks what the ones before have left. {GRADIENTS}\n\n" + grid(lines) + _without(found, "strong", which)
    )


def attacks_table(found: Found, which: Which = "last") -> str:
    """Table 2's attacks with one setting changed, for a network of each row and recipe: what that moves, and how far
    the paper's row lies from the network's own."""
    rows: dict[tuple[str, str, str], tuple[Record, Measurement]] = {}
    for r, m in _under_attacks(found, which):
        if r.method in METHODS and training_protocol(r) in ("fast", "paper"):
            rows.setdefault((r.data, r.method, training_protocol(r)), (r, m))  # of several seeds the lowest
    if not rows:
        return f"Other settings of the attacks: {UNMEASURED}.\n"
    names = [*suite_in_ball(1.0, 1.0)]
    lines = [["Network", "Images", "What is changed", *(HEADINGS[name] for name in names)]]
    for (*_, protocol), (r, m) in rows.items():
        cells, precision = m.values["columns"], gradients(m)
        unusual = {'recipe "paper"': protocol == "paper", precision: precision != "float32"}
        words = [title(r.data), label(r.method), f"seed {r.seed}", *(word for word, said in unusual.items() if said)]
        plain = {name: 100 * cells[name]["accuracy"] for name in names}
        lines.append([", ".join(words), str(m.config["images"]), "nothing", *(f"{v:.1f}" for v in plain.values())])
        for word, what in ALTERED.items():
            moved = {n: 100 * c["accuracy"] - plain[n] for n in names if (c := cells.get(f"{n} {word}"))}
            if moved:
                lines.append(["", "", what, *(signed(moved[n]) if n in moved else "–" for n in names)])
        published, all_images = paper.TABLE_2[paper_name(r.data)].get(r.method, {}), r.accuracy.get(which, {})
        away = {n: v - 100 * all_images[n]["accuracy"] for n, v in published.items() if n in all_images}
        lines.append(["", "", "*the paper's row*", *(f"*{signed(away[n])}*" if n in away else "–" for n in names)])
    return (
        "Correct images in percent, from the front of the test set; below them, in points, what one change of the "
        "attacks moves on the same images, and in italics how far above or below this network's row the paper's lies, "
        "on all test images. Where a change moves a column as far as that, the paper's number may be of such an "
        "attack. But FGSM without rounding is no attack of the paper's: it tells how much of the column the rounding "
        "is.\n\n" + grid(lines)
    )


def starts_table(found: Found, which: Which = "last") -> str:
    """PGD-100 and CW-100 from a random start, from twenty, and from the image itself, over the networks of each row."""
    alike: dict[tuple[str, ...], list[tuple[Record, Measurement]]] = {}
    for r, m in _under_attacks(found, which):
        alike.setdefault(tuple(_subject(m, found)[:3]), []).append((r, m))
    if not alike:
        return f"Attacks from the image itself: {UNMEASURED}.\n"
    lines = [["Data", "Network", "Seeds × images"]]
    for name in ("pgd100", "cw100"):
        lines[0] += [f"{HEADINGS[name]}, random start", "twenty of them", "from the image"]
    for (data, method, recipe), made in alike.items():
        twenty = [hard.values["columns"] for r, _ in made if (hard := attacked(found, r, which))]
        images = sorted({m.config["images"] for _, m in made})
        network = method if recipe == "fast" else f"{method}, {recipe.removeprefix('fast, ')}"
        line = [data, network, f"{len(made)} × {' or '.join(f'{count:,}' for count in images)}"]
        for name in ("pgd100", "cw100"):
            random, own = ([m.values["columns"][column] for _, m in made] for column in (name, f"{name} start"))
            moved = [100 * (b["accuracy"] - a["accuracy"]) for a, b in zip(random, own, strict=True)]
            many = [cells[f"{name}x20"] for cells in twenty if f"{name}x20" in cells]
            line += [str(Cell.of(random)), str(Cell.of(many)) if len(many) == len(made) else "–"]
            span = f" [{spread(moved)}]" * (len(made) > 1)
            line.append(f"{Cell.of(own)}<br>**{signed(mean(moved))}**{span}")
        lines.append(line)
    return (
        "Correct images in percent, from the front of the test set: of one seed with its 95 % Wilson interval, of "
        "several their mean with the lowest and the highest. In bold by how many points more are right after the "
        "attack from the image than after that from one random point: below 0, the start at the image finds more. All "
        'take 100 steps. The recipe is "fast" where none is named.\n\n' + grid(lines)
    )


def _under_attacks(found: Found, which: Which) -> list[tuple[Record, Measurement]]:
    """The full-tier runs whose network has a measurement "attacks", each with it, in the order of the tables."""
    runs = [r for r in (*found.records, *found.ablations) if r.tier == "full" and r.data in TITLES]
    made = [(r, m) for r in runs if (m := attacked(found, r, which, "attacks"))]
    return sorted(made, key=lambda pair: [*TITLES].index(pair[0].data))


def diagnosis_table(found: Found, which: Which = "last") -> str:
    """What `diagnose` measured in numbers, a line for each model; its curves are in the records and CSV files."""
    made = about(found, "diagnosis", which)
    if not made:
        return f"Diagnosis: {UNMEASURED}.\n"
    heads = ["1 start", "5 starts", "20 starts", "FGSM", "margin loss", "transfer", "Square", "Square alone"]
    heads += ["at ε = 0.5", "gradient 0, clean", "gradient 0, attacked", "largest logit"]
    lines = [["Data", "Method", "Protocol", "Seed", "Gradients", "Images", *heads]]
    for m in made:
        d = diagnosis_of(m)
        half = next((row for row in d.eps if row["eps"] == 0.5), None)
        rows = [*d.restarts, d.fgsm, d.margin, d.black_box.get("transfer"), d.black_box.get("square")]
        square = d.black_box.get("square")
        lines.append(
            [
                *_subject(m, found), gradients(m), str(m.config["images"]),
                *(f"{100 * row['accuracy']:.1f}" if row else "–" for row in rows),
                f"{square['only']:.0f}" if square else "–",
                f"{100 * half['accuracy']:.1f}" if half else "–",
                *(f"{100 * share:.1f}" for share in d.zero_gradients.values()),
                f"{d.logits['largest']:.1f}",
            ]
        )  # fmt: skip
    return (
        "Correct images in percent: PGD-100 from one start, five and twenty; FGSM; PGD-100 on the margin loss, which "
        "is CW-100; images made against ALP of the same seed and protocol (for ALP against AALP, for a variant "
        f"against another); Square, one random search of {QUERIES:,} queries. "
        '"Square alone" counts images that Square fools and PGD-100 does not. Then PGD-100 at '
        "ε = 0.5, where every ball holds a grey image; share of images whose gradient is exactly 0, in percent; mean "
        f"of the largest absolute logit. {GRADIENTS}\n\n" + grid(lines) + _without(found, "diagnosis", which)
    )


def _without(found: Found, kind: str, which: Which) -> str:
    """The runs of the paper's rows on whose networks something was not measured, in a sentence."""
    keys = ("data", "method", "seed")
    done = {(*(m.subject.get(key) for key in keys), measured_protocol(m)) for m in about(found, kind, which)}
    missing: dict[str, set[int]] = {}
    for data in measured_sets(found):
        for r in (r for g in of_the_paper(found.records, data) if g.data == data for r in g.records):
            if (data, r.method, r.seed, words := training_protocol(r)) not in done:
                name = f"{title(data)} {label(r.method)}" + f", {words}" * (words != "fast")
                missing.setdefault(name, set()).add(r.seed)
    said = [f"{name} {', '.join(map(str, sorted(seeds)))}" for name, seeds in missing.items()]
    return f"\nNot measured yet, by seed: {'; '.join(said)}.\n" if said else ""


def signs_table(found: Found, which: Which = "last") -> str:
    """Signs of gradient masking, a line for each model."""
    made = about(found, "diagnosis", which)
    if not made:
        return f"Signs of gradient masking: {UNMEASURED}.\n"
    lines = [["Data", "Method", "Protocol", "Seed", "Signs of gradient masking"]]
    return (
        "What counts as a sign, against PGD-100 from one start. If it is more than "
        f"{NOISE:.0%} of the images: those that transfer or Square fools and PGD-100 does not; by how many fewer FGSM "
        "leaves right; those whose gradient is exactly 0; how many more are right than is possible at that ε, or than "
        f"at a smaller ε. If it is more than {LARGE:.0%}: those that twenty starts fool besides; by how many fewer "
        "the margin loss leaves right; those with a probability of exactly 1; where more steps no longer raise the "
        "loss, those that another attack fools besides.\n\n"
    ) + grid(lines + [[*_subject(m, found), "; ".join(m.values["signs"]) or "none"] for m in made])


def measured_csv(found: Found, data: str) -> dict[str, str]:
    """Accuracies on one of the paper's data sets, a line for each, as CSV by kind: "strong", "diagnosis", "attacks"."""
    made = {}
    for kind in ("strong", "diagnosis", "attacks"):
        kept = [m for m in about(found, kind, "last") if paper_name(str(m.subject.get("data"))) == data]
        if kept:
            lines = ([*_subject(m, found), *cells] for m in kept for cells in _accuracies(m))
            made[kind] = csv_text(COLUMNS, lines)
    return made


def _accuracies(m: Measurement) -> list[list[str]]:
    """Gradients, attack, percent with its interval, number right and of how many."""
    if m.kind != "diagnosis":
        rows = [(gradients(m, name), attack_title(name), row) for name, row in m.values["columns"].items()]
    else:
        rows = [(gradients(m), name, row) for group in diagnosis_of(m).rows for name, row, _ in group]
    return [
        [*names, *(f"{100 * row[k]:.2f}" for k in ("accuracy", "low", "high")), str(row["correct"]), str(row["count"])]
        for *names, row in rows
    ]


def about(found: Found, kind: str, which: Which) -> list[Measurement]:
    """Full-tier measurements of a kind, in the order of the tables."""
    order = {name: index for index, name in enumerate(METHODS)}
    made = [
        m for m in found.measurements if m.kind == kind and m.tier == "full" and m.subject.get("model", which) == which
    ]
    return sorted(
        made,
        key=lambda m: (
            list(TITLES).index(m.subject["data"]) if m.subject.get("data") in TITLES else len(TITLES),
            order.get(str(m.subject.get("method")), len(order)),
            measured_protocol(m),
            m.subject.get("seed", 0),
        ),
    )


def by_method(found: Found, kind: str, data: str = "mnist", which: Which = "last") -> dict[str, Measurement]:
    """Full-tier measurements of a kind on a data set, recipe "fast", by method; of several seeds the lowest."""
    made = [m for m in about(found, kind, which) if m.subject.get("data") == data and measured_protocol(m) == "fast"]
    return {str(m.subject.get("method")): m for m in reversed(made)}


def _subject(m: Measurement, found: Found) -> list[str]:
    """What was measured; a variant by the label that its runs have."""
    subject = m.subject
    labels = {r.method: r.config.get("method", {}).get("label") for r in found.ablations}
    method = str(subject.get("method", ""))
    return [
        title(str(subject.get("data", ""))),
        labels.get(method) or label(method),
        measured_protocol(m),
        str(subject.get("seed", "")),
    ]
