// Colours of the figures from the page's style sheet, so that they follow its colour scheme; and the choice of the axis.
(function () {
  "use strict";
  function value(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  }
  function paint(model) {
    const ink = value("--ink"), soft = value("--soft"), line = value("--line");
    const number = (model.tags || []).map((tag) => /^colour-(\w+)$/.exec(tag)).filter(Boolean).map((found) => found[1])[0];
    if (number !== undefined) {
      const colour = value("--colour-" + number), glyph = model.glyph || model;
      for (const name of ["line_color", "fill_color"]) {
        const now = glyph[name];
        if (now !== undefined && now !== null && now.value !== null) glyph[name] = colour;
      }
      for (const other of [model.muted_glyph, model.nonselection_glyph]) if (other) other.visible = false;
    }
    if (model.major_label_text_color !== undefined) {
      model.major_label_text_color = soft; model.axis_label_text_color = soft;
      model.axis_line_color = line; model.major_tick_line_color = line;
    }
    if (model.grid_line_color !== undefined) { model.grid_line_color = line; model.grid_line_alpha = 1; }
    if (model.label_text_color !== undefined) { model.label_text_color = ink; }
  }
  function documents() {
    return window.Bokeh ? window.Bokeh.documents : [];
  }
  function models() {
    return documents().flatMap((one) => Array.from(one._all_models.values()));
  }
  function choose(name) {
    const found = models();
    const shared = new Set();
    for (const model of found) {
      const column = model.data && model.data instanceof Map ? model.data.get(name) : model.data && model.data[name];
      if (column !== undefined && column !== null) {
        if (model.data instanceof Map) { const next = new Map(model.data); next.set("x", column); model.data = next; }
        else model.data = Object.assign({}, model.data, { x: column });
        shared.add(column);
      }
    }
    let high = 0;
    for (const column of shared) for (const one of column) if (one > high) high = one;
    for (const model of found) {
      if (model.type === "Range1d" && (model.tags || []).includes("x")) { model.reset_start = 0; model.reset_end = 1.015 * high; model.setv({ start: 0, end: 1.015 * high }); }
      if (model.axis_label !== undefined && (model.tags || []).includes("x")) model.axis_label = name;
    }
    for (const button of document.querySelectorAll("[data-axis]")) {
      button.setAttribute("aria-pressed", String(button.dataset.axis === name));
    }
  }
  function ready(then) {
    const wanted = document.querySelectorAll("[data-root-id]").length;
    let tries = 0;
    const timer = setInterval(function () {
      if (documents().length && documents()[0].roots().length >= wanted || ++tries > 200) { clearInterval(timer); then(); }
    }, 20);
  }
  function begin() {
    ready(function () {
      models().forEach(paint);
      if (window.innerWidth < 640) {  // names of lines below one another, where they do not fit side by side
        for (const model of models().filter((one) => one.type === "Legend")) {
          const letters = model.items.reduce((sum, item) => sum + ((item.label && item.label.value) || "").length + 4, 0);
          if (letters > 42) model.setv({ orientation: "vertical", spacing: 0 });
        }
      }
      window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", function () { models().forEach(paint); });
      document.documentElement.dataset.drawn = "yes";
    });
    for (const button of document.querySelectorAll("[data-axis]")) {
      button.addEventListener("click", function () { choose(button.dataset.axis); });
    }
  }
  if (document.readyState !== "loading") begin(); else document.addEventListener("DOMContentLoaded", begin);
})();
