// A table whose rows stay with the kernel: what is seen is a page, and each wish is a question to it.
const MARKS = { finished: ["✓", "good"], met: ["✓", "good"], failed: ["✗", "bad"], killed: ["✗", "bad"], missed: ["✗", "bad"],
  running: ["▶", "open"], queued: ["…", "open"], cancelled: ["–", "open"], pruned: ["–", "open"] };
const RIGHT = ["number", "duration"];

function make(name, words = {}, ...children) {
  const found = document.createElement(name);
  for (const [key, value] of Object.entries(words)) {
    if (key.startsWith("on")) found.addEventListener(key.slice(2), value);
    else if (key === "text") found.textContent = value;
    else if (value === true) found.setAttribute(key, "");
    else if (value !== false && value != null) found.setAttribute(key, value);
  }
  found.append(...children);
  return found;
}

export function sayNumber(value) {
  if (Number.isInteger(value)) return Math.abs(value) < 1e15 ? value.toLocaleString("en") : String(value);
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-4) return value.toExponential(3).replace(/\.?0+e/, "e");
  return String(Number(value.toPrecision(Math.max(4, Math.trunc(size).toString().length))));
}

export function sayDuration(seconds) {
  if (seconds < 59.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const first = units.findIndex(([, size]) => whole >= size);
  const [[large, size], [small, part]] = [units[first], units[first + 1]];
  const rest = Math.floor((whole % size) / part);
  return `${Math.floor(whole / size)} ${large}` + (rest ? ` ${rest} ${small}` : "");
}

function sayTime(seconds) {
  const date = new Date(seconds * 1000);
  const two = (number) => String(number).padStart(2, "0");
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ${two(date.getHours())}:${two(date.getMinutes())}`;
}

// The places of the longest part that is in order already; whoever stands there need not be moved
function inOrder(numbers) {
  const ends = [], before = []; // ends: of the best part of each length, the place of its last number
  numbers.forEach((number, place) => {
    let low = 0, high = ends.length;
    while (low < high) { const middle = (low + high) >> 1; if (numbers[ends[middle]] < number) low = middle + 1; else high = middle; }
    before[place] = low ? ends[low - 1] : -1;
    ends[low] = place;
  });
  const kept = new Set();
  for (let place = ends.length ? ends[ends.length - 1] : -1; place >= 0; place = before[place]) kept.add(place);
  return kept;
}

// The children of a place become one for each key: those that are there stay the same elements, and as few as possible are moved,
// so that the focus, a pressed button and a selected text are not lost under the hand of a person
function keep(parent, keys, build, update) {
  const old = new Map([...parent.children].map((each, at) => [each.dataset.key, [each, at]])), wanted = new Set(keys);
  for (const [key, [each]] of old) if (!wanted.has(key)) { each.remove(); old.delete(key); }
  const known = keys.filter((key) => old.has(key)), stays = inOrder(known.map((key) => old.get(key)[1]));
  const fixed = new Set(known.filter((_, place) => stays.has(place)));
  const focused = parent.contains(document.activeElement) ? document.activeElement : null;
  let next = parent.firstElementChild;
  keys.forEach((key, at) => {
    const found = old.has(key) ? old.get(key)[0] : build(at);
    found.dataset.key = key;
    update(found, at);
    if (fixed.has(key)) { next = found.nextElementSibling; return; }
    parent.insertBefore(found, next);
  });
  if (focused && focused !== document.activeElement && parent.contains(focused)) focused.focus({ preventScroll: true });
}

// An element becomes like another one, where it is not yet
function match(old, fresh) {
  for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name) && name !== "data-key") old.removeAttribute(name);
  for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  const same = old.childNodes.length === fresh.childNodes.length
    && [...old.childNodes].every((each, at) => each.isEqualNode(fresh.childNodes[at]));
  if (!same) old.replaceChildren(...fresh.childNodes);
}

function content(kind, value) {
  if (value == null || value === "") return [];
  if (kind === "status") {
    const [mark, good] = MARKS[value] || ["", "open"];
    return [make("span", { class: `status ${good}` }, make("span", { "aria-hidden": "true", text: mark }), ` ${value}`)];
  }
  if (kind === "tags") return value.map((tag) => make("span", { class: "tag", text: tag }));
  if (kind === "time" && typeof value === "number") {
    return [make("time", { datetime: new Date(value * 1000).toISOString(), text: sayTime(value) })];
  }
  if (typeof value !== "number") return [String(value)];
  return [kind === "duration" ? sayDuration(value) : sayNumber(value)];
}

function render({ model, el }) {
  const id = `mlops-table-${Math.random().toString(36).slice(2)}`; // each table has this module to itself, and could not count
  let active = null; // id of the row that the keyboard is at
  let anchor = null; // where a range of chosen rows begins
  el.classList.add("mlops", "mlops-table");
  el.dataset.lmSuppressShortcuts = "true"; // Enter is the table's own, and does not open the cell around it
  const ask = (changes) => {
    model.set("query", { ...model.get("query"), ...changes });
    model.save_changes();
    drawState();
  };
  const page = () => model.get("page");
  const query = () => model.get("query");
  const rows = () => page().rows || [];
  const isGrouped = () => Boolean(page().columns);
  const shownColumns = () => page().columns
    || model.get("columns").filter((column) => model.get("chosen")[column.name] ?? column.shown);

  // what is asked for
  const filter = make("input", { type: "search", id: `${id}-filter`, spellcheck: "false", autocomplete: "off", placeholder: model.get("hint"),
    "aria-describedby": `${id}-problem`, onchange: () => find(), onsearch: () => find(),
    onkeydown: (event) => event.key === "Enter" && find() });
  const find = () => filter.value === query().filter || ask({ filter: filter.value, first: 0 });
  const group = make("select", { id: `${id}-group`, onchange: () => ask({ group: group.value, first: 0, sort: "", ascending: false }) });
  const grouping = make("span", { class: "bar" }, make("label", { for: group.id, text: "Group by" }), group);
  const choices = make("div", { class: "choices" });
  const chooser = make("details", { class: "chooser" }, make("summary", { text: "Columns" }),
    make("fieldset", {}, make("legend", { class: "unseen", text: "Columns" }), choices));
  chooser.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !chooser.open) return;
    chooser.open = false;
    chooser.querySelector("summary").focus();
    event.stopPropagation();
  });
  const problem = make("div", { id: `${id}-problem`, role: "status" });
  const asked = make("div", { class: "bar asked" }, make("label", { for: filter.id, text: "Filter" }), filter, grouping, chooser);

  // what is done with chosen rows
  const chosenCount = make("span", { role: "status", class: "muted" });
  const actions = make("span", { class: "bar" }), told = make("span", { role: "status", class: "told" });
  const done = make("div", { class: "bar done", role: "group", "aria-label": "With the chosen rows" }, chosenCount, actions, told);

  // the rows
  const head = make("thead"), body = make("tbody");
  const hint = make("p", { id: `${id}-keys`, class: "unseen",
    text: "Up and down arrows move between rows, space chooses a row, shift with an arrow chooses a range." });
  const table = make("table", { "aria-describedby": hint.id }, make("caption", { class: "unseen", text: model.get("label") }), head, body);
  const scroll = make("div", { class: "rows", role: "region", tabindex: "0", "aria-label": model.get("label") }, table);

  // pages
  const turn = (label, mark, where) => make("button", { type: "button", "aria-label": label, title: label, text: mark,
    onclick: () => ask({ first: where() }) });
  const lastFirst = () => Math.max(0, Math.ceil(page().total / query().rows) - 1) * query().rows;
  const turns = [turn("First page", "«", () => 0), turn("Previous page", "‹", () => Math.max(0, query().first - query().rows)),
    turn("Next page", "›", () => Math.min(lastFirst(), query().first + query().rows)), turn("Last page", "»", lastFirst)];
  const where = make("span", { role: "status", class: "where" });
  const size = make("select", { id: `${id}-size`, onchange: () => ask({ rows: Number(size.value), first: 0 }) });
  const pages = make("nav", { class: "bar pages", "aria-label": `Pages of ${model.get("label")}` }, turns[0], turns[1], where, turns[2],
    turns[3], make("label", { for: size.id, text: "Rows" }), size);

  el.replaceChildren(asked, problem, done, hint, scroll, pages);

  function drawControls() {
    if (filter !== filter.getRootNode().activeElement) filter.value = query().filter;
    const groups = model.get("groups");
    grouping.hidden = !groups.length;
    const options = (place, pairs) => keep(place, pairs.map(([value]) => `=${value}`), () => make("option"),
      (found, at) => match(found, make("option", { value: pairs[at][0], text: pairs[at][1] })));
    options(group, [["", "nothing"], ...groups]);
    group.value = query().group;
    const sizes = [...new Set([25, 50, 100, 200, query().rows])].sort((one, other) => one - other);
    options(size, sizes.map((each) => [String(each), String(each)]));
    size.value = query().rows;
    const columns = model.get("columns");
    keep(choices, columns.map((column) => column.name), (at) => {
      const { name } = columns[at];
      const box = make("input", { type: "checkbox", value: name, onchange: () => {
        model.set("chosen", { ...model.get("chosen"), [name]: box.checked });
        model.save_changes();
      } });
      return make("label", {}, box, make("span"));
    }, (found, at) => {
      found.firstChild.checked = model.get("chosen")[columns[at].name] ?? columns[at].shown;
      if (found.lastChild.textContent !== columns[at].title) found.lastChild.textContent = columns[at].title;
    });
  }

  function drawActions() {
    drawTold();
    const parts = [];
    let text = null; // the field of the last action; its neighbours that ask for the same share it
    for (const action of model.get("actions")) {
      if (!action.asks) {
        text = null;
        parts.push(make("button", { type: "button", text: action.title, onclick: () => act(action) }));
        continue;
      }
      if (text?.placeholder !== action.asks) {
        text = make("input", { type: "text", size: 12, "aria-label": action.asks, placeholder: action.asks });
        text.addEventListener("keydown", (event) => event.key === "Enter" && go(action));
        parts.push(make("span", { class: "bar" }, text));
      }
      const field = text;
      const go = (done) => { if (field.value.trim()) act(done, field.value.trim()); field.value = ""; };
      parts.at(-1).append(make("button", { type: "button", text: action.title, onclick: () => go(action) }));
    }
    actions.replaceChildren(...parts, make("button", { type: "button", text: "Clear", title: "Choose no row", onclick: () => choose([]) }));
    drawSelection();
  }

  const act = (action, text) => model.send({ action: action.name, ids: model.get("selected"), ...(text ? { text } : {}) });

  function drawTold() { told.textContent = model.get("told"); }

  function choose(ids) {
    model.set("selected", ids);
    model.set("told", "");
    model.save_changes();
    drawSelection();
  }

  function range(to) {
    const ids = rows().map((row) => row.id);
    const [one, other] = [ids.indexOf(anchor), ids.indexOf(to)].sort((a, b) => a - b);
    return one < 0 ? [to] : ids.slice(one, other + 1);
  }

  function toggle(row, isRange) {
    const before = model.get("selected");
    if (isRange && anchor !== null) return choose([...new Set([...before, ...range(row)])]);
    anchor = row;
    return choose(before.includes(row) ? before.filter((each) => each !== row) : [...before, row]);
  }

  function drawSelection() {
    const selected = model.get("selected");
    chosenCount.textContent = selected.length ? `${selected.length} chosen` : "None chosen";
    done.hidden = isGrouped() || (!model.get("actions").length && !selected.length);
    actions.querySelectorAll("button, input").forEach((each) => { each.disabled = !selected.length; });
    for (const row of body.children) {
      const box = row.querySelector("input");
      if (!box) continue;
      box.checked = selected.includes(row.dataset.id);
      row.classList.toggle("chosen", box.checked);
    }
    const all = head.querySelector("input");
    if (!all) return;
    const here = rows().filter((row) => selected.includes(row.id)).length;
    all.checked = here > 0 && here === rows().length;
    all.indeterminate = here > 0 && here < rows().length;
  }

  const sortBy = (name) => {
    const column = shownColumns().find((each) => each.name === name), isSorted = query().sort === name;
    ask({ sort: name, ascending: isSorted ? !query().ascending : column.kind === "text", first: 0 });
  };

  function header(column) {
    const isSorted = query().sort === column.name;
    const classes = RIGHT.includes(column.kind) ? "number" : null;
    const direction = isSorted ? (query().ascending ? "ascending" : "descending") : "none";
    if (!column.sortable) return make("th", { scope: "col", class: classes }, make("span", { text: column.title }));
    const mark = isSorted ? (query().ascending ? " ▲" : " ▼") : "";
    return make("th", { scope: "col", class: classes, "aria-sort": direction }, make("button", { type: "button", class: "sort",
      "data-sort": column.name }, make("span", { text: column.title }), make("span", { "aria-hidden": "true", text: mark })));
  }

  // the button itself stays, for it may be pressed just now
  function updateHeader(found, fresh) {
    const [button, wanted] = [found.firstElementChild, fresh.firstElementChild];
    if (button.tagName !== wanted.tagName || button.tagName !== "BUTTON") return match(found, fresh);
    match(button, wanted);
    fresh.replaceChildren(...[...found.childNodes].map((each) => each.cloneNode(true)));
    return match(found, fresh);
  }

  function drawHead(columns, grouped) {
    const row = head.firstElementChild || head.appendChild(make("tr"));
    const all = () => make("td", { class: "box" }, make("input", { type: "checkbox", "aria-label": "Choose all rows of this page",
      onchange: (event) => {
        const here = rows().map((each) => each.id), others = model.get("selected").filter((each) => !here.includes(each));
        choose(event.target.checked ? [...others, ...here] : others);
      } }));
    const places = grouped ? [] : [all];
    keep(row, [...places.map(() => "box"), ...columns.map((each) => `=${each.name}`)],
      (at) => (at < places.length ? all() : header(columns[at - places.length])),
      (found, at) => at >= places.length && updateHeader(found, header(columns[at - places.length])));
  }

  function drawCell(row, column, place, grouped) {
    const shown = content(column.kind, row[column.name]);
    const classes = RIGHT.includes(column.kind) ? "number" : column.kind;
    if (place) return make("td", { class: classes }, ...shown);
    const open = grouped && row.filter ? [make("button", { type: "button", class: "sort", title: "Show its rows" }, ...shown)] : shown;
    const pin = row.pinned ? [make("span", { class: "pin", title: "pinned" }, make("span", { "aria-hidden": "true", text: "★" }),
      make("span", { class: "unseen", text: "pinned" })), " "] : [];
    return make("th", { scope: "row", class: classes }, ...pin, ...open);
  }

  const boxCell = () => make("td", { class: "box" }, make("input", { type: "checkbox", tabindex: "-1" }));

  // only cells whose content has changed are changed
  function updateRow(found, row, columns, grouped) {
    const said = JSON.stringify([row, grouped, columns.map((each) => [each.name, each.kind])]);
    if (shown.get(found)?.said === said) return;
    shown.set(found, { row, said });
    if (grouped) delete found.dataset.id; else found.dataset.id = row.id;
    found.classList.toggle("pinned", Boolean(row.pinned));
    const boxes = grouped ? [] : ["box"];
    keep(found, [...boxes, ...columns.map((each, place) => `${place ? "" : "first"}=${each.name}`)],
      (at) => (at < boxes.length ? boxCell() : drawCell(row, columns[at - boxes.length], at - boxes.length, grouped)),
      (cell, at) => {
        if (at >= boxes.length) return match(cell, drawCell(row, columns[at - boxes.length], at - boxes.length, grouped));
        const label = `Choose ${row.title || row.id}`;
        if (cell.firstChild.getAttribute("aria-label") !== label) cell.firstChild.setAttribute("aria-label", label);
      });
  }

  const shown = new WeakMap(); // element -> its row, also where the page is another one by now, and what it was drawn from
  head.addEventListener("click", (event) => {
    const button = event.target.closest("button.sort");
    if (button) sortBy(button.dataset.sort);
  });
  body.addEventListener("click", (event) => {
    const row = shown.get(event.target.closest("tbody > tr"))?.row, button = event.target.closest("button.sort");
    if (!row) return;
    if (button) return ask({ filter: row.filter, group: "", first: 0, sort: "", ascending: false });
    if (isGrouped() || (event.target.type !== "checkbox" && (event.target.closest("a") || String(getSelection())))) return;
    toggle(row.id, event.shiftKey);
    point(row.id);
  });
  body.addEventListener("mousedown", (event) => event.shiftKey && event.preventDefault());

  function point(row, focus = false) {
    active = row;
    for (const each of body.querySelectorAll("input")) {
      const isActive = each.closest("tr").dataset.id === row;
      each.tabIndex = isActive ? 0 : -1;
      if (isActive && focus) each.focus();
    }
  }

  body.addEventListener("keydown", (event) => {
    const ids = rows().map((row) => row.id);
    const steps = { ArrowDown: 1, ArrowUp: -1, Home: -ids.length, End: ids.length };
    if (!(event.key in steps) || event.target.type !== "checkbox") return;
    event.preventDefault();
    event.stopPropagation();
    const to = ids[Math.min(ids.length - 1, Math.max(0, ids.indexOf(active) + steps[event.key]))];
    if (event.shiftKey) {
      if (anchor === null || !ids.includes(anchor)) anchor = active;
      choose([...new Set([...model.get("selected"), ...range(to)])]);
    }
    point(to, true);
  });

  // while a button of the mouse is held down in the rows, nothing moves under it
  let held = false, late = false;
  const hold = () => { held = true; };
  const release = () => setTimeout(() => { held = false; if (late) drawRows(); });
  table.addEventListener("pointerdown", hold);
  for (const name of ["pointerup", "pointercancel"]) window.addEventListener(name, release);

  function drawRows() {
    late = held;
    if (held) return drawState();
    const inBody = body.contains(document.activeElement);
    const columns = shownColumns(), grouped = isGrouped(), here = rows();
    drawHead(columns, grouped);
    body.querySelectorAll(":scope > tr.none").forEach((each) => each.remove());
    keep(body, here.map((row) => row.id), () => make("tr"), (found, at) => updateRow(found, here[at], columns, grouped));
    if (!here.length) {
      body.append(make("tr", { class: "none" }, make("td", { colspan: columns.length + 1, class: "muted", text: page().query
        ? (query().filter ? "No row fits the filter." : "There is nothing yet.") : "Asking …" })));
    }
    if (!here.some((row) => row.id === active)) active = here.length ? here[0].id : null;
    point(active, inBody && !body.contains(document.activeElement) && !grouped);
    drawSelection();
    drawState();
  }

  function drawState() {
    const waits = JSON.stringify(Object.entries(page().query || {}).sort()) !== JSON.stringify(Object.entries(query()).sort());
    const { total } = page(), first = page().query ? page().query.first : 0, said = model.get("problem");
    scroll.setAttribute("aria-busy", waits && !said ? "true" : "false");
    const number = (value) => value.toLocaleString("en");
    where.textContent = total ? `${number(first + 1)}-${number(first + rows().length)} of ${number(total)}` : "0 of 0";
    turns.forEach((each, place) => {
      const off = place < 2 ? query().first <= 0 : query().first >= lastFirst();
      each.setAttribute("aria-disabled", off ? "true" : "false");
    });
    const shown = problem.textContent;
    if (shown !== said) problem.replaceChildren(...(said ? [make("div", { class: "problem", text: said })] : []));
    filter.setAttribute("aria-invalid", said ? "true" : "false");
    if (document.activeElement !== filter) filter.value = query().filter;
    group.value = query().group;
    size.value = query().rows;
  }

  const changes = { page: drawRows, chosen: () => { drawControls(); drawRows(); }, columns: () => { drawControls(); drawRows(); },
    groups: drawControls, actions: drawActions, selected: drawSelection, query: drawState, problem: drawState,
    told: drawTold };
  for (const [name, draw] of Object.entries(changes)) model.on(`change:${name}`, draw);
  drawControls();
  drawActions();
  drawRows();
  return () => {
    for (const [name, draw] of Object.entries(changes)) model.off(`change:${name}`, draw);
    for (const name of ["pointerup", "pointercancel"]) window.removeEventListener(name, release);
  };
}

export default { render };
