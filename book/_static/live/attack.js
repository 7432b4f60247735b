// The networks, the attack's loop, and what the paper's equations say on its way. No view here: page.js draws.
// The numbers are the library's: tests/book/test_live.py compares them with aalp_lib in a real browser.

export const SIDE = 28, PIXELS = SIDE * SIDE, CLASSES = 10;
export const LOSSES = ["cross_entropy", "margin", "trades_kl"]; // as aalp_lib.book.browser.LOSSES
export const ATTACKS = {
  fgsm: { label: "FGSM", loss: "cross_entropy", ascends: "cross-entropy", single: true },
  pgd: { label: "PGD", loss: "cross_entropy", ascends: "cross-entropy" },
  cw: { label: "CW", loss: "margin", ascends: "margin" },
  trades: { label: "TRADES’ inner", loss: "trades_kl", ascends: "KL to the clean prediction", gaussian: true },
};
const GAUSSIAN_SCALE = 0.001;
const HOME = new URL("./", import.meta.url);

// --- loading: nothing from outside this folder -------------------------------------------------------------------------

/** The bytes of a file, unpacked where they are packed; `seen` is told how many have come. */
async function bytes(name, seen = () => {}) {
  const answer = await fetch(new URL(name, HOME));
  if (!answer.ok) throw new Error(`${name} could not be loaded (${answer.status})`);
  const parts = [], reader = answer.body.getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    parts.push(part.value);
    seen(part.value.length);
  }
  const packed = new Blob(parts), head = new Uint8Array(await packed.slice(0, 2).arrayBuffer());
  if (head[0] !== 0x1f || head[1] !== 0x8b) return new Uint8Array(await packed.arrayBuffer());
  const unpacked = packed.stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(unpacked).arrayBuffer());
}

/** What there is: the networks' names, and digits as {pixels, label}. */
export async function contents() {
  const answer = await fetch(new URL("live.json", HOME));
  if (!answer.ok) throw new Error("The live attack's networks are missing from this copy of the book; make html exports them");
  const about = await answer.json();
  if (!about.runtime) {
    throw new Error("This copy of the book was built without npm, so onnxruntime-web, which runs the networks, is missing");
  }
  const pixels = await bytes("digits.bin");
  const digit = (k) => ({
    image: Float32Array.from(pixels.subarray(k * PIXELS, (k + 1) * PIXELS), (value) => value / 255),
    label: Number(about.labels[k]),
  });
  return { ...about, count: about.labels.length, digit };
}

let runtime; // a promise, made once
function loadedRuntime(seen) {
  runtime ??= (async () => {
    const binary = await bytes("ort-wasm.bin", seen);
    const ort = await import(new URL("ort.js", HOME));
    Object.assign(ort.env.wasm, {
      numThreads: 1, wasmBinary: binary.buffer, wasmPaths: { mjs: new URL("ort-wasm.js", HOME).href },
    });
    return ort;
  })();
  runtime.catch(() => { runtime = undefined; }); // so that a reader can try again
  return runtime;
}

let turn = Promise.resolve(); // the runtime does one thing at a time
const inTurn = (work) => (turn = turn.then(work, work));

/** A network that has been loaded: `look` is one pass forward and back. */
class Network {
  constructor(ort, session) { Object.assign(this, { ort, session }); }

  /** Logits, features and both gradients at an image; the same that `aalp_lib.book.browser.step` gives. */
  async look(image, label, clean, loss) {
    const { Tensor } = this.ort;
    const choice = Float32Array.from(LOSSES, (name) => Number(name === loss));
    const given = {
      image: new Tensor("float32", image, [1, 1, SIDE, SIDE]),
      label: new Tensor("int64", BigInt64Array.of(BigInt(label)), [1]),
      clean: new Tensor("float32", clean, [1, CLASSES]),
      choice: new Tensor("float32", choice, [LOSSES.length]),
    };
    const found = await inTurn(() => this.session.run(given));
    const data = (name) => found[name].data;
    return {
      image, logits: data("logits"), features: data("features"),
      gradient: data("gradient"), slope: data("feature_gradient"),
    };
  }
}

const networks = new Map();
/** Load a network, once. */
export function network(name, seen) {
  if (!networks.has(name)) {
    const loading = (async () => {
      const [ort, graph] = [await loadedRuntime(seen), await bytes(`${name}.onnx`, seen)];
      return new Network(ort, await inTurn(() => ort.InferenceSession.create(graph, { executionProviders: ["wasm"] })));
    })();
    networks.set(name, loading);
    loading.catch(() => networks.delete(name));
  }
  return networks.get(name);
}
export const hasRuntime = () => runtime !== undefined;
export const isLoaded = (name) => networks.has(name);

// --- the attack ------------------------------------------------------------------------------------------------------

/** Uniform numbers in [0, 1) from a seed (mulberry32). Not torch's: the same seed draws other numbers there. */
export function uniform(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

const normal = (draw) => Math.sqrt(-2 * Math.log(1 - draw())) * Math.cos(2 * Math.PI * draw());

/** The ball's ends, cut to [0, 1], in float32 as the library has them. */
function ball(image, eps) {
  const radius = Math.fround(eps);
  return { low: image.map((x) => Math.max(x - radius, 0)), high: image.map((x) => Math.min(x + radius, 1)) };
}

/** The first iterate: the image, or beside it; cut to the ball. */
function first(image, { low, high }, { attack, eps, start, seed }) {
  if (start !== "random" || ATTACKS[attack].single) return image.slice();
  const draw = uniform(seed);
  const noise = ATTACKS[attack].gaussian ? () => GAUSSIAN_SCALE * normal(draw) : () => eps * (2 * draw() - 1);
  return image.map((x, i) => Math.min(Math.max(Math.fround(x + noise()), low[i]), high[i]));
}

/** An attack on one network: iterates 0, 1, 2 ... with what the network says of each. */
export class Run {
  /** `settings`: attack, eps, step, start ("image" or "random"), seed; `given`, a first iterate instead of those. */
  constructor(network, image, label, settings, given = null) {
    Object.assign(this, { network, image, label, settings, looks: [], given, work: Promise.resolve() });
    this.loss = ATTACKS[settings.attack].loss;
    this.length = ATTACKS[settings.attack].single ? settings.eps : settings.step;
    this.ball = ball(image, settings.eps);
  }

  async begin() {
    const nothing = new Float32Array(CLASSES);
    this.clean = await this.network.look(this.image, this.label, nothing, this.loss);
    const start = this.given ?? first(this.image, this.ball, this.settings);
    this.looks = [await this.network.look(start, this.label, this.clean.logits, this.loss)];
  }

  /** The next iterate: x <- clip(x + step * sign(gradient)). */
  async advance() {
    const { image, gradient } = this.looks.at(-1), { low, high } = this.ball, length = Math.fround(this.length);
    const moved = image.map((x, i) =>
      Math.min(Math.max(Math.fround(x + length * Math.sign(gradient[i])), low[i]), high[i]));
    this.looks.push(await this.network.look(moved, this.label, this.clean.logits, this.loss));
  }

  /** Go on to iterate k, after what was asked for before; stops early where `wanted` says no. */
  to(k, wanted = () => true) {
    const go = async () => {
      if (!this.looks.length) await this.begin();
      while (this.looks.length <= k && wanted()) await this.advance();
      return this.looks[k];
    };
    return (this.work = this.work.then(go, go));
  }

  fooled(k) { return decision(this.looks[k].logits) !== this.label; }
  /** The loss that is ascended, and the margin, at each iterate. */
  losses() { return this.looks.map(({ logits }) => LOSS[this.loss](logits, this.label, this.clean.logits)); }
  margins() { return this.looks.map(({ logits }) => margin(logits, this.label)); }
}

/** The smallest eps of a grid at which PGD from the image fools, by bisection; null where the largest does not. */
export async function smallest(network, image, label, { steps = 40, grid = 0.005, largest = 0.6 } = {}, wanted = () => true) {
  const fools = async (k) => {
    const eps = k * grid;
    const run = new Run(network, image, label, { attack: "pgd", eps, step: eps / 30, start: "image", seed: 0 });
    for (let done = 0; done <= steps && wanted(); done += 1) {
      await run.to(done);
      if (run.fooled(done)) return true;
    }
    return false;
  };
  if (decision((await network.look(image, label, new Float32Array(CLASSES), "cross_entropy")).logits) !== label) return 0;
  let [low, high] = [0, Math.round(largest / grid)];
  if (!(await fools(high))) return null;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (await fools(middle)) high = middle; else low = middle;
  }
  return high * grid;
}

// --- the equations ---------------------------------------------------------------------------------------------------

export const decision = (logits) => logits.indexOf(Math.max(...logits));

export function softmax(logits) {
  const top = Math.max(...logits), powers = Array.from(logits, (z) => Math.exp(z - top));
  const sum = powers.reduce((a, b) => a + b);
  return powers.map((power) => power / sum);
}

const logSoftmax = (logits) => {
  const top = Math.max(...logits), sum = logits.reduce((total, z) => total + Math.exp(z - top), 0);
  return Array.from(logits, (z) => z - top - Math.log(sum));
};
export const margin = (logits, label) => Math.max(...logits.filter((_, j) => j !== label)) - logits[label];
const kl = (clean, logits) => {
  const [p, q] = [logSoftmax(clean), logSoftmax(logits)];
  return p.reduce((total, log, j) => total + Math.exp(log) * (log - q[j]), 0);
};
const LOSS = {
  cross_entropy: (logits, label) => -logSoftmax(logits)[label],
  margin,
  trades_kl: (logits, _, clean) => kl(clean, logits),
};

/** Eq. 1: squared distance of the logits. */
export const pairing = (clean, logits) => clean.reduce((sum, z, j) => sum + (z - logits[j]) ** 2, 0);
/** Eq. 9: the weight of a sample. */
export const weight = (clean, label) => softmax(clean)[label];
/** Eq. 5 and Eq. 7 of one sample. */
export const contributions = ({ slope }) => slope.map(Math.abs);
export const scores = ({ slope, features }) => slope.map((value, i) => Math.abs(value * features[i]));

/** Eq. 8: which features are kept, those whose score reaches the median, the mean of the two middle values. */
export function mask(of) {
  const sorted = Float32Array.from(of).sort(), half = sorted.length >> 1;
  const median = (sorted[(sorted.length - 1) >> 1] + sorted[half]) / 2;
  return Array.from(of, (score) => score >= median);
}
