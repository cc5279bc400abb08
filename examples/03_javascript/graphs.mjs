// The graphs of a bundle as sessions of ONNX Runtime, in Node.js or in a browser.

export const size = (shape) => shape.reduce((product, length) => product * length, 1);

// Part `index` of a flat array that holds parts of `length` numbers.
export const part = (data, index, length) => data.subarray(index * length, (index + 1) * length);

export class Graphs {
  // `load` returns what a session is created from: bytes, or a path in Node.js.
  static async open(ort, specs, load, options) {
    const graphs = new Graphs(ort, specs);
    for (const [name, spec] of Object.entries(specs)) {
      const file = await load(spec);
      try {
        graphs.sessions[name] = await ort.InferenceSession.create(file, options);
      } catch (error) {
        throw new Error(`ONNX Runtime cannot open ${spec.file}: ${error.message ?? error}`);
      }
    }
    return graphs;
  }

  constructor(ort, specs) {
    this.ort = ort;
    this.specs = specs;
    this.sessions = {};
  }

  has(...names) {
    return names.every((name) => name in this.specs);
  }

  tensor(data, shape) {
    return new this.ort.Tensor("float32", data, shape);
  }

  // Run a graph on those of `values` that it reads. What has one row gets `batch` rows, unless the graph broadcasts it itself.
  async run(name, values, batch) {
    const inputs = {};
    for (const { name: input, shape } of this.specs[name].inputs) {
      if (!values[input]) {
        throw new Error(`nothing gives ${name} its input ${input}; export the bundle again with: svg-export ckpt.pt`);
      }
      inputs[input] = this.repeat(values[input], shape.indexOf("batch"), batch);
    }
    return this.sessions[name].run(inputs);
  }

  // A state before the first step. Its batch axis is where the manifest says.
  zeros(name, input, batch) {
    const { shape } = this.specs[name].inputs.find((tensor) => tensor.name === input);
    const sizes = shape.map((length) => (length === "batch" ? batch : length));
    return this.tensor(new Float32Array(size(sizes)), sizes);
  }

  repeat(tensor, axis, times) {
    if (axis < 0 || tensor.dims[axis] !== 1 || times === 1) return tensor;
    const inner = size(tensor.dims.slice(axis + 1));
    const outer = size(tensor.dims.slice(0, axis));
    const data = new Float32Array(tensor.data.length * times);
    for (let row = 0; row < outer; row++) {
      const one = part(tensor.data, row, inner);
      for (let i = 0; i < times; i++) data.set(one, (row * times + i) * inner);
    }
    return this.tensor(data, tensor.dims.map((length, i) => (i === axis ? times : length)));
  }

  // Put tensors of equal shape behind one another along the first axis.
  concatenate(tensors) {
    const { data, dims } = tensors[0];
    const whole = new Float32Array(data.length * tensors.length);
    tensors.forEach((tensor, i) => whole.set(tensor.data, i * data.length));
    return this.tensor(whole, [dims[0] * tensors.length, ...dims.slice(1)]);
  }

  async close() {
    for (const session of Object.values(this.sessions)) await session.release();
  }
}

// A graph whose state is carried from run to run.
export class RecurrentGraph {
  constructor(graphs, name, state = {}) {
    this.graphs = graphs;
    this.name = name;
    this.state = state; // by the names of the inputs
  }

  async run(values, batch) {
    const { states = [] } = this.graphs.specs[this.name];
    for (const { input, initial = "zeros" } of states) {
      if (initial === "zeros" && !(input in values)) this.state[input] ??= this.graphs.zeros(this.name, input, batch);
    }
    const outputs = await this.graphs.run(this.name, { ...values, ...this.state }, batch);
    this.state = Object.fromEntries(states.map(({ input, output }) => [input, outputs[output]]));
    return outputs;
  }
}
