"use strict";
(() => {
  const data = document.getElementById("modules");
  const modules = data ? JSON.parse(data.textContent) : {};
  const cells = [...document.querySelectorAll("button.cell")];
  const detail = document.getElementById("detail");
  const rows = [...document.querySelectorAll("#keys tbody tr")];

  const element = (tag, text, ...children) => {
    const made = document.createElement(tag);
    if (text) made.textContent = text;
    made.append(...children);
    return made;
  };

  const namesOf = (names) => {
    const list = element("dl");
    list.className = "names";
    for (const [label, name] of [["original", names.original], ["torchmultimodal", names.torchmultimodal],
                                 ["transformers", names.transformers], ["renamed by", names.rules]])
      if (name) list.append(element("dt", label), element("dd", name));
    return list;
  };

  const measuredIn = (measured) => {
    const titles = ["error", "noise (the original in float32)", "tolerance", "weakest planted fault"];
    const shown = titles.map((_, n) => n).filter((n) => measured.some((row) => row[4 + n]));
    const head = element("tr");
    for (const title of ["claim", "measured", ...shown.map((n) => titles[n])]) head.append(element("th", title));
    const body = element("tbody");
    for (const [, claim, what, level, ...numbers] of measured) {
      const swatch = element("span");
      swatch.className = `cell swatch ${level}`;
      const cells = shown.map((n) => element("td", numbers[n]));
      cells[0].prepend(swatch);
      body.append(element("tr", "", element("td", claim), element("td", what), ...cells));
    }
    const table = element("div", "", element("table", "", element("thead", "", head), body));
    table.className = "wide-table";
    return table;
  };

  const hide = () => {
    const chosen = cells.find((cell) => cell.getAttribute("aria-pressed") === "true");
    detail.hidden = true;
    for (const cell of cells) cell.setAttribute("aria-pressed", false);
    if (chosen) chosen.focus({ preventScroll: true });
  };
  addEventListener("keydown", (event) => {
    if (event.key === "Escape" && detail && !detail.hidden) hide();
  });

  const show = (path, scroll) => {
    const known = modules[path];
    if (!known || !detail) return;
    for (const cell of cells) {
      const chosen = cell.dataset.module === path;
      cell.setAttribute("aria-pressed", chosen);
      if (chosen && scroll) cell.scrollIntoView({ block: "center" });
      if (chosen) moveTo(cell, scroll);
    }
    const close = element("button", "Close");
    close.className = "close";
    close.addEventListener("click", hide);
    detail.replaceChildren(close, element("h3", known.said), namesOf(known.names));
    for (const row of rows.filter((row) => row.dataset.of === path && row.dataset.state === "wrong"))
      detail.append(element("p", row.querySelector("small")?.textContent));
    detail.append(known.measured.length ? measuredIn(known.measured) : element("p", "Nothing of its computation was measured by itself."));
    detail.hidden = false;
  };

  // Colours every cell by its largest error in one claim, in all, or in what shows whose fault it is.
  const order = ["exact", "below", "near", "over", "far"];
  const colour = document.getElementById("colour");
  const counts = ([showsFault, claim]) => !colour.value || (colour.value === "fault" ? showsFault : claim === colour.value);
  if (colour)
    colour.addEventListener("change", () => {
      for (const cell of cells) {
        const known = modules[cell.dataset.module];
        const levels = known.measured.filter(counts).map((row) => order.indexOf(row[3]));
        const others = [...cell.classList].filter((name) => name === "culprit" || name === "first");
        cell.className = ["cell", levels.length ? order[Math.max(...levels)] : known.state, ...others].join(" ");
      }
    });

  // One cell of a panel is reached by Tab, the others by arrow keys.
  const moveTo = (cell, focus) => {
    for (const other of cells)
      if (other.closest(".panel") === cell.closest(".panel")) other.tabIndex = other === cell ? 0 : -1;
    if (focus) cell.focus({ preventScroll: true });
  };
  for (const panel of document.querySelectorAll(".panel")) {
    const first = panel.querySelector("button.first, button.culprit") || panel.querySelector("button.cell");
    if (first) first.tabIndex = 0;
    panel.addEventListener("keydown", (event) => {
      const cell = event.target.closest("button.cell");
      const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 0, ArrowUp: 0 }[event.key];
      if (!cell || step === undefined) return;
      const line = cell.closest(".line"), inLine = [...line.querySelectorAll("button.cell")];
      let next = inLine[inLine.indexOf(cell) + step];
      if (!step) {
        const lines = [...panel.querySelectorAll(".line:not(.head)")];
        const other = lines[lines.indexOf(line) + (event.key === "ArrowDown" ? 1 : -1)];
        const there = other ? [...other.querySelectorAll("button.cell")] : [];
        next = there[Math.min(inLine.indexOf(cell), there.length - 1)];
      }
      event.preventDefault();
      if (next) moveTo(next, true);
    });
  }
  for (const button of document.querySelectorAll("[data-module], [data-show]"))
    button.addEventListener("click", () => show(button.dataset.module || button.dataset.show, "show" in button.dataset));

  const search = document.getElementById("search"), filter = document.getElementById("filter"), count = document.getElementById("count");
  const more = document.getElementById("more");
  let most = 40; // rows that are shown before somebody asks for more
  const narrow = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let found = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      const fits = words.every((word) => text.includes(word)) && (!filter.value || row.dataset.state === filter.value);
      found += fits;
      row.hidden = !fits || found > most;
    }
    count.textContent = found === rows.length ? `${found} keys` : `${found} of ${rows.length} keys`;
    more.hidden = found <= most;
    more.textContent = `Show all ${found}`;
  };
  const showAll = () => {
    most = Infinity;
    narrow();
  };
  if (search) {
    search.addEventListener("input", narrow);
    filter.addEventListener("change", narrow);
    more.addEventListener("click", showAll);
    narrow();
  }

  const opened = [];
  addEventListener("beforeprint", () => {
    if (search) showAll();
    for (const closed of document.querySelectorAll("details:not([open])")) opened.push(closed), (closed.open = true);
  });
  addEventListener("afterprint", () => {
    for (const details of opened.splice(0)) details.open = false;
  });
})();
