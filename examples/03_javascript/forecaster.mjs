// A bundle with ONNX Runtime in JavaScript: observe frames, forecast futures. It runs in Node.js and in a browser.
//
//     const forecaster = await Forecaster.open({ ort, manifest, load, seed: 0 });
//     const { surprise } = await forecaster.observe(frame);    // (C, H, W) float32 in [0, 1]
//     const futures = await forecaster.forecast({ samples: 2, horizon: 10 });
//
// `ort` is onnxruntime-node or onnxruntime-web; `load` returns the file of a graph, as a path or as bytes.
// Noise is drawn from the seed, or given: then the frames are those of the Forecaster in Python.
// A call is refused while another one runs: the frames of two moments would mix.

import { contextDraws, openContext } from "./contexts.mjs";
import { Graphs, part, RecurrentGraph, size } from "./graphs.mjs";
import { checkManifest, chosenGraphs } from "./manifest.mjs";
import { NoiseSource } from "./noise.mjs";

const COUNT_LIMIT = 65536; // of samples and of horizon, as in Python: larger values are more likely typing errors
const ROUNDING = 1e-3; // beyond [0, 1], as in Python: resizing may round a little
const DECODED_AT_ONCE = 64; // frames: enough for full speed, few enough for any memory

export class Forecaster {
  static async open({ ort, manifest, load, seed = 0, surpriseNoise = null, sessionOptions = {} }) {
    checkManifest(manifest);
    const noise = new NoiseSource(seed);
    const graphs = await Graphs.open(ort, chosenGraphs(manifest), load, sessionOptions);
    return new Forecaster(manifest, graphs, noise, surpriseNoise);
  }

  constructor(manifest, graphs, noise, surpriseNoise) {
    this.manifest = manifest;
    this.graphs = graphs;
    this.noise = noise;
    this.surpriseNoise = surpriseNoise;
    this.running = false;
    this.reset();
  }

  get ready() {
    return this.seen.length === this.manifest.generation.n_past;
  }

  // Forget all frames, and start the noise again from the seed.
  reset() {
    this.checkIdle();
    this.noise.reset();
    this.seen = []; // encoding and skips of the last n_past frames, oldest first
    this.context = openContext(this.graphs, this.manifest, (options) => this.roll(options), this.surpriseNoise);
  }

  // Read the next frame. `surprise` is in nats, or relative to the errors before; null without one.
  observe(frame) {
    return this.alone(() => this.read(frame));
  }

  // Sample futures after the last observed frame: (samples, horizon, C, H, W). `noise` (horizon, samples, z_dim) and
  // `contextNoise` (context_draws, samples, z_dim), flat, replace the seeded draws.
  forecast(options) {
    return this.alone(() => this.drawFutures(options));
  }

  async close() {
    this.checkIdle();
    await this.graphs.close();
  }

  async alone(call) {
    this.checkIdle();
    this.running = true;
    try {
      return await call();
    } finally {
      this.running = false;
    }
  }

  checkIdle() {
    if (this.running) throw new Error("another call still runs; await it first");
  }

  async read(frame) {
    const { channels, height, width } = this.manifest.frame;
    if (frame.length !== channels * height * width) {
      throw new Error(`the frame has ${frame.length} numbers; expected ${channels} x ${height} x ${width}, channels first`);
    }
    if (!frame.every((value) => value >= -ROUNDING && value <= 1 + ROUNDING)) {
      throw new Error("the frame has values outside of [0, 1]");
    }
    const clamped = Float32Array.from(frame, (value) => Math.min(Math.max(value, 0), 1));
    const input = this.graphs.tensor(clamped, [1, channels, height, width]);
    const { h, ...skips } = this.graphs.has("encoder") ? await this.graphs.run("encoder", { frame: input }, 1) : { h: input };
    this.seen.push({ h, skips });
    if (this.seen.length > this.manifest.generation.n_past) this.seen.shift();
    const surprise = await this.context.observe(this.encodings(), () => this.window());
    return { surprise, unit: this.context.unit };
  }

  async drawFutures({ samples, horizon, noise = null, contextNoise = null }) {
    const { generation, model } = this.manifest;
    if (!this.ready) throw new Error(`${this.seen.length} of ${generation.n_past} frames observed`);
    for (const [name, count] of Object.entries({ samples, horizon })) {
      if (!Number.isInteger(count) || count < 1 || count > COUNT_LIMIT) {
        throw new Error(`${name} is ${count}; expected a whole number from 1 to ${COUNT_LIMIT}`);
      }
    }
    const draws = samples * model.z_dim;
    const futures = await this.roll({
      samples: model.z_dim ? samples : 1, // a deterministic model has only one
      horizon,
      contextNoise: given("contextNoise", contextNoise, contextDraws(generation) * draws, this.noise),
      noise: given("noise", noise, horizon * draws, this.noise),
    });
    if (!futures.data.every(Number.isFinite)) throw new Error("the forecast contains values that are not finite");
    return model.z_dim ? futures : this.graphs.repeat(futures, 0, samples);
  }

  encodings() {
    return this.seen.map(({ h }) => h);
  }

  // (n_past, 1, ...) of the encodings.
  window() {
    const { data, dims } = this.graphs.concatenate(this.encodings());
    return this.graphs.tensor(data, [this.seen.length, ...this.seen[0].h.dims]);
  }

  // The decoder's skip conditions, the same for all samples: once per forecast.
  async conditions() {
    if (!this.graphs.has("skip")) return {};
    const { last_frame_skip: follows, skip_lag: lag } = this.manifest.generation;
    return this.graphs.run("skip", this.seen.at(follows ? -1 : -1 - lag).skips, 1);
  }

  async roll(options) {
    const frames = this.graphs.has("step") ? await this.rollFused(options) : await this.rollSeparate(options);
    return bySample(this.graphs, frames, options);
  }

  // `prime` reads the context, `step` makes a frame, or a latent that `decode` makes a frame of.
  async rollFused({ samples, horizon, contextNoise, noise }) {
    const { graphs } = this;
    const draws = noise.length / horizon;
    const values = { ...(await this.conditions()), h: this.seen.at(-1).h };
    const step = new RecurrentGraph(graphs, "step");
    if (graphs.has("prime")) {
      const eps = contextNoise.length ? graphs.tensor(contextNoise, [contextNoise.length / draws, samples, draws / samples]) : null;
      Object.assign(values, await graphs.run("prime", { h_seq: this.window(), eps }, samples));
    } else {
      Object.assign(values, this.context.step.state, { h: values.h });
    }
    const shown = [];
    for (let i = 0; i < horizon; i++) {
      values.eps = draws ? graphs.tensor(part(noise, i, draws), [samples, draws / samples]) : null;
      shown.push(await step.run(values, samples));
    }
    if (!graphs.has("decode")) return shown.map(({ frame }) => frame);
    return this.decode(shown, values, samples);
  }

  // Frames of the latents of several steps at once.
  async decode(shown, values, samples) {
    const { graphs } = this;
    const latents = graphs.specs.decode.inputs.map(({ name }) => name).filter((name) => name in shown[0]);
    const atOnce = Math.max(1, Math.floor(DECODED_AT_ONCE / samples));
    const frames = [];
    for (let first = 0; first < shown.length; first += atOnce) {
      const steps = shown.slice(first, first + atOnce);
      const joined = Object.fromEntries(latents.map((name) => [name, graphs.concatenate(steps.map((one) => one[name]))]));
      const { frame } = await graphs.run("decode", { ...values, ...joined }, steps.length * samples);
      frames.push(frame);
    }
    return frames;
  }

  // The six separate graphs of SVG. Without a Gaussian (fixed prior) the noise is the latent; a deterministic model takes none.
  async rollSeparate({ samples, horizon, contextNoise, noise }) {
    const { graphs } = this;
    const draws = noise.length / horizon;
    const latent = (gaussian, eps) => (draws ? sample(graphs, gaussian, eps, [samples, draws / samples]) : null);
    const { last_frame_skip: follows } = this.manifest.generation;
    const predictor = new RecurrentGraph(graphs, "predictor");
    const prior = this.context.prior && new RecurrentGraph(graphs, "prior", { ...this.context.prior.state });

    // 1. The predictor reads the context, with latents from the posterior of the next frame.
    const encodings = this.encodings();
    for (let i = 0; i + 1 < encodings.length; i++) {
      await predictor.run({ h: encodings[i], z: latent(this.context.posteriors[i], part(contextNoise, i, draws)) }, samples);
    }

    // 2. Forecast in closed loop: the latent comes from the prior, and every forecast frame is encoded again.
    let conditions = await this.conditions();
    let h = encodings.at(-1);
    const frames = [];
    for (let i = 0; i < horizon; i++) {
      const gaussian = prior && (await prior.run({ h }, samples));
      const { g } = await predictor.run({ h, z: latent(gaussian, part(noise, i, draws)) }, samples);
      const { frame } = await graphs.run("decoder", { g, ...conditions }, samples);
      frames.push(frame);
      if (i === horizon - 1) break; // nothing reads the encoding of the last frame
      const { h: next, ...skips } = await graphs.run("encoder", { frame }, samples);
      h = next;
      if (follows) conditions = await graphs.run("skip", skips, samples);
    }
    return frames;
  }
}

// z = mu + exp(logvar / 2) * eps. A Gaussian with one row is that of all samples.
function sample(graphs, gaussian, eps, shape) {
  if (!gaussian) return graphs.tensor(eps, shape);
  const mu = gaussian.mu.data;
  const logvar = gaussian.logvar.data;
  return graphs.tensor(eps.map((value, i) => mu[i % mu.length] + Math.exp(logvar[i % mu.length] / 2) * value), shape);
}

function given(name, noise, length, source) {
  if (noise === null) return source.normal(length);
  if (noise.length !== length) throw new Error(`${name} has ${noise.length} numbers; expected ${length}`);
  return Float32Array.from(noise);
}

// Frames of (horizon, samples, C, H, W), in one tensor or several, as (samples, horizon, C, H, W).
function bySample(graphs, frames, { samples, horizon }) {
  const shape = frames[0].dims.slice(1);
  const length = size(shape);
  const data = new Float32Array(samples * horizon * length);
  let row = 0;
  for (const frame of frames) {
    for (let i = 0; i < frame.dims[0]; i++, row++) {
      const step = Math.floor(row / samples);
      data.set(part(frame.data, i, length), ((row % samples) * horizon + step) * length);
    }
  }
  return graphs.tensor(data, [samples, horizon, ...shape]);
}
