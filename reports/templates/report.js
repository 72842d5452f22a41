"use strict";
(() => {
  const bar = document.getElementById("filter");
  const text = document.getElementById("filter-text");
  const kind = document.getElementById("filter-kind");
  const told = document.getElementById("filter-told");
  if (bar) {
    const rows = [...document.querySelectorAll("table.clauses > tbody > tr")];
    const words = rows.map((row) => row.textContent.toLowerCase());
    const apply = () => {
      const wanted = text.value.trim().toLowerCase();
      let shown = 0;
      rows.forEach((row, i) => {
        const right = !kind.value || row.dataset.kind.split(" ").includes(kind.value);
        row.hidden = !(right && words[i].includes(wanted));
        shown += row.hidden ? 0 : 1;
      });
      for (const part of document.querySelectorAll("section.bit")) {
        part.hidden = !part.querySelector("table.clauses > tbody > tr:not([hidden])");
      }
      told.textContent = shown + " of " + rows.length + " clauses shown";
    };
    text.addEventListener("input", apply);
    kind.addEventListener("change", apply);
    const clear = () => {
      const id = decodeURIComponent(location.hash.slice(1));
      const goal = id && document.getElementById(id);
      if (goal && goal.closest("[hidden]")) { text.value = ""; kind.value = ""; apply(); goal.scrollIntoView(); }
      for (let at = goal; at; at = at.parentElement) { if (at.tagName === "DETAILS") { at.open = true; } }
    };
    window.addEventListener("hashchange", clear);
    bar.hidden = false;
    apply();
    clear();
  }
  let closed = [];
  window.addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details:not([open])")];
    closed.forEach((d) => { d.open = true; });
  });
  window.addEventListener("afterprint", () => { closed.forEach((d) => { d.open = false; }); });
})();
