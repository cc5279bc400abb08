// The model, in a thread of its own, so that the page stays responsive: answers the calls of engine.js in their order.

import { fetchGraph, fetchManifest } from "./bundle.js";
import { checkFormat, Forecaster } from "./forecaster.mjs";

const MOST_THREADS = 4; // such small graphs gain nothing from more
const LIBRARIES = { wasm: "./ort/ort.wasm.min.mjs", webgpu: "./ort/ort.webgpu.min.mjs" };

let forecaster;

const calls = {
  async open({ model, provider, seed, surpriseNoise }) {
    const { ort, device } = await loadRuntime(provider);
    const address = new URL(`./models/${model}.svgb/`, import.meta.url);
    const manifest = await fetchManifest(address);
    checkFormat(manifest);
    const total = Object.values(manifest.variants.fp32.graphs).reduce((sum, spec) => sum + spec.bytes, 0);
    let loaded = 0;
    const opening = Forecaster.open({
      ort,
      manifest,
      seed,
      surpriseNoise,
      sessionOptions: { executionProviders: [provider] },
      load: async (spec) => {
        const bytes = await fetchGraph(address, spec);
        loaded += spec.bytes;
        postMessage({ progress: loaded / total });
        return bytes;
      },
    });
    forecaster = await opening.catch((error) => {
      if (!/no available backend/.test(error.message)) throw error;
      throw new Error(`${device} did not start in this browser: ${error.message}. Try another browser, or another engine.`);
    });
    return { manifest, device, version: ort.env.versions.web };
  },

  observe: ({ frame }) => forecaster.observe(frame),

  async forecast(options) {
    const { data, dims } = await forecaster.forecast(options);
    return { data, dims: [...dims] };
  },

  reset: () => forecaster.reset(),
};

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
