// Shows /v1.0/sandboxd/status. Names, reasons and stderr come from others: they become text nodes, never markup.
"use strict";

const SVG = "http://www.w3.org/2000/svg";
const STATUS = "/v1.0/sandboxd/status";
const byId = (id) => document.getElementById(id);
const state = { sort: "name", down: false, paused: false, token: sessionStorage.getItem("token") || "", shown: null };

// What cannot be seen, or turns the text around it, is shown by its number. Line ends and tabs are what they are.
const HIDDEN = /[^\P{C}\n\t]|[\u2028\u2029]/gu;
const visible = (text) => String(text ?? "").replace(HIDDEN, (found) => `\\u{${found.codePointAt(0).toString(16)}}`);

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children.map((child) => (child instanceof Node ? child : visible(child))));
  return made;
}

function setText(node, text) {
  const shown = visible(text);
  if (node.textContent !== shown) node.textContent = shown;
}

// figures -------------------------------------------------------------------------------------------------------------

const none = "–";
const number = (value) => (value == null ? none : value >= 10000 ? Math.round(value / 1000) + " k" : String(Math.round(value)));
const rate = (value) => (value == null ? none : value >= 100 ? value.toFixed(0) : value.toFixed(1));
const percent = (value) => (value == null ? none : (value * 100).toFixed(value > 0.999 || value < 0.1 ? 1 : 0) + " %");

function seconds(value) {
  if (value == null) return none;
  if (value < 1e-3) return (value * 1e6).toFixed(0) + " µs";
  if (value < 1) return (value * 1e3).toFixed(value < 0.01 ? 1 : 0) + " ms";
  if (value < 100) return value.toFixed(1) + " s";
  if (value < 6000) return Math.round(value / 60) + " min";
  if (value < 172800) return Math.round(value / 3600) + " h";
  return Math.round(value / 86400) + " d";
}

function bytes(value) {
  if (value == null) return none;
  let unit = 0;
  for (; value >= 1024 && unit < 4; unit++) value /= 1024;
  return (unit && value < 10 ? value.toFixed(1) : Math.round(value)) + " " + ["B", "KiB", "MiB", "GiB", "TiB"][unit];
}

const level = (value, warn, bad) => (value == null ? "" : value >= bad ? "bad" : value >= warn ? "warn" : "good");

function sparkline(values, label) {
  const found = values.map((value) => value || 0);
  const most = Math.max(...found, 1e-9);
  const step = 100 / Math.max(1, found.length - 1);
  const points = found.map((value, at) => `${(at * step).toFixed(1)},${(19 - 18 * value / most).toFixed(1)}`);
  const svg = document.createElementNS(SVG, "svg");
  for (const [key, value] of [["viewBox", "0 0 100 20"], ["preserveAspectRatio", "none"], ["role", "img"]]) svg.setAttribute(key, value);
  svg.setAttribute("aria-label", label);
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", points.length ? "M" + points.join("L") : "");
  svg.append(path);
  return svg;
}

// parts of the page ---------------------------------------------------------------------------------------------------

function tiles(list, items) {
  for (const [name, text, kind, values] of items) {
    let tile = list.querySelector(`[data-tile="${name}"]`);
    if (!tile) {
      tile = element("div", { "data-tile": name }, element("dt", {}, name), element("dd"));
      list.append(tile);
    }
    const value = tile.querySelector("dd");
    setText(value, text);
    value.className = kind || "";
    if (values) {
      const drawn = sparkline(values, `${name}, the last five minutes`);
      const former = tile.querySelector("svg");
      if (former) former.replaceWith(drawn); else tile.append(drawn);
    }
  }
}

const COLUMNS = [
  // key, head, what is shown, its colour, what it is sorted by
  ["name", "Binding"],
  ["kind", "Kind", (b) => b.kind],
  ["ready", "Ready", (b) => (b.ready ? "yes" : "NO"), (b) => (b.ready ? "good" : "bad"), (b) => (b.ready ? 1 : 0)],
  ["now", "Now / limit", (b) => `${b.now} / ${b.limit}${b.limit && b.now >= b.limit && b.queue ? " FULL" : ""}`, (b) => level(b.limit ? b.now / b.limit : 0, 0.8, 1)],
  ["queue", "Queue", (b) => number(b.queue), (b) => (b.queue ? "warn" : "")],
  ["rate", "Req/s", (b) => rate(b.rate)],
  ["graph", "5 min", null],
  ["okShare", "OK", (b) => percent(b.okShare), (b) => (b.okShare == null ? "" : level(1 - b.okShare, 0.01, 0.05))],
  ["p50Seconds", "p50", (b) => seconds(b.p50Seconds)],
  ["p99Seconds", "p99 / timeout", (b) => `${seconds(b.p99Seconds)} / ${seconds(b.timeoutSeconds)}`, (b) => level(b.p99Seconds / b.timeoutSeconds, 0.5, 0.9)],
  ["wait99Seconds", "Wait p99", (b) => seconds(b.wait99Seconds)],
  ["guestSeconds", "Run / CPU", (b) => `${seconds(b.guestSeconds)} / ${seconds(b.cpuPerRunSeconds)}`],
  ["cpuUse", "CPUs", (b) => b.cpuUse.toFixed(2)],
  ["memoryPeakBytes", "Memory / limit", (b) => `${bytes(b.memoryPeakBytes)} / ${bytes(b.memoryLimitBytes)}`, (b) => level(b.memoryPeakBytes / b.memoryLimitBytes, 0.8, 0.95)],
  ["requests", "Requests", (b) => number(b.requests)],
  ["outbound", "Out", (b) => number(b.outbound)],
  ["denied", "Denied", (b) => number(b.denied), (b) => (b.denied ? "warn" : "")],
  ["last", "Last failure", (b) => (b.why ? b.why : b.lastFailure ? `${b.lastFailure.outcome} ${seconds(b.lastFailure.secondsAgo)} ago: ${firstLine(b.lastFailure.reason)}` : none), null, (b) => (b.lastFailure ? b.lastFailure.at : 0)],
];

const firstLine = (text) => {
  const line = text.split("\n", 1)[0];
  return line.length > 160 ? line.slice(0, 160) + "…" : line;
};

function head(table) {
  const row = element("tr");
  for (const [key, title] of COLUMNS) {
    const button = element("button", { type: "button" }, title);
    button.addEventListener("click", () => {
      state.down = state.sort === key ? !state.down : key !== "name";
      state.sort = key;
      bindings(state.shown.bindings);
    });
    row.append(element("th", { scope: "col", "data-key": key }, key === "graph" ? title : button));
  }
  table.append(element("thead", {}, row), element("tbody"));
}

function sorted(all) {
  const column = COLUMNS.find(([key]) => key === state.sort);
  const value = column[4] || ((binding) => binding[state.sort]);
  const compare = (a, b) => (typeof a === "string" ? a.localeCompare(b) : (a ?? -1) - (b ?? -1));
  return [...all].sort((a, b) => (state.down ? -1 : 1) * compare(value(a), value(b)) || a.name.localeCompare(b.name));
}

const rows = new Map();

function bindings(all) {
  const table = byId("bindings");
  if (!table.tHead) head(table);
  for (const cell of table.tHead.rows[0].cells) {
    if (cell.dataset.key === state.sort) cell.setAttribute("aria-sort", state.down ? "descending" : "ascending");
    else cell.removeAttribute("aria-sort");
  }
  const order = sorted(all).map((binding) => {
    let row = rows.get(binding.name);
    if (!row) {
      const link = element("a", { href: "#binding/" + encodeURIComponent(binding.name) }, binding.name);
      row = element("tr", {}, element("th", { scope: "row" }, link));
      for (const [key, title] of COLUMNS.slice(1)) {
        row.append(element("td", { "data-name": title, class: key === "last" ? "long" : key === "kind" ? "text" : "" }));
      }
      rows.set(binding.name, row);
    }
    COLUMNS.forEach(([key, title, text, colour], at) => {
      const cell = row.cells[at];
      if (key === "graph") cell.replaceChildren(sparkline(binding.history.requests, "requests, the last five minutes"));
      else if (text) {
        setText(cell, text(binding));
        if (colour) cell.className = colour(binding) || "";
      }
    });
    return row;
  });
  const body = table.tBodies[0];
  // Rows are moved only if their order has changed, so that the focus stays where it is.
  if (order.length !== body.rows.length || order.some((row, at) => body.rows[at] !== row)) body.replaceChildren(...order);
  const names = new Set(all.map((binding) => binding.name));
  for (const name of rows.keys()) if (!names.has(name)) rows.delete(name);
}

function workers(all) {
  const table = byId("workers");
  const names = ["Process", "State", "Binding", "For", "Age", "Runs", "Memory", "CPU", "Generation", "Pool"];
  if (!table.tHead) table.append(element("thead", {}, element("tr", {}, ...names.map((name) => element("th", { scope: "col" }, name)))), element("tbody"));
  const body = table.tBodies[0];
  const shown = all.slice(0, 256);
  while (body.rows.length > shown.length) body.rows[body.rows.length - 1].remove();
  shown.forEach((worker, at) => {
    let row = body.rows[at];
    if (!row) {
      row = element("tr", {}, element("th", { scope: "row" }), ...names.slice(1).map(() => element("td")));
      body.append(row);
    }
    const cells = [worker.pid, worker.state, worker.bindings.join(", ") || none, worker.forSeconds ? seconds(worker.forSeconds) : none,
      seconds(worker.ageSeconds), number(worker.runs), bytes(worker.rssBytes), seconds(worker.cpuSeconds), worker.generation, worker.pool];
    cells.forEach((text, column) => setText(row.cells[column], String(text)));
    row.cells[1].className = { busy: "good", draining: "warn", killed: "bad" }[worker.state] || "";
  });
}

function failures(section, all, now) {
  const list = section.querySelector("[data-failures]");
  const key = JSON.stringify(all.map((note) => note.requestId));
  if (list.dataset.key === key && list.childElementCount) return;
  list.dataset.key = key;
  const notes = all.slice(0, 20).map((note) => {
    const about = `${note.binding || "no binding"} · ${note.outcome} · ${new Date(note.at * 1000).toLocaleTimeString()} · ${note.durationMs.toFixed(1)} ms · trace ${note.traceId}`;
    const article = element("article", {}, element("p", { class: "bad" }, about), element("pre", {}, note.reason));
    if (note.stderr) article.append(element("p", {}, "stderr"), element("pre", {}, note.stderr));
    return article;
  });
  list.replaceChildren(...(notes.length ? notes : [element("p", {}, "None.")]));
}

function pairs(list, items) {
  const key = JSON.stringify(items);
  if (list.dataset.key === key) return;
  list.dataset.key = key;
  list.replaceChildren(...items.flatMap(([name, text]) => [element("dt", {}, name), element("dd", {}, text)]));
}

function heat(figure, shown) {
  const { bounds, rows: columns } = shown.heat;
  const key = JSON.stringify(columns);
  if (figure.dataset.key === key) return;
  figure.dataset.key = key;
  const svg = document.createElementNS(SVG, "svg");
  const put = (name, attributes, text) => {
    const node = document.createElementNS(SVG, name);
    for (const [attribute, value] of Object.entries(attributes)) node.setAttribute(attribute, value);
    if (text !== undefined) node.textContent = text;
    svg.append(node);
    return node;
  };
  const count = bounds.length + 1;
  const most = Math.max(1, ...columns.flat());
  svg.setAttribute("viewBox", `0 0 660 ${count * 11 + 16}`);
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `Answers by duration. p50 ${seconds(shown.p50Seconds)}, p99 ${seconds(shown.p99Seconds)}.`);
  for (let bucket = 0; bucket < count; bucket++) {
    const y = (count - 1 - bucket) * 11;
    put("text", { x: 56, y: y + 9, "text-anchor": "end" }, bucket < bounds.length ? "≤ " + seconds(bounds[bucket]) : "more");
    columns.forEach((row, at) => {
      const found = row[bucket] || 0;
      if (!found) return;
      const x = 60 + (60 - columns.length + at) * 10;
      const cell = put("rect", { x, y, width: 9, height: 10, "fill-opacity": (0.2 + 0.8 * Math.log1p(found) / Math.log1p(most)).toFixed(2) });
      const title = document.createElementNS(SVG, "title");
      title.textContent = `${found} answers`;
      cell.append(title);
    });
  }
  put("text", { x: 60, y: count * 11 + 11 }, "5 min ago");
  put("text", { x: 660, y: count * 11 + 11, "text-anchor": "end" }, "now");
  figure.replaceChildren(svg);
}

// what is shown -------------------------------------------------------------------------------------------------------

function overview(shown) {
  state.shown = shown;
  const { server, front, history } = shown;
  const pools = Object.values(shown.pools);
  const sum = (value) => pools.reduce((total, pool) => total + value(pool), 0);
  const refused = sum((pool) => Object.values(pool.rejected).reduce((a, b) => a + b, 0));
  const limit = sum((pool) => pool.workers.limit);
  const busy = sum((pool) => pool.workers.busy);
  const latest = history.utilisation[history.utilisation.length - 1];
  tiles(byId("tiles"), [
    ["Workers busy", `${busy} / ${limit}`, level(busy / limit, 0.8, 1)],
    ["Utilisation", percent(latest), level(latest, 0.75, 0.9), history.utilisation],
    ["Requests", `${rate(shown.bindings.reduce((total, b) => total + b.rate, 0))} /s`, "", history.requests],
    ["p99", seconds(history.p99Seconds[history.p99Seconds.length - 1]), "", history.p99Seconds],
    ["Queue", `${sum((p) => p.queue)} / ${sum((p) => p.queueLimit)}`, sum((p) => p.queue) ? "warn" : "", history.queue],
    ["Refused", number(refused), refused ? "warn" : ""],
    ["Front CPU", `${percent(front.utilisation)} of ${front.threads} thread${front.threads === 1 ? "" : "s"}`, level(front.utilisation, 0.7, 0.85), history.frontUtilisation],
    ["Loop lag, worst", seconds(front.worstLagSeconds), level(front.worstLagSeconds, 0.05, 0.5), history.lagSeconds],
    ["Memory of fronts", bytes(server.rssBytes)],
    ["Generation", [...new Set(pools.flatMap((pool) => pool.generations))].join(", ")],
    ["Wall", wall(pools), pools.every((pool) => Object.values(pool.wall).every(Boolean)) ? "good" : "warn"],
    ...Object.entries(shown.warm).filter(([, value]) => value).map(([name, value]) => [name.replaceAll("_", " "), number(value)]),
  ]);
  bindings(shown.bindings);
  workers(shown.workers);
  failures(byId("overview"), shown.failures);
}

function wall(pools) {
  const layers = pools.flatMap((pool) => Object.entries(pool.wall).filter(([, stands]) => stands).map(([layer]) => layer));
  return [...new Set(layers)].join(", ") || "none";
}

function binding(shown) {
  setText(byId("binding-name"), shown.name);
  setText(byId("why"), shown.why);
  tiles(byId("binding-tiles"), COLUMNS.filter(([, , text]) => text).filter(([key]) => key !== "last").map(([key, title, text, colour]) =>
    [title, text(shown), colour ? colour(shown) : "", key === "rate" ? shown.history.requests : key === "p99Seconds" ? shown.history.p99Seconds : undefined]));
  heat(byId("heat"), shown);
  byId("try-it").hidden = !shown.canInvoke;
  const hosts = Object.entries(shown.deniedHosts).map(([host, count]) => [`denied: ${host}`, number(count)]);
  const limits = Object.entries(shown.limitsReached).map(([key, count]) => [key, `reached ${number(count)} times`]);
  pairs(byId("met"), [...hosts, ...limits].length ? [...hosts, ...limits] : [["none", ""]]);
  failures(byId("binding"), shown.failures);
  const { limits: own, ...component } = shown.component || { limits: {} };
  const load = shown.load ? [["loaded in", seconds(shown.load.seconds) + (shown.load.cached ? " (compiled before)" : "")]] : [];
  pairs(byId("component"), [["digest", shown.digest], ...load, ...Object.entries(component), ...Object.entries(own)]
    .filter(([, value]) => value !== null).map(([key, value]) => [key, Array.isArray(value) ? value.join(", ") || none : String(value)]));
}

// the server ----------------------------------------------------------------------------------------------------------

async function ask(path, options = {}) {
  const headers = { ...(options.headers || {}), ...(state.token ? { "dapr-api-token": state.token } : {}) };
  const reply = await fetch(path, { ...options, headers, signal: AbortSignal.timeout(10000), credentials: "omit" });
  byId("token-form").hidden = reply.status !== 401;
  if (!reply.ok) throw new Error((await reply.json()).message);
  return reply.json();
}

const chosen = () => (location.hash.startsWith("#binding/") ? decodeURIComponent(location.hash.slice(9)) : null);

function header(server) {
  setText(byId("where"), `${server.version} · ${server.host} · ${server.appId} · up ${seconds(server.uptimeSeconds)}${server.cells > 1 ? ` · ${server.cellsReady} of ${server.cells} cells` : ""}`);
  const badge = byId("state");
  setText(badge, server.state.toUpperCase());
  badge.className = "badge " + (server.state === "ready" ? "good" : "bad");
  const reload = server.reload.ok ? "" : `The latest reload was refused, the former bindings are served: ${server.reload.error}`;
  setText(byId("notice"), [server.missing.length ? `Waits for ${server.missing.join(", ")}. ${server.waitsFor}` : "", reload].join(" ").trim());
}

let turn = 0;

async function refresh() {
  const mine = ++turn;
  const name = chosen();
  try {
    const shown = await ask(name === null ? STATUS : `${STATUS}?binding=${encodeURIComponent(name)}`);
    if (mine !== turn) return; // the view has changed meanwhile
    header(shown.server);
    if (name === null) overview(shown); else binding(shown);
    byId("overview").hidden = name !== null;
    byId("binding").hidden = name === null;
  } catch (error) {
    if (mine === turn) setText(byId("notice"), `Not up to date: ${error.message}`);
  }
}

async function tryIt(event) {
  event.preventDefault();
  const result = byId("try-result");
  const lines = (id) => byId(id).value.split("\n").filter((line) => line !== "");
  const metadata = {};
  if (lines("try-args").length) metadata.argv = JSON.stringify(lines("try-args"));
  for (const line of lines("try-env")) metadata["env." + line.split("=", 1)[0]] = line.slice(line.indexOf("=") + 1);
  let data = byId("try-data").value;
  try { data = JSON.parse(data); } catch { /* it is a text, then */ }
  try {
    const told = await ask(`/v1.0/sandboxd/invoke/${encodeURIComponent(chosen())}`, {
      method: "POST", body: JSON.stringify({ data, metadata }), headers: { "sandboxd-admin": "page", "content-type": "application/json" },
    });
    const times = Object.entries(told.times || {}).map(([name, value]) => `${name.replace("Ms", "")} ${value.toFixed(2)} ms`).join(", ");
    const parts = [element("p", { class: told.outcome === "completed" ? "good" : "bad" }, `${told.outcome} · ${times}`)];
    for (const [title, text] of [["", told.error], ["reply", told.reply], ["stderr", told.stderr], ["the same from a shell", told.curl]]) {
      if (text) parts.push(element("p", {}, title), element("pre", {}, text));
    }
    result.replaceChildren(...parts);
  } catch (error) {
    result.replaceChildren(element("p", { class: "bad" }, error.message));
  }
  refresh();
}

byId("pause").addEventListener("click", (event) => {
  state.paused = !state.paused;
  event.target.setAttribute("aria-pressed", String(state.paused));
  refresh();
});
byId("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  state.token = byId("token").value;
  sessionStorage.setItem("token", state.token);
  refresh();
});
byId("try-form").addEventListener("submit", tryIt);
window.addEventListener("hashchange", async () => {
  byId("try-result").replaceChildren();
  await refresh();
  (chosen() === null ? byId("main") : byId("binding-name")).focus();
});
setInterval(() => { if (!state.paused && !document.hidden) refresh(); }, 1000);
refresh();
