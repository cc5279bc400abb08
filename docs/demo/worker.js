// The model, in a thread of its own, so that the page stays responsive: answers the calls of engine.js in their order.

import { fetchGraph, fetchManifest } from "./bundle.js";
import { Forecaster } from "./forecaster.mjs";
import { size } from "./graphs.mjs";
import { checkManifest, chosenGraphs } from "./manifest.mjs";
import { NoiseSource } from "./noise.mjs";

const MOST_THREADS = 4; // such small graphs gain nothing from more
const LARGEST_DIFFERENCE = 1 / 255; // of a pixel, between WebGPU and WASM
const LIBRARIES = { wasm: "./ort/ort.wasm.min.mjs", webgpu: "./ort/ort.webgpu.min.mjs" };

let forecaster;

const calls = {
  async open({ model, provider, seed, surpriseNoise }) {
    const { ort, device } = await loadRuntime(provider);
    const address = new URL(`./models/${model}.svgb/`, import.meta.url);
    const manifest = await fetchManifest(address);
    checkManifest(manifest);
    const total = Object.values(chosenGraphs(manifest)).reduce((sum, spec) => sum + spec.bytes, 0);
    let loaded = 0;
    const files = new Map();
    const load = async (spec) => {
      if (!files.has(spec.file)) {
        files.set(spec.file, await fetchGraph(address, spec));
        loaded += spec.bytes;
        postMessage({ progress: loaded / total });
      }
      return files.get(spec.file);
    };
    const openOn = (each) =>
      Forecaster.open({ ort, manifest, load, seed, surpriseNoise, sessionOptions: { executionProviders: [each] } });
    try {
      forecaster = await openOn(provider);
    } catch (error) {
      if (!/no available backend/.test(error.message)) throw error;
      throw new Error(`${device} did not start in this browser: ${error.message}. Try another browser, or another engine.`);
    }
    if (provider === "webgpu") await checkAgainst(await openOn("wasm"), manifest);
    return { manifest, device, version: ort.env.versions.web };
  },

  observe: ({ frame }) => forecaster.observe(frame),

  async forecast(options) {
    const { data, dims } = await forecaster.forecast(options);
    return { data, dims: [...dims] };
  },

  reset: () => forecaster.reset(),
};

// Some kernels for GPUs are wrong (microsoft/onnxruntime#29651): a model whose frames are not those of WASM does not run there.
async function checkAgainst(reference, { frame, generation, model }) {
  const shape = [frame.channels, frame.height, frame.width];
  const source = new NoiseSource(0);
  const options = { samples: 1, horizon: 2, noise: source.normal(2 * model.z_dim) };
  options.contextNoise = source.normal((generation.context_draws ?? generation.n_past - 1) * model.z_dim);
  for (let i = 0; i < generation.n_past; i++) {
    const picture = movingSpot(shape, i / generation.n_past);
    await forecaster.observe(picture);
    await reference.observe(picture);
  }
  const expected = (await reference.forecast(options)).data;
  const { data } = await forecaster.forecast(options);
  await reference.close();
  forecaster.reset();
  const difference = data.reduce((most, value, i) => Math.max(most, Math.abs(value - expected[i])), 0);
  if (!(difference <= LARGEST_DIFFERENCE)) {
    throw new Error(`WebGPU computes wrong frames with this model here, by up to ${difference.toFixed(2)} of 1. Choose WASM as the engine.`);
  }
}

// A soft spot on its way to the right, in another shade for each channel.
function movingSpot(shape, time) {
  const [, height, width] = shape;
  return Float32Array.from({ length: size(shape) }, (_, at) => {
    const x = (at % width) / width - 0.3 - 0.4 * time;
    const y = (Math.floor(at / width) % height) / height - 0.5;
    const channel = Math.floor(at / (height * width));
    return (0.9 - 0.2 * channel) * Math.exp(-(x * x + y * y) * 30);
  });
}

// ONNX Runtime for a provider, and what that is in words.
async function loadRuntime(provider) {
  if (typeof WebAssembly !== "object") throw new Error("This browser has no WebAssembly, which runs the models. Try another one.");
  let device;
  if (provider === "webgpu") {
    const adapter = await navigator.gpu?.requestAdapter();
    if (!adapter) throw new Error("This browser has no WebGPU. Choose WASM as the engine.");
    device = ["WebGPU", adapter.info?.vendor, adapter.info?.architecture].filter(Boolean).join(" ");
  }
  let ort;
  try {
    ort = await import(LIBRARIES[provider]);
  } catch (error) {
    throw new Error(`onnxruntime-web could not be loaded: ${error.message}. It comes with: python docs/demo/build.py`);
  }
  // Threads need memory that they share, which browsers give to isolated pages alone: see docs/demo.md.
  const threads = crossOriginIsolated ? Math.min(MOST_THREADS, navigator.hardwareConcurrency) : 1;
  ort.env.wasm.numThreads = threads;
  ort.env.wasm.wasmPaths = new URL("./ort/", import.meta.url).href;
  ort.env.logLevel = "error";
  return { ort, device: device ?? `WASM, ${threads} thread${threads === 1 ? "" : "s"}` };
}

let last = Promise.resolve();

addEventListener("message", ({ data: { id, call, options } }) => {
  last = last.then(async () => {
    try {
      const start = performance.now();
      const result = await calls[call](options);
      postMessage({ id, result: { ...result, ms: performance.now() - start } });
    } catch (error) {
      postMessage({ id, error: error.message ?? String(error) });
    }
  });
});
