// The charts of a board, as the page describes them: see lazybench/boards/charts.py.
function drawMark(chart, mark, board) {
  const i = mark.series;
  const ranked = board.series[i].ranked;
  const group = svg("g", { "data-series": i, class: i < board.picked ? "picked" : "rest", style: `--c: ${colour(i)}` });
  group.append(svg("title", {}, mark.tip));
  if (mark.band) {
    const upper = mark.line.map(([x], k) => [x, mark.band[k][1]]);
    const lower = mark.line.map(([x], k) => [x, mark.band[k][0]]).reverse();
    group.append(svg("path", { class: "band", d: `${pathOf(upper.concat(lower))}Z` }));
  }
  if (mark.line.length > 1) {
    group.append(svg("path", { class: "line", d: pathOf(mark.line, chart.steps), "stroke-dasharray": dash(i) || null }));
  }
  const [x, y] = [across(mark.line[0][0]), up(mark.line[0][1])];
  if (mark.interval) group.append(svg("line", { x1: x, x2: x, y1: up(mark.interval[0]), y2: up(mark.interval[1]) }));
  const single = mark.line.length === 1;
  for (const [a, b] of mark.dots ? mark.line : []) {
    const dot = marker(i, across(a), up(b), single ? 4.5 : 2.6);
    if (!ranked) dot.setAttribute("class", "hollow");
    group.append(dot);
  }
  if (mark.label) {
    const leftward = x > SIZE.right - 150;
    const name = mark.label.length > 24 ? `${mark.label.slice(0, 23)}…` : mark.label;
    group.append(svg("text", { class: "name", x: x + (leftward ? -9 : 9), y: y - 7, "text-anchor": leftward ? "end" : "start" }, name));
  }
  return group;
}

function drawChart(chart, board) {
  const node = frame(chart, board.name);
  if (chart.front.length > 1) node.append(svg("path", { class: "front", d: pathOf(chart.front, true) }));
  // The best rows last, so that they are on top.
  for (const mark of [...chart.marks].reverse()) node.append(drawMark(chart, mark, board));
  return node;
}

// What must be read under a chart; nothing where that is empty.
const caption = (text) => (text ? [html("figcaption", { class: "note" }, text)] : []);

function figure(chart, board, ...tools) {
  const header = html("header", {}, html("h3", {}, chart.title), ...tools);
  return html("figure", { class: "plot" }, header, drawChart(chart, board), ...caption(chart.note));
}

function costFigure(board, relight) {
  if (!board.costs.length) return null;
  const choice = html("select", { "aria-label": `Cost of ${board.name}` });
  for (const [name, label] of board.costs) choice.append(html("option", { value: name }, label));
  const out = figure(board.costs[0][3], board, choice);
  choice.addEventListener("change", () => {
    const [, , note, chart] = board.costs[choice.selectedIndex];
    for (const node of out.querySelectorAll("svg, figcaption")) node.remove();
    out.append(drawChart(chart, board), ...caption(note));
    relight();
  });
  return out;
}

function legendOf(board, shown) {
  const box = html("div", { class: "legend", role: "group", "aria-label": `Rows of ${board.name}` });
  board.series.forEach((s, i) => {
    if (!shown.has(i)) return;
    const sample = svg("svg", { viewBox: "0 0 26 11", "aria-hidden": "true", style: `--c: ${colour(i)}` });
    sample.append(svg("line", { class: "line", x1: 0, x2: 26, y1: 5.5, y2: 5.5, "stroke-dasharray": dash(i) || null }));
    const dot = marker(i, 13, 5.5, 4);
    if (!s.ranked) dot.setAttribute("class", "hollow");
    sample.append(dot);
    const kind = i < board.picked ? "picked" : "rest";
    box.append(html("button", { type: "button", class: kind, "data-series": i, "aria-pressed": "false", title: s.name }, sample, s.name));
  });
  return box;
}

// Picked rows keep their colour; the row that is pointed at is emphasised.
function drawBoard(section, board) {
  const place = section.querySelector(".plots");
  const pinned = new Set();
  const light = (series) => {
    const lit = new Set(series === null ? pinned : [series]);
    section.classList.toggle("dim", lit.size > 0);
    for (const node of section.querySelectorAll("[data-series]")) {
      node.classList.toggle("lit", lit.has(node.dataset.series));
      if (node.matches("button")) node.setAttribute("aria-pressed", String(pinned.has(node.dataset.series)));
    }
  };
  const relight = () => light(null);
  const charts = [board.learning, board.success, board.shifts].filter(Boolean).map((chart) => figure(chart, board));
  const plots = [costFigure(board, relight), ...charts].filter(Boolean);
  if (!plots.length) return;
  const shown = new Set([...plots.flatMap((p) => [...p.querySelectorAll("[data-series]")])].map((n) => +n.dataset.series));
  const legend = legendOf(board, shown);
  place.append(...plots);
  place.after(legend);
  section.addEventListener("pointerover", (event) => {
    const node = event.target.closest("[data-series]");
    light(node ? node.dataset.series : null);
  });
  section.addEventListener("pointerleave", relight);
  legend.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const { series } = button.dataset;
    if (!pinned.delete(series)) pinned.add(series);
    relight();
  });
}
