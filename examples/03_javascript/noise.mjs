// Standard normal draws from a seed: the only randomness of a forecast. The same seed gives the same draws everywhere.

const LARGEST = 2 ** 32;

export class NoiseSource {
  constructor(seed) {
    if (!Number.isSafeInteger(seed) || seed < 0) throw new RangeError(`seed is ${seed}; expected a whole number of at least 0`);
    this.seed = seed;
    this.reset();
  }

  // Begin again with the first draw of the seed.
  reset() {
    const { seed } = this;
    this.state = [seed | 0, Math.floor(seed / LARGEST) | 0, 0x9e3779b9 | 0, 1];
    for (let i = 0; i < 16; i++) this.integer(); // so that near seeds differ from the first draw on
  }

  // A whole number in [0, 2^32), by sfc32 of Chris Doty-Humphrey's PractRand.
  integer() {
    let [a, b, c, counter] = this.state;
    const drawn = (((a + b) | 0) + counter) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = (((c << 21) | (c >>> 11)) + drawn) | 0;
    this.state = [a, b, c, (counter + 1) | 0];
    return drawn >>> 0;
  }

  uniform() {
    return (this.integer() + 0.5) / LARGEST; // never 0, whose logarithm is infinite
  }

  // By Box and Muller, two at a time.
  normal(count) {
    const draws = new Float32Array(count);
    for (let i = 0; i < count; i += 2) {
      const radius = Math.sqrt(-2 * Math.log(this.uniform()));
      const angle = 2 * Math.PI * this.uniform();
      draws[i] = radius * Math.cos(angle);
      if (i + 1 < count) draws[i + 1] = radius * Math.sin(angle);
    }
    return draws;
  }
}
