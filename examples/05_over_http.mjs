// Forecasts of another process or machine: svg-serve asked from JavaScript, without a package.
//
//     svg-serve                                                    # in another terminal
//     node examples/05_over_http.mjs [http://HOST:PORT]
//
// A square moves to the right. SVG_EDGE_TOKEN is sent where the server asks for a token.
const [server = "http://127.0.0.1:8008"] = process.argv.slice(2);
if (!/^https?:\/\/[^/]/.test(server) || !URL.canParse(server)) {
  console.error(`cannot ask '${server}': expected http:// or https://, and a host\n  give an address such as http://127.0.0.1:8008`);
  process.exit(1);
}
// What goes wrong ends the program with its message.
process.on("uncaughtException", (error) => {
  console.error(error.message);
  process.exit(1);
});
const [side, step, width] = [160, 5, 24]; // pixels of the picture, of a movement, and of the square

// An answer, or the server's own words of what is wrong.
async function ask(method, path, body) {
  const headers = process.env.SVG_EDGE_TOKEN ? { authorization: `Bearer ${process.env.SVG_EDGE_TOKEN}` } : {};
  if (body) headers["content-type"] = body instanceof Uint8Array ? "application/octet-stream" : "application/json";
  const content = body && !(body instanceof Uint8Array) ? JSON.stringify(body) : body;
  const answer = await fetch(new URL(path, server), { method, headers, body: content }).catch((error) => {
    const reason = error.cause?.message || error.cause?.code || error.message; // of several addresses, no message
    throw new Error(`no answer from ${server}: ${reason}\n  start the server with: svg-serve`);
  });
  if (!answer.ok) throw new Error(`${method} ${path}: ${answer.status} ${await answer.text()}`);
  return answer;
}

// RGB, one byte each: a white square on gray.
function picture(index) {
  const rows = new Uint8Array(side * side * 3).fill(90);
  for (let row = 60; row < 60 + width; row++) {
    const start = (row * side + 20 + step * index) * 3;
    rows.fill(255, start, start + width * 3);
  }
  return rows;
}

const session = await (await ask("POST", "/v1/sessions", { model: "camera", samples: 4, horizon: 10 })).json();
const place = `/v1/sessions/${session.id}`;
try {
  for (let index = 0; index < session.n_past + 3; index++) {
    const path = `${place}/frames?dtype=uint8&shape=${side},${side},3`;
    const seen = await (await ask("POST", path, picture(index))).json();
    console.log(`frame ${seen.index}: surprise ${seen.surprise}, ${seen.missing} more needed`);
  }

  // All futures as float32: samples, steps, height, width, channels.
  const answer = await ask("POST", `${place}/forecast`);
  const futures = new Float32Array(await answer.arrayBuffer());
  const brightness = futures.reduce((sum, value) => sum + value, 0) / futures.length;
  const [axes, shape] = ["svg-axes", "svg-shape"].map((name) => answer.headers.get(name));
  console.log(`${axes} = ${shape}, mean brightness ${brightness.toFixed(3)}`);

  // A few numbers are often enough: how far the samples lie apart, step by step.
  const summary = await (await ask("POST", `${place}/forecast`, { format: "json" })).json();
  console.log("spread per step:", summary.spread.map((value) => value.toFixed(4)).join(" "));
} finally {
  await ask("DELETE", place);
}
