"use strict";

// Small SVG helpers: text only ever enters the page as text, never as markup.
const NS = "http://www.w3.org/2000/svg";
const COLOURS = 8;
const DASHES = ["", "6 3", "2 3", "9 3 2 3"];

function svg(name, attributes, ...children) {
  const node = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value !== null && value !== undefined) node.setAttribute(key, value);
  }
  node.append(...children);
  return node;
}

function html(name, attributes, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

const colour = (i) => `var(--s${i % COLOURS})`;
const dash = (i) => DASHES[Math.floor(i / COLOURS) % DASHES.length];

// A shape for each round of colours, so that no two of 32 rows look alike.
function marker(i, cx, cy, r) {
  const shapes = [
    null,
    [[-1, -1], [1, -1], [1, 1], [-1, 1]],
    [[0, -1.4], [1.4, 0], [0, 1.4], [-1.4, 0]],
    [[0, -1.3], [1.3, 1], [-1.3, 1]],
  ];
  const corners = shapes[Math.floor(i / COLOURS) % shapes.length];
  if (corners === null) return svg("circle", { cx, cy, r });
  const points = corners.map(([x, y]) => `${(cx + 0.9 * r * x).toFixed(1)},${(cy + 0.9 * r * y).toFixed(1)}`);
  return svg("polygon", { points: points.join(" ") });
}

function short(value) {
  const size = Math.abs(value);
  if (size >= 1e9) return `${+(value / 1e9).toPrecision(3)}G`;
  if (size >= 1e6) return `${+(value / 1e6).toPrecision(3)}M`;
  if (size >= 1e4) return `${+(value / 1e3).toPrecision(3)}k`;
  return String(+value.toPrecision(4));
}

function linear(low, high, from, to) {
  if (low === high) { low -= 0.5; high += 0.5; }
  const step = niceStep((high - low) / 5);
  const ticks = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k += 1) ticks.push(k * step);
  return { at: (v) => from + ((v - low) / (high - low)) * (to - from), ticks };
}

function niceStep(rough) {
  const power = 10 ** Math.floor(Math.log10(rough));
  return power * ([1, 2, 5, 10].find((m) => m * power >= rough) || 10);
}

// Zeros, such as the training of an agent that learns nothing, stand at the left edge.
function logarithmic(values, from, to) {
  const positive = values.filter((v) => v > 0);
  const zeros = positive.length < values.length;
  let [low, high] = [Math.min(...positive), Math.max(...positive)].map(Math.log10);
  if (high - low < 0.3) { low -= 0.15; high += 0.15; }
  const start = zeros ? from + (to - from) * 0.12 : from;
  const powers = Array.from({ length: Math.ceil(high) - Math.floor(low) + 1 }, (_, k) => 10 ** (Math.floor(low) + k));
  const within = (v) => Math.log10(v) >= low - 1e-9 && Math.log10(v) <= high + 1e-9;
  const choices = [[1], [1, 3], [1, 2, 5], [1, 1.5, 2, 3, 4, 5, 6, 8]].map(
    (heads) => powers.flatMap((p) => heads.map((m) => m * p)).filter(within),
  );
  const ticks = choices.find((c) => c.length >= 3) || choices[choices.length - 1];
  const at = (v) => (v > 0 ? start + ((Math.log10(v) - low) / (high - low)) * (to - start) : from);
  return { at, ticks: zeros ? [0, ...ticks] : ticks };
}

// An empty picture with axes; `draw(at)` gets functions from values to places.
function frame(size, x, y, labels) {
  const { left, right, top, bottom } = size;
  const node = svg("svg", {
    viewBox: `0 0 ${size.width} ${size.height}`, role: "img", "aria-label": labels.title,
  });
  for (const tick of y.ticks) {
    const at = y.at(tick);
    node.append(
      svg("line", { class: "grid", x1: left, x2: right, y1: at, y2: at }),
      svg("text", { x: left - 6, y: at + 4, "text-anchor": "end" }, short(tick)),
    );
  }
  for (const tick of x.ticks) {
    const at = x.at(tick);
    node.append(
      svg("line", { class: "grid", x1: at, x2: at, y1: bottom, y2: bottom + 4 }),
      svg("text", { x: at, y: bottom + 17, "text-anchor": "middle" }, short(tick)),
    );
  }
  node.append(
    svg("line", { class: "grid", x1: left, x2: right, y1: bottom, y2: bottom }),
    svg("text", { x: (left + right) / 2, y: size.height - 4, "text-anchor": "middle" }, labels.x),
    svg("text", { x: 2, y: top - 10 }, labels.y),
  );
  return node;
}

const SIZE = { width: 560, height: 330, left: 52, right: 544, top: 30, bottom: 284 };
