// The page: joins the data, the picture, the camera and the buttons.

const story = JSON.parse(document.getElementById("story").textContent);
const canvas = document.getElementById("view");
const buttons = (selector) => [...document.querySelectorAll(selector)];
const state = {
  mode: "splats", background: null, given: null, size: null, turning: false, renderer: null, sorter: null,
  running: false, wanted: false, last: null, quick: 0, scale: 1, resting: true, sortedFor: null,
};
const orbit = new Orbit(story.camera);

// Free part of the window, in CSS pixels: the panel takes its share where it stands beside the object.
function stage() {
  const width = canvas.clientWidth, height = canvas.clientHeight, panel = document.getElementById("panel");
  if (panel.hidden) return { cx: width / 2, cy: height / 2, side: Math.min(width, height) };
  const box = panel.getBoundingClientRect();
  if (width > 640) return { cx: box.left / 2, cy: height / 2, side: Math.min(box.left, height) };
  return { cx: width / 2, cy: box.top / 2, side: Math.min(width, box.top) };
}

function focalOf(side) {
  return (0.5 * side) / Math.tan(0.5 * orbit.fov_deg * RADIAN);
}

function currentCamera() {
  if (state.given) return state.given;
  if (state.size) return orbit.camera(focalOf(canvas.height), canvas.width / 2, canvas.height / 2);
  const { cx, cy, side } = stage(), ratio = canvas.width / Math.max(1, canvas.clientWidth);
  return orbit.camera(focalOf(side) * ratio, cx * ratio, cy * ratio);
}

function fit() {
  const ratio = Math.min(window.devicePixelRatio || 1, 2) * (state.resting ? 1 : state.scale);
  const [width, height] = state.size ?? [canvas.clientWidth * ratio, canvas.clientHeight * ratio].map(Math.round);
  if (canvas.width !== width || canvas.height !== height) {
    canvas.width = Math.max(1, width);
    canvas.height = Math.max(1, height);
  }
}

function backgroundColour() {
  if (state.background) return state.background;
  return buttons(".swatch").find((one) => isOn(one)).dataset.background.split(" ").map(Number);
}

function depthRow(camera) {
  return [...camera.rotation.slice(6, 9), camera.translation[2]];
}

function paint() {
  if (!state.renderer) return;
  fit();
  const pointRadius = state.mode === "points" ? 1.25 * Math.max(1, canvas.width / Math.max(1, canvas.clientWidth)) : 0;
  const camera = currentCamera(), row = depthRow(camera);
  if (String(row) !== state.sortedFor) {
    state.sortedFor = String(row);
    state.sorter.ask(row, (order) => { state.renderer.setOrder(order); request(); });
  }
  state.renderer.draw(camera, backgroundColour(), pointRadius);
}

// Pictures are drawn on demand. `moving` says that more will follow at once.
function request(moving = false) {
  if (moving) state.resting = false;
  state.wanted = true;
  if (state.running || !state.renderer) return;
  state.running = true;
  state.last = null;
  requestAnimationFrame(frame);
}

function frame(now) {
  if (state.last !== null && !state.resting) adapt(now - state.last);
  if (!state.wanted && !state.turning) {
    state.running = false;
    clearTimeout(state.rest);
    if (!state.resting) state.rest = setTimeout(() => { state.resting = true; request(); }, 250);
    return;
  }
  state.wanted = false;
  if (state.turning) {
    state.resting = false;
    orbit.turn(state.last === null ? 0 : Math.min(now - state.last, 100) * 0.02, 0);
  }
  state.last = now;
  paint();
  requestAnimationFrame(frame);
}

// A slow card gets fewer pixels while the picture moves, and all of them when it rests.
function adapt(milliseconds) {
  state.quick = milliseconds < 20 ? state.quick + 1 : 0;
  if (milliseconds > 45) state.scale = Math.max(0.4, state.scale * 0.8);
  if (state.quick > 20) {
    state.scale = Math.min(1, state.scale * 1.25);
    state.quick = 0;
  }
}

// Sort here and now, draw, and read the picture before the browser may drop it.
function snapshot() {
  state.resting = true;
  fit();
  const camera = currentCamera();
  state.renderer.setOrder(depthOrder(state.sorter.centres, depthRow(camera), story.near));
  paint();
  const picture = canvas.toDataURL("image/png");
  state.sortedFor = null;
  request();
  return picture;
}

function setMode(mode) {
  if (mode !== "splats" && mode !== "points") throw new Error(`mode must be "splats" or "points", got ${mode}`);
  state.mode = mode;
  for (const one of buttons("[data-mode]")) toggle(one, one.dataset.mode === mode);
  request();
}

function showTone() {
  const [r, g, b] = backgroundColour(), dark = 0.3 * r + 0.6 * g + 0.1 * b < 0.45;
  document.body.dataset.tone = dark ? "dark" : "light";
  document.body.style.background = `rgb(${[r, g, b].map((value) => Math.round(255 * value)).join(" ")})`;
}

function isOn(button) {
  return button.getAttribute("aria-pressed") === "true";
}

function toggle(button, on = !isOn(button)) {
  button.setAttribute("aria-pressed", String(on));
  return on;
}

function wire() {
  for (const one of buttons("[data-mode]")) one.addEventListener("click", () => setMode(one.dataset.mode));
  for (const one of buttons(".swatch")) {
    one.style.setProperty("--chip", `rgb(${one.dataset.background.split(" ").map((v) => Math.round(255 * v)).join(" ")})`);
    one.addEventListener("click", () => {
      for (const other of buttons(".swatch")) toggle(other, other === one);
      state.background = null;
      showTone();
      request();
    });
  }
  const about = document.getElementById("about"), panel = document.getElementById("panel");
  about.addEventListener("click", () => { panel.hidden = !toggle(about); request(); });
  const turn = document.getElementById("turn");
  turn.addEventListener("click", () => { state.turning = toggle(turn); request(); });
  document.getElementById("save").addEventListener("click", () => {
    const link = document.createElement("a");
    link.href = snapshot();
    link.download = `${story.name}.png`;
    link.click();
  });
  const moved = () => { state.given = null; request(true); };
  const unitsPerPixel = () => orbit.distance / focalOf(stage().side);
  steer(canvas, orbit, unitsPerPixel, moved);
  addEventListener("resize", () => request());
  canvas.addEventListener("webglcontextlost", (event) => { event.preventDefault(); state.renderer = null; });
  canvas.addEventListener("webglcontextrestored", () => location.reload());
}

function begin() {
  showFacts(document.getElementById("facts"), story.facts);
  showCurves(document.getElementById("curves"), story.charts);
  document.getElementById("counts").textContent = story.counts;
  showTone();
  const splats = decodeSplats(document.getElementById("splats").textContent, story.splats);
  document.getElementById("splats").remove();
  state.renderer = new Renderer(canvas, splats, story.constants);
  state.sorter = new Sorter(splats.centres, story.near);
  wire();
  if (innerWidth > 900) document.getElementById("about").click();
  // The first picture is sorted, so nothing flickers.
  state.renderer.setOrder(depthOrder(splats.centres, depthRow(currentCamera()), story.near));
  request();
}

window.vlm3d = {
  ready: new Promise((resolve, reject) => {
    requestAnimationFrame(() => {
      try {
        begin();
        resolve(true);
      } catch (error) {
        const trouble = document.getElementById("trouble");
        trouble.textContent = error.message;
        trouble.hidden = false;
        reject(error);
      }
    });
  }),
  setCamera(given) {
    if (given.viewmat) {
      state.given = cameraFromMatrices(given.viewmat, given.K);
    } else {
      state.given = null;
      Object.assign(orbit, given);
    }
    request();
  },
  setSize(width, height) {
    state.size = width ? [width, height] : null;
    request();
  },
  setBackground(colour) {
    state.background = colour;
    request();
  },
  setMode,
  async snapshot() {
    await window.vlm3d.ready;
    return snapshot();
  },
};
window.vlm3d.ready.catch(() => {}); // shown to the reader already
