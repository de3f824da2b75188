// Which theme was chosen last? Set before the first paint, so that the page does not flash.
try {
  const theme = localStorage.getItem("loadtune-theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch (error) {
  // Storage may be forbidden for local files: the page then follows the system.
}
