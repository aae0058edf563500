"use strict";
// The table: rows are made once each, when first shown; sorting and filtering only choose which are in the document.
// They look at each different text of a column once: `values` holds these, and `places` which of them each row has.
{
  const data = globalThis.report;
  const { columns, details, common } = data;
  const STEP = 100; // rows shown at once, and more on request: layout of thousands takes longer than a keystroke
  const PRINTED = 5000; // rows on paper; table.csv has all
  const SHORT = 120; // characters of a message in its cell; the whole is in the row's details
  const WHERE = ["torch", "cpu", "gpu"]; // what a search finds besides the columns
  const body = document.querySelector("#rows tbody");
  const search = document.getElementById("search");
  const selects = [...document.querySelectorAll("#filters select")];
  const more = document.getElementById("more");
  const collator = new Intl.Collator(undefined, { numeric: true });
  const named = (heading) => columns.find((column) => column.heading === heading);
  const every = Array.from({ length: data.rows }, (_, row) => row);
  const shared = [...Object.values(data.same), ...WHERE.map((name) => common[name] ?? "")].join("\n").toLowerCase();
  const own = [...columns.map((column) => column.texts), ...WHERE.map((name) => details[name]).filter(Boolean)];
  const at = ({ values, places }, row) => values[places[row]];
  const made = new Map(); // row -> its <tr>
  const unfolded = new Map(); // row -> the <tr> of its details
  let order = every;
  let matching = every;
  let limit = STEP;

  function element(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  }

  function entries(pairs) {
    return pairs.map(([name, text]) => element("div", {}, element("dt", {}, name), element("dd", {}, text)));
  }

  // A name may be broken behind each underscore.
  function breakable(name) {
    return name.split("_").flatMap((part, index) => (index ? ["_", element("wbr"), part] : [part]));
  }

  function cell(column, row) {
    const made = filled(column, row);
    made.classList.toggle("extra", !column.main);
    return made;
  }

  function filled(column, row) {
    const text = at(column.texts, row);
    if (column.heading === "message") {
      return element("td", { class: "message" }, text.length > SHORT ? text.slice(0, SHORT - 1) + "…" : text);
    }
    if (column.heading === "method") return element("th", { class: "name", scope: "row" }, ...breakable(text));
    if (column.heading === "problem") return element("td", { class: "name" }, ...breakable(text));
    const attributes = column.numbers ? { class: "number" } : {};
    if (column.heading === "status") attributes["data-status"] = text;
    return element("td", attributes, text);
  }

  function rowOf(row) {
    if (!made.has(row)) {
      const label = `Details of ${at(named("method").texts, row)} on ${at(named("problem").texts, row)}`;
      const button = element("button", { type: "button", class: "fold", "aria-expanded": "false", "aria-label": label });
      button.addEventListener("click", () => {
        if (unfolded.has(row)) fold(row);
        else unfold(row);
        show();
        button.focus();
      });
      made.set(row, element("tr", {}, element("td", {}, button), ...columns.map((column) => cell(column, row))));
    }
    return made.get(row);
  }

  function unfold(row, shared = Object.entries(common)) {
    const own = Object.entries(details).map(([name, texts]) => [name, at(texts, row)]);
    const known = own.filter(([, text]) => text !== null);
    const inside = element("td", { colspan: columns.length + 1 });
    const message = at(named("message").texts, row);
    if (message) inside.append(element("p", {}, message));
    inside.append(element("dl", {}, ...entries(known)));
    if (shared.length) inside.append(element("dl", { class: "common" }, ...entries(shared)));
    unfolded.set(row, element("tr", { class: "details" }, inside));
    rowOf(row).querySelector(".fold").setAttribute("aria-expanded", "true");
  }

  function fold(row) {
    unfolded.delete(row);
    rowOf(row).querySelector(".fold").setAttribute("aria-expanded", "false");
  }

  function show() {
    const shown = matching.slice(0, limit);
    body.replaceChildren(...shown.flatMap((row) => (unfolded.has(row) ? [rowOf(row), unfolded.get(row)] : [rowOf(row)])));
    document.getElementById("count").textContent = `${matching.length} of ${data.rows} rows`;
    more.textContent = `Show ${Math.min(STEP, matching.length - shown.length)} more of ${matching.length - shown.length}`;
    more.hidden = shown.length === matching.length;
  }

  // Which of a column's texts a condition holds for; null where for none.
  function having({ values, places }, condition) {
    const has = values.map(condition);
    return has.includes(true) ? { places, has } : null;
  }

  function filter() {
    const words = search.value.toLowerCase().split(/\s+/).filter((word) => !shared.includes(word));
    const chosen = selects.filter((select) => select.value !== "");
    const conditions = [
      ...words.map((word) => own.map((texts) => having(texts, (text) => text !== null && text.toLowerCase().includes(word)))),
      ...chosen.map((select) => [having(named(select.dataset.column).texts, (text) => text === select.value)]),
    ].map((columns) => columns.filter(Boolean));
    matching = order.filter((row) => conditions.every((columns) => columns.some(({ places, has }) => has[places[row]])));
    limit = STEP;
    show();
    document.dispatchEvent(new CustomEvent("rows", { detail: matching }));
  }

  function compare({ numbers, texts }, sign) {
    if (!numbers) {
      const { values, places } = texts;
      const sorted = [...values.keys()].sort((a, b) => collator.compare(values[a], values[b]));
      const ranks = [];
      sorted.forEach((place, rank) => {
        const equal = rank > 0 && collator.compare(values[sorted[rank - 1]], values[place]) === 0;
        ranks[place] = equal ? ranks[sorted[rank - 1]] : rank;
      });
      return (a, b) => sign * (ranks[places[a]] - ranks[places[b]]) || a - b;
    }
    // What was not measured comes last in either direction.
    return (a, b) => (numbers[a] === null) - (numbers[b] === null) || sign * (numbers[a] - numbers[b]) || a - b;
  }

  function sort(column, header) {
    const ascending = header.getAttribute("aria-sort") !== "ascending";
    for (const other of header.parentNode.children) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    order = [...every].sort(compare(column, ascending ? 1 : -1));
    filter();
  }

  const head = document.querySelector("#rows thead tr");
  head.append(element("td"));
  for (const column of columns) {
    const button = element("button", { type: "button" }, column.heading);
    const header = element("th", { scope: "col" }, button);
    header.className = column.numbers ? "number" : { method: "name", message: "message" }[column.heading] ?? "";
    header.classList.toggle("extra", !column.main);
    button.addEventListener("click", () => sort(column, header));
    head.append(header);
  }
  for (const select of selects) {
    const values = [...named(select.dataset.column).texts.values].sort(collator.compare);
    select.append(element("option", { value: "" }, "all"), ...values.map((value) => element("option", { value }, value)));
    select.addEventListener("change", filter);
  }
  search.addEventListener("input", filter);
  document.getElementById("filters").addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", () => {
    limit += STEP;
    show();
  });

  const columnsButton = document.getElementById("every");
  columnsButton.hidden = columns.every((column) => column.main);
  columnsButton.addEventListener("click", () => {
    const all = document.querySelector("#rows table").classList.toggle("every");
    columnsButton.setAttribute("aria-pressed", all);
    columnsButton.textContent = all ? "Fewer columns" : "More columns";
  });

  // Paper cannot be unfolded: the matching rows are printed, with their details; afterwards all is as it was.
  let undo = null;
  addEventListener("beforeprint", () => {
    if (undo) return;
    const closed = [...document.querySelectorAll("details:not([open])")];
    const folded = matching.slice(0, PRINTED).filter((row) => !unfolded.has(row));
    const [before, same] = [limit, document.getElementById("same")];
    const said = same.textContent;
    if (matching.length > PRINTED) same.textContent += ` Here are the first ${PRINTED} of ${matching.length} rows; table.csv has all.`;
    for (const details of closed) details.open = true;
    for (const row of folded) unfold(row, []);
    limit = PRINTED;
    show();
    undo = () => {
      same.textContent = said;
      for (const details of closed) details.open = false;
      folded.forEach(fold);
      limit = before;
      show();
    };
  });
  addEventListener("afterprint", () => {
    undo?.();
    undo = null;
  });

  const same = Object.entries(data.same).map(([heading, text]) => `${heading} ${text}`);
  document.getElementById("same").textContent = same.length ? `In every row: ${same.join(", ")}.` : "";
  document.getElementById("common").append(...entries(Object.entries(common)));
  for (const id of ["filters", "rows"]) document.getElementById(id).hidden = false;
  filter();
}
