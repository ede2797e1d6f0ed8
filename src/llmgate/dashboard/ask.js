// Questions to the operator, as dialogs.

import { hasToken, setToken } from "./api.js";
import { $ } from "./dom.js";

/** Asks for the admin token until something is given. */
export function askForToken() {
  if (hasToken()) $("token-why").textContent = "That token was not accepted. Try again.";
  setToken(null);
  return new Promise((resolve) => {
    const dialog = $("token-dialog");
    dialog.oncancel = (event) => event.preventDefault(); // there is nothing to see without it
    dialog.querySelector("form").onsubmit = (event) => {
      event.preventDefault();
      setToken($("token").value.trim());
      $("token").value = "";
      dialog.close();
      resolve();
    };
    dialog.showModal();
  });
}

/** Whether the operator wants it. */
export function confirmed(title, text, verb) {
  $("confirm-title").textContent = title;
  $("confirm-text").textContent = text;
  $("confirm-yes").textContent = verb;
  return new Promise((resolve) => {
    const dialog = $("confirm-dialog");
    dialog.returnValue = "";
    dialog.onclose = () => resolve(dialog.returnValue === "yes");
    dialog.showModal();
  });
}
