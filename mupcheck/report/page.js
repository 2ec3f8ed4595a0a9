"use strict";
// Draws the page's charts from the rows embedded in it; computes nothing but which rows are shown.
(() => {
  const MOST_SLOPES = 60;
  const SEVERITY = ["fail", "cannot tell", "pass", "info"];
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const page = { charts: {}, views: {}, ready: null };
  window.mupcheck = page;

  const element = (tag, text = "", attributes = {}) => {
    const made = document.createElement(tag);
    made.textContent = text;
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    return made;
  };
  const columns = (rows) => [...new Set(rows.flatMap(Object.keys))].filter((name) => !Array.isArray(rows[0]?.[name]));
  const shown = (value) => (value === null || value === undefined ? "" : String(value));
  // a cell that begins as a formula does would be one to a spreadsheet
  const cell = (value) => {
    let text = shown(value);
    if (typeof value === "string" && /^[=+\-@\t\r]/.test(text)) text = "'" + text;
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const csv = (rows) => {
    const names = columns(rows);
    return [names, ...rows.map((row) => names.map((name) => row[name]))].map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
  };
  const save = (name, type, text) => {
    const link = element("a", "", { download: name, href: URL.createObjectURL(new Blob([text], { type })) });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  };

  // rows of the forest: what decides first, labels that no two rows share
  const step = (row) => (row.step > 0 ? "later" : "0"); // later steps are pooled
  const slopeLabel = (row) => `${row.site}  ${row.kind} ${row.stat}, ${row.step > 0 ? "later" : "step 0"}`;
  const sorted = (rows) => rows.map((row) => ({ ...row, label: slopeLabel(row) }))
    .sort((a, b) => SEVERITY.indexOf(a.verdict) - SEVERITY.indexOf(b.verdict) || a.label.localeCompare(b.label));

  const select = (label, values, onChange) => {
    const made = element("select");
    for (const [value, text] of values) made.append(element("option", text, { value }));
    made.addEventListener("change", onChange);
    const wrap = element("label", label);
    wrap.append(made);
    return [wrap, made];
  };

  const put = (name, dataset, rows) => {
    const view = page.views[name];
    page.charts[name].drawn[dataset] = rows;
    return view ? view.data(dataset, rows.map((row) => ({ ...row }))).resize().runAsync() : null;
  };

  const forest = (chart, tools, note) => {
    const all = sorted(chart.rows.slopes);
    const search = element("input", "", { type: "search", placeholder: "site or kind", "aria-label": `search slopes of ${chart.title}` });
    const chosen = {};
    const update = () => {
      const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      const rows = all.filter((row) =>
        Object.entries(chosen).every(([name, made]) => made.value === "" || shown(name === "step" ? step(row) : row[name]) === made.value)
        && words.every((word) => row.label.toLowerCase().includes(word)));
      chart.table_rows = rows;
      note.textContent = `${Math.min(rows.length, MOST_SLOPES)} of ${rows.length} slopes drawn, ${all.length} in all; those that fail or cannot be told first. `
        + "Band: required; tick: what the table implies; line: interval.";
      return put(chart.name, "slopes", rows.slice(0, MOST_SLOPES));
    };
    for (const name of ["verdict", "kind", "site", "step"]) {
      const values = [...new Set(all.map((row) => shown(name === "step" ? step(row) : row[name])))].sort();
      const [wrap, made] = select(name, [["", "all"], ...values.map((value) => [value, value])], update);
      chosen[name] = made;
      tools.append(wrap);
    }
    search.addEventListener("input", update);
    tools.append(search);
    return update;
  };

  const layers = (chart, tools) => {
    const of = (row) => `${row.kind} ${row.stat} of ${row.site}`;
    const names = [...new Set(chart.rows.layers.map(of))].sort();
    const first = ["effective_update rms of q_proj", "activation rms of residual"].find((name) => names.includes(name)) ?? names[0];
    const update = () => {
      chart.table_rows = chart.rows.layers.filter((row) => of(row) === made.value);
      return put(chart.name, "layers", chart.table_rows);
    };
    const [wrap, made] = select("quantity", names.map((name) => [name, name]), update);
    made.value = first;
    tools.append(wrap);
    return update;
  };

  const runs = (chart, tools, note) => {
    const name = (run) => `${run.parametrization} width ${run.width} lr 2^${Number(run.log2_lr.toPrecision(4))} seed ${run.seed}`;
    const all = chart.rows.runs.filter((run) => run.step.length);
    const update = () => {
      const picked = [...made.selectedOptions].slice(0, 8).map((option) => all[option.value]);
      const rows = picked.flatMap((run) => run.step.map((at, i) => (
        { run: name(run), step: at, loss: run.loss[i], grad_norm: run.grad_norm[i], lr: run.lr[i] })));
      chart.table_rows = rows;
      note.textContent = `${picked.length} of ${all.length} runs drawn, at most 8 at a time.`;
      return put(chart.name, "curves", rows);
    };
    const [wrap, made] = select("runs", all.map((run, i) => [i, `${name(run)} (${run.status})`]), update);
    made.multiple = true;
    made.size = 6;
    const widest = all.map((run) => run.width).reduce((a, b) => Math.max(a, b), 0);
    const first = [...made.options].filter((option) => all[option.value].width === widest).slice(0, 4);
    for (const option of made.options) option.selected = first.includes(option);
    const [what, quantity] = select("shown", ["loss", "grad_norm", "lr"].map((each) => [each, each]), () =>
      page.views[chart.name].signal("shown", quantity.value).runAsync());
    tools.append(wrap, what);
    return update;
  };

  const table = (chart, details) => {
    const fill = () => {
      const rows = chart.table_rows;
      const made = element("table");
      const names = columns(rows);
      const head = element("tr");
      for (const name of names) head.append(element("th", name, { scope: "col" }));
      made.append(element("caption", chart.title), head);
      for (const row of rows) {
        const line = element("tr");
        for (const name of names) line.append(element("td", shown(row[name])));
        made.append(line);
      }
      details.querySelector(".scroll").replaceChildren(made);
    };
    details.addEventListener("toggle", () => { if (details.open) fill(); });
  };

  // the width of its container, to a chart whose height is that of its rows
  const fitted = ({ width: _, ...spec }) => {
    const update = "isFinite(containerSize()[0]) ? containerSize()[0] : 300";
    const width = { name: "width", init: update, on: [{ update, events: "window:resize" }] };
    return { ...spec, autosize: { type: "fit-x", contains: "padding" }, signals: [width, ...(spec.signals ?? [])] };
  };

  const draw = async (chart) => {
    const figure = document.getElementById(chart.name);
    const [view, tools, note, details] = [".view", ".tools", ".note", "details"].map((name) => figure.querySelector(name));
    page.charts[chart.name] = chart;
    chart.drawn = { ...chart.rows };
    chart.table_rows = chart.rows[chart.table] ?? [];
    const update = chart.rows.slopes ? forest(chart, tools, note) : chart.rows.layers ? layers(chart, tools)
      : chart.rows.runs ? runs(chart, tools, note) : () => {};
    update();
    const datasets = Object.fromEntries(Object.entries(chart.drawn).map(([name, rows]) => [name, rows.map((row) => ({ ...row }))]));
    const made = await vegaEmbed(view, { ...chart.spec, datasets }, { renderer: "svg", actions: false, ast: true, logLevel: 1, patch: chart.spec.height.step ? fitted : undefined });
    page.views[chart.name] = made.view;
    await made.view.resize().runAsync(); // labels are measured once they are there
    const svg = element("button", "Save SVG", { type: "button", class: "save-svg", "aria-label": `Save ${chart.title} as SVG` });
    svg.addEventListener("click", async () => save(`${chart.name}.svg`, "image/svg+xml", await made.view.toSVG()));
    const data = element("button", "Save CSV", { type: "button", class: "save-csv", "aria-label": `Save the data of ${chart.title} as CSV` });
    data.addEventListener("click", () => save(`${chart.name}.csv`, "text/csv", csv(chart.table_rows)));
    tools.append(svg, data);
    table(chart, details);
  };

  for (const box of document.querySelectorAll(".switch input")) {
    box.addEventListener("change", () => {
      const section = box.closest("section");
      for (const figure of section.querySelectorAll("figure[data-shifts]")) {
        page.views[figure.id]?.signal("shifted", box.checked).runAsync();
      }
    });
  }
  // on paper nothing can be opened
  const opened = [];
  addEventListener("beforeprint", () => {
    opened.push(...document.querySelectorAll("section > details:not([open])"));
    for (const details of opened) details.open = true;
  });
  addEventListener("afterprint", () => {
    for (const details of opened.splice(0)) details.open = false;
  });
  page.ready = Promise.all(charts.map(draw));
})();
