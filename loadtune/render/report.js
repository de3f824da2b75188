// What a page can do beyond being read: change its theme, copy, save its data, sort a table, print in full.
"use strict";

function showControls() {
  for (const control of document.querySelectorAll("[data-needs-script]")) control.hidden = false;
}

function enableTheme(button) {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (document.documentElement.dataset.theme || (dark.matches ? "dark" : "light")) === "dark";
  const tell = () => { button.textContent = isDark() ? "Light theme" : "Dark theme"; };
  button.addEventListener("click", () => {
    const theme = isDark() ? "light" : "dark";
    document.documentElement.dataset.theme = theme;
    try {
      localStorage.setItem("loadtune-theme", theme);
    } catch (error) {
      // Storage may be forbidden: the choice then lasts as long as the page.
    }
    tell();
  });
  dark.addEventListener("change", tell);
  tell();
}

function select(element) {
  const range = document.createRange();
  range.selectNodeContents(element);
  const selection = getSelection();
  selection.removeAllRanges();
  selection.addRange(range);
}

function enableCopy(button) {
  const source = document.getElementById(button.dataset.copies);
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(source.textContent);
      button.textContent = "Copied";
    } catch (error) {
      // The clipboard may be forbidden: the selected text is one key away from it.
      select(source);
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
}

function enableSave(button) {
  button.addEventListener("click", () => {
    const text = document.getElementById("report-data").textContent;
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    link.download = button.dataset.saves;
    link.click();
    URL.revokeObjectURL(link.href);
  });
}

// A cell without a value stands last in either direction.
function compareRows(column, sign) {
  const valueOf = (row) => row.rows[0].cells[column].dataset.value ?? "";
  return (left, right) => {
    const a = valueOf(left), b = valueOf(right);
    if (a === "" || b === "") return (a === "") - (b === "");
    const difference = Number(a) - Number(b);
    return sign * (Number.isNaN(difference) ? a.localeCompare(b) : difference);
  };
}

// Each trial is a tbody of its own, so that its log moves with it.
function enableSorting(table) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const isAscending = head.getAttribute("aria-sort") !== "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", isAscending ? "ascending" : "descending");
      table.append(...[...table.tBodies].sort(compareRows(column, isAscending ? 1 : -1)));
    });
  });
}

function printInFull() {
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details:not([open])")];
    for (const details of closed) details.open = true;
  });
  addEventListener("afterprint", () => {
    for (const details of closed) details.open = false;
  });
}

showControls();
enableTheme(document.getElementById("theme"));
document.querySelectorAll("[data-copies]").forEach(enableCopy);
document.querySelectorAll("[data-saves]").forEach(enableSave);
document.querySelectorAll("table.sortable").forEach(enableSorting);
printInFull();
