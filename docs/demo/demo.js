// The page: a source gives pictures at the model's rate, the engine observes them and forecasts, and all of it is drawn.

import { Chart } from "./chart.js";
import { Engine } from "./engine.js";
import { drawCovering, drawFrame, drawGrid, fitFrame, meanAt, resize, spreadAt, SpreadMap } from "./pictures.js";
import { openSource } from "./sources.js";

const $ = (id) => document.getElementById(id);
const MOST_LEADS = 6; // columns of the grid of futures
const MOST_WAITING = 2; // pictures that the model has not seen yet
const RATE_S = 5; // of which the rate is the mean
const SLOW = 5; // pictures left out in that time
const SUITABLE = { synthetic: "digits", webcam: "camera", file: "camera" };
const UNITS = {
  nats: "KL divergence of posterior and prior in nats: how far the last picture was from what the model expected.",
  relative: "Error of the model's prediction of the last picture, relative to those before: 1 is as usual.",
};

const tables = await fetch(new URL("./shared.json", import.meta.url)).then((answer) => answer.json());
const NOTES = {
  digits: "The model of digits knows white digits on black, as the synthetic camera shows them, and nothing else.",
  camera: `The camera model was trained on ${tables.cameraTraining}; 64 x 64 pixels, 10 pictures per second.`,
};
const chart = new Chart($("chart"));
chart.signal = "raw";

let engine = null;
let engineKey = null; // what it was opened with
let source = null;
let run = null; // the run in progress; answers to an earlier one are ignored
let latest = null; // futures, for the slider
let spreads = null; // draws those of one model

// 1) start and stop

async function start() {
  stop();
  if ($("source").value === "file" && !$("file").files.length) {
    showMessage("Choose a video file below.", false);
    return;
  }
  const mine = (run = new Run());
  $("run").textContent = "Stop";
  $("run").disabled = false;
  try {
    await open(mine);
    if (run === mine) await mine.loop();
  } catch (error) {
    if (run === mine) end(error.message);
  }
}

function stop() {
  run = null;
  source?.close();
  source = null;
  $("run").textContent = "Start";
  showStatus("stopped", false);
}

function end(problem) {
  stop();
  showMessage(problem, true);
  showStatus("stopped", true);
}

async function open(mine) {
  showMessage("", false);
  const kind = $("source").value;
  showStatus("opening", false);
  const opened = await openSource(kind, {
    tables,
    seed: number("seed"),
    file: $("file").files[0],
    onEnd: (problem) => run === mine && end(problem),
  });
  if (run !== mine) {
    opened.close();
    return;
  }
  source = opened;
  await openEngine(mine);
}

async function openEngine(mine) {
  const options = { model: $("model").value, provider: $("engine").value, seed: number("seed") };
  const key = JSON.stringify(options);
  if (key === engineKey && !engine.failed) {
    await engine.reset();
    return;
  }
  engine?.close();
  engine = engineKey = latest = null;
  spreads = new SpreadMap(tables.inferno);
  chart.points = []; // of another model, whose surprise may have another unit
  chart.draw();
  const loading = "loading the model";
  const onProgress = (part) => run === mine && showStatus(`${loading}, ${Math.round(part * 100)} %`, false, loading);
  showStatus(loading, false);
  const opened = await Engine.open({ ...options, onProgress });
  if (run !== mine) {
    opened.close();
    return;
  }
  engine = opened;
  engineKey = key;
  $("device").textContent = engine.device;
  $("about").textContent = `Bundle ${engine.manifest.bundle_id}, onnxruntime-web ${engine.version}. All of it runs in this browser.`;
}

// 2) the loop

class Run {
  constructor() {
    this.waiting = 0;
    this.forecasting = false;
    this.dropped = 0;
    this.lateDrops = []; // times of the last ones
    this.restarted = false; // whether the source began anew since the last picture that was observed
    this.ready = 0; // pictures observed since the start, or since the context began anew
    this.finished = []; // times of forecasts
    this.times = { observe: null, forecast: null };
    this.error = null;
  }

  // A picture at every tick of the model's clock. Ticks that were missed, as in a hidden tab, are not made up for.
  async loop() {
    const interval = engine.manifest.generation.frame_interval_s * 1000;
    let next = performance.now();
    while (run === this) {
      if (this.error) throw this.error;
      if (document.hidden) await this.pause();
      else this.tick();
      next = Math.max(next + interval, performance.now() - interval);
      await new Promise((done) => setTimeout(done, Math.max(0, next - performance.now())));
    }
  }

  async pause() {
    source?.pause?.(true);
    await new Promise((done) => document.addEventListener("visibilitychange", done, { once: true }));
    source?.pause?.(false);
    if (run === this) await this.restart();
  }

  async restart() {
    this.restarted = false;
    this.ready = 0;
    await engine.reset();
  }

  tick() {
    const picture = source.next(); // the camera goes on, whether the model keeps up or not
    if (picture === null) {
      if (source.problem) showStatus(source.problem, true, "no picture");
      return;
    }
    this.restarted ||= picture.restarted;
    if (this.waiting >= MOST_WAITING) {
      this.dropped++;
      this.lateDrops = recent([...this.lateDrops, performance.now()]);
      showSpeed(this);
      return;
    }
    const spec = engine.manifest.frame;
    const frame = fitFrame(picture, spec);
    drawCovering($("live").getContext("2d"), picture, $("live").width, $("live").height);
    resize($("seen"), spec.width, spec.height);
    drawFrame($("seen").getContext("2d"), frame, spec);
    if (this.restarted) this.keep(this.restart());
    this.keep(this.observe(frame));
    this.ready++;
    if (this.ready >= engine.manifest.generation.n_past && !this.forecasting) this.keep(this.forecast());
  }

  // The loop raises what went wrong meanwhile.
  keep(promise) {
    promise.catch((error) => (this.error ??= error));
  }

  async observe(frame) {
    this.waiting++;
    const { surprise, unit, ms } = await engine.observe(frame);
    this.waiting--;
    if (run !== this) return;
    this.times.observe = ms;
    $("chart-note").textContent = UNITS[unit] ?? "This model has no surprise.";
    if (surprise === null) return;
    const now = performance.now(); // also numbers the points, which have to grow
    chart.add([[now, now / 1000, 0, surprise]]);
    $("now").textContent = `${surprise.toFixed(2)}${unit === "nats" ? " nats" : ""}`;
  }

  async forecast() {
    this.forecasting = true;
    const futures = await engine.forecast({ samples: number("samples"), horizon: number("horizon") });
    this.forecasting = false;
    if (run !== this) return;
    latest = futures;
    this.times.forecast = futures.ms;
    this.finished = recent([...this.finished, performance.now()]);
    this.lateDrops = recent(this.lateDrops);
    showFutures();
    showSpeed(this);
  }

  get rate() {
    const { finished } = this;
    return finished.length < 2 ? null : (finished.length - 1) / ((finished.at(-1) - finished[0]) / 1000);
  }
}

function recent(times) {
  return times.filter((time) => time > performance.now() - RATE_S * 1000);
}

// 3) what is shown

function showFutures() {
  const spec = engine.manifest.frame;
  const [samples, horizon] = latest.dims;
  const columns = Math.min(MOST_LEADS, horizon);
  const leads = Array.from({ length: columns }, (_, i) => Math.round(((i + 1) * horizon) / columns));
  drawGrid($("futures"), latest, leads, spec);
  for (const id of ["leads", "futures"]) $(id).style.maxWidth = `${(100 * columns) / MOST_LEADS}%`; // few columns stay small
  $("leads").replaceChildren(...leads.map((lead) => {
    const label = document.createElement("span");
    label.textContent = seconds(lead);
    return label;
  }));
  if ($("lead").max !== String(horizon)) {
    $("lead").max = horizon;
    $("lead").value = horizon;
  }
  const lead = Number($("lead").value);
  document.querySelectorAll(".lead").forEach((label) => (label.textContent = seconds(lead)));
  $("lead").setAttribute("aria-valuetext", seconds(lead));
  for (const id of ["mean", "spread"]) resize($(id), spec.width, spec.height);
  drawFrame($("mean").getContext("2d"), meanAt(latest, lead), spec);
  const largest = spreads.draw($("spread").getContext("2d"), spreadAt(latest, lead, spec.channels), spec);
  $("spread-note").textContent = samples > 1
    ? `Spread: the standard deviation of the samples, black for 0, bright yellow for ${largest} or more.`
    : "Spread needs at least two samples.";
}

function showSpeed({ rate, times, dropped, lateDrops }) {
  const show = (id, value, digits) => ($(id).textContent = value === null ? "-" : value.toFixed(digits));
  show("rate", rate, 1);
  show("forecast-ms", times.forecast, 0);
  show("observe-ms", times.observe, 0);
  $("dropped").textContent = dropped;
  $("slow").hidden = lateDrops.length < SLOW;
  showStatus(rate === null ? "running" : `${rate.toFixed(1)} forecasts/s`, false, "running");
}

function seconds(lead) {
  return `+${(lead * engine.manifest.generation.frame_interval_s).toFixed(1)} s`;
}

// A screen reader says all that is written for it, even if it is the same: no numbers that change all the time.
function showStatus(text, bad, kind = text) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", bad);
  if ($("said").textContent !== kind) $("said").textContent = kind;
}

function showMessage(text, bad) {
  $("message").textContent = text;
  $("message").hidden = !text;
  $("message").classList.toggle("bad", bad);
}

// 4) controls

// The number in a field; what is outside of its range is put inside.
function number(id) {
  const field = $(id);
  const value = Math.round(field.valueAsNumber);
  const inside = Number.isFinite(value) ? Math.min(Math.max(value, Number(field.min)), Number(field.max)) : Number(field.defaultValue);
  if (document.activeElement !== field && field.value !== String(inside)) field.value = inside;
  return inside;
}

function showModel() {
  $("model-note").textContent = NOTES[$("model").value];
  $("file-field").hidden = $("source").value !== "file";
}

$("run").addEventListener("click", () => (run ? stop() : start()));
document.forms[0].addEventListener("submit", (event) => event.preventDefault());
$("lead").addEventListener("input", () => latest && showFutures());
$("source").addEventListener("change", () => {
  $("model").value = SUITABLE[$("source").value];
  showModel();
  start();
});
// A field that has a file does not say that the same one was chosen again, such as after it has changed.
let kept = null; // while another file is being chosen
$("file").addEventListener("click", () => {
  const copy = new DataTransfer();
  for (const file of $("file").files) copy.items.add(file);
  kept = copy.files;
  $("file").value = "";
});
$("file").addEventListener("cancel", () => ($("file").files = kept));
for (const id of ["model", "engine", "seed", "file"]) {
  $(id).addEventListener("change", () => {
    showModel();
    start();
  });
}

// The address may say all of it: ?source=webcam&model=camera&samples=4&horizon=10&engine=wasm&seed=1
const asked = new URLSearchParams(location.search);
for (const id of ["source", "model", "samples", "horizon", "engine", "seed"]) {
  if (asked.has(id)) $(id).value = asked.get(id);
  if ($(id).selectedIndex === -1) $(id).selectedIndex = 0; // there is no such choice
}
if (asked.has("source") && !asked.has("model")) $("model").value = SUITABLE[$("source").value] ?? "digits";
showModel();
$("controls").disabled = false;
start();
