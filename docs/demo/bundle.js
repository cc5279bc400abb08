// Fetches a bundle: its manifest, and its graphs, each checked against size and hash before it is run.

const REBUILD = "Reload this page; if that does not help, build it again: python docs/demo/build.py";

export async function fetchManifest(address) {
  const answer = await get(new URL("manifest.json", address));
  try {
    return await answer.json();
  } catch {
    throw new Error(`${address.pathname}manifest.json is no JSON. ${REBUILD}`);
  }
}

export async function fetchGraph(address, spec) {
  const place = new URL(spec.file, address);
  if (!place.href.startsWith(address.href)) throw new Error(`${spec.file} is outside of the bundle`);
  const bytes = new Uint8Array(await (await get(place)).arrayBuffer());
  const hash = await sha256(bytes);
  if (bytes.length !== spec.bytes || (hash && hash !== spec.sha256)) {
    throw new Error(
      `The model's file ${spec.file} is damaged: ${bytes.length} bytes${hash ? ` of hash ${hash.slice(0, 12)}` : ""}, `
      + `expected ${spec.bytes} bytes of hash ${spec.sha256.slice(0, 12)}. ${REBUILD}`,
    );
  }
  return bytes;
}

async function get(address) {
  let answer;
  try {
    answer = await fetch(address);
  } catch (error) {
    throw new Error(`${address.pathname} could not be fetched: ${error.message}. Is the server still there?`);
  }
  if (!answer.ok) throw new Error(`${address.pathname} could not be fetched: the server says ${answer.status}. ${REBUILD}`);
  return answer;
}

// Browsers hash in secure contexts alone: https:// and localhost. Elsewhere the size must do.
async function sha256(bytes) {
  if (!globalThis.crypto?.subtle) return null;
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
