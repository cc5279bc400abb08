// The manifest of a bundle, and whether the loops can run its graphs.

import { contextDraws } from "./contexts.mjs";

const COUNTS = [
  ["z_dim", 0, 65536], ["height", 1, 65536], ["width", 1, 65536], ["n_past", 2, 1024], ["skip_lag", 0, 1],
  ["context_draws", 0, 1024],
]; // of the manifest, with their bounds
const SEPARATE = ["encoder", "predictor", "decoder"]; // with them, the loop runs without `step`

// The loops run the graphs that there are: with others than the manifest promises, they would forecast something else.
export function checkManifest(manifest) {
  const { format, schema_version: version } = manifest ?? {};
  if (format !== "svg-bundle" || version !== 1) {
    throw new Error(`the manifest is of format ${format} ${version}; expected svg-bundle 1`);
  }
  for (const name of ["model", "frame", "generation", "variants"]) check(isTable(manifest[name]), `no table ${name}`);
  const graphs = manifest.variants.fp32?.graphs;
  check(isTable(graphs), "no fp32 graphs");
  checkValues(manifest);
  for (const [role, spec] of Object.entries(graphs)) {
    check(isList(spec?.inputs, isTensor) && isList(spec?.outputs, isTensor), `no inputs or no outputs of ${role}`);
    check(isFile(spec), `no file, sha256 or bytes of ${role}`);
    checkStates(role, spec, "prime" in graphs);
  }
  checkRoles(graphs, manifest.generation);
  checkPrior(graphs, manifest.model);
}

// The graphs that the loops run: the fused ones where the bundle has them, else the separate ones; `encoder`, `skip`,
// `posterior` and `prior` for both.
export function chosenGraphs({ variants: { fp32: { graphs } } }) {
  const left = new Set(["decoder_shuffled", ...("step" in graphs ? ["predictor", "decoder"] : [])]);
  return Object.fromEntries(Object.entries(graphs).filter(([role]) => !left.has(role)));
}

function check(fits, found) {
  if (!fits) throw new Error(`the manifest has ${found}; export the bundle again with: svg-export ckpt.pt`);
}

const isTable = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const isList = (value, isItem) => Array.isArray(value) && value.every(isItem);
const isTensor = (tensor) => typeof tensor?.name === "string" && Array.isArray(tensor.shape);
const isFile = ({ file, sha256, bytes }) =>
  typeof file === "string" && typeof sha256 === "string" && Number.isInteger(bytes) && bytes > 0;
const names = (tensors) => tensors.map(({ name }) => name);

function checkValues({ model, frame, generation }) {
  const numbers = { ...frame, ...generation, context_draws: contextDraws(generation), z_dim: model.z_dim };
  for (const [name, low, high] of COUNTS) {
    const value = numbers[name];
    check(Number.isInteger(value) && value >= low && value <= high, `${name} ${JSON.stringify(value)}, not ${low} to ${high}`);
  }
  const { channels, colour_order: colours, range } = frame;
  check(channels === { gray: 1, RGB: 3 }[colours], `channels ${channels} with the colour_order ${colours}`);
  check(JSON.stringify(range) === "[0,1]", `the range ${JSON.stringify(range)}, not [0,1]`);
  check(typeof generation.last_frame_skip === "boolean", `last_frame_skip ${JSON.stringify(generation.last_frame_skip)}`);
  check(["window", "stream"].includes(generation.context ?? "window"), `the context ${generation.context}`);
}

// An output X_out is the next input X. Without its state it would be lost, and the step begin from zeros again.
function checkStates(role, { inputs, outputs, states = [] }, primed) {
  check(isList(states, isTable), `states ${JSON.stringify(states)} of ${role}`);
  const told = ({ input, output, initial = "zeros" }) => `${input} to ${output} from ${initial}`;
  const carried = names(inputs).filter((name) => names(outputs).includes(`${name}_out`));
  const start = (input) => (role === "step" && (primed || input === "h") ? "given" : "zeros");
  const expected = carried.map((input) => told({ input, output: `${input}_out`, initial: start(input) })).sort().join(", ");
  const found = states.map(told).sort().join(", ");
  check(found === expected, `the states [${found}] of ${role}, not [${expected}]`);
}

// Which graphs need which others.
function checkRoles(graphs, { last_frame_skip: follows }) {
  const has = (role) => role in graphs;
  const gives = (role, pattern) => has(role) && names(graphs[role].outputs).some((name) => pattern.test(name));
  const needs = (needed, role) => check(!needed || has(role), `the graphs [${Object.keys(graphs)}], but no ${role}`);
  needs(has("prime") || has("decode") || !SEPARATE.every(has), "step");
  const readsFrames = has("step") && !has("encoder") && names(graphs.step.inputs).includes("h");
  needs(has("step") && !readsFrames, "prime");
  needs(has("step") && !gives("step", /^frame$/), "decode");
  needs(has("skip"), "encoder");
  needs(follows || gives("encoder", /^skip_/), "skip");
}

function checkPrior(graphs, model) {
  const prior = model.prior ?? { lp: "learned", fp: "fixed", det: "none" }[model.variant]; // older bundles have a variant
  check(["learned", "fixed", "none"].includes(prior), `the prior ${prior}`);
  const gaussians = { learned: ["posterior", "prior"], fixed: ["posterior"], none: [] }[prior];
  check((model.z_dim === 0) === (prior === "none"), `z_dim ${model.z_dim} with the prior ${prior}`);
  const given = ["posterior", "prior"].filter((role) => role in graphs);
  const separate = SEPARATE.every((role) => role in graphs);
  check(!separate || `${given}` === `${gaussians}`, `the graphs [${given}] for the prior ${prior}, not [${gaussians}]`);
  const sampled = "step" in graphs ? names(graphs.step.outputs).includes("mu") : prior === "learned";
  check(sampled === (prior === "learned"), `a step that gives ${sampled ? "mu" : "no mu"} for the prior ${prior}`);
}
