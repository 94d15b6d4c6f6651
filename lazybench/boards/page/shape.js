"use strict";

// Small SVG helpers: text only ever enters the page as text, never as markup.
const NS = "http://www.w3.org/2000/svg";
const COLOURS = 8;
const DASHES = ["", "6 3", "2 3", "9 3 2 3"];
const SIZE = { width: 560, height: 330, left: 52, right: 530, top: 30, bottom: 284 };
const CORNERS = [
  null,
  [[-1, -1], [1, -1], [1, 1], [-1, 1]],
  [[0, -1.4], [1.4, 0], [0, 1.4], [-1.4, 0]],
  [[0, -1.3], [1.3, 1], [-1.3, 1]],
];

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
const across = (share) => +(SIZE.left + share * (SIZE.right - SIZE.left)).toFixed(1);
const up = (share) => +(SIZE.bottom - share * (SIZE.bottom - SIZE.top)).toFixed(1);

// A shape for each round of colours, so that no two of 32 rows look alike.
function marker(i, cx, cy, r) {
  const corners = CORNERS[Math.floor(i / COLOURS) % CORNERS.length];
  if (corners === null) return svg("circle", { cx, cy, r });
  const points = corners.map(([x, y]) => `${(cx + 0.9 * r * x).toFixed(1)},${(cy + 0.9 * r * y).toFixed(1)}`);
  return svg("polygon", { points: points.join(" ") });
}

// The places of a line, from 0 to 1 on both axes, as the path of an SVG.
function pathOf(line, steps) {
  return line.map(([x, y], i) => {
    if (i === 0) return `M${across(x)} ${up(y)}`;
    return steps ? `H${across(x)}V${up(y)}` : `L${across(x)} ${up(y)}`;
  }).join("");
}

// An empty chart with axes. Zeros of a logarithmic axis have a part of their own.
function frame(chart, name) {
  const { left, right, top, bottom, width, height } = SIZE;
  const node = svg("svg", {
    viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${chart.title}, ${name}`,
  });
  for (const [at, text] of chart.y.ticks) {
    if (at < 0 || at > 1) continue;
    node.append(
      svg("line", { class: "grid", x1: left, x2: right, y1: up(at), y2: up(at) }),
      svg("text", { x: left - 6, y: up(at) + 4, "text-anchor": "end" }, text),
    );
  }
  for (const [at, text] of chart.x.ticks) {
    if (at < 0 || at > 1) continue;
    node.append(
      svg("line", { class: "grid", x1: across(at), x2: across(at), y1: bottom, y2: bottom + 4 }),
      svg("text", { x: across(at), y: bottom + 17, "text-anchor": "middle" }, text),
    );
  }
  const gutter = chart.x.gutter;
  if (gutter) node.append(svg("line", { class: "grid", x1: across(gutter), x2: across(gutter), y1: top, y2: bottom }));
  const start = gutter ? across(gutter) + 6 : left;
  node.append(
    svg("line", { class: "grid", x1: left, x2: gutter ? across(gutter) - 6 : right, y1: bottom, y2: bottom }),
    svg("line", { class: "grid", x1: start, x2: right, y1: bottom, y2: bottom }),
    svg("text", { x: (left + right) / 2, y: height - 4, "text-anchor": "middle" }, chart.x.label),
    svg("text", { x: 2, y: top - 10 }, chart.y.label),
  );
  return node;
}
