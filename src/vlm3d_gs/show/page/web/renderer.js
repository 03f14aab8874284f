// The picture: the arithmetic of vlm3d_gs.render, on WebGL2. The numbers come from render/conventions.py.

const VERTEX = `#version 300 es
precision highp float;
precision highp int;
precision highp sampler2D;
uniform sampler2D shapes;      // 3 texels a splat: centre, opacity | covariance
uniform sampler2D colours;     // K texels a splat: harmonics
uniform mat3 rotation;         // world to camera, OpenCV axes
uniform vec3 translation, eye;
uniform vec2 focal, centre, size;
uniform float alphaFloor, dilation, margin, pointRadius;
uniform int coefficients;
uniform bool antialiased;
layout(location = 0) in vec2 corner;
layout(location = 1) in uint index;
out vec2 offset;               // from the centre, in standard deviations, or in pixels for points
out vec4 colour;               // and opacity

vec4 shape(uint texel) {
  uint width = uint(textureSize(shapes, 0).x);
  return texelFetch(shapes, ivec2(texel % width, texel / width), 0);
}

vec3 harmonic(int k) {
  uint texel = index * uint(coefficients) + uint(k), width = uint(textureSize(colours, 0).x);
  return texelFetch(colours, ivec2(texel % width, texel / width), 0).rgb;
}

vec3 seen(vec3 d) {
  float x = d.x, y = d.y, z = d.z, xx = x * x, yy = y * y, zz = z * z;
  vec3 c = 0.5 + 0.28209479177387814 * harmonic(0);
  if (coefficients > 1)
    c += 0.4886025119029199 * (-y * harmonic(1) + z * harmonic(2) - x * harmonic(3));
  if (coefficients > 4)
    c += 1.0925484305920792 * (x * y * harmonic(4) - y * z * harmonic(5) - x * z * harmonic(7))
       + 0.31539156525252005 * (2.0 * zz - xx - yy) * harmonic(6)
       + 0.5462742152960396 * (xx - yy) * harmonic(8);
  if (coefficients > 9)
    c += -0.5900435899266435 * (y * (3.0 * xx - yy) * harmonic(9) + x * (xx - 3.0 * yy) * harmonic(15))
       + 2.890611442640554 * x * y * z * harmonic(10)
       - 0.4570457994644658 * (4.0 * zz - xx - yy) * (y * harmonic(11) + x * harmonic(13))
       + 0.3731763325901154 * z * (2.0 * zz - 3.0 * xx - 3.0 * yy) * harmonic(12)
       + 1.445305721320277 * z * (xx - yy) * harmonic(14);
  return max(c, 0.0);
}

void main() {
  vec4 first = shape(3u * index), second = shape(3u * index + 1u), third = shape(3u * index + 2u);
  vec3 p = rotation * first.xyz + translation;
  vec2 middle = focal * p.xy / p.z + centre;
  colour = vec4(seen(normalize(first.xyz - eye)), first.w);
  vec2 pixel;
  if (pointRadius > 0.0) {
    offset = corner * (pointRadius + 1.0);
    pixel = middle + offset;
    if (first.w < 0.05) pixel = vec2(-9.0) * size;
  } else {
    vec2 room = margin * 0.5 * size / focal;
    vec2 slope = clamp(p.xy / p.z, -(centre / focal + room), (size - centre) / focal + room);
    mat3 covariance = mat3(second.x, second.y, second.z, second.y, second.w, third.x, second.z, third.x, third.y);
    mat3 jacobian = transpose(mat3(focal.x / p.z, 0.0, -focal.x * slope.x / p.z,
                                   0.0, focal.y / p.z, -focal.y * slope.y / p.z, 0.0, 0.0, 0.0));
    mat3 image = jacobian * rotation;
    mat3 flat_ = image * covariance * transpose(image);
    float a = flat_[0][0] + dilation, b = flat_[0][1], c = flat_[1][1] + dilation;
    float mean = 0.5 * (a + c), spread = length(vec2(0.5 * (a - c), b));
    vec2 axis = a >= c ? vec2(mean + spread - c, b) : vec2(b, mean + spread - a);
    axis = dot(axis, axis) > 0.0 ? normalize(axis) : vec2(1.0, 0.0);
    vec2 sigma = sqrt(max(vec2(mean + spread, mean - spread), 1e-9));
    if (antialiased) {  // the dilation covers too much: opacity makes up for it
      float sharp = flat_[0][0] * flat_[1][1] - b * b;
      colour.a *= sqrt(clamp(sharp / (sharp + dilation * (a + c - dilation)), 0.0, 1.0));
    }
    float extent = sqrt(max(2.0 * log(colour.a / alphaFloor), 0.0));
    offset = corner * extent;
    pixel = middle + offset.x * sigma.x * axis + offset.y * sigma.y * vec2(-axis.y, axis.x);
  }
  gl_Position = vec4(2.0 * pixel / size - 1.0, 0.0, 1.0) * vec4(1.0, -1.0, 1.0, 1.0);
}`;

const FRAGMENT = `#version 300 es
precision highp float;
uniform float alphaFloor, alphaCap, pointRadius;
in vec2 offset;
in vec4 colour;
out vec4 premultiplied;
void main() {
  float alpha = pointRadius > 0.0
    ? clamp(pointRadius + 0.5 - length(offset), 0.0, 1.0)
    : min(alphaCap, colour.a * exp(-0.5 * dot(offset, offset)));
  if (alpha < alphaFloor) discard;
  premultiplied = vec4(colour.rgb * alpha, alpha);
}`;

const COVER = `#version 300 es
void main() { gl_Position = vec4(vec2(gl_VertexID & 1, gl_VertexID >> 1) * 4.0 - 1.0, 0.0, 1.0); }`;

const RESOLVE = `#version 300 es
precision highp float;
uniform highp sampler2D drawn;
uniform vec3 background;
out vec4 shown;
void main() {
  vec4 value = texelFetch(drawn, ivec2(gl_FragCoord.xy), 0);
  shown = vec4(value.rgb + (1.0 - value.a) * background, 1.0);
}`;

class Renderer {
  constructor(canvas, splats, constants) {
    const gl = canvas.getContext("webgl2", { alpha: false, antialias: false, powerPreference: "high-performance" });
    if (!gl) throw new Error("This browser offers no WebGL2, which the splat is drawn with.");
    Object.assign(this, { canvas, gl, constants, shown: 0 });
    this.program = link(gl, VERTEX, FRAGMENT);
    this.cover = link(gl, COVER, RESOLVE);
    this.places = places(gl, this.program);
    this.coverPlaces = places(gl, this.cover);
    const widest = Math.min(4096, gl.getParameter(gl.MAX_TEXTURE_SIZE));
    this.shapes = texture(gl, widest, splats.shapes, 4, gl.RGBA32F, gl.RGBA, gl.FLOAT, Float32Array);
    // More harmonics than the card can hold are left away; the colours of lower degree remain right.
    let kept = splats.coefficients, colours = splats.colours;
    while (kept > 1 && splats.count * kept > widest * gl.getParameter(gl.MAX_TEXTURE_SIZE)) {
      kept = (Math.sqrt(kept) - 1) ** 2;
    }
    if (kept < splats.coefficients) colours = lowerDegree(splats, kept);
    this.coefficients = kept;
    this.colours = texture(gl, widest, colours, 3, gl.RGB16F, gl.RGB, gl.HALF_FLOAT, Uint16Array);
    this.attributes();
    // Half floats keep hundreds of faint layers apart, which bytes would round away.
    this.fine = gl.getExtension("EXT_color_buffer_float") || gl.getExtension("EXT_color_buffer_half_float");
    this.layer = gl.createTexture();
    this.frame = gl.createFramebuffer();
  }

  attributes() {
    const gl = this.gl;
    this.vertices = gl.createVertexArray();
    gl.bindVertexArray(this.vertices);
    gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ARRAY_BUFFER, new Float32Array([-1, -1, 1, -1, -1, 1, 1, 1]), gl.STATIC_DRAW);
    gl.enableVertexAttribArray(0);
    gl.vertexAttribPointer(0, 2, gl.FLOAT, false, 0, 0);
    this.order = gl.createBuffer();
    gl.bindBuffer(gl.ARRAY_BUFFER, this.order);
    gl.enableVertexAttribArray(1);
    gl.vertexAttribIPointer(1, 1, gl.UNSIGNED_INT, 0, 0);
    gl.vertexAttribDivisor(1, 1);
    this.empty = gl.createVertexArray();
    gl.bindVertexArray(null);
  }

  // Take the indices in the order in which they are to be drawn, far ones first.
  setOrder(order) {
    const gl = this.gl;
    gl.bindBuffer(gl.ARRAY_BUFFER, this.order);
    gl.bufferData(gl.ARRAY_BUFFER, order, gl.DYNAMIC_DRAW);
    this.shown = order.length;
  }

  layerOfSize(width, height) {
    const gl = this.gl;
    gl.bindTexture(gl.TEXTURE_2D, this.layer);
    if (this.layerWidth !== width || this.layerHeight !== height) {
      gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA16F, width, height, 0, gl.RGBA, gl.HALF_FLOAT, null);
      gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.NEAREST);
      gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, gl.NEAREST);
      gl.bindFramebuffer(gl.FRAMEBUFFER, this.frame);
      gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, this.layer, 0);
      if (gl.checkFramebufferStatus(gl.FRAMEBUFFER) !== gl.FRAMEBUFFER_COMPLETE) this.fine = null;
      this.layerWidth = width;
      this.layerHeight = height;
    }
  }

  // camera: {rotation: 9 row-major, translation: 3, eye: 3, fx, fy, cx, cy} for the canvas' own pixels.
  draw(camera, background, pointRadius) {
    const { gl, canvas, constants } = this;
    if (this.fine) this.layerOfSize(canvas.width, canvas.height);
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.fine ? this.frame : null);
    gl.viewport(0, 0, canvas.width, canvas.height);
    gl.clearColor(...(this.fine ? [0, 0, 0, 0] : [...background, 1]));
    gl.clear(gl.COLOR_BUFFER_BIT);
    gl.useProgram(this.program);
    const at = this.places;
    bind(gl, 0, this.shapes, at.shapes);
    bind(gl, 1, this.colours, at.colours);
    gl.uniformMatrix3fv(at.rotation, true, camera.rotation);
    gl.uniform3fv(at.translation, camera.translation);
    gl.uniform3fv(at.eye, camera.eye);
    gl.uniform2f(at.focal, camera.fx, camera.fy);
    gl.uniform2f(at.centre, camera.cx, camera.cy);
    gl.uniform2f(at.size, canvas.width, canvas.height);
    gl.uniform1f(at.alphaFloor, constants.alpha_floor);
    gl.uniform1f(at.alphaCap, constants.alpha_cap);
    gl.uniform1f(at.dilation, constants.dilation_px2);
    gl.uniform1f(at.margin, constants.frustum_margin);
    gl.uniform1f(at.pointRadius, pointRadius);
    gl.uniform1i(at.coefficients, this.coefficients);
    gl.uniform1i(at.antialiased, constants.antialiased ? 1 : 0);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    gl.bindVertexArray(this.vertices);
    gl.drawArraysInstanced(gl.TRIANGLE_STRIP, 0, 4, this.shown);
    gl.disable(gl.BLEND);
    if (this.fine) this.resolve(background);
  }

  resolve(background) {
    const gl = this.gl;
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    gl.useProgram(this.cover);
    bind(gl, 0, this.layer, this.coverPlaces.drawn);
    gl.uniform3fv(this.coverPlaces.background, background);
    gl.bindVertexArray(this.empty);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
  }
}

function link(gl, vertex, fragment) {
  const program = gl.createProgram();
  for (const [kind, source] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    gl.attachShader(program, shader);
  }
  gl.linkProgram(program);
  if (!gl.getProgramParameter(program, gl.LINK_STATUS) && !gl.isContextLost()) {
    const logs = gl.getAttachedShaders(program).map((shader) => gl.getShaderInfoLog(shader));
    throw new Error(`The graphics driver refuses a shader: ${gl.getProgramInfoLog(program)} ${logs.join(" ")}`);
  }
  return program;
}

function places(gl, program) {
  const found = {};
  for (let i = 0; i < gl.getProgramParameter(program, gl.ACTIVE_UNIFORMS); i++) {
    const { name } = gl.getActiveUniform(program, i);
    found[name] = gl.getUniformLocation(program, name);
  }
  return found;
}

function bind(gl, unit, held, place) {
  gl.activeTexture(gl.TEXTURE0 + unit);
  gl.bindTexture(gl.TEXTURE_2D, held);
  gl.uniform1i(place, unit);
}

// A list of texels folded into rows; the last row is filled up.
function texture(gl, width, values, channels, internal, format, type, Type) {
  const texels = Math.max(1, values.length / channels), rows = Math.ceil(texels / width);
  const filled = new Type(rows * width * channels);
  filled.set(values);
  const made = gl.createTexture();
  gl.bindTexture(gl.TEXTURE_2D, made);
  gl.pixelStorei(gl.UNPACK_ALIGNMENT, 2);
  gl.texImage2D(gl.TEXTURE_2D, 0, internal, width, rows, 0, format, type, filled);
  gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.NEAREST);
  gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, gl.NEAREST);
  return made;
}

function lowerDegree(splats, kept) {
  const out = new Uint16Array(3 * kept * splats.count), whole = 3 * splats.coefficients;
  for (let i = 0; i < splats.count; i++) {
    out.set(splats.colours.subarray(i * whole, i * whole + 3 * kept), 3 * kept * i);
  }
  return out;
}
