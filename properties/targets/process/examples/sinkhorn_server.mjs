// A server in JavaScript, without torch: the projection of mHC (arXiv 2512.24880), in the dialect PAPER.
// Try it: mhc-properties process 'node sinkhorn_server.mjs'
import { createInterface } from "node:readline";

const ITERATIONS = 20;
const ARRAYS = { float64: Float64Array, float32: Float32Array };

const description = {
  protocol: 1,
  name: "example-node",
  dialect: "PAPER",
  streams: [1, 2, 3, 4, 5, 8],
  dtypes: ["float64", "float32"],
  methods: ["project"],
};

function decode({ dtype, shape, data }) {
  const bytes = Uint8Array.from(Buffer.from(data, "base64")); // a copy, so that it begins at an aligned address
  return { dtype, shape, values: Float64Array.from(new ARRAYS[dtype](bytes.buffer)) };
}

function encode({ dtype, shape, values }) {
  return { dtype, shape, data: Buffer.from(ARRAYS[dtype].from(values).buffer).toString("base64") };
}

// Divide the n numbers values[start], values[start + stride], ... by their sum.
function normalise(values, start, stride, n) {
  let sum = 0;
  for (let k = 0; k < n; k++) sum += values[start + k * stride];
  for (let k = 0; k < n; k++) values[start + k * stride] /= sum;
}

// [..., n, n] -> [..., n, n]: exp(Z - the largest of its column), then columns and rows, in turn.
function project(logits) {
  const n = logits.shape.at(-1);
  const m = logits.values.slice();
  for (let matrix = 0; matrix < m.length; matrix += n * n) {
    for (let j = 0; j < n; j++) {
      let largest = -Infinity;
      for (let i = 0; i < n; i++) largest = Math.max(largest, m[matrix + i * n + j]);
      for (let i = 0; i < n; i++) m[matrix + i * n + j] = Math.exp(m[matrix + i * n + j] - largest);
    }
    for (let t = 0; t < ITERATIONS; t++) {
      for (let j = 0; j < n; j++) normalise(m, matrix + j, n, n);
      for (let i = 0; i < n; i++) normalise(m, matrix + i * n, 1, n);
    }
  }
  return { ...logits, values: m };
}

function answer({ method, params }) {
  if (method === "describe") return { result: description };
  if (method === "project") return { result: { h_res: encode(project(decode(params.logits))) } };
  return { error: { kind: "unknown-method", message: method } };
}

for await (const line of createInterface({ input: process.stdin })) {
  const request = JSON.parse(line);
  let response;
  try {
    response = answer(request);
  } catch (error) {
    response = { error: { kind: error.name, message: error.message } };
  }
  process.stdout.write(JSON.stringify({ id: request.id, ...response }) + "\n");
}
