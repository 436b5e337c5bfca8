// Curves: raw and smoothed, phases under them, a readout of all lines at one place.

// Exponential moving average without the pull of its first value (Kingma and Ba 2015, section 3)
function smooth(values, weight) {
  let sum = 0, share = 0;
  return values.map((each) => {
    if (!isNumber(each)) return null;
    sum = weight * sum + (1 - weight) * each;
    share = weight * share + (1 - weight);
    return sum / share;
  });
}

function wayOf(xs, ys, x, y) {
  let way = "", pen = "M";
  for (let at = 0; at < xs.length; at++) {
    if (y.takes(ys[at]) && x.takes(xs[at])) { way += `${pen}${x(xs[at]).toFixed(1)} ${y(ys[at]).toFixed(1)}`; pen = "L"; }
    else pen = "M";
  }
  return way.replace(/M([-\d.]+ [-\d.]+)(?=M|$)/g, "M$1h0.01"); // a value between two gaps is a dot
}

function drawBands(area, bands, x) {
  const made = shape("g", { class: "bands" });
  bands.forEach((each, index) => {
    const start = Math.max(area.left, x(each.start)), end = Math.min(area.right, x(each.end));
    if (!(end > start)) return;
    made.append(shape("rect", { x: start, y: area.bottom + 2, width: end - start, height: 14, class: index % 2 ? "band other" : "band" }));
    if (end - start > 6.5 * each.name.length + 4) made.append(shape("text", { x: (start + end) / 2, y: area.bottom + 13, class: "middle band-name" }, each.name));
  });
  return made;
}

function nearestIn(sorted, value) { // index
  let low = 0, high = sorted.length - 1;
  while (high - low > 1) { const middle = (low + high) >> 1; if (sorted[middle] < value) low = middle; else high = middle; }
  return high >= 0 && Math.abs(sorted[high] - value) < Math.abs(sorted[low] - value) ? high : Math.max(0, low);
}

function drawLines(view) {
  const { width, height, get, slots } = view, bands = get("bands"), kind = get("x_kind"), weight = get("smoothing"), chosen = new Set(get("chosen"));
  const series = get("series").map((each) => ({ ...each, slot: slots.of(each.id, each.group), shown: weight ? smooth(each.y, weight) : each.y }));
  const area = { top: 20, bottom: height - 38 - (bands.length ? 16 : 0), right: width - 14, under: bands.length ? 16 : 0 };
  const y = scaleOf(series.flatMap((each) => each.y), area.bottom, area.top, { log: get("log_y"), room: 34, pad: 0.04, range: get("y_range") });
  area.left = leftOf(y);
  const x = scaleOf(series.flatMap((each) => each.x).concat(bands.flatMap((each) => [each.start, each.end])), area.left, area.right, { kind, room: 78 });
  view.svg.append(drawAxes(area, x, y, get("x_title"), get("y_title")), drawBands(area, bands, x));
  const clip = shape("clipPath", { id: `clip-${view.id}` }, shape("rect", { x: area.left, y: area.top - 6, width: Math.max(0, area.right - area.left + 8), height: area.bottom - area.top + 8 }));
  const inside = shape("g", { "clip-path": `url(#clip-${view.id})` });
  for (const each of series) {
    const look = `curve colour-${(each.slot.colour % 8) + 1}${chosen.size ? (chosen.has(each.id) ? " chosen-line" : " other-line") : ""}`;
    if (weight) inside.append(shape("path", { d: wayOf(each.x, each.y, x, y), class: `${look} raw` }));
    inside.append(shape("path", { d: wayOf(each.x, each.shown, x, y), class: look, "stroke-dasharray": DASHES[each.slot.dash % DASHES.length], "data-id": each.id }));
    const last = each.shown.findLastIndex((value, at) => y.takes(value) && x.takes(each.x[at]));
    if (last < 0) continue;
    const end = marker(each.slot.dash, x(each.x[last]), y(each.shown[last]));
    end.setAttribute("class", `marker colour-${(each.slot.colour % 8) + 1}${each.live ? " live" : ""}`);
    inside.append(end);
  }
  view.svg.append(clip, inside);
  const places = [...new Set(series.flatMap((each) => each.x))].filter(x.takes).sort((one, other) => one - other);
  const known = series.map((each) => ({ each, at: each.x.map((_, at) => at).filter((at) => isNumber(each.y[at]) && isNumber(each.x[at])) }));
  for (const each of known) each.x = each.at.map((at) => each.each.x[at]);
  const lastOf = (each) => each.y.findLast(isNumber);

  function read(index) {
    const place = places[index], band = bands.find((each) => place >= each.start && place <= each.end), rows = [], marks = [];
    for (const { each, at, x: xs } of known) {
      if (!xs.length || place < xs[0] || place > xs[xs.length - 1]) continue; // not begun yet, or over
      const found = at[nearestIn(xs, place)], value = each.shown[found];
      const raw = weight && each.y[found] !== value ? ` (raw ${sayNumber(each.y[found])})` : "";
      rows.push({ name: each.name, text: sayNumber(value) + raw, slot: each.slot });
      if (y.takes(value)) marks.push([x(each.x[found]), y(value), each.slot]);
    }
    return { key: place, x: x(place), title: `${get("x_title")} ${sayPlace(place, kind)}`.trim() + (band ? `, ${band.name}` : ""), rows, marks, area };
  }

  function table() {
    const every = Math.max(1, Math.ceil(places.length / 200)), kept = places.filter((_, at) => at % every === 0 || at === places.length - 1);
    const values = series.map((each) => new Map(each.x.map((place, at) => [place, each.y[at]])));
    const say = (value) => (value === undefined ? "" : sayNumber(value));
    return { head: [get("x_title") || "x", ...series.map((each) => each.name)], note: every > 1 ? `one row of ${every}` : "",
             rows: kept.map((place) => [sayPlace(place, kind), ...values.map((each) => say(each.get(place)))]) };
  }

  return {
    count: places.length, read, table, find: (key) => nearestIn(places, key), nearest: (across) => nearestIn(places, x.back(across)),
    legend: series.map((each) => ({ id: each.id, name: each.name, slot: each.slot, live: each.live, text: lastOf(each) === undefined ? "no number" : sayNumber(lastOf(each)) })),
    summary: `${series.length} ${series.length === 1 ? "line" : "lines"} of ${get("y_title") || "values"}${y.log ? ", logarithmic axis" : ""}${weight ? `, smoothed by ${weight}` : ""}. `
      + series.slice(0, 12).map((each) => `${each.name}${each.live ? " (live)" : ""}: ${sayNumber(lastOf(each))} in the end`).join("; "),
  };
}
