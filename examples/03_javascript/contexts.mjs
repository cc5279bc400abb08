// What a model makes of the observed frames, by the graphs that its bundle has: how far each was from what was expected.

import { RecurrentGraph } from "./graphs.mjs";
import { NoiseSource } from "./noise.mjs";

const SAMPLES = 4; // whose mean is the prediction

export function openContext(graphs, manifest, forecast, surpriseNoise) {
  const { context = "window", n_past: past } = manifest.generation;
  const streams = context === "stream";
  if (!graphs.has("encoder") && !graphs.has("prime")) return new SteppedContext(graphs, streams);
  if (streams) throw new Error("this model carries its state from frame to frame (stream context), which is not supported here");
  if (graphs.has("posterior") || graphs.has("predictor")) return new LatentContext(graphs);
  if (graphs.has("encoder")) return new PrimedContext(graphs, past);
  return new SampledContext(forecast, manifest, surpriseNoise);
}

// Vectors of noise that are drawn while n_past frames are read. Older bundles do not say: one per pair of frames.
export function contextDraws({ context_draws: draws, n_past: past }) {
  return draws ?? past - 1;
}

// SVG: posterior and prior step together through the window, neither depends on the samples.
class LatentContext {
  unit = "nats";

  constructor(graphs) {
    this.graphs = graphs;
    if (!graphs.has("posterior")) this.unit = null;
  }

  async observe(encodings) {
    this.posteriors = []; // one per pair of neighbouring frames
    this.prior = null; // its state has read all frames but the last
    if (!this.graphs.has("posterior") || encodings.length < 2) return null;
    const posterior = new RecurrentGraph(this.graphs, "posterior");
    if (this.graphs.has("prior")) this.prior = new RecurrentGraph(this.graphs, "prior");
    let expected = null;
    for (let i = 0; i + 1 < encodings.length; i++) {
      this.posteriors.push(await posterior.run({ h: encodings[i + 1] }, 1));
      if (this.prior) expected = await this.prior.run({ h: encodings[i] }, 1); // sees the frame before
    }
    const { mu, logvar } = this.posteriors.at(-1);
    return divergence(mu.data, logvar.data, expected?.mu.data, expected?.logvar.data);
  }
}

// SRVP: `prime` has the latents. Its noise is zero here, as the prior depends on the latents before.
class PrimedContext {
  unit = "nats";

  constructor(graphs, past) {
    this.graphs = graphs;
    this.past = past;
    const outputs = graphs.specs.prime.outputs.map(({ name }) => name);
    this.compares = ["posterior_mu", "posterior_logvar", "prior_mu", "prior_logvar"].every((name) => outputs.includes(name));
    if (!this.compares) this.unit = null;
  }

  async observe(encodings, window) {
    if (!this.compares || encodings.length < this.past) return null;
    const eps = this.graphs.specs.prime.inputs.some(({ name }) => name === "eps") && this.graphs.zeros("prime", "eps", 1);
    const given = await this.graphs.run("prime", { h_seq: window(), eps }, 1);
    return divergence(
      given.posterior_mu.data, given.posterior_logvar.data, given.prior_mu.data, given.prior_logvar.data,
    );
  }
}

// Ensembles: each frame is predicted from the window before it, as the mean of a few samples with always the same noise.
class SampledContext {
  unit = "relative";

  constructor(forecast, { generation, model }, noise) {
    const source = new NoiseSource(0);
    const draws = contextDraws(generation);
    this.past = generation.n_past;
    this.forecast = forecast;
    this.options = {
      samples: SAMPLES,
      horizon: 1,
      contextNoise: noise ? Float32Array.from(noise.contextNoise) : source.normal(draws * SAMPLES * model.z_dim),
      noise: noise ? Float32Array.from(noise.noise) : source.normal(SAMPLES * model.z_dim),
    };
    this.errors = new RelativeError();
    this.predicted = null;
  }

  async observe(encodings) {
    const truth = encodings.at(-1).data;
    const surprise = this.predicted && this.errors.of(meanSquaredError(this.predicted, truth));
    if (encodings.length === this.past) {
      const { data } = await this.forecast(this.options);
      this.predicted = Float32Array.from(truth, (_, pixel) => {
        let sum = 0;
        for (let i = 0; i < SAMPLES; i++) sum += data[i * truth.length + pixel];
        return sum / SAMPLES;
      });
    }
    return surprise;
  }
}

// Models without encoder and latents predict each frame from the one before. The state has read all frames but the last.
class SteppedContext {
  unit = "relative";

  constructor(graphs, streams) {
    this.graphs = graphs;
    this.streams = streams;
    this.step = new RecurrentGraph(graphs, "step");
    this.errors = new RelativeError();
  }

  async observe(encodings) {
    if (encodings.length < 2) return null;
    if (!this.streams) this.step = new RecurrentGraph(this.graphs, "step");
    let frame;
    for (const seen of this.streams ? encodings.slice(-2, -1) : encodings.slice(0, -1)) {
      this.step.state = { ...this.step.state, h: seen }; // the true frame, in place of the model's own
      ({ frame } = await this.step.run({}, 1));
    }
    return this.errors.of(meanSquaredError(frame.data, encodings.at(-1).data));
  }
}

const USUAL_FRAMES = 600; // of which the errors are what is usual, at most
const LEAST_SQUARED_ERROR = 1e-4; // 40 dB: what moves first before a still scene is some times as large, not hundreds

// Each root mean squared error relative to that of the frames before it: 1 is as usual.
class RelativeError {
  mean = 0; // of the squared errors
  count = 0;

  of(squaredError) {
    const relative = this.count ? Math.sqrt(squaredError / Math.max(this.mean, LEAST_SQUARED_ERROR)) : null;
    if (Number.isFinite(squaredError)) {
      this.count += 1;
      this.mean += (squaredError - this.mean) / Math.min(this.count, USUAL_FRAMES);
    }
    return relative;
  }
}

// KL(q || p) of diagonal Gaussians in nats; p is N(0, I) if it is not given.
function divergence(muQ, logvarQ, muP, logvarP) {
  let sum = 0;
  for (let i = 0; i < muQ.length; i++) {
    const [mu, logvar] = muP ? [muP[i], logvarP[i]] : [0, 0];
    sum += logvar - logvarQ[i] + Math.exp(logvarQ[i] - logvar) + (muQ[i] - mu) ** 2 / Math.exp(logvar) - 1;
  }
  return sum / 2;
}

function meanSquaredError(a, b) {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += (a[i] - b[i]) ** 2;
  return sum / a.length;
}
