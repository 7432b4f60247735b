// The live attack's page and its small form: what the reader sets, and what is drawn. The attack itself is attack.js.

import * as aalp from "./attack.js";

const { SIDE, PIXELS, CLASSES, ATTACKS } = aalp;
const SHOWN = 12; // digits to pick from at a time
const LEVELS = 15; // of a drawn pixel, so that a drawing fits into an address
const PEN = "#D55E00";
const DEFAULTS = {
  digit: 0, network: "raw", all: false, attack: "pgd", eps: 0.15, step: 0.01, steps: 40, start: "image", seed: 0, at: 0,
  label: null, drawn: null, open: [],
};

export async function start(place) {
  const book = await aalp.contents();
  if (place.dataset.form === "small") new Small(place, book); else new Page(place, book);
}

// --- small helpers ---------------------------------------------------------------------------------------------------

const percent = (p) => (p > 0.9995 && p < 1 ? "> 99.9 %" : p > 0 && p < 0.0005 ? "< 0.1 %" : `${(100 * p).toFixed(1)} %`);
const megabytes = (count) => `${(count / 1e6).toFixed(1)} MB`;
const signed = (text) => text.replace("-", "−");
const short = (x) => signed(x === 0 ? "0" : Math.abs(x) < 0.001 ? x.toExponential(1) : x.toFixed(Math.abs(x) < 10 ? 3 : 1));
const frame = () => new Promise(requestAnimationFrame);
const between = (x, low, high, other) => (Number.isFinite(x) && x >= low && x <= high ? x : other);

/** An element from HTML without values of a reader's in it. */
function element(html) {
  const made = document.createElement("template");
  made.innerHTML = html.trim();
  return made.content.firstElementChild;
}

function paint(canvas, colour) {
  const data = new ImageData(SIDE, SIDE);
  for (let i = 0; i < PIXELS; i += 1) data.data.set(colour(i), 4 * i);
  canvas.getContext("2d").putImageData(data, 0, 0);
}
const paintImage = (canvas, image) => paint(canvas, (i) => [255 * image[i], 255 * image[i], 255 * image[i], 255]);
/** What was added in orange, what was taken away in blue, as strong as its share of eps. */
const paintChange = (canvas, image, clean, eps) => paint(canvas, (i) => {
  const change = (image[i] - clean[i]) / eps;
  return [...(change > 0 ? [213, 94, 0] : [0, 114, 178]), 255 * Math.min(1, Math.abs(change))];
});

const canvas = (label) => `<canvas width="28" height="28"${label ? ` role="img" aria-label="${label}"` : ' aria-hidden="true"'}></canvas>`;

/** Bytes that some networks still need, and the runtime with the first. */
const toLoad = (names, book) => book.networks.filter(({ name }) => names.includes(name) && !aalp.isLoaded(name))
  .reduce((sum, { bytes }) => sum + bytes, aalp.hasRuntime() ? 0 : book.runtime);

/** Tell how much of it has come. */
function progress(line, names, book) {
  const total = toLoad(names, book);
  if (!total) return undefined;
  let come = 0;
  return (count) => {
    come += count;
    line.textContent = `Loading ${megabytes(total)}, once: ${Math.min(99, Math.round((100 * come) / total))} % …`;
  };
}

// --- the state in the address ----------------------------------------------------------------------------------------

function packed(image) {
  const levels = Array.from(image, (x) => Math.round(LEVELS * x));
  const pairs = Array.from({ length: PIXELS / 2 }, (_, i) => 16 * levels[2 * i] + levels[2 * i + 1]);
  return btoa(String.fromCharCode(...pairs)).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

function unpacked(text) {
  try {
    const pairs = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
    if (pairs.length !== PIXELS / 2) return null;
    return Float32Array.from({ length: PIXELS }, (_, i) => {
      const pair = pairs.charCodeAt(i >> 1);
      return (i % 2 ? pair % 16 : pair >> 4) / LEVELS;
    });
  } catch { return null; }
}

/** The address's part after #; what cannot be read there is left at its default. */
function fromAddress(book) {
  const said = new URLSearchParams(location.hash.slice(1)), number = (key) => parseFloat(said.get(key));
  const among = (key, known) => (known.includes(said.get(key)) ? said.get(key) : DEFAULTS[key]);
  const state = {
    digit: Math.floor(between(number("digit"), 0, book.count - 1, DEFAULTS.digit)),
    network: among("network", book.networks.map(({ name }) => name)),
    all: said.get("all") === "1",
    attack: among("attack", Object.keys(ATTACKS)),
    eps: between(number("eps"), 0.005, 0.6, DEFAULTS.eps),
    step: between(number("step"), 0.001, 0.6, DEFAULTS.step),
    steps: Math.floor(between(number("steps"), 1, 200, DEFAULTS.steps)),
    start: among("start", ["image", "random"]),
    seed: Math.floor(between(number("seed"), 0, 999999, DEFAULTS.seed)),
    at: Math.floor(between(number("at"), 0, 200, DEFAULTS.at)),
    drawn: said.get("drawn") ? unpacked(said.get("drawn")) : null,
    label: between(number("label"), 0, 9, null),
    open: (said.get("open") ?? "").split(","),
  };
  if (!said.get("start") && ATTACKS[state.attack].gaussian) state.start = "random";
  return state;
}

function toAddress(state) {
  const said = new URLSearchParams();
  if (state.drawn) {
    said.set("drawn", packed(state.drawn));
    if (state.label !== null) said.set("label", state.label);
  } else said.set("digit", state.digit);
  for (const key of ["network", "attack", "eps"]) said.set(key, state[key]);
  if (!ATTACKS[state.attack].single) for (const key of ["step", "steps", "start"]) said.set(key, state[key]);
  if (state.start === "random") said.set("seed", state.seed);
  if (state.all) said.set("all", "1");
  if (state.at) said.set("at", state.at);
  const open = state.open.filter(Boolean);
  if (open.length) said.set("open", open.join(","));
  return `#${said}`;
}

// --- parts that both forms have --------------------------------------------------------------------------------------

/** Buttons with a digit on each; `choose` is told the number of the one that is pressed. */
function digitButtons(row, book, numbers, chosen, choose) {
  row.replaceChildren(...numbers.map((k) => {
    const { image, label } = book.digit(k);
    const button = element(`<button type="button" class="live-digit" aria-label="digit ${k}, a ${label}">${canvas()}</button>`);
    button.setAttribute("aria-pressed", k === chosen);
    paintImage(button.firstElementChild, image);
    button.addEventListener("click", () => choose(k));
    return button;
  }));
}

/** A line of curves over the steps: `series` of {colour, values, strong}, the place `at` marked. */
function chart(place, title, series, steps, at) {
  const [width, height, left, bottom, top] = [Math.max(place.clientWidth, 240), 128, 52, 22, 8];
  const strong = series.find((one) => one.strong), all = series.flatMap(({ values }) => values);
  const limit = strong ? 3 * Math.max(...strong.values.map(Math.abs), 1) : Infinity; // others may leave at the edge
  let [low, high] = [Math.max(-limit, Math.min(0, ...all)), Math.min(limit, Math.max(0, ...all))];
  if (high - low < 1e-9) high = low + 1;
  const x = (k) => left + ((width - left - 8) * k) / Math.max(steps, 1);
  const y = (value) => top + ((height - top - bottom) * (high - Math.min(Math.max(value, low), high))) / (high - low);
  const line = ({ colour, values, strong }) => `<polyline fill="none" stroke="${colour}" stroke-width="${strong ? 2.5 : 1.25}"
    points="${values.map((value, k) => `${x(k).toFixed(1)},${y(value).toFixed(1)}`).join(" ")}"/>`;
  const marks = series.filter(({ strong, values }) => strong && values.length > at)
    .map(({ colour, values }) => `<circle cx="${x(at)}" cy="${y(values[at])}" r="4" fill="${colour}"/>`);
  const text = (dx, dy, anchor, said) => `<text x="${dx}" y="${dy}" text-anchor="${anchor}">${said}</text>`;
  const cut = all.some((value) => value < low || value > high);
  const ends = [low, high].filter((value) => value !== 0).map((value) => text(left - 6, y(value) + 4, "end", short(value)));
  const now = strong && strong.values.length > at ? `: ${short(strong.values[at])} at step ${at}` : "";
  place.innerHTML = `<svg width="${width}" height="${height}" role="img" aria-label="${title}${now}">
    <line class="live-axis" x1="${left}" x2="${width - 8}" y1="${y(0)}" y2="${y(0)}"/>
    ${text(left - 6, y(0) + 4, "end", "0")}${ends.join("")}
    ${cut ? text((left + width) / 2, height - 4, "middle", "at the edge: off the scale") : ""}
    ${text(left, height - 4, "start", "0")}${text(width - 8, height - 4, "end", `${steps} steps`)}
    ${series.map(line).join("")}${marks.join("")}</svg>`;
}

// --- the page --------------------------------------------------------------------------------------------------------

const PAGE = `
<div class="live-app">
  <div class="live-pick">
    <div class="live-digits" role="group" aria-label="the digit"></div>
    <button type="button" data-do="others">Others</button>
    <button type="button" data-do="draw" aria-expanded="false">Draw one</button>
  </div>
  <div class="live-pad" hidden>
    <canvas width="28" height="28" tabindex="0" role="application"
      aria-label="drawing pad: arrow keys move, space draws, shift and space erase"></canvas>
    <div>
      <p>Draw with mouse, finger or pen; by keyboard, arrow keys move the pen and space draws.</p>
      <label>It is a <select data-set="label"><option value="">digit that the network takes it for</option></select></label>
      <p><button type="button" data-do="centre">Centre it</button> <button type="button" data-do="clear">Clear</button>
      <button type="button" data-do="back-to-digits">Back to test digits</button></p>
    </div>
  </div>
  <div class="live-controls">
    <fieldset class="live-choice"><legend>Attack</legend></fieldset>
    <label class="live-eps"><span>largest change, ε</span> <input type="range" data-set="eps" min="0.005" max="0.5" step="0.005">
      <output></output></label>
    <button type="button" class="live-run" data-do="run">Run the attack</button>
  </div>
  <div class="live-main">
    <div class="live-stage">
      <figure>${canvas("the digit")}<figcaption></figcaption></figure><span aria-hidden="true">+</span>
      <figure>${canvas("the change")}<figcaption></figcaption></figure><span aria-hidden="true">=</span>
      <figure>${canvas("what the network sees")}<figcaption></figcaption></figure>
      <div class="live-transport" role="group" aria-label="steps of the attack">
        <button type="button" data-do="first" aria-label="to the start">|◀</button>
        <button type="button" data-do="back" aria-label="a step back">◀</button>
        <button type="button" data-do="next" aria-label="a step on">▶</button>
        <input type="range" min="0" step="1" data-set="at" aria-label="step of the attack">
        <output></output>
      </div>
    </div>
    <div class="live-read"><p class="live-verdict" aria-live="polite"></p><div class="live-bars"></div>
      <p class="live-legend">bar: now · line: the clean image · at the end: probability, logit</p></div>
  </div>
  <div class="live-between"><label><input type="checkbox" data-set="all"> attack all seven side by side</label>
    <p class="live-note" aria-live="polite"></p>
    <button type="button" data-do="link">Copy link to this</button></div>
  <div class="live-networks" role="group" aria-label="the network"></div>
  <div class="live-curves">
    <div><p>Margin, largest wrong logit less the true one: above 0 the network is fooled</p><div></div></div>
    <div><p></p><div></div></div>
  </div>
  <details class="live-more" data-fold="settings"><summary>Step, steps, start</summary>
    <div class="live-settings">
      <label>step <input type="number" data-set="step" min="0.001" max="0.6" step="0.001"></label>
      <label>steps <input type="number" data-set="steps" min="1" max="200" step="1"></label>
      <label>start <select data-set="start"><option value="image">the image</option><option value="random">random</option></select></label>
      <label>seed <input type="number" data-set="seed" min="0" max="999999" step="1"></label>
    </div>
    <p class="live-hint"></p>
  </details>
  <details class="live-features" data-fold="features"><summary>What the features do: Eq. 1, 5, 7, 8 and 9 on this digit</summary><div></div></details>
  <details class="live-challenge" data-fold="challenge"><summary>Challenge: the smallest ε that fools AALP on this digit</summary>
    <p>Guess first. How far must PGD-40 be allowed to move a pixel until AALP misreads this digit?</p>
    <p><label>my guess <input type="range" data-set="guess" min="0.05" max="0.6" step="0.005" value="0.2"> <output>0.200</output></label>
    <button type="button" data-do="search">Find it, for all seven</button></p>
    <div class="live-found" aria-live="polite"></div>
  </details>
</div>`;

class Page {
  constructor(place, book) {
    Object.assign(this, { book, state: fromAddress(book), runs: new Map(), turn: 0, running: false, loaded: false });
    this.root = element(PAGE);
    this.build();
    place.classList.remove("live-starting");
    place.replaceChildren(this.root);
    this.root.addEventListener("click", (event) => this.press(event.target.closest("[data-do]")?.dataset.do));
    this.root.addEventListener("input", (event) => this.set(event.target));
    this.root.addEventListener("toggle", () => this.fold(), true);
    addEventListener("hashchange", () => this.reopen());
    addEventListener("resize", () => this.draw());
    this.pad = new Pad(this.find(".live-pad canvas"), (image) => { this.state.drawn = image; this.renew(); });
    this.reopen();
  }

  find(selector) { return this.root.querySelector(selector); }
  findAll(selector) { return [...this.root.querySelectorAll(selector)]; }
  control(name) { return this.find(`[data-set="${name}"]`); }

  build() {
    for (const [name, { label }] of Object.entries(ATTACKS)) {
      this.find(".live-choice").append(element(
        `<label><input type="radio" name="live-attack" data-set="attack" value="${name}"><span>${label}</span></label>`));
    }
    for (let k = 0; k < CLASSES; k += 1) {
      this.control("label").append(element(`<option value="${k}">${k}</option>`));
      this.find(".live-bars").append(element(
        `<div class="live-bar"><b>${k}</b><span><i></i><u></u></span><em></em><small></small></div>`));
    }
    for (const { name, label, colour } of this.book.networks) {
      this.find(".live-networks").append(element(`<button type="button" class="live-card" data-do="network:${name}"
        style="--method:${colour}"><strong>${label}</strong>${canvas()}<span></span></button>`));
    }
  }

  // --- what the reader does

  reopen() {
    if (location.hash === this.written && this.written) return;
    this.state = fromAddress(this.book);
    this.page = Math.floor(this.state.digit / SHOWN);
    this.pad.put(this.state.drawn);
    for (const fold of this.findAll("[data-fold]")) fold.open = this.state.open.includes(fold.dataset.fold);
    this.renew();
  }

  fold() {
    this.state.open = this.findAll("[data-fold]").filter(({ open }) => open).map(({ dataset }) => dataset.fold);
    this.save();
    this.draw();
  }

  press(what) {
    const [verb, name] = (what ?? "").split(":"), { state } = this;
    const actions = {
      run: () => (this.running ? this.pause() : this.run()),
      first: () => this.go(0), back: () => this.go(state.at - 1), next: () => this.go(state.at + 1),
      others: () => { this.page = (this.page + 1) % Math.floor(this.book.count / SHOWN); this.digits(); },
      draw: () => this.openPad(this.find(".live-pad").hidden),
      clear: () => { this.pad.clear(); state.drawn = this.pad.image(); state.label = null; this.renew(); },
      centre: () => { this.pad.centre(); state.drawn = this.pad.image(); this.renew(); },
      "back-to-digits": () => { state.drawn = null; this.openPad(false); this.renew(); },
      network: () => { state.network = name; this.renew(state.all); },
      link: () => this.copyLink(), search: () => this.search(),
    };
    actions[verb]?.();
  }

  set(input) {
    const key = input.dataset.set, { state } = this;
    if (!key) return;
    if (key === "guess") { input.nextElementSibling.textContent = Number(input.value).toFixed(3); return; }
    if (key === "at") { this.go(Number(input.value)); return; }
    const ended = state.at > 0 && state.at >= this.steps, beside = ATTACKS[state.attack].gaussian;
    if (key === "label") state.label = input.value === "" ? null : Number(input.value);
    else if (input.type === "checkbox") state[key] = input.checked;
    else if (input.type === "number") state[key] = between(Number(input.value), Number(input.min), Number(input.max), state[key]);
    else state[key] = input.type === "range" ? Number(input.value) : input.value;
    if (ATTACKS[state.attack].gaussian !== beside) state.start = beside ? "image" : "random"; // TRADES has to start beside it
    if (ended) state.at = this.steps; // who has seen the end sees the other attack's end
    this.renew(key === "all");
  }

  choose(k) { Object.assign(this.state, { digit: k, drawn: null, label: null }); this.renew(); }

  openPad(open) {
    this.find(".live-pad").hidden = !open;
    this.find('[data-do="draw"]').setAttribute("aria-expanded", open);
    if (open) this.pad.canvas.focus({ preventScroll: true });
  }

  async copyLink() {
    this.save();
    try { await navigator.clipboard.writeText(location.href); this.say("The link is copied."); }
    catch { this.say("The address bar has the link."); }
  }

  // --- the attack

  get steps() { return ATTACKS[this.state.attack].single ? 1 : this.state.steps; }
  get image() { return this.state.drawn ?? this.book.digit(this.state.digit).image; }
  get names() { return this.state.all ? this.book.networks.map(({ name }) => name) : [this.state.network]; }
  get shown() { return this.runs.get(this.state.network); }
  say(text) { this.find(".live-note").textContent = text; }

  /** After a change: forget what no longer fits, and once something was loaded, go to where the reader was. */
  async renew(keep = false) {
    this.running = false;
    this.turn += 1;
    if (!keep) { this.runs = new Map(); this.found = null; }
    this.state.at = Math.min(this.state.at, this.steps);
    this.digits();
    this.controls();
    this.save();
    if (this.loaded) { await this.go(this.state.at); return; } // until then the old picture stays: no flicker
    this.draw();
    this.say(`The first press loads ${megabytes(toLoad(this.names, this.book))}, once.`);
  }

  /** Load what is needed, and have a run for each network. False where something else was asked for meanwhile. */
  async ready(turn) {
    const names = this.names, seen = progress(this.find(".live-note"), names, this.book);
    try {
      const networks = await Promise.all(names.map((name) => aalp.network(name, seen)));
      if (turn !== this.turn) return false;
      if (seen) this.say("");
      this.loaded = true;
      const label = await this.label();
      if (turn !== this.turn) return false;
      names.forEach((name, i) => {
        if (this.runs.get(name)?.label !== label) this.runs.set(name, new aalp.Run(networks[i], this.image, label, { ...this.state }));
      });
    } catch (error) {
      this.say(`${error.message}. Is the connection gone? Press again.`);
      return false;
    }
    return turn === this.turn;
  }

  /** The digit's label; of a drawing, what the reader says it is, or else what the network takes it for. */
  async label() {
    const { state } = this, known = state.drawn ? state.label : this.book.digit(state.digit).label;
    if (known !== null) return known;
    const network = await aalp.network(state.network);
    return aalp.decision((await network.look(this.image, 0, new Float32Array(CLASSES), "cross_entropy")).logits);
  }

  /** Show iterate k of every run, made first where it is not there yet. */
  async go(k) {
    const turn = (this.turn += 1);
    this.running = false;
    const at = Math.max(0, Math.min(k, this.steps));
    if (!(await this.ready(turn))) { if (turn === this.turn) this.draw(); return; }
    if (await this.advance(at, turn)) { this.state.at = at; this.draw(); this.tell(); this.save(); }
    this.controls();
  }

  async advance(k, turn) {
    for (const name of this.names) {
      await this.runs.get(name).to(k, () => turn === this.turn);
      if (turn !== this.turn) return false;
    }
    return true;
  }

  async run() {
    const turn = (this.turn += 1), { at } = this.state;
    const [from, goal] = this.loaded ? [at >= this.steps ? 0 : at, this.steps] : [0, at || this.steps]; // a link opens at its step
    this.running = true;
    this.controls();
    if (!(await this.ready(turn))) { this.running = this.running && turn !== this.turn; this.controls(); return; }
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches; // then the end alone is shown
    let spent = 0;
    for (let k = from; k <= goal; k += 1) {
      const began = performance.now();
      if (!(await this.advance(k, turn))) return;
      spent += performance.now() - began;
      this.state.at = k;
      if (calm && k < goal) continue;
      this.draw();
      await frame();
      if (turn !== this.turn) return;
    }
    this.running = false;
    this.controls();
    this.save();
    this.tell();
    const many = this.names.length > 1 ? ` on ${this.names.length} networks` : "";
    this.say(`${goal - from} steps${many}: ${Math.round(spent)} ms of computing, in this browser.`);
  }

  pause() { this.turn += 1; this.running = false; this.controls(); this.tell(); this.save(); }

  save() {
    this.written = toAddress(this.state);
    try { history.replaceState(null, "", this.written); } catch { /* some browsers take a hundred in half a minute */ }
  }

  // --- what is drawn

  digits() {
    const last = Math.floor(this.book.count / SHOWN) * SHOWN, begin = (this.page * SHOWN) % last;
    const numbers = Array.from({ length: SHOWN }, (_, i) => begin + i);
    digitButtons(this.find(".live-digits"), this.book, numbers, this.state.drawn ? null : this.state.digit, (k) => this.choose(k));
  }

  controls() {
    const { state } = this, { single } = ATTACKS[state.attack];
    for (const radio of this.findAll('[data-set="attack"]')) radio.checked = radio.value === state.attack;
    for (const key of ["eps", "step", "steps", "start", "seed"]) {
      const control = this.control(key);
      if (document.activeElement !== control || control.type === "range") control.value = state[key];
    }
    for (const key of ["step", "steps", "start"]) this.control(key).disabled = Boolean(single);
    this.control("seed").disabled = Boolean(single) || state.start !== "random";
    this.control("all").checked = state.all;
    this.control("label").value = state.label ?? "";
    this.control("eps").nextElementSibling.textContent = state.eps.toFixed(3);
    const run = this.find('[data-do="run"]');
    run.textContent = this.running ? "Pause" : this.loaded && state.at > 0 && state.at < this.steps ? "Go on" : "Run the attack";
    this.find(".live-hint").textContent = this.hint();
    for (const card of this.findAll(".live-card")) {
      card.setAttribute("aria-pressed", card.dataset.do === `network:${state.network}`);
    }
  }

  hint() {
    const { attack, start, step, steps, eps } = this.state;
    if (ATTACKS[attack].single) return "FGSM is one step of length ε from the image.";
    if (ATTACKS[attack].gaussian && start === "image") {
      return "At the image itself the KL to its own prediction is 0, and so is the gradient: TRADES has to start beside it.";
    }
    if (steps * step < eps - 1e-9) return `${steps} steps of ${step} move at most ${(steps * step).toFixed(3)}, less than ε.`;
    return "A random start draws from this page's own generator: torch's draws differ for the same seed.";
  }

  draw() {
    const { state, shown } = this, look = shown?.looks[Math.min(state.at, (shown?.looks.length ?? 1) - 1)];
    const [digit, change, seen] = this.findAll(".live-stage canvas");
    const [about, size, name] = this.findAll(".live-stage figcaption");
    const image = look?.image ?? this.image;
    paintImage(digit, this.image);
    paintChange(change, image, this.image, state.eps);
    paintImage(seen, image);
    const moved = image.reduce((most, x, i) => Math.max(most, Math.abs(x - this.image[i])), 0);
    about.textContent = state.drawn ? "your drawing" : `test digit ${state.digit}, a ${this.book.digit(state.digit).label}`;
    size.textContent = `change, up to ${moved.toFixed(3)}`;
    name.textContent = "what the network sees";
    const track = this.control("at");
    Object.assign(track, { max: this.steps, value: state.at });
    track.nextElementSibling.textContent = `step ${state.at} of ${this.steps}`;
    this.verdict(look);
    this.bars(look);
    this.cards();
    this.curves();
    if (this.find(".live-features").open) this.features(look);
    this.challenge();
  }

  labelOf(name) { return this.book.networks.find((network) => network.name === name).label; }

  words(look) {
    const name = this.labelOf(this.state.network);
    if (!look) return [`Run the attack to see what ${name} reads.`, ""];
    const read = aalp.decision(look.logits), sure = percent(aalp.softmax(look.logits)[read]);
    if (read === this.shown.label) return [`${name} reads ${read}, ${sure} sure`, "right"];
    const since = this.shown.looks.findIndex((_, k) => this.shown.fooled(k));
    return [`${name} is fooled${since ? ` at step ${since}` : ""}: reads ${read}, ${sure} sure`, "wrong"];
  }

  /** The verdict is spoken when the attack rests, not at each step. */
  verdict(look) {
    const line = this.find(".live-verdict"), [text, kind] = this.words(look);
    if (this.running) line.setAttribute("aria-live", "off");
    if (line.textContent !== text) line.textContent = text;
    line.dataset.kind = kind;
  }

  tell() { this.find(".live-verdict").setAttribute("aria-live", "polite"); this.draw(); }

  bars(look) {
    const clean = this.shown?.clean && aalp.softmax(this.shown.clean.logits), now = look && aalp.softmax(look.logits);
    const read = look && aalp.decision(look.logits);
    this.findAll(".live-bar").forEach((bar, k) => {
      const [track, value, logit] = bar.querySelectorAll("span, em, small");
      track.firstElementChild.style.width = `${100 * (now?.[k] ?? 0)}%`;
      track.lastElementChild.style.left = `${100 * (clean?.[k] ?? 0)}%`;
      track.lastElementChild.hidden = !(clean?.[k] > 0.005);
      value.textContent = now ? percent(now[k]) : "";
      logit.textContent = look ? signed(look.logits[k].toFixed(2)) : "";
      bar.dataset.kind = look && k === this.shown.label ? "right" : look && k === read ? "wrong" : "";
    });
  }

  cards() {
    this.findAll(".live-card").forEach((card, i) => {
      const { name } = this.book.networks[i], run = this.runs.get(name), [picture, text] = card.querySelectorAll("canvas, span");
      const look = run?.looks[Math.min(this.state.at, run.looks.length - 1)];
      const read = look && aalp.decision(look.logits);
      card.dataset.kind = look ? (read === run.label ? "right" : "wrong") : "";
      text.textContent = look ? `reads ${read}, ${Math.round(100 * aalp.softmax(look.logits)[read])}\u00a0%` : "untouched";
      paintImage(picture, look?.image ?? this.image);
    });
  }

  curves() {
    const [first, second] = this.findAll(".live-curves > div"), { state } = this;
    second.firstElementChild.textContent = `The attack ascends: ${ATTACKS[state.attack].ascends}`;
    const series = (of) => this.book.networks.filter(({ name }) => this.runs.get(name)?.looks.length)
      .map(({ name, colour }) => ({ colour, values: of(this.runs.get(name)), strong: name === state.network }));
    chart(first.lastElementChild, "margin", series((run) => run.margins()), this.steps, state.at);
    chart(second.lastElementChild, ATTACKS[state.attack].ascends, series((run) => run.losses()), this.steps, state.at);
  }

  features(look) {
    const place = this.find(".live-features > div");
    if (!look) { place.innerHTML = "<p>Run the attack first.</p>"; return; }
    const { clean, label } = this.shown, about = this.book.networks.find(({ name }) => name === this.state.network);
    const [before, after] = [aalp.scores(clean), aalp.scores(look)];
    const both = before.map((score, i) => (score + after[i]) / 2), kept = aalp.mask(both), slope = aalp.contributions(look);
    const dead = new Set(about.dead), most = Math.max(...both, 1e-30);
    const cell = (i) => `<rect x="${12 * (i % 32)}" y="${12 * (i >> 5)}" width="11" height="11" class="${kept[i] ? "kept" : "dropped"}"
      fill-opacity="${(0.12 + 0.88 * Math.sqrt(both[i] / most)).toFixed(2)}"/>${dead.has(i)
      ? `<path d="M${12 * (i % 32) + 2} ${12 * (i >> 5) + 2}l7 7m0 -7l-7 7"/>` : ""}`;
    const count = kept.filter(Boolean).length, off = clean.features.filter((a, i) => !a && !look.features[i]).length;
    const top = Array.from(both.keys()).sort((i, j) => both[j] - both[i]).slice(0, 8);
    const row = (i) => `<tr><td>${i}</td><td>${short(clean.features[i])}</td><td>${short(look.features[i])}</td>
      <td>${short(slope[i])}</td><td>${short(both[i])}</td><td>${kept[i] ? "kept" : "dropped"}</td></tr>`;
    const pair = aalp.pairing(clean.logits, look.logits), weight = aalp.weight(clean.logits, label);
    const tile = (name, value, words) => `<div><b>${value}</b><span>${name}</span><p>${words}</p></div>`;
    place.innerHTML = `<div class="live-tiles">
      ${tile("pairing loss, Eq.&nbsp;1", short(pair), "squared distance of the logits, clean and attacked")}
      ${tile("sample's weight, Eq.&nbsp;9", short(weight), "clean confidence in the true class")}
      ${tile("what AALP adds, Eq.&nbsp;9", short(weight * pair), "weight times pairing loss")}
      ${tile("kept by the mask, Eq.&nbsp;8", `${count} of ${both.length}`, `${off} are off on both images${off * 2 > both.length
        ? ": more than half, so the median is 0 and everything is kept" : ""}`)}
      ${tile("dead features", `${dead.size}`, `off on all ${this.book.count.toLocaleString("en")} test digits`)}</div>
      <svg viewBox="0 0 384 96" role="img" aria-label="${both.length} features; ${count} kept, ${dead.size} dead"> ${Array.from(both.keys(), cell).join("")}</svg>
      <p class="live-key"><i class="kept"></i> kept, as strong as its score (Eq. 7) <i class="dropped"></i> dropped <b>×</b> dead.
      The batch is this digit and its attacked twin; training takes the whole batch.</p>
      <div class="live-scroll" tabindex="0"><table><caption>The eight features with the highest scores</caption><thead><tr><th>feature</th>
      <th>A, clean</th><th>A, now</th><th>|∂L/∂A|, Eq.&nbsp;5</th><th>score, Eq.&nbsp;7</th><th>mask, Eq.&nbsp;8</th></tr></thead>
      <tbody>${top.map(row).join("")}</tbody></table></div>`;
  }

  // --- the challenge

  async search() {
    const button = this.find('[data-do="search"]'), place = this.find(".live-found"), turn = (this.turn += 1);
    const names = this.book.networks.map(({ name }) => name), wanted = () => turn === this.turn;
    this.running = false;
    this.controls();
    button.disabled = true;
    try {
      const seen = progress(place, names, this.book), networks = await Promise.all(names.map((name) => aalp.network(name, seen)));
      this.loaded = true;
      const label = await this.label(), found = new Map();
      for (const [i, name] of names.entries()) {
        place.textContent = `Looking at ${this.labelOf(name)} …`;
        await frame();
        found.set(name, await aalp.smallest(networks[i], this.image, label, {}, wanted));
        if (!wanted()) { place.textContent = ""; return; }
      }
      this.found = found;
    } catch (error) { place.textContent = `${error.message}. Press again.`; return; } finally { button.disabled = false; }
    this.challenge();
  }

  challenge() {
    const place = this.find(".live-found");
    if (!this.found) { if (!this.find('[data-do="search"]').disabled) place.textContent = ""; return; }
    const guess = Number(this.control("guess").value), value = (name) => this.found.get(name);
    const said = (eps) => (eps === null ? "above 0.600" : eps === 0 ? "misread as it is" : eps.toFixed(3));
    const bar = ({ name, label, colour }) => `<div class="live-eps-bar"><b>${label}</b><span><i style="width:${(value(name) ?? 0.6) / 0.006}%;
      background:${colour}"></i></span><em>${said(value(name))}</em></div>`;
    const aalpEps = value("aalp"), off = Math.abs((aalpEps ?? 0.6) - guess);
    const rank = this.book.networks.filter(({ name }) => (value(name) ?? 1) > (aalpEps ?? 1)).map(({ label }) => label);
    place.innerHTML = `<p><strong>AALP: ${said(aalpEps)}.</strong> Your guess was ${guess.toFixed(3)}, ${off.toFixed(3)} away.
      ${rank.length ? `On this digit ${rank.join(", ")} take${rank.length > 1 ? "" : "s"} more.` : "On this digit none of the others takes more."}</p>
      ${this.book.networks.map(bar).join("")}<p>PGD-40 from the image, steps of ε/30, on a grid of 0.005, by bisection. One digit ranks
      no methods: another one may turn the order.</p>`;
  }
}

// --- the drawing pad -------------------------------------------------------------------------------------------------

class Pad {
  constructor(canvas, changed) {
    Object.assign(this, { canvas, changed, pixels: new Float32Array(PIXELS), pen: [14, 14] });
    canvas.addEventListener("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId); this.touch(event); });
    canvas.addEventListener("pointermove", (event) => { if (event.buttons) this.touch(event); });
    canvas.addEventListener("pointerup", () => this.changed(this.image()));
    canvas.addEventListener("keydown", (event) => this.key(event));
    this.show();
  }

  image() { return this.pixels.map((x) => Math.fround(Math.round(LEVELS * x) / LEVELS)); }
  put(image) { this.pixels = image ? image.slice() : new Float32Array(PIXELS); this.show(); }
  clear() { this.put(null); }

  touch(event) {
    const box = this.canvas.getBoundingClientRect();
    this.pen = [((event.clientX - box.left) / box.width) * SIDE, ((event.clientY - box.top) / box.height) * SIDE];
    this.dab(event.shiftKey ? -1 : 1);
  }

  key(event) {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (moves[event.key]) this.pen = this.pen.map((x, i) => Math.max(0, Math.min(SIDE, x + moves[event.key][i])));
    else if (event.key !== " ") return;
    event.preventDefault();
    if (event.key === " ") { this.dab(event.shiftKey ? -1 : 1); this.changed(this.image()); }
    this.show(true);
  }

  /** A soft round dab of the pen, about as wide as MNIST's strokes. */
  dab(ink) {
    const [x, y] = this.pen;
    this.pixels.forEach((value, i) => {
      const away = Math.hypot((i % SIDE) + 0.5 - x, Math.floor(i / SIDE) + 0.5 - y), strength = Math.max(0, Math.min(1, 2 - away));
      this.pixels[i] = ink > 0 ? Math.max(value, strength) : Math.min(value, 1 - strength);
    });
    this.show();
  }

  /** Put the centre of mass into the middle, as MNIST's digits have it. */
  centre() {
    const sum = (of) => this.pixels.reduce((total, value, i) => total + value * of(i), 0), total = sum(() => 1);
    if (!total) return;
    const dx = Math.round(13.5 - sum((i) => i % SIDE) / total), dy = Math.round(13.5 - sum((i) => Math.floor(i / SIDE)) / total);
    this.pixels = this.pixels.map((_, i) => {
      const [x, y] = [(i % SIDE) - dx, Math.floor(i / SIDE) - dy];
      return x >= 0 && x < SIDE && y >= 0 && y < SIDE ? this.pixels[y * SIDE + x] : 0;
    });
    this.show();
  }

  show(pen = false) {
    paintImage(this.canvas, this.pixels);
    if (!pen) return;
    const context = this.canvas.getContext("2d");
    context.fillStyle = PEN;
    context.fillRect(Math.floor(this.pen[0]), Math.floor(this.pen[1]), 1, 1);
  }
}

// --- the small form --------------------------------------------------------------------------------------------------

const SMALL = `
<div class="live-app live-small">
  <div class="live-pick"><div class="live-digits" role="group" aria-label="the digit"></div>
    <label class="live-eps">ε <input type="range" min="0.01" max="0.4" step="0.01" value="0.15" aria-label="ε, largest change of a pixel">
    <output>0.15</output></label>
    <button type="button" class="live-run">Attack both</button></div>
  <div class="live-pair"></div>
  <p class="live-note" aria-live="polite"></p>
</div>`;

class Small {
  constructor(place, book) {
    const names = ["raw", "aalp"], titles = ["trained without a defence", "trained with AALP"];
    Object.assign(this, { book, names, digit: 0, eps: 0.15, turn: 0, runs: [] });
    this.root = element(SMALL);
    this.place = this.root.querySelector(".live-pair");
    this.place.append(...titles.map((title, i) => element(`<div class="live-side"><figure>${canvas(`what the network ${title} sees`)}</figure>
      <div><b>${title}</b><p></p><a href="live.html">more</a></div></div>`)));
    const [range, shown, button] = this.root.querySelectorAll("input, output, .live-run");
    range.addEventListener("input", () => {
      this.eps = Number(range.value);
      shown.textContent = this.eps.toFixed(2);
      if (this.loaded) this.attack(false);
    });
    button.addEventListener("click", () => this.attack(true));
    place.classList.remove("live-starting");
    place.replaceChildren(this.root);
    this.choose(0);
  }

  choose(k) {
    this.digit = k;
    this.runs = [];
    digitButtons(this.root.querySelector(".live-digits"), this.book, [0, 1, 2, 3, 4, 5], k, (other) => this.choose(other));
    this.draw();
    if (this.loaded) this.attack(true);
  }

  async attack(animated) {
    const turn = (this.turn += 1), line = this.root.querySelector(".live-note"), { image, label } = this.book.digit(this.digit);
    try {
      const seen = progress(line, this.names, this.book), networks = await Promise.all(this.names.map((name) => aalp.network(name, seen)));
      this.loaded = true;
      const settings = { attack: "pgd", eps: this.eps, step: 0.01, start: "image", seed: 0 };
      const runs = networks.map((network) => new aalp.Run(network, image, label, settings));
      for (let k = 0; k <= 40; k += 1) {
        for (const run of runs) await run.to(k);
        if (turn !== this.turn) return;
        if (animated || k === 40) { this.runs = runs; this.draw(); await frame(); }
      }
      line.textContent = "PGD, 40 steps of 0.01 from the digit, on the library's own networks, in this browser.";
    } catch (error) { line.textContent = `${error.message}. Press again.`; }
  }

  draw() {
    const { image, label } = this.book.digit(this.digit);
    [...this.place.children].forEach((side, i) => {
      const look = this.runs[i]?.looks.at(-1), text = side.querySelector("p");
      paintImage(side.querySelector("canvas"), look?.image ?? image);
      const link = { ...DEFAULTS, digit: this.digit, network: this.names[i], eps: this.eps, at: look ? 40 : 0 };
      side.querySelector("a").href = `live.html${toAddress(link)}`;
      side.querySelector("a").textContent = "look closer";
      if (!look) { text.textContent = `a ${label}`; side.dataset.kind = ""; return; }
      const read = aalp.decision(look.logits), sure = percent(aalp.softmax(look.logits)[read]);
      side.dataset.kind = read === label ? "right" : "wrong";
      text.textContent = read === label ? `reads ${read}, ${sure} sure` : `is fooled: reads ${read}, ${sure} sure`;
    });
  }
}
