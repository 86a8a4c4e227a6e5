// A whole block in JavaScript, without torch: what is wanted is asked in JSON lines (docs/processes.md).
//
//   mhc-properties process 'node examples/process.mjs'
//   mhc-properties check 'proc:node examples/process.mjs'
//
// The mathematics are those of examples/by_hand.py, in the dialect PAPER.
import { createInterface } from "node:readline";

const ITERATIONS = 20;
const EPS = 1e-20;
const ARRAYS = { float64: Float64Array, float32: Float32Array };

const description = {
  protocol: 2,
  name: "block-in-node",
  dialect: "PAPER",
  streams: [1, 2, 3, 4],
  dtypes: ["float64", "float32"],
  methods: ["project", "mappings", "pre", "post"],
};

// Numbers are computed in float64, which JavaScript has, and rounded once where an array is sent.
function decode({ dtype, shape, data }) {
  const bytes = Uint8Array.from(Buffer.from(data, "base64")); // a copy, so that it begins at an aligned address
  return { dtype, shape, values: Float64Array.from(new ARRAYS[dtype](bytes.buffer)) };
}

function encode(dtype, shape, values) {
  return { dtype, shape, data: Buffer.from(ARRAYS[dtype].from(values).buffer).toString("base64") };
}

const sum = (numbers) => numbers.reduce((a, b) => a + b, 0);
const sigmoid = (z) => (z >= 0 ? 1 / (1 + Math.exp(-z)) : Math.exp(z) / (1 + Math.exp(z)));
const range = (n) => [...Array(n).keys()];
const tokens = (shape, axes) => shape.slice(0, shape.length - axes).reduce((a, b) => a * b, 1);

// n * n numbers, row by row: exp(Z - the largest of its column), then columns and rows, in turn.
function sinkhorn(z, n) {
  const column = (j) => range(n).map((i) => i * n + j);
  const row = (i) => range(n).map((j) => i * n + j);
  const m = z.slice();
  for (const line of range(n).map(column)) {
    const largest = Math.max(...line.map((at) => z[at]));
    for (const at of line) m[at] = Math.exp(z[at] - largest);
  }
  for (let t = 0; t < ITERATIONS; t++) {
    for (const line of [...range(n).map(column), ...range(n).map(row)]) {
      const total = sum(line.map((at) => m[at]));
      for (const at of line) m[at] /= total;
    }
  }
  return m;
}

const methods = {
  project({ logits }) {
    const n = logits.shape.at(-1);
    const out = [];
    for (const t of range(tokens(logits.shape, 2))) {
      out.push(...sinkhorn(logits.values.subarray(t * n * n, (t + 1) * n * n), n));
    }
    return { h_res: encode(logits.dtype, logits.shape, out) };
  },

  // x [..., n, C]; phi [n*C, 2n + n*n], columns pre | post | res
  mappings({ x, params }) {
    const [n, c] = x.shape.slice(-2);
    const { phi, bias, alpha, norm_weight: weight } = params;
    const width = 2 * n + n * n;
    const [pre, post, res] = [[], [], []];
    for (const t of range(tokens(x.shape, 2))) {
      const state = x.values.subarray(t * n * c, (t + 1) * n * c);
      const rms = Math.sqrt(sum(state.map((v) => v * v)) / (n * c) + EPS);
      const unit = state.map((v, k) => (v / rms) * (weight ? weight.values[k] : 1));
      const logits = range(width).map((j) => {
        const product = sum(range(n * c).map((k) => unit[k] * phi.values[k * width + j]));
        return alpha.values[j < n ? 0 : j < 2 * n ? 1 : 2] * product + bias.values[j];
      });
      pre.push(...logits.slice(0, n).map(sigmoid));
      post.push(...logits.slice(n, 2 * n).map((z) => 2 * sigmoid(z)));
      res.push(...sinkhorn(logits.slice(2 * n), n));
    }
    const gates = x.shape.slice(0, -1);
    const matrices = [...gates, n];
    return { pre: encode(phi.dtype, gates, pre), post: encode(phi.dtype, gates, post), res: encode(phi.dtype, matrices, res) };
  },

  // what the branch reads, [..., C]
  pre({ x, h_pre }) {
    const [n, c] = x.shape.slice(-2);
    const u = range(tokens(x.shape, 2)).flatMap((t) =>
      range(c).map((k) => sum(range(n).map((i) => h_pre.values[t * n + i] * x.values[(t * n + i) * c + k])))
    );
    return { u: encode(x.dtype, [...x.shape.slice(0, -2), c], u) };
  },

  // the next state, [..., n, C]
  post({ x, y, h_post, h_res }) {
    const [n, c] = x.shape.slice(-2);
    const next = range(tokens(x.shape, 2)).flatMap((t) =>
      range(n).flatMap((i) =>
        range(c).map((k) => {
          const mixed = sum(range(n).map((j) => h_res.values[(t * n + i) * n + j] * x.values[(t * n + j) * c + k]));
          return mixed + h_post.values[t * n + i] * y.values[t * c + k];
        })
      )
    );
    return { x: encode(x.dtype, x.shape, next) };
  },
};

// Arrays wherever they stand among the arguments; null stays null.
function decoded(value) {
  if (value === null || typeof value !== "object") return value;
  if ("data" in value) return decode(value);
  return Object.fromEntries(Object.entries(value).map(([name, one]) => [name, decoded(one)]));
}

function answer({ method, params }) {
  if (method === "describe") return { result: description };
  if (method in methods) return { result: methods[method](decoded(params)) };
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
