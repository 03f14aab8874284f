// The data of the page: decoding it, and sorting it by depth.

// Bytes to what the graphics card takes. Layout of the bytes: show/page/__init__.py, `pack`.
function decodeSplats(base64, head) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  const n = head.count, k = head.coefficients;
  let at = 0;
  const take = (Type, length) => {
    const view = new Type(bytes.buffer, at, length);
    at += view.byteLength;
    return view;
  };
  const centres = take(Float32Array, 3 * n);
  const logs = take(Uint16Array, 3 * n);
  const quats = take(Int16Array, 4 * n);
  const opacities = take(Uint16Array, n);
  const colours = take(Uint16Array, 3 * k * n);
  return { count: n, coefficients: k, centres, colours, shapes: shapes(head, centres, logs, quats, opacities) };
}

// Twelve numbers a splat: centre, opacity | covariance xx xy xz yy | yz zz 0 0.
function shapes(head, centres, logs, quats, opacities) {
  const [low, high] = head.log_scale_range, unit = (high - low) / 65535;
  const out = new Float32Array(12 * head.count);
  for (let i = 0; i < head.count; i++) {
    let w = quats[4 * i], x = quats[4 * i + 1], y = quats[4 * i + 2], z = quats[4 * i + 3];
    const norm = Math.hypot(w, x, y, z) || 1;
    w /= norm; x /= norm; y /= norm; z /= norm;
    const a = Math.exp(2 * (low + unit * logs[3 * i]));
    const b = Math.exp(2 * (low + unit * logs[3 * i + 1]));
    const c = Math.exp(2 * (low + unit * logs[3 * i + 2]));
    const r00 = 1 - 2 * (y * y + z * z), r01 = 2 * (x * y - w * z), r02 = 2 * (x * z + w * y);
    const r10 = 2 * (x * y + w * z), r11 = 1 - 2 * (x * x + z * z), r12 = 2 * (y * z - w * x);
    const r20 = 2 * (x * z - w * y), r21 = 2 * (y * z + w * x), r22 = 1 - 2 * (x * x + y * y);
    out.set([centres[3 * i], centres[3 * i + 1], centres[3 * i + 2], opacities[i] / 65535,
      a * r00 * r00 + b * r01 * r01 + c * r02 * r02, a * r00 * r10 + b * r01 * r11 + c * r02 * r12,
      a * r00 * r20 + b * r01 * r21 + c * r02 * r22, a * r10 * r10 + b * r11 * r11 + c * r12 * r12,
      a * r10 * r20 + b * r11 * r21 + c * r12 * r22, a * r20 * r20 + b * r21 * r21 + c * r22 * r22, 0, 0], 12 * i);
  }
  return out;
}

// Indices of the splats in front of the camera, far ones first: a counting sort over 65536 depths.
// `row` is the third row of the world-to-camera matrix. Self-contained: it is also a worker's source.
function depthOrder(centres, row, near) {
  const n = centres.length / 3, depths = new Float32Array(n);
  let low = Infinity, high = -Infinity, seen = 0;
  for (let i = 0; i < n; i++) {
    const d = row[0] * centres[3 * i] + row[1] * centres[3 * i + 1] + row[2] * centres[3 * i + 2] + row[3];
    depths[i] = d;
    if (d < near) continue;
    seen++;
    if (d < low) low = d;
    if (d > high) high = d;
  }
  const starts = new Uint32Array(65537), keys = new Uint16Array(n);
  const factor = high > low ? 65535 / (high - low) : 0;
  for (let i = 0; i < n; i++) {
    if (depths[i] < near) continue;
    keys[i] = (high - depths[i]) * factor;
    starts[keys[i] + 1]++;
  }
  for (let key = 0; key < 65536; key++) starts[key + 1] += starts[key];
  const order = new Uint32Array(seen);
  for (let i = 0; i < n; i++) if (depths[i] >= near) order[starts[keys[i]]++] = i;
  return order;
}

// Sorts in a worker, or here where a browser allows none. One question at a time; a newer one waits.
class Sorter {
  constructor(centres, near) {
    this.centres = centres;
    this.near = near;
    this.waiting = null;
    this.busy = false;
    try {
      const source = `let centres, near; const depthOrder = ${depthOrder};
        onmessage = ({data}) => {
          if (data.centres) { centres = data.centres; near = data.near; return; }
          const order = depthOrder(centres, data.row, near);
          postMessage({order, row: data.row}, [order.buffer]);
        };`;
      this.worker = new Worker(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
      this.worker.onmessage = ({ data }) => this.done(data);
      this.worker.onerror = () => this.withoutWorker();
      this.worker.postMessage({ centres, near });
    } catch {
      this.worker = null;
    }
  }

  withoutWorker() {
    this.worker = null;
    this.busy = false;
    if (this.asked) this.ask(this.asked, this.answer);
  }

  // Calls answer(order, row) later; answers to overtaken questions never come.
  ask(row, answer) {
    this.asked = row;
    this.answer = answer;
    if (!this.worker) return void answer(depthOrder(this.centres, row, this.near), row);
    if (this.busy) return void (this.waiting = row);
    this.busy = true;
    this.worker.postMessage({ row });
  }

  done({ order, row }) {
    this.busy = false;
    this.answer(order, row);
    if (this.waiting) {
      const next = this.waiting;
      this.waiting = null;
      this.ask(next, this.answer);
    }
  }
}
