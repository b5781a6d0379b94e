"use strict";
// Sorts tables by the column whose head is pressed, filters rows by the form, and opens the details of a row.
(() => {
  const value = (entry, key) => entry.dataset[key] ?? "";
  const compare = (a, b) => {
    const x = Number(a), y = Number(b);
    return a !== "" && b !== "" && !Number.isNaN(x) && !Number.isNaN(y) ? x - y : a.localeCompare(b);
  };
  const sort = (table, head, key) => {
    const first = head.dataset.first ?? "ascending";
    const other = first === "ascending" ? "descending" : "ascending";
    const order = head.getAttribute("aria-sort") === first ? other : first;
    for (const one of table.querySelectorAll("th[aria-sort]")) one.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", order);
    const sign = order === "ascending" ? 1 : -1;
    const entries = [...table.querySelectorAll("tbody.entry")];
    entries.sort((a, b) => sign * compare(value(a, key), value(b, key)));
    for (const entry of entries) table.append(entry);
  };
  for (const button of document.querySelectorAll("th button")) {
    const head = button.closest("th");
    button.addEventListener("click", () => sort(head.closest("table"), head, head.dataset.key));
  }
  for (const button of document.querySelectorAll("td button")) {
    button.addEventListener("click", () => {
      const details = document.getElementById(button.getAttribute("aria-controls"));
      details.hidden = !details.hidden;
      button.setAttribute("aria-expanded", String(!details.hidden));
    });
  }
  const form = document.querySelector("form");
  if (!form) return;
  const filter = () => {
    let shown = 0;
    const entries = document.querySelectorAll("tbody.entry");
    for (const entry of entries) {
      let fits = true;
      for (const field of form.elements) {
        if (!field.name || field.value === "") continue;
        const here = value(entry, field.name);
        if (field.dataset.kind === "most") fits &&= here === "" || Number(here) <= Number(field.value);
        else if (field.dataset.kind === "part") fits &&= here.toLowerCase().includes(field.value.toLowerCase());
        else fits &&= here === field.value;
      }
      entry.hidden = !fits;
      shown += fits ? 1 : 0;
    }
    document.querySelector("output").textContent = `${shown} of ${entries.length} shown`;
  };
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  filter();
})();
