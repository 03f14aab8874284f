// The camera of the page: an orbit in the conventions of vlm3d_gs.cameras, moved by mouse, fingers and keys.

const RADIAN = Math.PI / 180;

class Orbit {
  constructor(start) {
    this.start = start;
    this.reset();
  }

  reset() {
    Object.assign(this, { ...this.start, target: [...this.start.target] });
  }

  // Right, down and forward of the camera, in the world.
  axes() {
    const a = this.azimuth_deg * RADIAN, e = this.elevation_deg * RADIAN;
    const forward = [-Math.cos(e) * Math.cos(a), -Math.cos(e) * Math.sin(a), -Math.sin(e)];
    const right = [-Math.sin(a), Math.cos(a), 0];
    const down = [Math.sin(e) * Math.cos(a), Math.sin(e) * Math.sin(a), -Math.cos(e)];
    return { right, down, forward };
  }

  // The pinhole camera with a focal length in pixels and the target at (cx, cy).
  camera(focal, cx, cy) {
    const { right, down, forward } = this.axes();
    const eye = this.target.map((value, i) => value - this.distance * forward[i]);
    const translation = [right, down, forward].map((axis) => -dot(axis, eye));
    return { rotation: [...right, ...down, ...forward], translation, eye, fx: focal, fy: focal, cx, cy };
  }

  turn(azimuth, elevation) {
    this.azimuth_deg = (this.azimuth_deg + azimuth) % 360;
    this.elevation_deg = clamp(this.elevation_deg + elevation, -89, 89);
  }

  zoom(factor) {
    this.distance = clamp(this.distance * factor, 0.05 * this.start.distance, 8 * this.start.distance);
  }

  // Shift the target so that the picture moves by dx, dy of one world unit at the target.
  pan(dx, dy) {
    const { right, down } = this.axes();
    this.target = this.target.map((value, i) => value - dx * right[i] - dy * down[i]);
  }
}

function dot(a, b) {
  return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
}

function clamp(value, low, high) {
  return Math.min(high, Math.max(low, value));
}

// A camera given as matrices: world to camera with OpenCV axes, intrinsics in pixels.
function cameraFromMatrices(viewmat, K) {
  const rows = viewmat.map((row) => row.slice(0, 3)).slice(0, 3), t = viewmat.slice(0, 3).map((row) => row[3]);
  const eye = [0, 1, 2].map((i) => -(rows[0][i] * t[0] + rows[1][i] * t[1] + rows[2][i] * t[2]));
  return { rotation: rows.flat(), translation: t, eye, fx: K[0][0], fy: K[1][1], cx: K[0][2], cy: K[1][2] };
}

// Let mouse, touch, wheel and keys move the orbit; `changed` is called after each move.
function steer(canvas, orbit, unitsPerPixel, changed) {
  const held = new Map();
  const moved = (event) => {
    const before = held.get(event.pointerId);
    if (!before) return;
    const dx = event.clientX - before.x, dy = event.clientY - before.y, unit = unitsPerPixel();
    if (held.size === 1 && !(before.pan || event.shiftKey)) {
      orbit.turn(-0.35 * dx, 0.35 * dy);
    } else if (held.size === 1) {
      orbit.pan(dx * unit, dy * unit);
    } else {
      const other = [...held.entries()].find(([id]) => id !== event.pointerId)[1];
      const was = Math.hypot(before.x - other.x, before.y - other.y);
      const now = Math.hypot(event.clientX - other.x, event.clientY - other.y);
      if (was > 0 && now > 0) orbit.zoom(was / now);
      orbit.pan((dx / 2) * unit, (dy / 2) * unit);
    }
    before.x = event.clientX;
    before.y = event.clientY;
    changed();
  };
  const released = (event) => {
    held.delete(event.pointerId);
    canvas.classList.toggle("held", held.size > 0);
  };
  canvas.addEventListener("pointerdown", (event) => {
    if (held.size >= 2) return;
    canvas.setPointerCapture(event.pointerId);
    held.set(event.pointerId, { x: event.clientX, y: event.clientY, pan: event.button > 0 });
    canvas.classList.add("held");
  });
  canvas.addEventListener("pointermove", moved);
  canvas.addEventListener("pointerup", released);
  canvas.addEventListener("pointercancel", released);
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("dblclick", () => { orbit.reset(); changed(); });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    const pixels = event.deltaY * (event.deltaMode === 1 ? 16 : event.deltaMode === 2 ? 400 : 1);
    orbit.zoom(Math.exp(clamp(pixels, -300, 300) * 0.0015));
    changed();
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const act = {
      ArrowLeft: () => orbit.turn(-6, 0), ArrowRight: () => orbit.turn(6, 0),
      ArrowUp: () => orbit.turn(0, 6), ArrowDown: () => orbit.turn(0, -6),
      "+": () => orbit.zoom(0.9), "=": () => orbit.zoom(0.9), "-": () => orbit.zoom(1 / 0.9),
      Home: () => orbit.reset(),
    }[event.key];
    if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    act();
    changed();
  });
}
