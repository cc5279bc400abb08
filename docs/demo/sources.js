// Where pictures come from. A source has next(), which returns { image, width, height, restarted } or null, and close().

import { DigitStream, Rng } from "./digits.js";

const REFUSALS = {
  NotAllowedError: "The webcam was refused. Allow it for this page in the browser, then choose Start; or take the synthetic camera.",
  NotFoundError: "There is no webcam. Connect one, then choose Start; or take the synthetic camera.",
  NotReadableError: "The webcam cannot be read: another program may use it. Close that, then choose Start.",
};
const OPEN_MS = 10000;

export async function openSource(kind, { tables, seed, file, onEnd }) {
  if (kind === "webcam") return openWebcam(onEnd);
  if (kind === "file") return openFile(file);
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
  constructor(video, release) {
    this.video = video;
    this.release = release;
    this.time = 0;
  }

  next() {
    const { video } = this;
    if (video.readyState < HTMLMediaElement.HAVE_CURRENT_DATA) return null;
    const restarted = video.currentTime < this.time; // a file begins again after its end
    this.time = video.currentTime;
    return { image: video, width: video.videoWidth, height: video.videoHeight, restarted };
  }

  pause(paused) {
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
  return play(video, release, "The webcam sends no pictures. Choose Start to try again.");
}

async function openFile(file) {
  const video = makeVideo();
  video.loop = true;
  video.src = URL.createObjectURL(file);
  const release = () => URL.revokeObjectURL(video.src);
  return play(video, release, `This browser cannot play ${file.name}. Take a video in MP4 (H.264) or WebM.`);
}

function makeVideo() {
  const video = document.createElement("video");
  video.muted = true;
  video.playsInline = true;
  return video;
}

async function play(video, release, problem) {
  const source = new VideoSource(video, release);
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
