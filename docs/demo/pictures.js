// Pictures to model frames, and model frames to pictures. Frames are (C, H, W) float32 in [0, 1].

const MOST_BLOCKS = 8; // of a side per pixel of the model: enough, and a large picture stays cheap
const SPREAD_SCALES = [0.05, 0.1, 0.2, 0.3, 0.5]; // 0.5 is the largest standard deviation of values in [0, 1]
const DECAY = 0.99; // per forecast: the scale adapts to a calmer scene within seconds and does not flicker
const LUMA = [0.299, 0.587, 0.114]; // ITU-R BT.601

const scratch = {};

// A context that is kept, by name and size.
function scratchContext(name, width, height) {
  const context = (scratch[name] ??= document.createElement("canvas").getContext("2d", { willReadFrequently: true }));
  if (context.canvas.width !== width) context.canvas.width = width;
  if (context.canvas.height !== height) context.canvas.height = height;
  return context;
}

// Draw the centre of a picture so that it covers width x height.
export function drawCovering(context, { image, width, height }, targetWidth, targetHeight) {
  const scale = Math.max(targetHeight / height, targetWidth / width);
  const [cutWidth, cutHeight] = [targetWidth / scale, targetHeight / scale];
  context.imageSmoothingEnabled = scale < 1; // a small synthetic picture stays crisp
  context.imageSmoothingQuality = "high";
  context.drawImage(image, (width - cutWidth) / 2, (height - cutHeight) / 2, cutWidth, cutHeight, 0, 0, targetWidth, targetHeight);
}

// The model's frame of a picture: its centre, averaged over whole blocks of pixels, as area averaging does without aliasing.
export function fitFrame(picture, { channels, height, width }) {
  const blocks = Math.min(MOST_BLOCKS, Math.max(1, Math.floor(Math.min(picture.width / width, picture.height / height))));
  const context = scratchContext("fit", width * blocks, height * blocks);
  drawCovering(context, picture, width * blocks, height * blocks);
  const { data } = context.getImageData(0, 0, width * blocks, height * blocks);
  const plane = width * height;
  const sums = new Float32Array(3 * plane);
  for (let y = 0, at = 0; y < height * blocks; y++) {
    const row = Math.floor(y / blocks) * width;
    for (let x = 0; x < width * blocks; x++, at += 4) {
      const pixel = row + Math.floor(x / blocks);
      for (let channel = 0; channel < 3; channel++) sums[channel * plane + pixel] += data[at + channel];
    }
  }
  const rgb = sums.map((sum) => Math.min(Math.round(sum / blocks ** 2) / 255, 1)); // as 8 bits hold it
  if (channels === 3) return rgb;
  const luma = (pixel) => LUMA.reduce((sum, weight, channel) => sum + weight * rgb[channel * plane + pixel], 0);
  return Float32Array.from({ length: plane }, (_, pixel) => Math.min(Math.round(luma(pixel) * 255) / 255, 1));
}

// Draw a model's frame at a place of its own size.
export function drawFrame(context, frame, { channels, height, width }, x = 0, y = 0) {
  const picture = context.createImageData(width, height);
  const plane = width * height;
  for (let pixel = 0; pixel < plane; pixel++) {
    for (let channel = 0; channel < 3; channel++) {
      picture.data[4 * pixel + channel] = frame[(channels === 3 ? channel * plane : 0) + pixel] * 255 + 0.5;
    }
    picture.data[4 * pixel + 3] = 255;
  }
  context.putImageData(picture, x, y);
}

// The frames of all samples at a step ahead, 1 being the next frame.
function samplesAt({ data, dims }, lead) {
  const [samples, horizon, ...shape] = dims;
  const length = shape.reduce((product, side) => product * side, 1);
  return Array.from({ length: samples }, (_, i) => data.subarray((i * horizon + lead - 1) * length, (i * horizon + lead) * length));
}

export function meanAt(futures, lead) {
  const frames = samplesAt(futures, lead);
  return frames[0].map((_, i) => frames.reduce((sum, frame) => sum + frame[i], 0) / frames.length);
}

// Standard deviation over samples, averaged over channels: (H, W).
export function spreadAt(futures, lead, channels) {
  const frames = samplesAt(futures, lead);
  const mean = meanAt(futures, lead);
  const deviation = mean.map((value, i) => Math.sqrt(frames.reduce((sum, frame) => sum + (frame[i] - value) ** 2, 0) / frames.length));
  const plane = mean.length / channels;
  return deviation.subarray(0, plane).map((_, pixel) => {
    let sum = 0;
    for (let channel = 0; channel < channels; channel++) sum += deviation[channel * plane + pixel];
    return sum / channels;
  });
}

// Draws spreads, scaled to the next round value above the recent maximum, which it returns.
export class SpreadMap {
  constructor(colors) {
    this.colors = colors;
    this.recent = 0;
  }

  draw(context, spread, { height, width }) {
    this.recent = Math.max(this.recent * DECAY, spread.reduce((most, value) => Math.max(most, value), 0));
    const largest = SPREAD_SCALES.find((scale) => scale >= this.recent) ?? SPREAD_SCALES.at(-1);
    const picture = context.createImageData(width, height);
    spread.forEach((value, pixel) => {
      const color = this.colors[Math.min(255, Math.floor((value / largest) * 255))];
      picture.data.set([...color, 255], 4 * pixel);
    });
    context.putImageData(picture, 0, 0);
    return largest;
  }
}

// Draw all samples, a row each, at the steps of `leads`.
export function drawGrid(canvas, futures, leads, spec) {
  const samples = futures.dims[0];
  const gap = 2;
  resize(canvas, leads.length * (spec.width + gap) - gap, samples * (spec.height + gap) - gap);
  const context = canvas.getContext("2d");
  leads.forEach((lead, column) => {
    samplesAt(futures, lead).forEach((frame, row) => {
      drawFrame(context, frame, spec, column * (spec.width + gap), row * (spec.height + gap));
    });
  });
}

export function resize(canvas, width, height) {
  if (canvas.width !== width) canvas.width = width;
  if (canvas.height !== height) canvas.height = height;
}
