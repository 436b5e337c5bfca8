// Points: one for each run. A third value is told by colour and shape (words) or colour and size (numbers).
function drawPoints(view) {
  const { width, height, get, slots } = view, chosen = new Set(get("chosen")), words = (name) => get("points").some((each) => typeof each[name] === "string");
  const points = get("points").filter((each) => (words("x") ? each.x !== null : isNumber(each.x)) && isNumber(each.y) && (!get("log_y") || each.y > 0));
  const area = { top: 20, bottom: height - 38, right: width - 14, under: 0 };
  const y = scaleOf(points.map((each) => each.y), area.bottom, area.top, { log: get("log_y"), room: 34, pad: 0.06, range: get("y_range") });
  area.left = leftOf(y);
  const across = points.map((each) => each.x);
  const x = words("x") ? wordScale(across, area.left, area.right)
    : scaleOf(across, area.left, area.right, { kind: get("x_kind"), room: 78, pad: 0.04, log: get("x_kind") === "number" && spreads(across) });
  view.svg.append(drawAxes(area, x, y, get("x_title"), get("y_title")));
  const colours = points.map((each) => each.colour).filter((each) => each !== undefined && each !== null), named = words("colour");
  const low = Math.min(...colours), high = Math.max(...colours), share = (value) => (high > low ? (value - low) / (high - low) : 0.5);
  points.sort((one, other) => x(one.x) - x(other.x) || one.y - other.y);
  for (const each of points) {
    each.slot = named && each.colour !== undefined && each.colour !== null ? slots.of(String(each.colour)) : { colour: 0, dash: 0 };
    const size = !named && isNumber(each.colour) ? 0.8 + share(each.colour) : 1.1, made = marker(each.slot.dash, x(each.x), y(each.y), chosen.has(each.id) ? size * 1.5 : size);
    made.setAttribute("class", `marker point colour-${(each.slot.colour % 8) + 1}${chosen.size && !chosen.has(each.id) ? " other-line" : ""}`);
    if (!named && isNumber(each.colour)) made.style.setProperty("--share", `${Math.round(100 * share(each.colour))}%`), made.classList.add("shaded");
    made.dataset.id = each.id;
    view.svg.append(made);
  }
  const kinds = named ? [...new Map(points.map((each) => [String(each.colour ?? ""), each.slot]))].filter(([name]) => name) : [];

  function read(index) {
    const each = points[index], rows = [{ name: get("x_title") || "x", text: words("x") ? String(each.x) : sayPlace(each.x, get("x_kind")) }, { name: get("y_title") || "y", text: sayNumber(each.y) }];
    if (each.colour !== undefined && each.colour !== null) rows.push({ name: get("colour_title"), text: sayNumber(each.colour), slot: named ? each.slot : undefined });
    return { key: each.id, id: each.id, x: x(each.x), title: each.name + (chosen.has(each.id) ? " (chosen)" : ""), rows, marks: [[x(each.x), y(each.y), each.slot]], area };
  }

  return {
    count: points.length, read, find: (key) => points.findIndex((each) => each.id === key),
    nearest(place, down) {
      const far = points.map((each) => Math.hypot(x(each.x) - place, y(each.y) - down)), best = far.indexOf(Math.min(...far));
      return far[best] < 40 ? best : -1;
    },
    table: () => ({ head: ["run", get("x_title") || "x", get("y_title") || "y", ...(colours.length ? [get("colour_title")] : [])], note: points.length > 200 ? "the first 200" : "",
                    rows: points.slice(0, 200).map((each) => [each.name, sayNumber(each.x), sayNumber(each.y), ...(colours.length ? [sayNumber(each.colour)] : [])]) }),
    legend: kinds.map(([name, slot]) => ({ name, slot, text: "" })),
    summary: `${points.length} ${points.length === 1 ? "point" : "points"}: ${get("y_title")} against ${get("x_title")}`
      + (!named && colours.length ? `. The larger a point, the higher its ${get("colour_title")}, from ${sayNumber(low)} to ${sayNumber(high)}` : "")
      + (get("points").length > points.length ? `. ${get("points").length - points.length} without both numbers are left out` : ""),
  };
}
