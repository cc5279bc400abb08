// A bundle with ONNX Runtime in Node.js. forecaster.mjs has the loop, which the page of docs/demo/ runs, too.
//
//     npm install
//     node forecast.mjs [BUNDLE] [INPUT.json OUTPUT.json]
//
// INPUT.json holds flat arrays: frames (at least n_past, C, H, W) in [0, 1], contextNoise (context_draws, samples, z_dim) and
// noise (horizon, samples, z_dim), with samples and horizon. OUTPUT.json gets futures (samples, horizon, C, H, W), flat, and
// the surprise of each frame. surpriseNoise, with contextNoise and noise, is for models that measure surprise with samples.
import { createHash } from "node:crypto";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { Forecaster } from "./forecaster.mjs";
import { part } from "./graphs.mjs";
import { checkManifest } from "./manifest.mjs";

// What goes wrong, as with a file that is missing or a bundle that contradicts itself, ends the program with its message.
process.on("uncaughtException", (error) => {
  console.error(`error: ${error.message}`);
  process.exit(1);
});

process.env.ORT_DISABLE_TELEMETRY = "1"; // read at the import: otherwise it may report to Microsoft
const ort = await import("onnxruntime-node").catch((error) => {
  throw new Error(`${error.message}\n  install it with: npm install`);
});

const EMBEDDED = fileURLToPath(new URL("../../runtime/svg_runtime/embedded/digits.svgb", import.meta.url));

// A square that moves to the right, for which the noise is drawn from a seed.
function makeInput({ generation, frame }) {
  const frames = [];
  for (let i = 0; i < generation.n_past; i++) {
    for (let pixel = 0; pixel < frame.channels * frame.height * frame.width; pixel++) {
      const x = pixel % frame.width;
      const y = Math.floor(pixel / frame.width) % frame.height;
      frames.push(y >= 20 && y < 40 && x >= 10 + 3 * i && x < 16 + 3 * i ? 1 : 0);
    }
  }
  return { samples: 3, horizon: 10, frames };
}

// The bytes of a graph, if they are those that were exported.
async function load({ file, sha256 }) {
  const bytes = await readFile(join(bundle, file));
  if (createHash("sha256").update(bytes).digest("hex") !== sha256) {
    throw new Error(`${file} changed since export: its SHA-256 is not the manifest's; export the bundle again`);
  }
  return bytes;
}

async function readJson(file, expected) {
  try {
    return JSON.parse(await readFile(file, "utf8"));
  } catch (error) {
    throw new Error(`cannot read ${file}: ${error.message}\n  expected ${expected}`);
  }
}

const [bundle = EMBEDDED, input, output] = process.argv.slice(2);
const manifest = await readJson(join(bundle, "manifest.json"), "a *.svgb folder");
checkManifest(manifest);
const given = input ? await readJson(input, "INPUT.json as above") : makeInput(manifest);
if (!Array.isArray(given?.frames)) throw new Error(`${input} has no array frames\n  expected INPUT.json as above`);
const { surpriseNoise, frames: numbers, ...options } = given;
const frames = Float32Array.from(numbers);
const forecaster = await Forecaster.open({ ort, manifest, load, surpriseNoise });

const { channels, height, width } = manifest.frame;
const pixels = channels * height * width;
const surprises = [];
for (let i = 0; i < frames.length / pixels; i++) {
  surprises.push((await forecaster.observe(part(frames, i, pixels))).surprise);
}
const futures = await forecaster.forecast(options);

const mean = (data) => data.reduce((sum, value) => sum + value, 0) / data.length;
const brightness = (step) =>
  mean(Array.from({ length: options.samples }, (_, i) => mean(part(futures.data, i * options.horizon + step, pixels))));
console.log(`${options.samples} futures of ${options.horizon} frames, mean brightness per step:`);
console.log(Array.from({ length: options.horizon }, (_, step) => brightness(step).toFixed(3)).join(" "));
if (output) await writeFile(output, JSON.stringify({ futures: Array.from(futures.data), surprises }));
