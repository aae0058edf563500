"use strict";
// The chart: one mark a row that the table's filters leave, on logarithmic axes; what was not measured stands on top.
// A few methods are in colour, with their names at the right; the others are grey, and named where they are pointed at.
{
  const CALM_MS = 100; // after the last keystroke: drawing thousands of marks takes longer than one
  const MARKS = 5000; // at most, that are drawn: a browser takes a fifth of a second for them
  const data = (globalThis.report = JSON.parse(document.getElementById("data").textContent));
  const SHAPES = {
    o: "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0Z",
    s: "M-3.6-3.6H3.6V3.6H-3.6Z",
    "^": "M0-4.6L4.4 3.6H-4.4Z",
    v: "M0 4.6L4.4-3.6H-4.4Z",
    D: "M0-4.8L4.8 0 0 4.8-4.8 0Z",
    P: "M-1.5-4.5h3v3h3v3h-3v3h-3v-3h-3v-3h3Z",
    "*": "M0-5.2L1.3-1.7 5-1.6 2.1.7 3.1 4.2 0 2.2-3.1 4.2-2.1.7-5-1.6-1.3-1.7Z",
  };
  const CROSS = "M-6-6L6 6M-6 6L6-6"; // over what was measured and is not right
  const MISSING = "M-3-3L3 3M-3 3L3-3";
  const LEFT = 58, RIGHT = 14, BOTTOM = 34, HEIGHT = 400, STRIP = 8; // pixels; a line of what was not measured
  const NAMES = 255, ROOMY = 900, LINE = 14, LONG = 31; // names at the right: pixels, least width, height; letters
  const WIDE = 44, HIGH = 20; // pixels that a label of an axis needs
  const STEPS = [[1, 2, 3, 4, 5, 6, 7, 8, 9], [1, 2, 5], [1]]; // ticks of a decade
  const DECADES = [0.045, 0.3, 1]; // least distance of two of these
  const FEW = 5; // values that are ticks themselves, where no two round numbers are on an axis
  const plot = document.getElementById("plot");
  const values = document.getElementById("values");
  const legend = document.getElementById("legend");
  const vertical = document.getElementById("vertical");
  const horizontal = document.getElementById("horizontal");
  const at = ({ values, places }, row) => values[places[row]];
  const statuses = data.columns.find((column) => column.heading === "status").texts;
  const isFine = (row) => /^(ok|approximate)/.test(at(statuses, row));
  const measured = data.columns.filter((column) => column.numbers);
  const upright = measured.filter((column) => !["P", "from ms", "to ms"].includes(column.heading));
  const flat = measured.filter((column) => ["P", "peak MiB"].includes(column.heading));
  let matching = [];
  let visible = new Map(); // row -> where its mark is, in pixels

  function drawn(tag, attributes = {}, text = "") {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.textContent = text;
    return made;
  }

  function told(row) {
    const told = data.columns.filter((column) => column.heading !== "message" && at(column.texts, row).trim());
    return told.map((column) => `${column.heading} ${at(column.texts, row).trim().slice(0, 80)}`).join(", ");
  }

  // The style sheet has what follows from a method's colour, in light and in dark.
  function tinted(node, look) {
    if (look.colour) node.style.setProperty("--colour", look.colour);
    node.classList.add(look.colour ? "method" : "other");
    return node;
  }

  function short(name) {
    return name.length > LONG ? name.slice(0, LONG - 1) + "…" : name;
  }

  const lines = drawn("g", { class: "lines" });
  const names = drawn("g", { class: "names" });
  const pointed = drawn("text", { class: "pointed-name" });
  const grid = drawn("g", { class: "grid" });
  const points = drawn("g");
  const marks = new Map(); // row -> its mark, made when it is first drawn
  plot.append(grid, lines, names, points, pointed);

  function markOf(row) {
    if (!marks.has(row)) {
      const mark = tinted(drawn("path", { tabindex: -1, role: "img", "data-row": row }), data.looks[data.look[row]]);
      mark.append(drawn("title", {}, told(row)));
      marks.set(row, mark);
    }
    return marks.get(row);
  }

  // The rows of every second series, or every third and so on, so that at most MARKS are drawn; of one long series likewise.
  function thinned(rows) {
    const step = Math.ceil(rows.length / MARKS);
    if (step <= 1) return rows;
    const places = new Map([...new Set(rows.map((row) => data.series[row]))].sort((a, b) => a - b).map((series, place) => [series, place]));
    const few = rows.filter((row) => places.get(data.series[row]) % step === 0);
    return few.length <= MARKS ? few : few.filter((_, place) => place % Math.ceil(few.length / MARKS) === 0);
  }

  function grouped(rows, keyOf) {
    const groups = new Map();
    for (const row of rows) {
      const key = keyOf(row);
      if (!groups.has(key)) groups.set(key, []);
      groups.get(key).push(row);
    }
    return groups;
  }

  // A logarithmic axis over numbers: the place of a number in pixels, and the ticks, as many as have room for labels.
  // Zero stands a decade below the rest.
  function axis(numbers, from, to, room) {
    const positive = [...new Set(numbers.filter((number) => number > 0))].sort((a, b) => a - b);
    const [least, most] = positive.length ? [positive[0], positive[positive.length - 1]].map(Math.log10) : [-1, 1];
    const zero = numbers.some((number) => number <= 0);
    const floor = least - 1;
    const margin = Math.max(0.05 * (most - (zero ? floor : least)), 0.08);
    const [low, high] = [(zero ? floor : least) - margin, most + margin];
    const decade = Math.abs(to - from) / (high - low);
    const place = (number) => from + ((number > 0 ? Math.log10(number) : floor) - low) / (high - low) * (to - from);

    const dense = DECADES.findIndex((distance) => distance * decade >= room);
    const every = dense < 0 ? Math.ceil(room / decade) : 1;
    let ticks = [];
    for (let power = Math.floor(least - margin); power <= high; power++) {
      if (power % every === 0) ticks.push(...(STEPS[dense] ?? [1]).map((step) => Number(`${step}e${power}`)));
    }
    ticks = ticks.filter((tick) => Math.log10(tick) >= least - margin && Math.log10(tick) <= high);
    if (ticks.length < 2 && positive.length) {
      const values = positive.length <= FEW ? positive : [positive[0], positive[positive.length - 1]];
      ticks = [];
      for (const value of values) {
        if (!ticks.length || Math.abs(place(value) - place(ticks[ticks.length - 1])) >= room) ticks.push(value);
      }
    }
    return { place, ticks: zero ? [0, ...ticks] : ticks };
  }

  function written(tick) {
    const short = Number(tick.toPrecision(3));
    return short === 0 || (short >= 1e-3 && short < 1e5) ? String(short) : short.toExponential();
  }

  // Thousands of marks are laid out anew where an attribute is set, even to what it was.
  function change(mark, name, value) {
    if (mark.getAttribute(name) !== value) mark.setAttribute(name, value);
  }

  // The names of methods, each beside its last mark: moved apart, and joined to it by a thin line.
  function named(looks, rows, from, top) {
    const last = looks.map((index) => rows.filter((row) => data.look[row] === index).map((row) => [...visible.get(row), index])
      .sort((a, b) => b[0] - a[0])[0]).filter(Boolean).sort((a, b) => a[1] - b[1]);
    const heights = last.map(([, y]) => y);
    heights.forEach((y, place) => (heights[place] = Math.max(y, place ? heights[place - 1] + LINE : top)));
    for (let place = heights.length - 1, most = HEIGHT - BOTTOM; place >= 0; place--, most -= LINE) {
      heights[place] = Math.min(heights[place], most);
    }
    return last.flatMap(([x, y, index], place) => {
      const attributes = { x: from + 22, y: heights[place] + 4 };
      return [
        drawn("path", { d: `M${x + 7} ${y}L${from + 18} ${heights[place]}` }),
        tinted(drawn("text", attributes, short(data.looks[index].label)), data.looks[index]),
      ];
    });
  }

  function draw() {
    const [x, y] = [measured[horizontal.value], measured[vertical.value]];
    const known = matching.filter((row) => x.numbers[row] !== null);
    const placed = thinned(known);
    const there = placed.filter((row) => y.numbers[row] !== null);
    const without = placed.filter((row) => y.numbers[row] === null && !["ok", "approximate"].includes(at(statuses, row)));
    const absent = grouped(without, (row) => x.numbers[row]);
    const strips = Math.max(0, ...[...absent.values()].map((rows) => rows.length));
    const top = 12 + STRIP * Math.min(strips, 12);
    const width = Math.max(plot.parentNode.clientWidth, 280);
    plot.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    const right = width - (width >= ROOMY ? NAMES : RIGHT);
    const across = axis(placed.map((row) => x.numbers[row]), LEFT, right, WIDE);
    const up = axis(there.map((row) => y.numbers[row]), HEIGHT - BOTTOM, top, HIGH);

    grid.replaceChildren(
      ...up.ticks.flatMap((tick) => [
        drawn("path", { d: `M${LEFT} ${up.place(tick)}H${right}` }),
        drawn("text", { x: LEFT - 8, y: up.place(tick) + 4, "text-anchor": "end" }, written(tick)),
      ]),
      ...across.ticks.flatMap((tick) => [
        drawn("path", { d: `M${across.place(tick)} ${top}V${HEIGHT - BOTTOM}` }),
        drawn("text", { x: across.place(tick), y: HEIGHT - BOTTOM + 17, "text-anchor": "middle" }, written(tick)),
      ]),
    );

    visible = new Map();
    for (const row of there) visible.set(row, [across.place(x.numbers[row]), up.place(y.numbers[row])]);
    for (const [at, rows] of absent) {
      rows.forEach((row, index) => visible.set(row, [across.place(at), top - 8 - STRIP * (index % 12)]));
    }
    if (marks.size > 2 * MARKS) marks.clear();
    for (const row of visible.keys()) markOf(row);
    const inOrder = [...marks.entries()].sort(([a], [b]) => a - b);
    if (inOrder.length !== points.childElementCount || inOrder.some(([, mark], place) => points.children[place] !== mark)) {
      points.replaceChildren(...inOrder.map(([, mark]) => mark));
    }
    inOrder.forEach(([row, mark]) => {
      const where = visible.get(row);
      mark.toggleAttribute("hidden", !where);
      if (!where) return;
      const missing = y.numbers[row] === null;
      const suspect = !isFine(row);
      const shape = SHAPES[data.looks[data.look[row]].marker] + (suspect ? CROSS : "");
      change(mark, "transform", `translate(${where.join()})`);
      change(mark, "d", missing ? MISSING : shape);
      mark.classList.toggle("missing", missing);
      mark.classList.toggle("suspect", suspect && !missing);
    });
    for (const mark of points.querySelectorAll("[tabindex='0']")) mark.setAttribute("tabindex", -1);
    const first = points.querySelector(":scope > :not([hidden])");
    if (first) first.setAttribute("tabindex", 0);

    const series = grouped(there, (row) => data.series[row]);
    const paths = [...series.values()].filter((rows) => rows.length > 1).map((rows) => {
      const path = rows.sort((a, b) => x.numbers[a] - x.numbers[b]).map((row) => visible.get(row).join(" ")).join("L");
      const look = data.looks[data.look[rows[0]]];
      const attributes = { d: `M${path}`, "stroke-dasharray": look.dashes, "data-series": data.series[rows[0]] };
      return tinted(drawn("path", attributes), look);
    });
    lines.replaceChildren(...paths.filter((path) => path.matches(".other")), ...paths.filter((path) => path.matches(".method")));
    for (const mark of points.querySelectorAll(".chosen")) mark.classList.remove("chosen");
    pointed.textContent = "";

    const used = [...new Set([...visible.keys()].map((row) => data.look[row]))].sort((a, b) => a - b);
    const inColour = used.filter((index) => data.looks[index].colour);
    names.replaceChildren(...(width >= ROOMY ? named(inColour, there, right, top) : []));
    legend.replaceChildren(...(width >= ROOMY ? [] : inColour).map((index) => {
      const { label, marker } = data.looks[index];
      const swatch = drawn("svg", { viewBox: "-6 -6 12 12", "aria-hidden": "true" });
      swatch.append(tinted(drawn("path", { d: SHAPES[marker], fill: "currentColor" }), data.looks[index]));
      const item = document.createElement("li");
      item.append(swatch, label);
      return item;
    }));
    const grey = used.length - inColour.length;
    const allRight = there.every(isFine);
    document.getElementById("axes").textContent =
      `${y.heading} against ${x.heading}, both logarithmic.` +
      (placed.length < known.length ? ` Drawn are ${placed.length} of ${known.length} rows; filters bring the others.` : "") +
      (grey ? ` The other ${grey} methods are grey; point at one for its name.` : "") +
      (allRight ? "" : " A mark with a cross was measured and is not right.") +
      (absent.size ? " A small cross on top was not measured." : "");
  }

  function tell(row) {
    values.textContent = told(row);
    for (const mark of points.querySelectorAll(".chosen")) mark.classList.remove("chosen");
    marks.get(row).classList.add("chosen");
    for (const path of lines.children) path.classList.toggle("pointed", Number(path.dataset.series) === data.series[row]);
    const [x, y] = visible.get(row);
    const leftwards = x > plot.parentNode.clientWidth / 2;
    pointed.textContent = short(data.looks[data.look[row]].label);
    for (const [name, value] of Object.entries({ x: x + (leftwards ? -10 : 10), y: y - 8, "text-anchor": leftwards ? "end" : "start" })) {
      change(pointed, name, String(value));
    }
  }

  // The mark nearest to the pointer, within reach of it: they are small, and close to each other.
  function point(event) {
    const { left, top } = plot.getBoundingClientRect();
    let [found, least] = [null, 24 ** 2];
    for (const [row, [x, y]] of visible) {
      const distance = (x - event.clientX + left) ** 2 + (y - event.clientY + top) ** 2;
      if (distance < least) [found, least] = [row, distance];
    }
    if (found !== null) tell(found);
  }

  function step(event) {
    const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    const shown = [...points.querySelectorAll(":scope > :not([hidden])")];
    const next = shown[(shown.indexOf(event.target) + by + shown.length) % shown.length];
    event.target.setAttribute("tabindex", -1);
    next.setAttribute("tabindex", 0);
    next.focus();
  }

  const has = (column) => column.numbers.some((number, row) => number !== null && flat[0].numbers[row] !== null);
  if (flat.length && upright.some(has)) {
    for (const [select, choices] of [[vertical, upright], [horizontal, flat]]) {
      for (const column of choices) select.append(new Option(column.heading, measured.indexOf(column)));
      select.addEventListener("change", draw);
    }
    document.getElementById("chart").hidden = false;
    for (const moved of ["pointermove", "pointerdown"]) plot.addEventListener(moved, point); // a tap only comes down
    plot.addEventListener("focusin", (event) => tell(Number(event.target.dataset.row)));
    plot.addEventListener("keydown", step);
    let width = 0;
    let due = 0;
    document.addEventListener("rows", (event) => {
      matching = event.detail;
      clearTimeout(due);
      due = setTimeout(draw, CALM_MS);
    });
    new ResizeObserver(([{ contentRect }]) => {
      if (contentRect.width !== width) draw();
      width = contentRect.width;
    }).observe(plot.parentNode);
  }
}
