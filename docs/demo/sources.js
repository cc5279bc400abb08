// Where pictures come from. A source has next(), which returns { image, width, height, restarted }, or null if there is no
// picture now, with the reason in `problem` if that lasts; and close().

import { DigitStream, Rng } from "./digits.js";

const REFUSALS = {
  NotAllowedError: "The webcam was refused. Allow it for this page in the browser, then choose Start; or take the synthetic camera.",
  NotFoundError: "There is no webcam. Connect one, then choose Start; or take the synthetic camera.",
  NotReadableError: "The webcam cannot be read: another program may use it. Close that, then choose Start.",
};
const OPEN_MS = 10000;
const STILL_MS = 5000; // after which a picture is no longer taken for that of now

export async function openSource(kind, { tables, seed, file, onEnd }) {
  if (kind === "webcam") return openWebcam(onEnd);
  if (kind === "file") return openFile(file, onEnd);
  return new SyntheticSource(tables, seed);
}

class SyntheticSource {
  constructor(tables, seed) {
    this.stream = new DigitStream(tables, new Rng(seed));
    this.canvas = document.createElement("canvas");
    this.canvas.width = this.canvas.height = this.stream.imageSize;
    this.context = this.canvas.getContext("2d");
  }

  next() {
    const side = this.stream.imageSize;
    const picture = this.context.createImageData(side, side);
    this.stream.step().forEach((value, i) => picture.data.set([value * 255, value * 255, value * 255, 255], 4 * i));
    this.context.putImageData(picture, 0, 0);
    return { image: this.canvas, width: side, height: side, restarted: false };
  }

  close() {}
}

class VideoSource {
  constructor(video, release, track) {
    this.video = video;
    this.release = release;
    this.track = track; // of a webcam, which the system may mute
    this.time = 0;
    this.moved = performance.now(); // when time last went on
    this.problem = null;
  }

  next() {
    const { video, time, problem } = this;
    const isOn = video.readyState >= HTMLMediaElement.HAVE_CURRENT_DATA && !this.track?.muted;
    this.time = video.currentTime;
    if (isOn && this.time !== time) this.moved = performance.now();
    const still = performance.now() - this.moved;
    this.problem = still < STILL_MS ? null : `no picture for ${Math.floor(still / 1000)} s`;
    if (!isOn || this.problem) return null;
    const restarted = this.time < time || problem !== null; // a file begins again after its end
    return { image: video, width: video.videoWidth, height: video.videoHeight, restarted };
  }

  pause(paused) {
    this.moved = performance.now();
    if (paused) this.video.pause();
    else this.video.play().catch(() => {}); // the browser's own reason, such as a closed tab
  }

  close() {
    this.video.pause();
    this.release();
    this.video.removeAttribute("src");
    this.video.srcObject = null;
  }
}

async function openWebcam(onEnd) {
  if (!navigator.mediaDevices) {
    throw new Error("Browsers give the webcam to https:// pages and to http://localhost alone, which this address is not.");
  }
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 640 }, height: { ideal: 480 } }, audio: false });
  } catch (error) {
    throw new Error(REFUSALS[error.name] ?? `The webcam does not open: ${error.message}`);
  }
  const [track] = stream.getVideoTracks();
  track.addEventListener("ended", () => onEnd("The webcam is gone. Connect it again, then choose Start."));
  const video = makeVideo();
  video.srcObject = stream;
  const release = () => stream.getTracks().forEach((each) => each.stop());
  return play(new VideoSource(video, release, track), "The webcam sends no pictures. Choose Start to try again.");
}

async function openFile(file, onEnd) {
  const video = makeVideo();
  video.loop = true;
  video.src = URL.createObjectURL(file);
  const release = () => URL.revokeObjectURL(video.src);
  const problem = `This browser cannot play ${file.name}. Take a video in MP4 (H.264) or WebM.`;
  const source = await play(new VideoSource(video, release), problem);
  const gone = `${file.name} cannot be played any further: it has changed, or is damaged. Choose it again, or another video.`;
  video.addEventListener("error", () => onEnd(gone));
  return source;
}

function makeVideo() {
  const video = document.createElement("video");
  video.muted = true;
  video.playsInline = true;
  return video;
}

async function play(source, problem) {
  const { video } = source;
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(reject, OPEN_MS);
  });
  try {
    await Promise.race([video.play(), late]);
    if (!video.videoWidth) throw new Error("no pictures");
  } catch {
    source.close();
    throw new Error(problem);
  } finally {
    clearTimeout(timer);
  }
  return source;
}
