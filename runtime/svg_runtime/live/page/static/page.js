// The page: one event stream for all numbers, one picture stream for the camera that is shown, POSTs for changes.

import { Chart } from "./chart.js";

const $ = (id) => document.getElementById(id);
const RETRY_MS = 1500, FUTURES_MS = 700, TILE_MS = 400;
const LOGIN_MS = 24 * 3600 * 1000; // of the month that a login lasts
const SILENT_MS = 5000; // without the numbers that come every second: a connection may die without being closed
const MOST_EVENTS = 100; // that are alarms, and as many others: those of a bad connection push out no alarm
const GRID_COLUMNS = 6; // of the grid of futures, as the server draws it
const REQUEST_MS = 25000; // the server takes up to 5 s for a picture, and gives a client 20 s to take it
const MINUTE_MS = 60 * 1000;
const HEAD = "--picture\r\nContent-Type: image/jpeg\r\n\r\n"; // before each picture of a stream, and after it at once
const NARROW = 600; // CSS pixels of the live picture, below which its panels are composed for a phone
const LOGGED_OUT = "log in again: open the link with the token";
const NO_SUCH_CAMERA = "no such camera";
// As an img asks: for */*, a browser that is logged out would open a dialog for a password.
const AS_IMAGE = { Accept: "image/*" };
const MISFIT = "The model does not fit these pictures";
const OVERLAYS = {
  live: "none",
  ghost: "what will change",
  contours: "where the model is unsure",
  panels: "panels",
  before: "expected and came",
  likely: "most and least likely",
};
const LEGENDS = {
  live: "",
  ghost: "In blue: what the mean of the samples expects to have changed {lead} from now.",
  contours: "Lines: standard deviation of the samples {lead} from now. Thin blue 0.05, yellow 0.1, thick orange 0.2.",
  panels: "",
  before: "",
  likely: "",
};
const STAGES = {
  capture: "wait for picture", age: "age of picture", preprocess: "fit to model", observe: "observe", forecast: "forecast",
  queue: "wait for output", overlay: "compose", output: "write", end_to_end: "all, end to end",
};
const TYPED = ["samples", "horizon", "threshold", "roi"]; // controls that one types into
const SYMBOLS = { alarm: "▲", event: "●", change: "◆" };

const states = new Map();
let known = []; // names of the cameras for which the page was made
let shown = null; // the camera in the address, or the only one; null: all of them
let source = null; // the event stream
let heard = 0; // when numbers came last
let newest = ""; // entry of the event list
let lost = ""; // why nothing is known at present of what is shown
let size = ""; // of the live picture that is asked for
let unseen = ""; // why there is no live picture, although the numbers come
let live = new AbortController(); // ends the stream of live pictures
let corner = null; // of the region that is being drawn, the first one
let requests = 0; // changes asked for so far
let awaited = null; // a change that is not in force yet
const refused = new Map(); // why changes that had to wait were refused, by their names
const edited = new Map(); // controls that stay as they are, and the request for what they say; 0: that is still being edited
const pending = new Set(); // what ends a request

// 1) start

const below = location.pathname.slice(new URL(root("")).pathname.length); // without the path of a proxy, which may be any
const match = below.match(/^cameras\/([^/]+)\/?$/);
const chart = new Chart($("chart"));
start();

async function start() {
  let found;
  try {
    const answer = await request(root("cameras.json"));
    if (!answer.ok) {
      showStatus(await reasonOf(answer), true);
      setTimeout(start, RETRY_MS);
      return;
    }
    found = await answer.json();
  } catch {
    showStatus("no connection", true);
    setTimeout(start, RETRY_MS);
    return;
  }
  if (!found.length) { // a model may take minutes to open
    showStatus("starting", false);
    setTimeout(start, RETRY_MS);
    return;
  }
  for (const state of found) states.set(state.camera, state);
  known = [...states.keys()];
  shown = match ? decodeURIComponent(match[1]) : known.length === 1 ? known[0] : null;
  showHome(known);
  if (shown) startCamera(states.get(shown));
  else startOverview(found);
  listen();
  document.addEventListener("visibilitychange", pauseOrGoOn);
  setInterval(noticeSilence, 1000);
  setInterval(showTimes, MINUTE_MS);
  setInterval(() => request(root("cameras.json")).catch(() => {}), LOGIN_MS); // renews the login of a page that stays open
}

// As a connection may die without being closed, no request waits for ever: it would hold one of the six that a browser has.
function request(address, options) {
  const ended = new AbortController();
  const end = () => {
    ended.abort();
    pending.delete(end);
  };
  pending.add(end);
  setTimeout(end, REQUEST_MS);
  return fetch(address, { ...options, signal: ended.signal });
}

// Nothing is composed for a page that nobody sees.
function pauseOrGoOn() {
  if (document.hidden) {
    source?.close();
    source = null;
    live.abort();
  } else {
    if (!source) listen();
    if (shown) showLive();
  }
  if (states.has(shown)) showTitle(states.get(shown));
}

function noticeSilence() {
  if (!source || performance.now() - heard < SILENT_MS) return;
  lose("no connection");
  pending.forEach((end) => end());
  listen(); // anew: an old connection may stay silent when the network is back
}

function lose(reason, bad = true) {
  if (reason === lost) return;
  lost = reason;
  showStatus(reason, bad);
  if (states.has(shown)) showNow();
  if (!shown) states.forEach(showTile);
}

function listen() {
  heard = performance.now();
  source?.close();
  const opened = new EventSource(root(`events?${wanted()}`));
  source = opened;
  opened.addEventListener("error", () => {
    if (opened !== source) return;
    if (opened.readyState === EventSource.CLOSED) explain();
    else lose("no connection");
    opened.close(); // the browser would ask again for what it has got since then
    setTimeout(() => opened === source && listen(), RETRY_MS);
  });
  const follow = (kind, show) => opened.addEventListener(kind, (message) => {
    heard = performance.now();
    show(JSON.parse(message.data), message.lastEventId);
  });
  follow("cameras", ({ cameras }) => followCameras(cameras));
  follow("state", showState);
  follow("signals", ({ points }) => showSignals(points));
  for (const kind of Object.keys(SYMBOLS)) {
    follow(kind, (data, id) => {
      newest = id;
      if (data.refused) refused.set(data.change, data.refused);
      showEntry(kind, data, id);
    });
  }
}

// Of one camera all that the page has not got yet, of several their numbers alone: a slow link takes no more.
function wanted() {
  if (!shown) return "live=numbers";
  const last = chart.points.at(-1);
  return new URLSearchParams({ live: 1, camera: shown, last: newest, ...(last && { since: last[1] }) });
}

// The run may have been started again with other cameras. A page of one camera stays as it is as long as there is that one, so
// that nothing that is being typed is lost.
function followCameras(names) {
  if (!names.length) {
    lose("starting", false);
    return;
  }
  const isMissing = Boolean(match) && !names.includes(shown);
  const isMade = match ? isMissing || known.includes(shown) : names.join() === known.join();
  if (!isMade) {
    location.reload();
    return;
  }
  showHome(names);
  if (isMissing) {
    $("camera").hidden = true;
    live.abort();
    $("about").textContent = "";
    lose(NO_SUCH_CAMERA);
  } else if (lost) {
    lost = "";
    if (!shown) return;
    $("camera").hidden = false;
    showLive();
  }
}

// It leads to all cameras, of which there are more than the one that is shown.
function showHome(names) {
  document.querySelector(".home").hidden = names.length === 1 && names[0] === shown;
}

// An event stream does not say why it was refused.
async function explain() {
  if (!lost) lose("no connection");
  try {
    const answer = await request(root("events"));
    if (answer.ok) await answer.body.cancel();
    else lose(await reasonOf(answer));
  } catch {
    lose("no connection");
  }
}

// Why a request was refused, as the server says; a proxy answers with a page of its own.
async function reasonOf(answer) {
  if (answer.status === 401) return LOGGED_OUT;
  const isMessage = (answer.headers.get("content-type") || "").startsWith("text/plain");
  return (isMessage && (await answer.text()).trim()) || "no connection";
}

function showStatus(text, bad, kind = text) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", bad);
  announce(kind.replace(/ for [\d.]+ (s|min|h|days)$/, ""));
}

// To a screen reader, which says all that is written there, even if it is the same: no numbers that change every second.
function announce(kind) {
  if ($("said").textContent !== kind) $("said").textContent = kind;
}

function showState(state) {
  states.set(state.camera, state);
  if (state.camera === shown) showCamera(state);
  else if (!shown) showTile(state);
  if (!shown) {
    showStatus(...summary());
  }
}

// Of all cameras, for the head of the page: one that is in trouble by its name, more of them by their number; tiles say which.
function summary() {
  const all = [...states.values()];
  const bad = all.filter((one) => one.problem || one.alarm);
  if (!bad.length) return [`${all.length} cameras`, false];
  if (bad.length === 1) return [`${bad[0].name}: ${bad[0].problem || "alarm"}`, true];
  const gone = bad.filter((one) => one.problem).length, alarms = bad.length - gone;
  const parts = [gone && `${gone} of ${all.length} without pictures`, alarms && `${alarms} alarm${alarms > 1 ? "s" : ""}`];
  return [parts.filter(Boolean).join(", "), true];
}

// 2) all cameras: each tile asks for its next picture when it has one, so that a camera without pictures holds up no other

function startOverview(found) {
  $("overview").hidden = false;
  for (const state of found) {
    const tile = document.createElement("a");
    tile.className = "tile";
    tile.href = root(`cameras/${encodeURIComponent(state.camera)}`);
    tile.dataset.camera = state.camera;
    const picture = document.createElement("img");
    picture.alt = `Live picture of ${state.name}`;
    const line = document.createElement("div");
    const name = document.createElement("b");
    name.textContent = state.name;
    const status = document.createElement("span");
    status.className = "status";
    line.append(name, status);
    tile.append(picture, line);
    $("overview").append(tile);
    showTile(state);
    refreshTile(picture, root(`cameras/${encodeURIComponent(state.camera)}/picture.jpg?size=small`));
  }
}

function showTile(state) {
  const status = document.querySelector(`[data-camera="${CSS.escape(state.camera)}"] .status`);
  if (!status) return;
  const text = state.problem || (state.alarm ? "alarm" : `${state.fps.toFixed(1)} fps`);
  status.textContent = lost ? "" : text; // the head of the page says why
  status.classList.toggle("bad", !lost && Boolean(state.problem || state.alarm));
}

async function refreshTile(picture, address) {
  for (;;) {
    if (!document.hidden) await showPicture(picture, address);
    await new Promise((done) => setTimeout(done, TILE_MS));
  }
}

async function showPicture(image, address) {
  try {
    const answer = await request(address, { headers: AS_IMAGE });
    if (!answer.ok) { // of a camera without pictures, say
      await new Promise((done) => setTimeout(done, RETRY_MS));
      return;
    }
    await replacePicture(image, await answer.blob());
  } catch {
    // the next one may come
  }
}

// Decode a picture before it is set, so that nothing flickers, and the img always has the size of a picture.
async function replacePicture(image, blob) {
  const next = new Image();
  next.src = URL.createObjectURL(blob);
  try {
    await next.decode();
    const old = image.src;
    image.src = next.src;
    URL.revokeObjectURL(old);
  } catch {
    URL.revokeObjectURL(next.src); // damaged: the next one may come
  }
}

// 3) one camera

// Of all cameras: above this script, which a proxy may have put below a path of another site.
function root(file) {
  return new URL(`../${file}`, import.meta.url).href;
}

function address(file) {
  return root(`cameras/${encodeURIComponent(shown)}/${file}`);
}

function startCamera(state) {
  if (!state) {
    showStatus(NO_SUCH_CAMERA, true);
    return;
  }
  $("camera").hidden = false;
  for (const name of state.overlays) $("overlay").append(new Option(OVERLAYS[name] || name, name));
  $("signal").value = chart.signal = state.signal;
  showCamera(state);
  showLive();
  addEventListener("resize", () => sizeOfStage() !== size && showLive());
  startControls();
  refreshFutures();
}

// From now on, until `live` is aborted or replaced.
async function showLive() {
  size = sizeOfStage();
  live.abort();
  live = new AbortController();
  const { signal } = live;
  while (!signal.aborted && !document.hidden && !$("camera").hidden) {
    await showStream(signal).catch(() => {}); // aborted, refused or lost
    await new Promise((done) => setTimeout(done, RETRY_MS));
  }
}

// The stream is read here, because the browser does not tell when that of an img has ended: its last picture would stay.
async function showStream(signal) {
  const answer = await fetch(address(`stream.mjpg?size=${size}`), { headers: AS_IMAGE, signal });
  unseen = answer.ok ? "" : `no live picture: ${await reasonOf(answer)}`; // such as too many streams
  if (unseen) return $("live").removeAttribute("src"); // an old picture must not look like now's
  const reader = answer.body.getReader(), latin1 = new TextDecoder("latin1"); // a character for each byte
  let bytes = new Uint8Array();
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    bytes = joined(bytes, value);
    const [picture, rest] = latin1.decode(bytes).split(HEAD).slice(-2); // of several, the newest
    if (rest === undefined) continue;
    const end = bytes.length - rest.length - HEAD.length;
    const blob = new Blob([bytes.subarray(end - picture.length, end)], { type: "image/jpeg" });
    bytes = bytes.subarray(end + HEAD.length);
    if (blob.size) await replacePicture($("live"), blob);
  }
}

function joined(one, other) {
  const bytes = new Uint8Array(one.length + other.length);
  bytes.set(one);
  bytes.set(other, one.length);
  return bytes;
}

function sizeOfStage() {
  return $("stage").clientWidth < NARROW ? "small" : "large";
}

function showCamera(state) {
  showTitle(state);
  $("title").textContent = state.name;
  const text = state.problem || (state.alarm ? "alarm" : `${state.fps.toFixed(1)} fps`);
  const isMisfit = state.misfit.length > 0;
  const kind = state.problem || (state.alarm ? "alarm" : isMisfit ? MISFIT : "live");
  if (!lost) showStatus(text, Boolean(state.problem || state.alarm), kind);
  const trouble = state.problem || unseen || (isMisfit ? `${MISFIT}: ${state.misfit[0]}` : "");
  $("banner").textContent = trouble;
  $("banner").hidden = !trouble;
  const settings = state.settings;
  $("live").alt = `Live picture of ${state.name}, overlay: ${OVERLAYS[settings.overlay]}`;
  $("legend").textContent = (LEGENDS[settings.overlay] || "").replace("{lead}", `${state.lead_s} s`);
  $("snapshot").href = address("snapshot.png");
  chart.threshold = settings.threshold;
  chart.interval_s = state.interval_s;
  chart.moveOn(state.now_s);
  showNow();
  $("chart-note").textContent = chart.signal === "raw"
    ? `Unit: ${state.surprise_unit === "relative" ? "relative to the usual error" : state.surprise_unit || "none"}.`
    : "Robust standard deviations above what is usual here.";
  showSettings(state);
  showWhetherApplied(state);
  showLatency(state.latency_ms);
  showCounts(state);
  for (const id of ["leads", "futures"]) $(id).style.maxWidth = `${(100 * state.leads_s.length) / GRID_COLUMNS}%`; // few columns stay small
  $("leads").replaceChildren(...state.leads_s.map((lead) => element("span", `+${lead.toFixed(state.interval_s < 0.1 ? 2 : 1)} s`)));
  $("futures-note").textContent = `${settings.samples} sample${settings.samples > 1 ? "s" : ""}`;
  $("about").textContent = `${state.model} on ${state.backend}; ${state.source}`;
}

// Of a hidden tab nothing is known that comes, so an alarm is not said to last.
function showTitle(state) {
  document.title = `${state.alarm && !document.hidden ? "▲ " : ""}${state.name} - svg-live`;
}

function showSignals(points) {
  chart.add(points);
  showNow();
}

// A camera that is lost, or not heard of, has no signal, whatever the last one was.
function showNow() {
  const gone = Boolean(lost || states.get(shown).problem);
  const value = gone ? null : chart.latest();
  const alarm = !gone && chart.isAlarm();
  const unknown = gone ? "no signal" : "learning what is usual";
  $("now").textContent = value === null ? unknown : value.toFixed(1) + (alarm ? " alarm" : "");
  $("now").classList.toggle("alarm", alarm);
  $("chart").setAttribute("aria-label", `Signal over the last minute, now ${value === null ? "unknown" : value.toFixed(1)}`);
}

function showEntry(kind, data, id) {
  if (shown && data.camera && data.camera !== shown) return;
  if (!shown || $("events").querySelector(`[data-entry="${id}"]`)) return; // it came before a reconnection
  const line = element("li");
  line.dataset.entry = id;
  if (kind === "alarm") {
    line.dataset.alarm = `${data.sequence} ${data.start}`;
    $("events").querySelector(`[data-alarm="${line.dataset.alarm}"]`)?.remove(); // its end takes the place of its start
  }
  const when = new Date(data.end || data.start || data.time);
  const time = element("time", timeText(when));
  time.dateTime = when.toISOString();
  const text = element("span", describe(kind, data));
  if (kind === "alarm") text.className = "alarm";
  for (const [name, link] of Object.entries(data.files || {})) {
    if (!link) continue;
    const anchor = element("a", name);
    anchor.href = root(link.slice(1));
    anchor.target = "_blank";
    anchor.rel = "noopener";
    text.append(" ", anchor);
  }
  line.append(element("span", SYMBOLS[kind]), time, text);
  $("events").prepend(line); // in the order in which they came: the clock may be set meanwhile
  const alike = $("events").querySelectorAll(kind === "alarm" ? "li[data-alarm]" : "li:not([data-alarm])");
  [...alike].slice(MOST_EVENTS).forEach((old) => old.remove());
}

// The time of day, and of another day than today its date.
function timeText(when) {
  const isToday = when.toDateString() === new Date().toDateString();
  const date = isToday ? "" : `${when.toLocaleDateString([], { day: "numeric", month: "short" })} `;
  return date + when.toLocaleTimeString([], { hourCycle: "h23" });
}

// What was today may be yesterday.
function showTimes() {
  for (const time of $("events").querySelectorAll("time")) time.textContent = timeText(new Date(time.dateTime));
}

function describe(kind, data) {
  if (kind === "event") return data.message;
  if (kind === "alarm") {
    const peak = data.peak[data.signal];
    const value = peak === null || peak === undefined ? "" : `, ${data.signal.replace("_", " ")} ${peak.toFixed(1)}`;
    return data.phase === "started" ? `alarm ${data.sequence}${value}` : `alarm ${data.sequence} over after ${data.duration_s} s${value}`;
  }
  if (data.refused) return `${describeChanges(data.asked)}: not applied: ${data.refused}`;
  const { time, camera, ...changes } = data;
  return describeChanges(changes);
}

function describeChanges(changes) {
  return Object.entries(changes).map(([name, value]) => {
    if (name === "reset") return "started anew";
    if (name === "horizon") return `steps ${value}`;
    return name === "roi" ? `region ${value || "whole picture"}` : `${name} ${value}`;
  }).join(", ");
}

function showLatency(latency) {
  const largest = Math.max(...Object.values(latency).map((stage) => stage.p95), 0.001);
  $("latency").replaceChildren(...Object.entries(latency).map(([name, stage]) => {
    const row = element("tr");
    const head = element("th", STAGES[name] || name);
    head.scope = "row";
    const meter = element("td");
    const bar = element("span");
    bar.className = "meter";
    bar.style.width = `${(100 * stage.p50) / largest}%`;
    meter.append(bar);
    row.append(head, element("td", stage.p50.toFixed(1)), element("td", stage.p95.toFixed(1)), meter);
    return row;
  }));
}

function showCounts(state) {
  const frames = state.frames;
  const counts = {
    observed: frames.seen, forecasts: frames.forecast, dropped: frames.dropped, "not shown": frames.not_shown,
    held: frames.held, resets: state.resets, alarms: state.alarms, running: duration(state.duration_s),
  };
  $("counts").replaceChildren(...Object.entries(counts).map(([name, value]) => {
    const pair = element("div");
    pair.append(element("dt", name), element("dd", typeof value === "number" ? value.toLocaleString("en") : value));
    return pair;
  }));
}

function duration(seconds) {
  const [hours, minutes] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60];
  return hours ? `${hours} h ${minutes} min` : minutes ? `${minutes} min` : `${Math.floor(seconds)} s`;
}

async function refreshFutures() {
  let visible = false;
  new IntersectionObserver((entries) => { visible = entries.at(-1).isIntersecting; }).observe($("futures"));
  for (;;) {
    if (visible && !document.hidden) await showPicture($("futures"), address("futures.jpg"));
    await new Promise((done) => setTimeout(done, FUTURES_MS));
  }
}

function element(name, text) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  return made;
}

// 4) controls

function startControls() {
  $("controls").addEventListener("submit", (event) => { // after the change that Enter makes, if it makes one
    event.preventDefault();
    const { id } = document.activeElement;
    if (edited.get(id) === 0) askFor(id);
  });
  $("overlay").addEventListener("change", () => change({ overlay: $("overlay").value }));
  for (const name of TYPED) {
    $(name).addEventListener("input", () => edited.set(name, 0));
    $(name).addEventListener("blur", () => release(0));
    $(name).addEventListener("change", () => askFor(name));
  }
  $("whole").addEventListener("click", () => change({ roi: null }));
  $("reset").addEventListener("click", () => change({ reset: true }));
  $("draw").addEventListener("click", () => setDrawing($("draw").getAttribute("aria-pressed") !== "true"));
  $("signal").addEventListener("change", () => {
    chart.signal = $("signal").value;
    chart.draw();
    showCamera(states.get(shown));
  });
  addEventListener("keydown", (event) => event.key === "Escape" && setDrawing(false));
  startDrawing();
}

function askFor(name) {
  const text = $(name).value.trim();
  if (name === "roi") change({ roi: text || null });
  else if (text) change({ [name]: Number(text) });
  else release(0); // cleared, or no number: what is in force stays
}

// What is being edited or asked for stays as it is.
function showSettings(state) {
  const { settings, fixed } = state;
  for (const name of ["samples", "horizon", "threshold", "overlay", "roi"]) {
    if (!edited.has(name)) $(name).value = settings[name] ?? "";
  }
  const ended = state.ended && "This camera has ended";
  const reasons = {
    samples: fixed.samples,
    horizon: fixed.horizon,
    threshold: settings.threshold === null && "This run has no alarms: start svg-live with --alarm",
    roi: null,
    draw: !state.region_on_picture && "Choose another overlay first: this one does not show the picture itself",
    whole: null,
    reset: null,
  };
  for (const [name, reason] of Object.entries(reasons)) {
    $(name).title = ended || reason || "";
    $(name).disabled = Boolean(ended || reason);
  }
  if ($("draw").disabled) setDrawing(false);
  $("threshold").placeholder = settings.threshold === null ? "no alarms" : "";
}

// A change is made or has to wait, or the user has left what was not: controls say again what is in force.
function release(number) {
  for (const [name, asked] of edited) {
    if (asked === number) edited.delete(name);
  }
  showSettings(states.get(shown));
}

// What was refused, or did not arrive, is still there to be corrected, until its control is left.
function keepTyped(number) {
  const { id } = document.activeElement;
  if (TYPED.includes(id) && edited.get(id) === number) edited.set(id, 0);
}

// The answers may come in another order than the requests: what is said is about the newest one, and no older state is shown.
async function change(values) {
  const number = ++requests;
  for (const name of Object.keys(values)) edited.set(name, number);
  awaited = null;
  say("…", false);
  let isTaken = false;
  try {
    const answer = await request(address("controls"), {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(values),
    });
    const text = await answer.text();
    const state = answer.ok && answer.status !== 202 ? JSON.parse(text) : null;
    isTaken = answer.ok;
    if (state && state.now_s >= states.get(shown).now_s) showState(state);
    if (number !== requests) return;
    if (state) {
      say("Done.", false);
      return;
    }
    let reply = { error: text.trim() };
    try { reply = JSON.parse(text); } catch { /* plain text */ }
    say(reply.error, true);
    if (answer.status === 202) awaited = { values, before: states.get(shown), name: reply.change };
  } catch {
    if (number === requests) say("no connection", true);
  } finally {
    if (!isTaken) keepTyped(number);
    release(number);
  }
}

function showWhetherApplied({ settings, resets, ended, problem }) {
  if (!awaited) return;
  const { values, before, name } = awaited;
  const isApplied = ([name, value]) => (name === "reset" ? resets > before.resets : settings[name] === value);
  const isDone = Object.entries(values).every(isApplied);
  const isOther = Object.keys(values).some((name) => settings[name] !== before.settings[name]);
  const reason = refused.get(name) || (ended && problem) || (isOther && "A newer change has replaced this one.");
  if (!isDone && !reason) return;
  awaited = null;
  say(isDone ? "Done." : reason, !isDone);
}

function say(text, bad) {
  $("answer").textContent = text;
  $("answer").classList.toggle("bad", bad);
}

function setDrawing(on) {
  corner = null;
  $("draw").setAttribute("aria-pressed", String(on));
  $("stage").classList.toggle("drawing", on);
  $("hint").hidden = !on;
  if (on) $("stage").scrollIntoView({ block: "nearest" });
  $("selection").hidden = true;
}

function startDrawing() {
  const stage = $("stage"), selection = $("selection");
  const place = (event) => {
    const box = contentBox($("live"));
    const clamp = (value) => Math.min(1, Math.max(0, value));
    return { x: clamp((event.clientX - box.left) / box.width), y: clamp((event.clientY - box.top) / box.height), box };
  };
  const region = (one, other) => ({
    x: Math.min(one.x, other.x), y: Math.min(one.y, other.y), width: Math.abs(one.x - other.x), height: Math.abs(one.y - other.y),
  });
  stage.addEventListener("dragstart", (event) => event.preventDefault());
  stage.addEventListener("pointerdown", (event) => {
    if (!stage.classList.contains("drawing")) return;
    event.preventDefault();
    corner = place(event);
    stage.setPointerCapture(event.pointerId);
  });
  stage.addEventListener("pointermove", (event) => {
    if (!corner) return;
    const { x, y, width, height } = region(corner, place(event));
    const outer = stage.getBoundingClientRect(), { box } = corner;
    selection.hidden = false;
    selection.style.left = `${box.left - outer.left + x * box.width}px`;
    selection.style.top = `${box.top - outer.top + y * box.height}px`;
    selection.style.width = `${width * box.width}px`;
    selection.style.height = `${height * box.height}px`;
  });
  stage.addEventListener("pointerup", (event) => {
    if (!corner) return;
    const { x, y, width, height } = region(corner, place(event));
    setDrawing(false);
    const down = (value) => Math.floor(value * 1e4) / 1e4; // the sum of two must not exceed 1
    if (width > 0.01 && height > 0.01) change({ roi: [x, y, width, height].map(down).join(",") });
  });
  stage.addEventListener("pointercancel", () => setDrawing(false));
}

// Where the picture is in its img, which may have bars at two sides.
function contentBox(image) {
  const outer = image.getBoundingClientRect();
  const scale = Math.min(outer.width / (image.naturalWidth || 1), outer.height / (image.naturalHeight || 1));
  const width = image.naturalWidth * scale, height = image.naturalHeight * scale;
  return { left: outer.left + (outer.width - width) / 2, top: outer.top + (outer.height - height) / 2, width, height };
}
