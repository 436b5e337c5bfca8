// Parallel coordinates: a line is a run; what is brushed on the axes stays, and is chosen.
function rangesOf(values) { // quarters of the runs, for those who choose by keyboard
  const sorted = values.filter(isNumber).sort((one, other) => one - other), at = (share) => sorted[Math.round(share * (sorted.length - 1))];
  if (new Set(sorted).size < 4) return [...new Set(sorted)].map((each) => [each, each]);
  return [0, 0.25, 0.5, 0.75].map((share) => [at(share), at(share + 0.25)]);
}

const isKept = (value, brush) => !brush || (brush.words ? brush.words.includes(String(value)) : isNumber(value) && value >= brush.range[0] && value <= brush.range[1]);

function brushSelect(view, axis, values) {
  const brush = view.brushes.get(axis.name), options = axis.kind === "number"
    ? rangesOf(values).map((range) => ({ range, name: range[0] === range[1] ? sayNumber(range[0]) : `${sayNumber(range[0])} to ${sayNumber(range[1])}` }))
    : axis.scale.words.map((word) => ({ words: [word], name: word }));
  if (brush && !options.some((each) => each.name === brush.name)) options.push(brush);
  const select = node("select", { "data-axis": axis.name, "aria-label": `Keep only ${axis.name}` }, node("option", { value: "" }, "all"), ...options.map((each, at) => node("option", { value: at }, each.name)));
  select.value = brush ? String(options.findIndex((each) => each.name === brush.name)) : "";
  select.addEventListener("change", () => view.brush(axis.name, select.value === "" ? null : options[Number(select.value)]));
  return node("label", {}, axis.name, " ", select);
}

function drawParallel(view) {
  const { get } = view, height = view.height, lines = get("lines"), area = { top: 34, bottom: height - 18, under: 0 };
  const width = Math.max(view.width, 70 * get("axes").length + 60);
  view.svg.setAttribute("width", width);
  const axes = get("axes").map((axis, at, all) => {
    const values = lines.map((each) => each.values[at]), known = values.filter((each) => each !== null && each !== undefined);
    const kind = axis.kind === "number" && known.every(isNumber) ? "number" : "text";
    const scale = kind === "text" ? wordScale(axis.values ?? known, area.bottom, area.top) : scaleOf(known, area.bottom, area.top, { log: spreads(known), room: 40 });
    return { ...axis, kind, scale, values, x: 36 + (at / Math.max(1, all.length - 1)) * (width - 96) };
  });
  area.left = 20; area.right = width - 20;
  const kept = new Set(lines.filter((each) => axes.every((axis, at) => isKept(each.values[at], view.brushes.get(axis.name)))).map((each) => each.id));
  const objectives = lines.map((each) => each.objective).filter(isNumber), low = Math.min(...objectives), high = Math.max(...objectives);
  const share = (value) => (high > low ? (value - low) / (high - low) : 0.5), chosen = new Set(get("chosen"));
  const places = (each) => axes.flatMap((axis, at) => (axis.scale.takes(each.values[at]) ? [[axis.x, axis.scale(each.values[at])]] : []));
  for (const each of lines) {
    const way = places(each).map(([across, down], at) => `${at ? "L" : "M"}${across.toFixed(1)} ${down.toFixed(1)}`).join(""), of = isNumber(each.objective) ? share(each.objective) : 0.5;
    const made = shape("path", { d: way, class: `run${!kept.has(each.id) ? " left-out" : chosen.size && !chosen.has(each.id) ? " other-line" : ""}`, "data-id": each.id, "stroke-width": (1 + 1.6 * of).toFixed(2) });
    made.style.setProperty("--share", `${Math.round(100 * of)}%`);
    view.svg.append(made);
  }
  axes.forEach((axis, at) => {
    const made = shape("g", { class: "axes" }, shape("line", { x1: axis.x, x2: axis.x, y1: area.top, y2: area.bottom, class: "tick" }));
    const side = at % 2 ? 26 : 12, anchor = at === axes.length - 1 ? "title end" : at ? "title middle" : "title", place = at === axes.length - 1 ? Math.min(width - 4, axis.x + 40) : at ? axis.x : 2;
    made.append(shape("text", { x: place, y: width / axes.length > 130 ? 20 : side, class: anchor }, shorten(axis.name, 20) + (axis.scale.log ? " (log)" : "")));
    const brush = view.brushes.get(axis.name);
    if (brush?.range) {
      const [up, down] = [axis.scale(brush.range[1]), axis.scale(brush.range[0])];
      made.append(shape("rect", { x: axis.x - 6, y: up - 1, width: 12, height: down - up + 2, class: "brush" }));
    }
    for (const each of axis.scale.ticks.slice(0, 40)) made.append(shape("text", { x: axis.x + 5, y: axis.scale(each) + 4, class: "halo" }, axis.scale.say(each)));
    if (axis.kind === "number") made.append(shape("rect", { x: axis.x - 14, y: area.top - 4, width: 28, height: area.bottom - area.top + 8, class: "zone", "data-axis": axis.name }));
    view.svg.append(made);
  });
  view.controls.append(node("span", { class: "muted" }, "Keep only:"), ...axes.map((axis) => brushSelect(view, axis, axis.values)));
  const shown = lines.filter((each) => kept.has(each.id)), sayValue = (each) => (isNumber(each) ? sayNumber(each) : each === null || each === undefined ? "" : String(each));
  view.brush = (name, brush) => {
    if (brush) view.brushes.set(name, brush); else view.brushes.delete(name);
    const left = lines.filter((each) => axes.every((axis, at) => isKept(each.values[at], view.brushes.get(axis.name))));
    view.choose(view.brushes.size ? left.map((each) => each.id) : []);
    view.redraw();
  };

  function read(index) {
    const each = shown[index], marks = places(each).map(([across, down]) => [across, down, { colour: 0, dash: 0 }]);
    return { key: each.id, id: each.id, x: marks[0]?.[0] ?? 0, title: each.name + (chosen.has(each.id) ? " (chosen)" : ""), marks, way: true, area,
             rows: axes.map((axis, at) => ({ name: axis.name, text: sayValue(each.values[at]) || "none" })) };
  }

  function drag(name, from, to, isOver) { // along an axis of numbers
    const axis = axes.find((each) => each.name === name), [up, down] = [from, to].map((each) => Math.min(area.bottom, Math.max(area.top, each))).sort((one, other) => one - other);
    view.svg.querySelector(".dragged")?.remove();
    if (!isOver) { view.svg.append(shape("rect", { x: axis.x - 6, y: up, width: 12, height: down - up, class: "brush dragged" })); return; }
    const range = [axis.scale.back(down), axis.scale.back(up)];
    view.brush(name, down - up > 4 ? { range, name: `${sayNumber(range[0])} to ${sayNumber(range[1])}` } : null);
  }

  return {
    drag, count: shown.length, read, find: (key) => shown.findIndex((each) => each.id === key),
    nearest(place, down) {
      const far = shown.map((each) => { // from the line, at this place
        const way = places(each), next = way.findIndex(([across]) => across >= place);
        if (next < 1) return Infinity;
        const [[left, from], [right, to]] = [way[next - 1], way[next]];
        return Math.abs(from + ((place - left) / (right - left)) * (to - from) - down);
      });
      const best = far.indexOf(Math.min(...far));
      return far[best] < 14 ? best : -1;
    },
    table: () => ({ head: ["run", ...axes.map((axis) => axis.name)], note: shown.length > 200 ? "the first 200" : "", rows: shown.slice(0, 200).map((each) => [each.name, ...each.values.map(sayValue)]) }),
    legend: [],
    summary: `${shown.length} of ${lines.length} runs over ${axes.map((axis) => axis.name).join(", ")}` + (objectives.length ? `. The thicker a line, the higher its objective, from ${sayNumber(low)} to ${sayNumber(high)}` : ""),
  };
}
