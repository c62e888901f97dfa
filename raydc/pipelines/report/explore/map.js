// Rows in two dimensions on one canvas. Discs are blended into the picture's bytes by this script: a hundred thousand
// of them take some hundredths of a second in any browser, with or without a graphics card.

const NONE = -1;
const REACH = 6; // pixels from the pointer within which a row is found

class RowMap {
  // `rows` says how many there are (count), which pass the filters (passes, filtered), and in which of the colours each
  // is (hue, colours); hooks are told of the row under the pointer and of a lasso, and give the labels.
  constructor(canvas, rows, hooks) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { willReadFrequently: true });
    this.rows = rows;
    this.hooks = hooks;
    this.lassoing = false;
    this.polygon = [];
    this.pending = false;
    this.order = shuffled(rows.count); // no cluster hides another by being drawn last
    this.listen();
    new ResizeObserver(() => this.resize()).observe(canvas);
  }

  show(points, density) {
    this.points = points;
    this.density = density;
    this.home();
  }

  home() {
    const { low, high } = this.points;
    this.centre = [(low[0] + high[0]) / 2, (low[1] + high[1]) / 2];
    this.span = [high[0] - low[0] || 1, high[1] - low[1] || 1];
    this.zoom = 1;
    this.draw();
  }

  resize() {
    const ratio = window.devicePixelRatio || 1;
    this.canvas.width = Math.max(1, Math.round(this.canvas.clientWidth * ratio));
    this.canvas.height = Math.max(1, Math.round(this.canvas.clientHeight * ratio));
    this.owner = new Int32Array(this.canvas.width * this.canvas.height);
    this.draw();
  }

  // Draws once before the next frame, however often it is asked to.
  draw() {
    if (this.pending || !this.points || !this.owner) return;
    this.pending = true;
    requestAnimationFrame(() => {
      this.pending = false;
      this.paint();
    });
  }

  scale() {
    return [(this.canvas.width * this.zoom * 0.92) / this.span[0], (this.canvas.height * this.zoom * 0.92) / this.span[1]];
  }

  place(x, y) {
    const [across, down] = this.scale();
    return [
      this.canvas.width / 2 + (x - this.centre[0]) * across,
      this.canvas.height / 2 - (y - this.centre[1]) * down,
    ];
  }

  // Few rows are large and strong, many are small and faint, so that either fill the picture.
  look() {
    const { width, height } = this.canvas, many = Math.max(1, this.rows.count), ratio = window.devicePixelRatio || 1;
    const even = Math.sqrt((width * height * 0.05) / (many * Math.PI));
    const radius = Math.min(7 * ratio, Math.max(1.3 * ratio, even)) * Math.min(this.zoom ** 0.35, 3);
    return { radius, strength: Math.min(0.85, Math.max(0.4, 1.15 - 0.15 * Math.log10(many))) };
  }

  paint() {
    const { width, height } = this.canvas, context = this.context;
    context.fillStyle = "#ffffff";
    context.fillRect(0, 0, width, height);
    if (this.density) {
      const [left, top] = this.place(this.density.low[0], this.density.high[1]);
      const [right, bottom] = this.place(this.density.high[0], this.density.low[1]);
      context.drawImage(this.density.picture, left, top, right - left, bottom - top);
    }
    const picture = context.getImageData(0, 0, width, height), { radius, strength } = this.look();
    this.owner.fill(NONE);
    if (this.rows.filtered) this.splat(picture.data, stamp(radius, 0.35 * strength), false);
    this.splat(picture.data, stamp(radius, strength), true);
    context.putImageData(picture, 0, 0);
    this.write();
    this.outline();
  }

  // Blends the discs of the rows that pass the filters, or of those that do not, in grey.
  splat(bytes, mask, passing) {
    const { width, height } = this.canvas, { x, y } = this.points, rows = this.rows, owner = this.owner;
    const [across, down] = this.scale(), { size, alpha } = mask, half = (size - 1) / 2;
    const left = width / 2 - this.centre[0] * across - half, top = height / 2 + this.centre[1] * down - half;
    for (const row of this.order) {
      if (rows.passes[row] === 1 !== passing) continue;
      const column = Math.round(left + x[row] * across), line = Math.round(top - y[row] * down);
      if (!(column > -size && line > -size && column < width && line < height)) continue;
      const hue = passing ? 3 * rows.hue[row] : 0, colours = passing ? rows.colours : GREY;
      const red = colours[hue], green = colours[hue + 1], blue = colours[hue + 2];
      for (let i = Math.max(0, -line); i < size && line + i < height; i++) {
        for (let j = Math.max(0, -column); j < size && column + j < width; j++) {
          const weight = alpha[i * size + j];
          if (weight === 0) continue;
          const pixel = (line + i) * width + column + j, at = 4 * pixel;
          bytes[at] += ((red - bytes[at]) * weight) >> 8;
          bytes[at + 1] += ((green - bytes[at + 1]) * weight) >> 8;
          bytes[at + 2] += ((blue - bytes[at + 2]) * weight) >> 8;
          if (passing) owner[pixel] = row;
        }
      }
    }
  }

  write() {
    const context = this.context, ratio = window.devicePixelRatio || 1;
    context.font = `600 ${13 * ratio}px system-ui, sans-serif`;
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.lineWidth = 3 * ratio;
    context.strokeStyle = "#ffffff";
    context.fillStyle = "#111111";
    for (const { x, y, text } of this.hooks.labels(this.points)) {
      const [across, down] = this.place(x, y);
      context.strokeText(text, across, down);
      context.fillText(text, across, down);
    }
  }

  outline() {
    if (this.polygon.length < 2) return;
    const context = this.context;
    context.beginPath();
    this.polygon.forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
    context.closePath();
    context.fillStyle = "rgba(0, 0, 0, 0.06)";
    context.fill();
    context.lineWidth = 1.5 * (window.devicePixelRatio || 1);
    context.strokeStyle = "#333333";
    context.stroke();
  }

  // The row under the pointer, or the nearest one that is drawn near it; NONE where there is none.
  at([x, y]) {
    const { width, height } = this.canvas, reach = Math.round(REACH * (window.devicePixelRatio || 1));
    let found = NONE, nearest = Infinity;
    for (let i = Math.max(0, y - reach); i <= Math.min(height - 1, y + reach); i++) {
      for (let j = Math.max(0, x - reach); j <= Math.min(width - 1, x + reach); j++) {
        const row = this.owner[i * width + j], distance = (i - y) ** 2 + (j - x) ** 2;
        if (row !== NONE && distance < nearest) [found, nearest] = [row, distance];
      }
    }
    return found;
  }

  inside() {
    const found = new Uint8Array(this.rows.count), [across, down] = this.scale();
    const { width, height } = this.canvas, { x, y } = this.points;
    for (let row = 0; row < found.length; row++) {
      const column = width / 2 + (x[row] - this.centre[0]) * across, line = height / 2 - (y[row] - this.centre[1]) * down;
      found[row] = within(this.polygon, column, line) ? 1 : 0;
    }
    return found;
  }

  listen() {
    const canvas = this.canvas;
    let from = null;
    const spot = (event) => {
      const box = canvas.getBoundingClientRect(), ratio = canvas.width / box.width;
      return [Math.round((event.clientX - box.left) * ratio), Math.round((event.clientY - box.top) * ratio)];
    };
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      from = spot(event);
      if (this.lassoing || event.shiftKey) this.polygon = [from];
      this.hooks.hover(NONE, event);
    });
    canvas.addEventListener("pointermove", (event) => {
      const now = spot(event);
      if (!from) return this.hooks.hover(this.owner ? this.at(now) : NONE, event);
      if (this.polygon.length) {
        this.polygon.push(now);
      } else {
        const [across, down] = this.scale();
        this.centre = [this.centre[0] - (now[0] - from[0]) / across, this.centre[1] + (now[1] - from[1]) / down];
        from = now;
      }
      this.draw();
    });
    canvas.addEventListener("pointerup", () => {
      from = null;
      if (this.polygon.length > 2) this.hooks.lasso(this.inside());
      this.polygon = [];
      this.draw();
    });
    canvas.addEventListener("pointerleave", (event) => this.hooks.hover(NONE, event));
    canvas.addEventListener("dblclick", () => this.home());
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      const [x, y] = spot(event), factor = Math.exp(-event.deltaY * 0.0015);
      const zoom = Math.min(500, Math.max(0.5, this.zoom * factor)), grown = 1 - this.zoom / zoom, [across, down] = this.scale();
      this.centre = [
        this.centre[0] + ((x - this.canvas.width / 2) / across) * grown,
        this.centre[1] - ((y - this.canvas.height / 2) / down) * grown,
      ];
      this.zoom = zoom;
      this.draw();
    }, { passive: false });
  }
}

const GREY = [170, 170, 170];

// A disc of this radius in pixels: how much of each pixel it covers, times its strength, in 256ths.
function stamp(radius, strength) {
  const half = Math.ceil(radius - 0.5), size = 2 * half + 1, alpha = new Int32Array(size * size);
  for (let i = 0; i < size; i++) {
    for (let j = 0; j < size; j++) {
      const covered = radius + 0.5 - Math.hypot(i - half, j - half);
      alpha[i * size + j] = 256 * strength * Math.min(1, Math.max(0, covered));
    }
  }
  return { size, alpha };
}

// Numbers from 0 in an order that is the same each time (a linear congruential generator; Numerical Recipes).
function shuffled(count) {
  const order = Uint32Array.from({ length: count }, (_, i) => i);
  let state = 1;
  for (let i = count - 1; i > 0; i--) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    const other = Math.floor((state / 2 ** 32) * (i + 1));
    [order[i], order[other]] = [order[other], order[i]];
  }
  return order;
}

// Whether a ray from the point crosses the polygon's sides an odd number of times.
function within(polygon, x, y) {
  let odd = false;
  for (let i = 0, last = polygon.length - 1; i < polygon.length; last = i++) {
    const [ax, ay] = polygon[i], [bx, by] = polygon[last];
    if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) odd = !odd;
  }
  return odd;
}
