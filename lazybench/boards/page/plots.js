// Pictures of a board, drawn when it first comes into view.
function pathOf(points, x, y, steps) {
  return points.map(([a, b], i) => {
    const place = `${x.at(a).toFixed(1)} ${y.at(b).toFixed(1)}`;
    if (i === 0) return `M${place}`;
    return steps ? `H${x.at(a).toFixed(1)}V${y.at(b).toFixed(1)}` : `L${place}`;
  }).join("");
}

function extent(values) {
  const low = Math.min(...values);
  const high = Math.max(...values);
  const room = (high - low) * 0.06;
  return [low - room, high + room];
}

function titled(node, text) {
  node.append(svg("title", {}, text));
  return node;
}

function figure(title, ...tools) {
  return html("figure", { class: "plot" }, html("header", {}, html("h3", {}, title), ...tools));
}

// What must be read under a picture; nothing where that is empty.
function caption(text) {
  return text ? [html("figcaption", { class: "note" }, text)] : [];
}

function learningPlot(board) {
  const all = board.series.flatMap((s) => s.learning.flat());
  if (!all.length) return null;
  const x = linear(0, Math.max(...all.map((p) => p[0])), SIZE.left, SIZE.right);
  const y = linear(...extent(all.map((p) => p[1])), SIZE.bottom, SIZE.top);
  const title = `Learning curves, ${board.name}`;
  const node = frame(SIZE, x, y, { title, x: board.learningX, y: board.learningY });
  board.series.forEach((s, i) => {
    if (!s.learning.length) return;
    const group = svg("g", { "data-series": i, stroke: colour(i), fill: colour(i) });
    for (const points of s.learning) {
      group.append(svg("path", {
        d: pathOf(points, x, y), fill: "none", "stroke-width": 1.8, "stroke-dasharray": dash(i) || null,
      }));
      for (const [a, b] of points) {
        group.append(marker(i, x.at(a), y.at(b), 2.6));
      }
    }
    const last = s.learning[0][s.learning[0].length - 1];
    node.append(titled(group, `${s.name}: ${short(last[1])} at ${short(last[0])} ${board.learningX}`));
  });
  const out = figure("Learning curves");
  out.append(node, ...caption(board.learningNote));
  return out;
}

function successPlot(board) {
  const all = board.series.flatMap((s) => s.success);
  if (!all.length) return null;
  const x = logarithmic(all.map((p) => p[0]), SIZE.left, SIZE.right);
  const y = linear(0, 100, SIZE.bottom, SIZE.top);
  const title = `Success against queries, ${board.name}`;
  const node = frame(SIZE, x, y, { title, x: "queries an image (logarithmic)", y: "images won (%)" });
  board.series.forEach((s, i) => {
    if (!s.success.length) return;
    const path = svg("path", {
      d: pathOf(s.success, x, y, true), "data-series": i, fill: "none", stroke: colour(i),
      "stroke-width": 1.8, "stroke-dasharray": dash(i) || null,
    });
    const [queries, share] = s.success[s.success.length - 1];
    node.append(titled(path, `${s.name}: ${short(share)} % by ${short(queries)} queries`));
  });
  const out = figure("Success against queries");
  out.append(node);
  return out;
}

// Rows that no other row beats in both, cheapest first.
function paretoFront(rows, cost, better) {
  const sign = better === "higher" ? 1 : -1;
  let best = -Infinity;
  return [...rows]
    .sort((a, b) => a.costs[cost] - b.costs[cost] || sign * (b.score - a.score))
    .filter((s) => {
      if (sign * s.score <= best) return false;
      best = sign * s.score;
      return true;
    });
}

function drawPareto(board, cost, label) {
  const rows = board.series.filter((s) => s.costs[cost] !== undefined);
  const x = logarithmic(rows.map((s) => s.costs[cost]), SIZE.left + 12, SIZE.right - 12);
  const ends = rows.flatMap((s) => [s.score, s.lo ?? s.score, s.hi ?? s.score]);
  const y = linear(...extent(ends), SIZE.bottom, SIZE.top);
  const node = frame(SIZE, x, y, {
    title: `Cost against score, ${board.name}`,
    x: `${label} (logarithmic)`,
    y: `${board.metric} (${board.unit}), ${board.better} is better`,
  });
  const front = paretoFront(rows, cost, board.better);
  const line = front.map((s) => [s.costs[cost], s.score]);
  node.append(svg("path", { class: "front", d: pathOf(line, x, y, true) }));
  const named = [];
  const names = [];
  board.series.forEach((s, i) => {
    if (s.costs[cost] === undefined) return;
    const [cx, cy] = [x.at(s.costs[cost]), y.at(s.score)];
    const group = svg("g", {
      "data-series": i, stroke: colour(i), fill: s.ranked ? colour(i) : "var(--paper)", "stroke-width": 1.6,
    });
    if (s.lo !== null) group.append(svg("line", { x1: cx, x2: cx, y1: y.at(s.lo), y2: y.at(s.hi) }));
    group.append(marker(i, cx, cy, 4.5));
    const apart = named.every(([a, b]) => Math.abs(a - cx) > 120 || Math.abs(b - cy) > 14);
    if (front.includes(s) && apart) {
      named.push([cx, cy]);
      const leftward = cx > SIZE.right - 150;
      names.push(svg("text", {
        class: "name", "data-series": i, x: cx + (leftward ? -9 : 9), y: cy - 7,
        "text-anchor": leftward ? "end" : "start",
      }, s.name.length > 24 ? `${s.name.slice(0, 23)}…` : s.name));
    }
    node.append(titled(group, `${s.name}: ${short(s.score)} ${board.unit} at ${short(s.costs[cost])}`));
  });
  node.append(...names);
  return node;
}

function paretoPlot(board, relight) {
  if (!board.costs.length) return null;
  const choice = html("select", { "aria-label": `Cost of ${board.name}` });
  for (const [name, label] of board.costs) choice.append(html("option", { value: name }, label));
  const out = figure("Cost against score", choice);
  const draw = () => {
    const [cost, label, note] = board.costs[choice.selectedIndex];
    for (const node of out.querySelectorAll("svg, figcaption")) node.remove();
    out.append(drawPareto(board, cost, label), ...caption(note));
    relight();
  };
  choice.addEventListener("change", draw);
  draw();
  return out;
}

function legendOf(board, shown) {
  const box = html("div", { class: "legend", role: "group", "aria-label": `Rows of ${board.name}` });
  board.series.forEach((s, i) => {
    if (!shown.has(i)) return;
    const sample = svg("svg", { viewBox: "0 0 26 11", "aria-hidden": "true" });
    sample.append(svg("line", {
      x1: 0, x2: 26, y1: 5.5, y2: 5.5, stroke: colour(i), "stroke-width": 2, "stroke-dasharray": dash(i) || null,
    }));
    const face = s.ranked ? colour(i) : "var(--paper)";
    sample.append(svg("g", { fill: face, stroke: colour(i) }, marker(i, 13, 5.5, 4)));
    box.append(html("button", { type: "button", "data-series": i, "aria-pressed": "false", title: s.name }, sample, s.name));
  });
  return box;
}

// One row at a time stands out, in the table and in all pictures of its board.
function drawBoard(section, board) {
  const place = section.querySelector(".plots");
  let pinned = null;
  const light = (series) => {
    section.classList.toggle("dim", series !== null);
    for (const node of section.querySelectorAll("[data-series]")) {
      const same = series !== null && node.dataset.series === String(series);
      node.classList.toggle("lit", same);
      if (node.matches("button")) node.setAttribute("aria-pressed", String(pinned !== null && same));
    }
  };
  const relight = () => light(pinned);
  const plots = [paretoPlot(board, relight), learningPlot(board), successPlot(board)].filter(Boolean);
  if (!plots.length) return;
  const shown = new Set([...plots.flatMap((p) => [...p.querySelectorAll("[data-series]")])].map((n) => +n.dataset.series));
  const legend = legendOf(board, shown);
  place.append(...plots);
  place.after(legend);
  section.addEventListener("pointerover", (event) => {
    const node = event.target.closest("[data-series]");
    light(node ? node.dataset.series : pinned);
  });
  section.addEventListener("pointerleave", relight);
  legend.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    pinned = pinned === button.dataset.series ? null : button.dataset.series;
    relight();
  });
}
