"use strict";
(() => {
  const bar = document.getElementById("filter");
  const text = document.getElementById("filter-text");
  const kind = document.getElementById("filter-kind");
  const told = document.getElementById("filter-told");
  const all = document.getElementById("print-all");
  const items = [...document.querySelectorAll(".find")];
  let words = null;
  const apply = () => {
    const wanted = text.value.trim().toLowerCase();
    const asked = wanted || kind.value;
    if (wanted && !words) { words = items.map((item) => item.textContent.toLowerCase()); }
    let shown = 0;
    items.forEach((item, i) => {
      const right = !kind.value || (item.dataset.kind || "").split(" ").includes(kind.value);
      item.hidden = !(right && (!wanted || words[i].includes(wanted)));
      shown += item.hidden ? 0 : 1;
    });
    for (const part of document.querySelectorAll("main section")) {
      const there = part.querySelectorAll(".find");
      part.hidden = Boolean(asked) && ![...there].some((item) => !item.hidden);
    }
    told.textContent = asked ? shown + " of " + items.length + " entries shown" : "";
  };
  const clear = () => {
    const id = decodeURIComponent(location.hash.slice(1));
    const goal = id && document.getElementById(id);
    if (goal && goal.closest("[hidden]")) { text.value = ""; kind.value = ""; apply(); }
    for (let at = goal; at; at = at.parentElement) { if (at.tagName === "DETAILS") { at.open = true; } }
    if (goal) { goal.scrollIntoView(); }
  };
  text.addEventListener("input", apply);
  kind.addEventListener("change", apply);
  window.addEventListener("hashchange", clear);
  all.addEventListener("change", () => { document.body.classList.toggle("print-all", all.checked); });
  bar.hidden = false;
  apply();
  if (location.hash) { clear(); }
  let closed = [];
  window.addEventListener("beforeprint", () => {
    closed = all.checked ? [...document.querySelectorAll("details:not([open])")] : [];
    closed.forEach((d) => { d.open = true; });
  });
  window.addEventListener("afterprint", () => { closed.forEach((d) => { d.open = false; }); });
})();
