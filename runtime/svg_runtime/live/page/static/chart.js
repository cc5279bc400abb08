// The chart of a signal: its last minute, the threshold, and alarms, drawn on a canvas.

const SPAN_S = 60;
const GAP_S = 2; // a longer gap between points breaks the line, if it is of several points
const GAP_POINTS = 3;
const FEW_POINTS = 4; // do not show how far apart they usually are
const RIGHT = 8, TOP = 10, BOTTOM = 20; // margins in CSS pixels
const LEAST_LEFT = 30; // of which the numbers of the axis take more, where they are long
const LABEL_GAP = 6; // from a number to its line
const NAMES = { alarm: 2, raw: 3, combined: 4, surprise: 5, error: 6, motion: 7, scene: 8, camera_motion: 9 }; // columns of a point: number, seconds, ...

export class Chart {
  constructor(canvas) {
    this.canvas = canvas;
    this.points = [];
    this.now = 0; // in the seconds of the points
    this.signal = "combined";
    this.threshold = null;
    this.interval_s = 0; // between pictures of the model; a slow machine forecasts less often
    this.gap_s = GAP_S; // a longer one breaks the line
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: light)").addEventListener("change", () => this.draw());
  }

  add(points) {
    const last = this.points.at(-1);
    const isAnew = last && points.length && (points[0][0] <= last[0] || points[0][1] < last[1]);
    if (isAnew) this.points = []; // sent again, or of another run
    this.points.push(...points);
    this.moveOn(isAnew ? 0 : this.now);
  }

  // As long as a few points are usually apart, as they come.
  findGap() {
    const times = this.points.map((point) => point[1]);
    const apart = times.slice(1).map((time, place) => time - times[place]).sort((one, other) => one - other);
    const usual = times.length < FEW_POINTS ? 0 : apart[apart.length >> 1];
    return Math.max(GAP_S, GAP_POINTS * Math.max(usual, this.interval_s));
  }

  // Without new points, what was seen moves on to the left.
  moveOn(now) {
    this.now = Math.max(now, this.points.length ? this.points.at(-1)[1] : 0);
    this.gap_s = this.findGap();
    const oldest = this.now - SPAN_S - this.gap_s;
    this.points = this.points.filter((point) => point[1] >= oldest);
    this.draw();
  }

  latest() {
    return this.points.length ? this.points.at(-1)[NAMES[this.signal]] : null;
  }

  isAlarm() {
    return this.points.length > 0 && Boolean(this.points.at(-1)[NAMES.alarm]);
  }

  draw() {
    const ratio = devicePixelRatio || 1;
    const width = this.canvas.clientWidth, height = this.canvas.clientHeight;
    if (!width || !height) return;
    if (this.canvas.width !== Math.round(width * ratio) || this.canvas.height !== Math.round(height * ratio)) {
      this.canvas.width = Math.round(width * ratio);
      this.canvas.height = Math.round(height * ratio);
    }
    const g = this.canvas.getContext("2d");
    g.setTransform(ratio, 0, 0, ratio, 0, 0);
    g.clearRect(0, 0, width, height);
    const style = getComputedStyle(document.documentElement);
    const color = (name) => style.getPropertyValue(`--${name}`).trim();
    const column = NAMES[this.signal];
    const threshold = this.signal === "raw" ? null : this.threshold;
    const end = this.now;
    const values = this.points.map((point) => point[column]).filter((value) => value !== null);
    const low = Math.min(0, Math.max(-3, Math.floor(Math.min(...values, 0))));
    const top = roundUp(Math.max(...values, threshold === null ? 0 : threshold * 1.25, this.signal === "raw" ? 0.1 : 4) * 1.05);
    g.font = "12px system-ui, sans-serif";
    const labels = [0, top / 2, top].map((value) => [value, String(+value.toPrecision(2))]);
    const left = Math.max(LEAST_LEFT, ...labels.map(([, label]) => Math.ceil(g.measureText(label).width) + LABEL_GAP));
    const x = (time) => left + (1 - (end - time) / SPAN_S) * (width - left - RIGHT);
    const y = (value) => TOP + (1 - (Math.max(value, low) - low) / (top - low)) * (height - TOP - BOTTOM);

    // 1) alarms: a band with a triangle above it
    g.fillStyle = color("alarm");
    for (const [from, to] of this.bands().filter((band) => band[1] >= end - SPAN_S)) {
      const start = Math.max(x(from), left), stop = Math.max(x(to), start + 2);
      g.globalAlpha = 0.22;
      g.fillRect(start, TOP, stop - start, height - TOP - BOTTOM);
      g.globalAlpha = 1;
      g.beginPath();
      g.moveTo(start, TOP - 9);
      g.lineTo(start + 5, TOP - 1);
      g.lineTo(start - 5, TOP - 1);
      g.fill();
    }

    // 2) axes
    g.textBaseline = "middle";
    g.lineWidth = 1;
    for (const [value, label] of labels) {
      g.strokeStyle = color("line");
      g.beginPath();
      g.moveTo(left, y(value));
      g.lineTo(width - RIGHT, y(value));
      g.stroke();
      g.fillStyle = color("quiet");
      g.textAlign = "right";
      g.fillText(label, left - LABEL_GAP, y(value));
    }
    g.textBaseline = "alphabetic";
    for (const [ago, align] of [[SPAN_S, "left"], [SPAN_S / 2, "center"], [0, "right"]]) {
      g.textAlign = align;
      g.fillText(ago ? `-${ago} s` : "now", x(end - ago), height - 5);
    }

    // 3) the threshold
    if (threshold !== null) {
      g.strokeStyle = g.fillStyle = color("alarm");
      g.setLineDash([6, 4]);
      g.lineWidth = 1.5;
      g.beginPath();
      g.moveTo(left, y(threshold));
      g.lineTo(width - RIGHT, y(threshold));
      g.stroke();
      g.setLineDash([]);
      g.textAlign = "left";
      g.fillText(`alarm from ${threshold}`, left + 3, y(threshold) - 5);
    }

    // 4) the signal
    g.save();
    g.beginPath();
    g.rect(left, 0, width - left - RIGHT, height - BOTTOM + 1);
    g.clip();
    g.strokeStyle = color("accent");
    g.lineWidth = 2;
    g.lineJoin = "round";
    g.beginPath();
    let before = null;
    for (const point of this.points) {
      const value = point[column];
      if (value === null) { before = null; continue; }
      if (before === null || point[1] - before > this.gap_s) g.moveTo(x(point[1]), y(value));
      else g.lineTo(x(point[1]), y(value));
      before = point[1];
    }
    g.stroke();
    g.restore();
  }

  bands() {
    const found = [];
    for (const point of this.points) {
      if (!point[NAMES.alarm]) continue;
      const last = found.at(-1);
      if (last && point[1] - last[1] <= this.gap_s) last[1] = point[1];
      else found.push([point[1], point[1]]);
    }
    return found;
  }
}

function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 3, 4, 5, 6, 8, 10].map((factor) => factor * power).find((rounded) => rounded >= value * 0.999);
}
