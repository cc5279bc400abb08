// A model that runs in a worker: open, observe, forecast, close.

export class Engine {
  // `provider` is wasm, webgpu, or auto: WebGPU where the browser has an adapter, else WASM.
  static async open({ model, provider = "auto", seed = 0, surpriseNoise = null, onProgress = () => {} }) {
    const options = { model, seed, surpriseNoise };
    if (provider !== "auto") return Engine.start({ ...options, provider }, onProgress);
    if (!(await hasGpu())) return Engine.start({ ...options, provider: "wasm" }, onProgress);
    try {
      return await Engine.start({ ...options, provider: "webgpu" }, onProgress);
    } catch (error) {
      const engine = await Engine.start({ ...options, provider: "wasm" }, onProgress);
      engine.device += ` (WebGPU failed: ${error.message})`;
      return engine;
    }
  }

  static async start(options, onProgress) {
    const engine = new Engine(onProgress);
    try {
      Object.assign(engine, await engine.ask("open", options)); // manifest, device, version
      return engine;
    } catch (error) {
      engine.close();
      throw error;
    }
  }

  constructor(onProgress) {
    this.waiting = new Map();
    this.number = 0;
    this.failed = false; // whether a call failed: the model may be gone, such as with its GPU
    this.ended = null; // why the worker answers no more
    this.worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
    this.worker.addEventListener("message", ({ data }) => {
      if ("progress" in data) onProgress(data.progress);
      else this.answer(data);
    });
    this.worker.addEventListener("error", (event) => this.fail(event.message ?? "the files of this page are incomplete"));
  }

  // (C, H, W) float32 in [0, 1]; returns { surprise, unit }.
  observe(frame) {
    return this.ask("observe", { frame });
  }

  // Returns { data, dims } with dims (samples, horizon, C, H, W).
  forecast(options) {
    return this.ask("forecast", options);
  }

  reset() {
    return this.ask("reset");
  }

  close() {
    this.worker.terminate();
    this.fail("the model was closed");
  }

  ask(call, options) {
    if (this.ended) return Promise.reject(this.ended);
    const id = ++this.number;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject });
      this.worker.postMessage({ id, call, options });
    });
  }

  answer({ id, result, error }) {
    const { resolve, reject } = this.waiting.get(id);
    this.waiting.delete(id);
    if (error === undefined) {
      resolve(result);
    } else {
      this.failed = true;
      reject(new Error(error));
    }
  }

  fail(reason) {
    this.failed = true;
    this.ended = new Error(`The model's worker ended: ${reason}`);
    for (const { reject } of this.waiting.values()) reject(this.ended);
    this.waiting.clear();
  }
}

async function hasGpu() {
  try {
    const adapter = await navigator.gpu?.requestAdapter();
    return Boolean(adapter) && !adapter.info?.isFallbackAdapter; // one in software is slower than WASM
  } catch {
    return false;
  }
}
