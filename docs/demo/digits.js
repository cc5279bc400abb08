// Synthetic video: digits drawn from jittered strokes, bouncing as in Stochastic Moving MNIST, as svg_common.digits draws them.
// `rng` has uniform(low, high), normal(mean, deviation) and integers(low, high), which leaves `high` out.

import { NoiseSource } from "./noise.mjs";

export class DigitStream {
  constructor(tables, rng, imageSize = 64, count = 1) {
    this.tables = tables;
    this.rng = rng;
    this.imageSize = imageSize;
    this.digits = Array.from({ length: count }, () => drawDigit(tables, rng, rng.integers(0, 10)));
    const limit = imageSize - tables.digitSize;
    const pairs = (low, high) => this.digits.map(() => [rng.integers(low, high), rng.integers(low, high)]);
    this.positions = pairs(0, limit);
    this.velocities = pairs(-tables.maxSpeed, tables.maxSpeed + 1);
  }

  // The next frame, (imageSize, imageSize) in [0, 1].
  step() {
    const side = this.tables.digitSize;
    const frame = new Float32Array(this.imageSize ** 2);
    this.digits.forEach((digit, i) => {
      const [position, velocity] = [this.positions[i], this.velocities[i]];
      this.bounce(position, velocity, this.imageSize - side);
      for (let y = 0; y < side; y++) {
        const row = (position[0] + y) * this.imageSize + position[1];
        for (let x = 0; x < side; x++) frame[row + x] += digit[y * side + x];
      }
      position[0] += velocity[0];
      position[1] += velocity[1];
    });
    return frame.map((value) => Math.min(value, 1));
  }

  // Put a digit that left the picture back at the wall with a new velocity; y first, as the reference does.
  bounce(position, velocity, limit) {
    const most = this.tables.maxSpeed;
    for (const axis of [0, 1]) {
      if (position[axis] >= 0 && position[axis] < limit) continue;
      const towards = position[axis] < 0 ? 1 : -1;
      position[axis] = towards === 1 ? 0 : limit - 1;
      velocity[axis] = towards * this.rng.integers(1, most + 1);
      velocity[1 - axis] = this.rng.integers(-most, most + 1);
    }
  }
}

// The draws of a seed.
export class Rng {
  constructor(seed) {
    this.source = new NoiseSource(seed);
  }

  uniform(low, high) {
    return low + (high - low) * this.source.uniform();
  }

  normal(mean, deviation) {
    return mean + deviation * this.source.normal(1)[0];
  }

  integers(low, high) {
    return low + Math.floor((high - low) * this.source.uniform());
  }
}

// One digit in a random hand: jittered strokes, slant, rotation, proportions, thickness.
export function drawDigit(tables, rng, digit) {
  const size = tables.digitSize;
  const height = size * rng.uniform(0.66, 0.8);
  const width = height * rng.uniform(0.55, 0.8);
  const thickness = size * rng.uniform(0.085, 0.14);
  const place = randomTransform(rng, width, height, size / 2);
  const lines = tables.strokes[digit].map((stroke) => {
    const jittered = stroke.map(([x, y]) => [x + rng.normal(0, tables.jitter), y + rng.normal(0, tables.jitter)]);
    return smooth(jittered, tables.pointsPerSegment).map(place);
  });
  const image = new Float32Array(size * size);
  for (let pixel = 0; pixel < image.length; pixel++) {
    const [x, y] = [(pixel % size) + 0.5, Math.floor(pixel / size) + 0.5];
    const distance = Math.min(...lines.map((line) => distanceTo(line, x, y)));
    image[pixel] = Math.min(Math.max((thickness / 2 - distance) / tables.edgePx + 0.5, 0), 1);
  }
  return image;
}

// From the unit box to pixels: scale, then slant, then rotate.
function randomTransform(rng, width, height, centre) {
  const slant = rng.normal(0.12, 0.18);
  const angle = rng.normal(0, 0.1);
  const [sin, cos] = [Math.sin(angle), Math.cos(angle)];
  return ([u, v]) => {
    const y = (v - 0.5) * height;
    const x = (u - 0.5) * width - slant * y;
    return [cos * x - sin * y + centre, sin * x + cos * y + centre];
  };
}

// Catmull-Rom curve through points, ends included.
function smooth(points, perSegment) {
  const curve = [];
  for (let i = 0; i + 1 < points.length; i++) {
    const around = [points[i - 1] ?? points[i], points[i], points[i + 1], points[i + 2] ?? points[i + 1]];
    for (let step = 0; step < perSegment; step++) {
      const t = step / perSegment;
      curve.push([0, 1].map((axis) => {
        const [before, start, end, after] = around.map((point) => point[axis]);
        return (2 * start + (end - before) * t + (2 * before - 5 * start + 4 * end - after) * t ** 2
          + (3 * start - before - 3 * end + after) * t ** 3) / 2;
      }));
    }
  }
  return [...curve, points.at(-1)];
}

// Distance in pixels to the nearest segment of a line.
function distanceTo(line, x, y) {
  let nearest = Infinity;
  for (let i = 0; i + 1 < line.length; i++) {
    const [[ax, ay], [bx, by]] = [line[i], line[i + 1]];
    const [alongX, alongY] = [bx - ax, by - ay];
    const length2 = Math.max(alongX ** 2 + alongY ** 2, 1e-6);
    const position = Math.min(Math.max(((x - ax) * alongX + (y - ay) * alongY) / length2, 0), 1);
    nearest = Math.min(nearest, (x - ax - position * alongX) ** 2 + (y - ay - position * alongY) ** 2);
  }
  return Math.sqrt(nearest);
}
