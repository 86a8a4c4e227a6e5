// Draws the reports that the page holds, and those that are dropped onto it. What a report says is text, never markup.
"use strict";
(() => {
  const GLYPH = { passed: "·", failed: "×", known: "k", error: "!", "not-applicable": "–" };
  const WORD = { passed: "held", failed: "failed", known: "failed as known", error: "harness error", "not-applicable": "not applicable" };
  const FILTERS = { q: "", family: "", status: "", dtype: "", only: "" };
  const page = JSON.parse(document.getElementById("data").textContent);
  const reports = page.reports;
  const state = { ...FILTERS };
  const by = (id) => document.getElementById(id);

  // -- small parts --------------------------------------------------------------------------------------------------

  const h = (tag, attributes = {}, ...children) => {
    const svg = tag === "svg" || tag === "rect" || tag === "text" || tag === "line" || tag === "title";
    const made = svg && tag !== "title" ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value === null || value === undefined || value === false) continue;
      if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else made.setAttribute(name, value === true ? "" : value);
    }
    made.append(...children.flat(Infinity).filter((one) => one !== null && one !== undefined && one !== false));
    return made;
  };
  const fill = (node, ...children) => node.replaceChildren(...children.flat(Infinity).filter((one) => one !== null && one !== undefined && one !== false));
  // Words between back ticks are code, and an empty line begins a paragraph.
  const spans = (text) => text.split("`").map((part, i) => (i % 2 ? h("code", {}, part) : part));
  const prose = (text) => text.split(/\n\s*\n/).map((part) => h("p", {}, spans(part)));
  const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;
  const short = (value) => {
    if (typeof value !== "number") return value;
    const rounded = Number(value.toPrecision(3)), size = Math.abs(rounded);
    return size !== 0 && (size < 1e-3 || size >= 1e5) ? rounded.toExponential().replace("e+", "e") : String(rounded);
  };
  const ratio = (entry) => (entry.worst_ratio === null ? "∞" : short(entry.worst_ratio));
  const say = (text) => { by("said").textContent = text; };

  const copyable = (text) => {
    const button = h("button", { type: "button" }, "Copy");
    const pre = h("pre", { tabindex: "0", "aria-label": "Command" }, text);
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(text);
      } catch {  // a page from disk may have no clipboard of its own
        getSelection().selectAllChildren(pre);
        document.execCommand("copy");
      }
      button.textContent = "Copied";
      say("Copied to the clipboard.");
    });
    return h("div", { class: "copy" }, pre, button);
  };

  // -- what there is -------------------------------------------------------------------------------------------------

  const columns = () => {
    const found = [];
    reports.forEach((report, index) => {
      for (const run of report.report.runs) found.push({ run, report, index, key: `${run.implementation}/${run.dtype}`, id: "" });
    });
    for (const one of found) {
      const alike = found.filter((other) => other.key === one.key);
      one.id = alike.length > 1 ? `${one.key}/${alike.indexOf(one) + 1}` : one.key;
      one.label = alike.length > 1 ? `${one.report.name}: ${one.run.implementation}` : one.run.implementation;
    }
    return found;
  };
  const lawsOf = (shown) => {
    const ids = new Set();
    for (const one of shown) for (const id of Object.keys(one.run.laws)) ids.add(id);
    const families = [...new Set([...ids].map(familyOf))].sort();
    return [...ids].sort((a, b) => families.indexOf(familyOf(a)) - families.indexOf(familyOf(b)) || a.localeCompare(b));
  };
  const said = (id) => reports.map((one) => (one.report.laws || {})[id]).find(Boolean) || { statement: "", reason: "", kind: "" };
  const familyOf = (id) => id.split(".")[0];

  const wanted = (id, shown) => {
    const entries = shown.map((one) => one.run.laws[id]).filter(Boolean);
    if (state.family && familyOf(id) !== state.family) return false;
    if (state.status && !entries.some((one) => one.status === state.status)) return false;
    if (state.only === "one") {
      const names = new Set(shown.filter((one) => one.run.laws[id]?.status === "failed").map((one) => `${one.index}/${one.run.implementation}`));
      if (names.size !== 1) return false;
    }
    if (state.only === "changed" && !changed(id, shown)) return false;
    const text = `${id} ${said(id).statement} ${entries.map((one) => one.reason).join(" ")}`.toLowerCase();
    return state.q.toLowerCase().split(/\s+/).every((word) => text.includes(word));
  };
  // Of columns of one implementation and dtype in several reports: another status, or a ratio that is twice the other.
  const changed = (id, shown) => {
    const groups = new Map();
    for (const one of shown) groups.set(one.key, [...(groups.get(one.key) || []), one.run.laws[id]]);
    return [...groups.values()].some((entries) => entries.length > 1 && entries.some((one) => {
      const first = entries[0];
      if (!one || !first || one.status !== first.status) return true;
      const [low, high] = [one.worst_ratio ?? Infinity, first.worst_ratio ?? Infinity].sort((a, b) => a - b);
      return high > 2 * low && high > 0.01;
    }));
  };

  // -- the first screen ----------------------------------------------------------------------------------------------

  const drawVerdict = () => {
    const totals = reports.map((one) => one.report.totals);
    const sum = (name) => totals.reduce((all, one) => all + (one[name] || 0), 0);
    const causes = reports.reduce((all, one) => all + (one.report.causes || []).length, 0);
    const worst = sum("failed") ? "failed" : sum("error") ? "error" : sum("known") ? "known" : sum("passed") ? "passed" : "";
    const text = {
      failed: `${plural(sum("failed"), "failure")} from ${plural(causes, "cause")}`,
      error: `The harness failed ${plural(sum("error"), "time")}, and no law is known to be broken`,
      known: `Every law held or failed as known (${sum("known")})`,
      passed: "Every law that applies held",
      "": "Nothing was exercised, so this says nothing about the implementation",
    }[worst];
    const cut = reports.filter((one) => one.report.complete === false).map((one) => one.name);
    by("verdict").className = worst;
    by("verdict-title").textContent = text;
    fill(by("verdict"),
      by("verdict-title"),
      ...reports.map((one) => h("p", {}, reports.length > 1 ? h("strong", {}, `${one.name}: `) : null, `${one.report.totals.sentence}.`)),
      ...(cut.length ? [h("p", {}, `Cut off before the end: ${cut.join(", ")}.`)] : []),
      ...reports.flatMap((one) => (one.report.unusable || []).map((bad) => h("p", {}, `Cannot be used: ${bad.target}: ${bad.why}`))),
      h("p", { class: "soft" }, Object.entries(reports[0]?.report.versions || {}).map(([name, version]) => `${name} ${version}`).join(" · ")),
    );
  };

  const firstOf = (report, cause) => {
    const found = [];
    for (const run of report.runs) for (const [id, entry] of Object.entries(run.laws)) {
      if (entry.status === "failed" && (entry.causes || [entry.cause]).includes(cause.id)) found.push({ run, id, entry });
    }
    const readable = (one) => one.entry.readable ?? Infinity;
    return found.sort((a, b) => (b.entry.counterexample === cause.counterexample) - (a.entry.counterexample === cause.counterexample) || readable(a) - readable(b));
  };

  const explanation = (found) => {
    if (!found) return [h("p", {}, "Nothing that is known explains it.")];
    const rows = Object.entries(found.fields || {}).map(([name, value]) =>
      h("p", {}, "Dialect field ", h("code", {}, name), ": ", Array.isArray(value) ? `declared ${value[0]}, computed ${value[1]}` : String(value)));
    if (found.deviation) rows.push(h("p", {}, "A known deviation: ", h("code", {}, found.deviation)));
    if (found.measured) rows.push(h("p", {}, `Measured: ${typeof found.measured === "object" ? JSON.stringify(found.measured) : found.measured}`));
    return rows;
  };

  const drawCauses = () => {
    const shown = columns();
    const most = (causes) => [...causes].sort((a, b) => (b.laws || 0) - (a.laws || 0));  // that of most failures is seen first
    const cards = reports.flatMap((one) => most(one.report.causes || []).map((cause) => {
      const failed = firstOf(one.report, cause);
      const where = cause.where ? ` (${cause.where})` : "";
      const best = failed[0];
      const column = best && shown.find((other) => other.run === best.run);
      return h("article", { class: "card" },
        h("h3", {}, `${cause.summary}${where}`),
        h("p", {}, h("span", { class: "tag" }, cause.implementation), h("span", { class: "tag" }, `stage: ${cause.stage || "unknown"}`),
          h("span", { class: "tag" }, `kind: ${cause.kind || "value"}`),
          ` ${plural(cause.laws, "failure")}: ${cause.shown ?? 0} shown to belong, ${cause.untold ?? 0} not told apart.`),
        explanation(cause.explanation),
        (cause.notes || []).map((note) => h("p", {}, note)),
        best ? [maps(best.entry.failure), best.entry.example ? h("pre", { tabindex: "0", "aria-label": "Smallest counterexample" }, best.entry.example.slice(0, -1).join("\n")) : null,
          replay(best.entry), h("p", {}, h("a", { href: address(best.id, column) }, `Open ${best.id} in ${best.run.dtype}`))] : null);
    }));
    fill(by("causes"), cards.length ? [h("h2", {}, cards.length === 1 ? "The cause" : `${cards.length} causes`), cards] : null);
  };

  const replay = (entry) => {
    const line = (entry.example || []).at(-1) || "";
    const parts = [];
    if (line.startsWith("replay: ")) parts.push(copyable(line.slice("replay: ".length)));
    const file = page.files[entry.counterexample || ""];
    if (file) {
      const name = entry.counterexample.split(/[\\/]/).at(-1);
      parts.push(h("p", {}, h("a", { download: name, href: `data:application/octet-stream;base64,${file}` }, "Save the counterexample"), ` (${name})`));
    }
    return parts;
  };

  // -- numbers that are drawn ----------------------------------------------------------------------------------------

  const rowsOf = (values) => {
    if (Array.isArray(values)) return values;
    const rows = Array.from({ length: values.rows }, () => Array(values.columns).fill(0));
    for (const [i, j, value] of values.entries) rows[i][j] = value;
    return rows;
  };
  const colour = (value, largest) => {
    if (typeof value !== "number") return ["#7a1fa2", "#ffffff"];
    const part = largest ? Math.min(1, Math.abs(value) / largest) : 0;
    const strength = part === 0 ? 0 : 0.12 + 0.88 * part;
    const [r, g, b] = value < 0 ? [178, 69, 24] : [21, 94, 160];
    const mix = (channel) => Math.round(255 + (channel - 255) * strength);
    const [red, green, blue] = [mix(r), mix(g), mix(b)];
    const light = 0.2126 * (red / 255) ** 2.2 + 0.7152 * (green / 255) ** 2.2 + 0.0722 * (blue / 255) ** 2.2;
    return [`rgb(${red} ${green} ${blue})`, light > 0.18 ? "#000000" : "#ffffff"];
  };
  const heat = (caption, values, largest, worst) => {
    const rows = rowsOf(values);
    const most = largest ?? Math.max(0, ...rows.flat().filter((one) => typeof one === "number").map(Math.abs));
    const wide = (rows[0] || []).length > 8;
    return h("table", { class: "map" }, h("caption", {}, caption), h("tbody", {}, rows.map((row, i) => h("tr", {}, row.map((value, j) => {
      const [back, front] = colour(value, most);
      const at = worst && worst[0] === i && worst[1] === j;
      return h("td", { style: `background:${back};color:${front}`, class: at ? "worst" : null, title: String(value) },
        wide ? h("span", { class: "hidden" }, String(value)) : short(value));
    })))));
  };
  const place = (shape, start, index) => {
    const [row, column] = [0, 0, ...index].slice(-2);
    const [top, left] = [0, 0, ...start].slice(-2);
    return [row - top, column - left];
  };
  const maps = (failure) => {
    if (!failure || !failure.picture) return null;
    const { got, exact, error, bound, shape, start, index } = failure.picture;
    const all = [...rowsOf(got).flat(), ...rowsOf(exact).flat()].filter((one) => typeof one === "number").map(Math.abs);
    const worst = place(shape, start, index);
    const belongs = { exact: "exact", other: "another output", limit: "at most" }[failure.against] || "wanted";
    const whole = shape.length > 2 ? `, the part at [${start.slice(0, -2).join(", ")}] of shape [${shape.join(", ")}]` : "";
    return [
      h("p", { class: "soft" }, `${failure.found}${failure.where ? ` at ${failure.where}` : ""}${whole}. The outlined place is the worst.`),
      h("div", { class: "maps" }, heat("got", got, Math.max(0, ...all), worst), heat(belongs, exact, Math.max(0, ...all), worst),
        heat("difference", error, null, worst), heat("allowed by rounding", bound, null, worst)),
    ];
  };
  const inputs = (failure) => {
    if (failure?.left_out) return h("p", { class: "soft" }, `Too large for this page, and in report.json: ${failure.left_out.join(", ")}.`);
    if (!failure || !(failure.inputs || []).length) return null;
    return [h("h3", {}, "Smallest input that was found"), h("div", { class: "maps" }, failure.inputs.map((one) =>
      one.values ? heat(`${one.name} [${one.shape.join(", ")}] ${one.dtype}`, one.values) : h("p", {}, h("code", {}, `${one.name} = ${one.text}`)))),
      failure.more_inputs ? h("p", {}, `And ${failure.more_inputs} more in the file.`) : null];
  };

  const histogram = (what, bins) => {
    const low = Math.min(-8, ...bins.map(([bin]) => bin)), high = Math.max(2, ...bins.map(([bin]) => bin + 1));
    const width = 640, height = 90, step = width / (high - low), most = Math.max(...bins.map(([, count]) => count));
    const x = (bin) => (bin - low) * step;
    const bars = bins.map(([bin, count]) => {
      const tall = Math.max(2, 60 * Math.log1p(count) / Math.log1p(most));
      return h("rect", { class: bin >= 0 ? "over" : "bar", x: x(bin) + 1, y: 66 - tall, width: Math.max(1, step - 2), height: tall });
    });
    const ticks = [];
    for (let decade = Math.ceil(low / 2); decade <= high / 2; decade += Math.max(1, Math.round((high - low) / 24))) {
      ticks.push(h("text", { x: Math.min(x(2 * decade), width - 26), y: 82 }, decade === 0 ? "1" : `1e${decade}`));
    }
    const summary = `${what || "all of it"}: ${plural(bins.reduce((all, [, count]) => all + count, 0), "time")}, at most ${high >= 32 ? "infinite" : `10^${high / 2}`}`;
    return h("div", {}, h("p", {}, what || "everything", h("span", { class: "soft" }, `, ${plural(bins.reduce((all, [, count]) => all + count, 0), "output")}`)),
      h("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": summary }, bars,
        h("line", { class: "axis", x1: 0, x2: width, y1: 66, y2: 66 }), h("line", { class: "axis", x1: x(0), x2: x(0), y1: 0, y2: 70 }), ticks));
  };
  const nearness = (entry) => {
    const found = Object.entries(entry.nearness || {});
    if (!found.length) return null;
    return [h("h3", {}, "Error against bound"), h("p", { class: "soft" }, "How often the nearest number of an output came to which part of its bound, both axes logarithmic. Beyond the line at 1 is a failure; the leftmost bin holds exact answers."),
      found.map(([what, bins]) => histogram(what, bins))];
  };
  // Neighbours of which everything, or nothing, failed are one piece of a strip.
  const runsOf = (points) => {
    const how = (visited, failed) => (failed === 0 ? 0 : failed === visited ? 2 : 1);
    const found = [];
    for (const [value, visited, failed] of points) {
      const before = found.at(-1);
      if (before && before[1] + 1 === value && how(before[2], before[3]) === how(visited, failed)) {
        before[1] = value; before[2] += visited; before[3] += failed;
      } else found.push([value, value, visited, failed]);
    }
    return found;
  };
  const strip = (entry) => {
    const axes = Object.entries(entry.visited || {});
    if (!axes.length && !entry.sizes) return null;
    const letter = { tokens: "T, tokens", channels: "C, channels", layers: "L, layers", streams: "n, streams" };
    return [h("h3", {}, "Sizes"), entry.sizes ? h("p", {}, entry.sizes) : null, axes.map(([axis, points]) => [h("p", {}, letter[axis] || axis),
      h("div", { class: "strip" }, runsOf(points).map(([first, last, visited, failed]) => h("span", {
        class: failed === visited ? "failed" : failed ? "some" : null, title: `${failed} of ${visited} points failed`,
      }, `${first === last ? first : `${first}–${last}`}${failed ? " ×" : ""}`)))])];
  };

  // -- one law -------------------------------------------------------------------------------------------------------

  const address = (id, column) => `#${[id, ...(column ? column.id.split("/") : [])].map(encodeURIComponent).join("/")}`;
  const dialog = by("law");
  let opener = null;

  const open = (id, column) => {
    const entry = column.run.laws[id];
    const law = said(id);
    const causes = (entry.causes || []).map((key) => (column.report.report.causes || []).find((one) => one.id === key)).filter(Boolean);
    const shown = columns();
    const others = shown.filter((one) => one.run !== column.run && one.run.laws[id]);
    fill(dialog,
      h("button", { type: "button", class: "close", onclick: () => dialog.close() }, "Close"),
      h("h2", { id: "law-title" }, id),
      h("p", {}, h("span", { class: `cell ${entry.status}`, "aria-hidden": "true" }, GLYPH[entry.status]), ` ${WORD[entry.status]} in ${column.run.dtype} on ${column.label} (${column.run.device})`),
      law.statement ? [h("h3", {}, "What it says"), prose(law.statement)] : null,
      entry.reason && entry.status !== "failed" ? [h("h3", {}, "Why so"), h("p", {}, entry.reason)] : null,
      causes.length ? [h("h3", {}, "Cause"), causes.map((one, i) => h("p", {}, `${one.summary}${one.where ? ` (${one.where})` : ""}: ${(entry.belongs || [])[i] || "belongs"}`))] : null,
      entry.status === "failed" ? [h("h3", {}, "What came, and what belongs there"), maps(entry.failure),
        entry.example ? h("pre", { tabindex: "0", "aria-label": "Counterexample" }, entry.example.slice(0, -1).join("\n")) : null, replay(entry)] : null,
      inputs(entry.failure),
      entry.status === "not-applicable" ? null : [h("h3", {}, "Counted"), h("dl", {},
        h("dt", {}, "worst error / bound"), h("dd", {}, ratio(entry)),
        h("dt", {}, "examples"), h("dd", {}, String(entry.examples)),
        h("dt", {}, "claims"), h("dd", {}, `${entry.claims ?? 0}, and ${entry.abstentions ?? 0} numbers of which nothing could be claimed`))],
      strip(entry), nearness(entry),
      law.reason ? [h("h3", {}, "Why it holds"), prose(law.reason)] : null,
      others.length ? [h("h3", {}, "Elsewhere"), h("p", {}, others.slice(0, 60).map((one) => [h("a", { href: address(id, one) }, `${one.label} ${one.run.dtype}: ${WORD[one.run.laws[id].status]}`), " "]))] : null,
    );
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
  };
  dialog.addEventListener("close", () => {
    history.replaceState(null, "", filterAddress());
    if (opener && opener.isConnected) opener.focus();
  });

  // -- the matrix ----------------------------------------------------------------------------------------------------

  const cell = (id, column, text) => {
    const entry = column.run.laws[id];
    if (!entry) return h("span", { class: "soft" }, h("span", { class: "hidden" }, "not run"));
    const name = `${id}, ${column.label} ${column.run.dtype}: ${WORD[entry.status]}${entry.status === "passed" || entry.status === "failed" ? `, ratio ${ratio(entry)}` : ""}`;
    return h("button", { type: "button", class: `cell ${entry.status}`, tabindex: "-1", title: name, "aria-label": name, "data-address": address(id, column) }, text ? text(entry) : GLYPH[entry.status]);
  };
  const inWords = (entry) => (entry.status === "passed" ? ratio(entry) : entry.status === "failed" ? `× ${ratio(entry)}` : `${GLYPH[entry.status]} ${entry.status === "not-applicable" ? "" : WORD[entry.status].split(" ")[0]}`);

  // One stop for the tab key; arrows, Home and End go on from there.
  const roving = (table) => {
    const cells = [...table.querySelectorAll("button.cell")];
    if (cells[0]) cells[0].tabIndex = 0;
    table.addEventListener("focusin", (event) => {
      if (!event.target.matches("button.cell")) return;
      for (const one of cells) one.tabIndex = one === event.target ? 0 : -1;
    });
    table.addEventListener("keydown", (event) => {
      const at = cells.indexOf(event.target);
      if (at < 0) return;
      const row = (one) => one.closest("tr");
      const near = (step) => {  // the cell of the next row that lies nearest
        const x = event.target.getBoundingClientRect().left;
        const rows = [...new Set(cells.map(row))];
        const next = rows[rows.indexOf(row(event.target)) + step];
        return next && [...next.querySelectorAll("button.cell")].sort((a, b) => Math.abs(a.getBoundingClientRect().left - x) - Math.abs(b.getBoundingClientRect().left - x))[0];
      };
      const next = { ArrowRight: cells[at + 1], ArrowLeft: cells[at - 1], ArrowDown: near(1), ArrowUp: near(-1), Home: cells[0], End: cells.at(-1) }[event.key];
      if (!next) return;
      event.preventDefault();
      next.focus();
    });
    table.addEventListener("click", (event) => {
      const button = event.target.closest("button.cell");
      if (!button) return;
      opener = button;
      location.hash = button.dataset.address;
    });
    return table;
  };

  const drawOverview = () => {
    const shown = columns().filter((one) => !state.dtype || one.run.dtype === state.dtype);
    const ids = lawsOf(shown);
    const families = [...new Set(ids.map(familyOf))];
    const table = h("table", { class: "overview" }, h("caption", { class: "hidden" }, "Every law as a square, by family and dtype"),
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "family"), shown.map((one) => h("th", { scope: "col" }, one.label, " ", one.run.dtype)))),
      h("tbody", {}, families.map((family) => h("tr", {}, h("th", { scope: "row" }, family), shown.map((one) => {
        const inside = ids.filter((id) => familyOf(id) === family && one.run.laws[id]);
        return h("td", {}, h("div", { class: "waffle" }, inside.map((id) => cell(id, one))));
      })))));
    fill(by("overview"), h("h2", { id: "overview-title" }, "Families and dtypes"),
      h("p", {}, "One square for every law. Choose one to read it; arrow keys move from square to square."),
      h("ul", { class: "legend" }, Object.keys(WORD).map((status) => h("li", {}, h("span", { class: `cell ${status}`, "aria-hidden": "true" }, GLYPH[status]), ` ${WORD[status]}`))),
      h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Squares, one for every law" }, roving(table)));
  };

  const select = (name, label, options) => h("label", {}, label, h("select", { "data-filter": name },
    options.map(([value, text]) => h("option", { value, selected: state[name] === value }, text))));

  const drawLaws = () => {
    const every = columns();
    const ids = lawsOf(every);
    const several = reports.length > 1 || new Set(every.map((one) => one.run.implementation)).size > 1;
    const families = [...new Set(ids.map(familyOf))], dtypes = [...new Set(every.map((one) => one.run.dtype))];
    fill(by("laws"), h("h2", { id: "laws-title" }, "Laws"),
      h("div", { class: "controls", role: "search" },
        h("label", {}, "words", h("input", { type: "search", "data-filter": "q", value: state.q, placeholder: "gradient, token, bfloat16 …" })),
        select("family", "family", [["", "all"], ...families.map((one) => [one, one])]),
        select("status", "status", [["", "all"], ...Object.entries(WORD)]),
        select("dtype", "dtype", [["", "all"], ...dtypes.map((one) => [one, one])]),
        several ? select("only", "only", [["", "all laws"], ["one", "fails in exactly one"], ["changed", "what changed between reports"]]) : null,
        h("button", { type: "button", id: "clear" }, "Clear")),
      h("p", { id: "count", role: "status" }), h("div", { class: "scroll", id: "table", tabindex: "0", role: "region", "aria-label": "Table of laws" }));
    by("laws").querySelectorAll("[data-filter]").forEach((control) => control.addEventListener("input", () => {
      state[control.dataset.filter] = control.value;
      history.replaceState(null, "", filterAddress());
      drawTable();
      if (control.dataset.filter === "dtype") drawOverview();
    }));
    by("clear").addEventListener("click", () => { Object.assign(state, FILTERS); history.replaceState(null, "", filterAddress()); drawOverview(); drawLaws(); });
    drawTable();
  };
  const drawTable = () => {
    const shown = columns().filter((one) => !state.dtype || one.run.dtype === state.dtype);
    const ids = lawsOf(shown).filter((id) => wanted(id, shown));
    let family = "";
    const rows = ids.flatMap((id) => {
      const head = familyOf(id) === family ? [] : [h("tr", { class: "family" }, h("th", { colspan: shown.length + 1, scope: "rowgroup" }, familyOf(id)))];
      family = familyOf(id);
      return [...head, h("tr", {}, h("th", { scope: "row", title: said(id).statement }, id.slice(family.length + 1)), shown.map((one) => h("td", {}, cell(id, one, inWords))))];
    });
    by("count").textContent = `${ids.length} of ${lawsOf(columns()).length} laws; a number is the worst error / bound.`;
    fill(by("table"), roving(h("table", { class: "laws" }, h("caption", { class: "hidden" }, "Laws by implementation and dtype"),
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "law"), shown.map((one) => h("th", { scope: "col" }, one.label, h("br"), one.run.dtype)))),
      h("tbody", {}, rows))));
  };

  // -- addresses -----------------------------------------------------------------------------------------------------

  const filterAddress = () => {
    const set = Object.entries(state).filter(([, value]) => value);
    return set.length ? `#?${new URLSearchParams(set)}` : location.pathname + location.search;
  };
  const follow = () => {
    const hash = location.hash.slice(1);
    if (hash.startsWith("?")) {
      Object.assign(state, FILTERS, Object.fromEntries([...new URLSearchParams(hash.slice(1))].filter(([name]) => name in FILTERS)));
      if (dialog.open) dialog.close();
      drawOverview();
      drawLaws();
      return;
    }
    const [id, ...rest] = hash.split("/").map((part) => { try { return decodeURIComponent(part); } catch { return part; } });
    if (!id || ["laws", "main", "causes", "overview", "verdict"].includes(id)) { if (dialog.open) dialog.close(); return; }
    const shown = columns();
    const column = shown.find((one) => one.id === rest.join("/") && one.run.laws[id]) || shown.find((one) => !rest.length && one.run.laws[id]);
    if (column) {
      try {
        open(id, column);
      } catch (error) {
        if (dialog.open) dialog.close();
        say(`${id} of ${column.label} cannot be shown: ${error.message}.`);
      }
    } else say(`There is no ${hash} in these reports.`);
  };
  addEventListener("hashchange", follow);

  // -- reports that are added ----------------------------------------------------------------------------------------

  const wrong = (report) => {
    if (!report || typeof report !== "object" || !Array.isArray(report.runs)) return "it has no runs";
    if (typeof (report.schema ?? 1) !== "number" || (report.schema ?? 1) > page.schema) return `its form ${report.schema} is of a later version`;
    if (!report.totals || typeof report.totals.sentence !== "string") return "it has no totals";
    if (!report.runs.every((run) => run && typeof run.implementation === "string" && run.laws && typeof run.laws === "object")) return "a run in it has no laws";
    const odd = report.runs.flatMap((run) => Object.entries(run.laws)).find(([, entry]) => !Object.hasOwn(WORD, entry?.status));
    return odd ? `its law ${odd[0]} has no status that there is` : "";
  };
  const add = async (files) => {
    const told = [];
    for (const file of files) {
      try {
        const report = JSON.parse(await file.text());
        const why = wrong(report);
        if (why) throw new Error(why);
        const name = reports.some((one) => one.name === file.name) ? `${file.name} (${reports.length + 1})` : file.name;
        reports.push({ name, report });
        try {
          draw();
        } catch (unseen) {
          reports.pop();
          throw unseen;
        }
        told.push(`${name} was added.`);
      } catch (error) {
        told.push(`${file.name} is no report of a run: ${error.message}. A run writes DIR/report.json.`);
      }
    }
    draw();
    say(told.join(" "));
  };
  by("file").addEventListener("change", async (event) => {
    await add([...event.target.files]);
    event.target.value = "";  // so that the same file can be chosen again
  });
  addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("over"); });
  addEventListener("dragleave", () => document.body.classList.remove("over"));
  addEventListener("drop", (event) => { event.preventDefault(); document.body.classList.remove("over"); add([...event.dataTransfer.files]); });

  const draw = () => { drawVerdict(); drawCauses(); drawOverview(); drawLaws(); };
  draw();
  follow();
})();
