// Light, dark, or as the system has it. Loaded in the head, so that the page never flashes in the other one.

const KEY = "llmgate.theme";
const THEMES = ["system", "light", "dark"];

const chosen = () => (THEMES.includes(localStorage.getItem(KEY)) ? localStorage.getItem(KEY) : "system");

function apply() {
  document.documentElement.dataset.theme = chosen();
}

apply();
addEventListener("DOMContentLoaded", () => {
  const button = document.getElementById("theme");
  const show = () => (button.textContent = `Theme: ${chosen()}`);
  show();
  button.addEventListener("click", () => {
    localStorage.setItem(KEY, THEMES[(THEMES.indexOf(chosen()) + 1) % THEMES.length]);
    apply();
    show();
  });
});
