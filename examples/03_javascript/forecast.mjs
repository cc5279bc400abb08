// A bundle with ONNX Runtime in JavaScript: the six separate graphs, the state carried between calls, the noise from outside.
//
//     npm install
//     node forecast.mjs [BUNDLE] [INPUT.json OUTPUT.json]
//
// INPUT.json holds flat arrays: frames (n_past, C, H, W) in [0, 1], contextNoise (n_past - 1, samples, z_dim) and
// noise (horizon, samples, z_dim), with samples and horizon. OUTPUT.json gets futures (horizon, samples, C, H, W).
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

process.env.ORT_DISABLE_TELEMETRY = "1"; // read at the import: otherwise it may report to Microsoft
const ort = await import("onnxruntime-node");

const EMBEDDED = fileURLToPath(new URL("../../runtime/svg_runtime/embedded/digits.svgb", import.meta.url));
const GRAPHS = ["encoder", "skip", "posterior", "prior", "predictor", "decoder"]; // a bundle may lack posterior and prior

const tensor = (data, shape) => new ort.Tensor("float32", Float32Array.from(data), shape);
const size = (shape) => shape.reduce((product, length) => product * length, 1);

// Part `index` of a flat array that holds parts of `length` numbers.
const part = (data, index, length) => data.slice(index * length, (index + 1) * length);

// The same encoding for every sample: (1, ...) becomes (samples, ...).
const repeat = (h, samples) => tensor(Array(samples).fill([...h.data]).flat(), [samples, ...h.dims.slice(1)]);

// z = mu + exp(logvar / 2) * eps
const sample = ({ mu, logvar }, eps) =>
  tensor(eps.map((value, i) => mu.data[i] + Math.exp(logvar.data[i] / 2) * value), mu.dims);

export async function forecast(bundle, manifest, { samples, horizon, frames, contextNoise, noise }) {
  const { generation: rule, frame: spec, model } = manifest;
  const graphs = manifest.variants.fp32.graphs;
  if (!graphs.predictor) throw new Error(`other graphs: ${Object.keys(graphs)}; expected a bundle of the family svg`);
  const sessions = {};
  for (const name of GRAPHS.filter((name) => name in graphs)) {
    sessions[name] = await ort.InferenceSession.create(join(bundle, graphs[name].file));
  }
  const states = {}; // recurrent state of posterior, prior and predictor, zeros at first

  async function run(name, inputs) {
    const state = graphs[name].inputs.find((input) => input.name === "state");
    if (state) {
      const shape = state.shape.map((length) => (length === "batch" ? samples : length));
      inputs = { ...inputs, state: states[name] ?? tensor(new Float32Array(size(shape)), shape) };
    }
    const { state_out, ...outputs } = await sessions[name].run(inputs);
    states[name] = state_out;
    return outputs;
  }

  // Without a Gaussian (fixed prior) the noise is the latent; a deterministic model takes none.
  async function predict(h, gaussian, eps) {
    const z = gaussian ? sample(gaussian, eps) : tensor(eps, [samples, model.z_dim]);
    return (await run("predictor", model.z_dim ? { h, z } : { h })).g;
  }

  // 1. Encode the observed frames, and compute the decoder's skip conditions once for the whole forecast.
  const shape = [1, spec.channels, spec.height, spec.width];
  const encodings = [];
  const skips = [];
  for (let i = 0; i < rule.n_past; i++) {
    const { h, ...rest } = await run("encoder", { frame: tensor(part(frames, i, size(shape)), shape) });
    encodings.push(repeat(h, samples));
    skips.push(rest);
  }
  let conditions = await run("skip", skips.at(rule.last_frame_skip ? -1 : -1 - rule.skip_lag));

  // 2. Read the context: the posterior sees the next frame, prior and predictor the one before it.
  const draws = samples * model.z_dim;
  for (let i = 0; i + 1 < rule.n_past; i++) {
    const gaussian = sessions.posterior && (await run("posterior", { h: encodings[i + 1] }));
    if (sessions.prior) await run("prior", { h: encodings[i] });
    await predict(encodings[i], gaussian, part(contextNoise, i, draws));
  }

  // 3. Forecast in closed loop: the latent comes from the prior, and every forecast frame is encoded again.
  let h = encodings.at(-1);
  const futures = [];
  for (let step = 0; step < horizon; step++) {
    const g = await predict(h, sessions.prior && (await run("prior", { h })), part(noise, step, draws));
    const { frame } = await run("decoder", { g, ...conditions });
    futures.push(frame);
    const { h: next, ...rest } = await run("encoder", { frame });
    h = next;
    if (rule.last_frame_skip) conditions = await run("skip", rest);
  }
  return futures; // per step a tensor (samples, C, H, W)
}

// A square that moves to the right, and normal draws (Box-Muller).
function makeInput({ generation, frame, model }) {
  const [samples, horizon] = [3, 10];
  const normal = () => Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
  const draw = (steps) => Array.from({ length: steps * samples * model.z_dim }, normal);
  const frames = [];
  for (let i = 0; i < generation.n_past; i++) {
    for (let pixel = 0; pixel < frame.channels * frame.height * frame.width; pixel++) {
      const x = pixel % frame.width;
      const y = Math.floor(pixel / frame.width) % frame.height;
      frames.push(y >= 20 && y < 40 && x >= 10 + 3 * i && x < 16 + 3 * i ? 1 : 0);
    }
  }
  return { samples, horizon, frames, contextNoise: draw(generation.n_past - 1), noise: draw(horizon) };
}

const [bundle = EMBEDDED, input, output] = process.argv.slice(2);
const manifest = JSON.parse(await readFile(join(bundle, "manifest.json"), "utf8"));
const given = input ? JSON.parse(await readFile(input, "utf8")) : makeInput(manifest);
const futures = await forecast(bundle, manifest, given);
console.log(`${given.samples} futures of ${futures.length} frames, mean brightness per step:`);
console.log(futures.map(({ data }) => (data.reduce((sum, value) => sum + value, 0) / data.length).toFixed(3)).join(" "));
if (output) await writeFile(output, JSON.stringify(futures.map(({ data }) => Array.from(data))));
