// The frame of a chart: size, readout by pointer and keys, legend, table, what is chosen.
const KINDS = { lines: drawLines, points: drawPoints, parallel: drawParallel };
const TRAITS = ["kind", "label", "height", "series", "x_title", "y_title", "x_kind", "log_y", "smoothing", "bands", "y_range", "points", "axes", "lines", "chosen", "colour_title", "tools"];
const MOST_ROWS = 12; // of a readout

// Colour and dash of each line, which it keeps while others come and go; a group shares its colour
function makeSlots() {
  const colours = new Map(), dashes = new Map(), groups = new Map();
  return { of(id, group) {
    const owner = group || id;
    if (!colours.has(owner)) colours.set(owner, colours.size);
    if (!dashes.has(id)) {
      const members = groups.get(owner) ?? 0;
      groups.set(owner, members + 1);
      dashes.set(id, group ? members : colours.get(owner));
    }
    return { colour: colours.get(owner), dash: dashes.get(id) };
  } };
}

function swatch(slot, line = true) {
  const made = shape("svg", { width: 28, height: 12, viewBox: "0 0 28 12", "aria-hidden": "true" });
  if (line) made.append(shape("path", { d: "M1 6H27", class: `curve colour-${(slot.colour % 8) + 1}`, "stroke-dasharray": DASHES[slot.dash % DASHES.length] }));
  const end = marker(slot.dash, 14, 6);
  end.setAttribute("class", `marker colour-${(slot.colour % 8) + 1}`);
  made.append(end);
  return made;
}

function fillTable(place, { head, rows, note }) {
  const line = (cells, name) => node("tr", {}, ...cells.map((each, at) => node(at && name === "th" ? "th" : at ? "td" : "th", { scope: name === "th" ? "col" : at ? null : "row", class: at ? "number" : null }, each)));
  place.replaceChildren(node("table", {}, node("thead", {}, line(head, "th")), node("tbody", {}, ...rows.map((each) => line(each, "td")))), ...(note ? [node("p", { class: "muted" }, note)] : []));
}

// Smoothing and a logarithmic axis, which need no kernel: one that is busy with a cell would not answer
function makeTools(model) {
  const set = (name, value) => { model.set(name, value); model.save_changes(); };
  const range = node("input", { type: "range", min: "0", max: "0.99", step: "0.01" }), said = node("output"), log = node("input", { type: "checkbox" });
  const smoothing = node("label", {}, "Smoothing ", range, " ", said), logarithmic = node("label", {}, log, " log axis"), bar = node("div", { class: "bar tools" }, smoothing, logarithmic);
  range.addEventListener("input", () => set("smoothing", Number(range.value)));
  log.addEventListener("change", () => set("log_y", log.checked));
  bar.follow = () => {
    bar.hidden = !model.get("tools") || model.get("kind") === "parallel";
    smoothing.hidden = model.get("kind") !== "lines";
    if (Number(range.value) !== model.get("smoothing")) range.value = model.get("smoothing");
    said.textContent = model.get("smoothing").toFixed(2);
    log.checked = model.get("log_y");
  };
  return bar;
}

function render({ model, el }) {
  const id = Math.random().toString(36).slice(2), get = (name) => model.get(name);
  el.classList.add("mlops", "mlops-chart");
  const summary = node("p", { class: "unseen", id: `mlops-chart-${id}` }), readout = node("div", { class: "readout", hidden: "" });
  const plot = node("div", { class: "plot", "aria-describedby": summary.id });
  const legend = node("ul", { class: "legend" }), controls = node("div", { class: "bar brushes" });
  const tableButton = node("button", { type: "button", "aria-expanded": "false" }, "Show as table"), region = node("div", { class: "scroll", role: "region", tabindex: "0", hidden: "" });
  const frame = node("div", { class: "frame" }, plot, readout);
  const tools = makeTools(model);
  el.append(summary, tools, frame, legend, controls, node("div", { class: "bar" }, tableButton), region);
  const view = { id, get, slots: makeSlots(), brushes: new Map(), controls, width: 0, height: 0, svg: null };
  let drawn = null, cursor = null, waiting = 0, drag = null, dropped = false; // cursor: the key of what is read out

  view.choose = (ids) => { model.set("chosen", ids); model.save_changes(); };
  view.redraw = () => { cancelAnimationFrame(waiting); waiting = requestAnimationFrame(draw); };
  const toggle = (one) => view.choose(get("chosen").includes(one) ? get("chosen").filter((each) => each !== one) : [...get("chosen"), one]);

  function readOut(index) {
    plot.querySelector(".cursor")?.remove();
    readout.hidden = index < 0;
    if (index < 0) { cursor = null; if (drawn.count) plot.setAttribute("aria-valuetext", summary.textContent); else plot.removeAttribute("aria-valuetext"); return; }
    const found = drawn.read(index), layer = shape("g", { class: "cursor" });
    cursor = found.key;
    if (found.way) layer.append(shape("path", { d: found.marks.map(([x, y], at) => `${at ? "L" : "M"}${x} ${y}`).join(""), class: "read" }));
    else layer.append(shape("line", { x1: found.x, x2: found.x, y1: found.area.top, y2: found.area.bottom, class: "tick" }));
    for (const [x, y, slot] of found.marks) layer.append(marker(slot.dash, x, y, 1.4));
    view.svg.append(layer);
    const rows = found.rows.slice(0, MOST_ROWS).map((each) => node("li", {}, ...(each.slot ? [swatch(each.slot, get("kind") === "lines")] : []), node("span", {}, each.name), node("b", {}, each.text)));
    const rest = found.rows.length - MOST_ROWS;
    readout.replaceChildren(node("strong", {}, found.title), node("ul", {}, ...rows), ...(rest > 0 ? [node("span", { class: "muted" }, `and ${rest} more`)] : []));
    readout.classList.toggle("below", view.width < 480);
    const left = found.x - plot.scrollLeft, half = left > view.width / 2;
    readout.style.left = half ? "auto" : `${left + 12}px`;
    readout.style.right = half ? `${view.width - left + 12}px` : "auto";
    plot.setAttribute("aria-valuenow", index);
    plot.setAttribute("aria-valuetext", `${found.title}: ${found.rows.map((each) => `${each.name} ${each.text}`).join(", ")}`);
  }

  function legendItem(each) {
    const content = [swatch(each.slot, Boolean(each.id)), node("span", {}, each.name), ...(each.text ? [node("b", {}, each.text)] : []), ...(each.live ? [node("span", { class: "word" }, "live")] : [])];
    if (!each.id) return node("li", {}, ...content);
    const button = node("button", { type: "button", "aria-pressed": String(get("chosen").includes(each.id)), "data-id": each.id }, ...content);
    button.addEventListener("click", () => toggle(each.id));
    return node("li", {}, button);
  }

  function draw() {
    view.width = Math.floor(frame.clientWidth);
    if (view.width < 40) return; // not shown yet
    view.height = get("height");
    tools.follow();
    const active = el.contains(document.activeElement) ? document.activeElement : null, held = active?.dataset.id ?? active?.dataset.axis, box = active?.parentElement?.closest(".legend, .brushes");
    view.svg = shape("svg", { width: view.width, height: view.height, "aria-hidden": "true" });
    controls.replaceChildren();
    drawn = KINDS[get("kind")](view);
    plot.replaceChildren(view.svg);
    legend.replaceChildren(...drawn.legend.map(legendItem));
    legend.hidden = !drawn.legend.length;
    tableButton.hidden = !drawn.count;
    summary.textContent = drawn.count ? drawn.summary : "nothing to draw yet";
    if (!drawn.count) plot.append(node("p", { class: "muted nothing" }, "Nothing to draw yet"));
    const role = drawn.count ? { role: "slider", tabindex: "0", "aria-valuemin": "0", "aria-valuemax": String(drawn.count - 1), "aria-valuenow": "0" } : { role: "img" };
    for (const name of ["role", "tabindex", "aria-valuemin", "aria-valuemax", "aria-valuenow"]) if (role[name]) plot.setAttribute(name, role[name]); else plot.removeAttribute(name);
    plot.setAttribute("aria-label", `${get("label") || "Chart"}${drawn.count ? ". Arrow keys read the values" : ""}`);
    region.setAttribute("aria-label", `${get("label") || "Chart"} as a table`);
    if (!region.hidden) fillTable(region, drawn.table());
    readOut(cursor !== null && drawn.count ? drawn.find(cursor) : -1);
    if (held !== undefined && box) [...box.querySelectorAll("[data-id], [data-axis]")].find((each) => (each.dataset.id ?? each.dataset.axis) === held)?.focus();
  }

  const at = (event) => { const box = view.svg.getBoundingClientRect(); return drawn.count ? drawn.nearest(event.clientX - box.left, event.clientY - box.top) : -1; };
  const down = (event) => event.clientY - view.svg.getBoundingClientRect().top;
  plot.addEventListener("pointerdown", (event) => {
    dropped = false;
    if (!event.target.dataset.axis) return;
    drag = { name: event.target.dataset.axis, from: down(event) };
    plot.setPointerCapture(event.pointerId); // of what stays, should the chart be drawn anew meanwhile
    readOut(-1);
  });
  plot.addEventListener("pointermove", (event) => {
    if (drag) drawn.drag?.(drag.name, drag.from, down(event), false);
    else if (drawn) readOut(at(event));
  });
  plot.addEventListener("pointerup", (event) => {
    if (drag) drawn.drag?.(drag.name, drag.from, down(event), true);
    dropped = Boolean(drag);
    drag = null;
  });
  plot.addEventListener("pointercancel", () => { drag = null; });
  plot.addEventListener("pointerleave", () => drawn && readOut(-1));
  plot.addEventListener("click", (event) => {
    const index = drawn && !dropped ? at(event) : -1, found = index >= 0 && drawn.read(index);
    if (found && found.id) toggle(found.id);
  });
  plot.addEventListener("keydown", (event) => {
    if (!drawn?.count) return;
    const now = cursor === null ? -1 : drawn.find(cursor), last = drawn.count - 1, page = Math.max(1, Math.round(drawn.count / 10));
    const next = { ArrowRight: now + 1, ArrowUp: now + 1, ArrowLeft: now < 0 ? last : now - 1, ArrowDown: now < 0 ? last : now - 1, PageUp: now + page, PageDown: now - page, Home: 0, End: last, Escape: null }[event.key];
    if (event.key === "Enter" && now >= 0 && drawn.read(now).id) toggle(drawn.read(now).id);
    else if (next === undefined) return;
    else readOut(next === null ? -1 : Math.min(last, Math.max(0, next)));
    event.preventDefault();
    event.stopPropagation();
  });
  tableButton.addEventListener("click", () => {
    region.hidden = !region.hidden;
    tableButton.setAttribute("aria-expanded", String(!region.hidden));
    tableButton.textContent = region.hidden ? "Show as table" : "Hide the table";
    if (!region.hidden && drawn) fillTable(region, drawn.table());
  });
  const watcher = new ResizeObserver(() => { if (Math.floor(frame.clientWidth) !== view.width) view.redraw(); });
  watcher.observe(frame);
  for (const name of TRAITS) model.on(`change:${name}`, view.redraw);
  view.redraw();
  return () => {
    cancelAnimationFrame(waiting);
    watcher.disconnect();
    for (const name of TRAITS) model.off(`change:${name}`, view.redraw);
  };
}

export default { render };
