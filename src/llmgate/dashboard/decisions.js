// The last decisions. Opening one holds the list still, or it would be gone in a second.

import { json } from "./api.js";
import { $, make, put, sync } from "./dom.js";
import { age, whole } from "./format.js";
import { candidatesOf, explanationOf, outcomeOf } from "./why.js";

const SHOWN = matchMedia("(max-width: 40rem)").matches ? 5 : 12;

export async function refreshDecisions() {
  if ($("hold").checked) return;
  const decisions = await json(`api/decisions?limit=${SHOWN}`);
  if ($("hold").checked) return; // meanwhile
  sync(
    $("decisions").tBodies[0],
    decisions,
    (decision) => `${decision.at} ${decision.request_id}`, // clients may repeat an id; a retried request has many
    createRow,
    updateRow,
  );
  $("no-decisions").hidden = decisions.length > 0;
}

function createRow(decision) {
  const row = make("tr");
  const when = make("td", "age");
  when.title = new Date(decision.time * 1000).toLocaleString();
  const request = make("th", "name");
  request.scope = "row";
  request.append(make("div", "label", decision.model), make("div", "about mono", decision.request_id));
  const prompt = make("td", "number", whole(decision.prompt_tokens));
  prompt.dataset.label = "Prompt tokens";
  const costs = make("td", "reasons");
  const outcome = make("p", "about outcome");
  costs.append(candidatesOf(decision), outcome);
  const button = make("button", "quiet", "Why");
  button.type = "button";
  button.setAttribute("aria-expanded", "false");
  button.setAttribute("aria-label", `Why request ${decision.request_id} went to ${decision.endpoint}`);
  button.addEventListener("click", () => toggle(costs, button, decision));
  const action = make("td", "action");
  action.append(button);
  row.append(when, request, prompt, costs, action);
  return row;
}

function updateRow(row, decision) {
  put(row.querySelector(".age"), age(decision.age_seconds));
  put(row.querySelector(".outcome"), outcomeOf(decision));
}

function toggle(cell, button, decision) {
  const open = button.getAttribute("aria-expanded") === "true";
  if (open) {
    cell.lastElementChild.remove();
  } else {
    $("hold").checked = true;
    cell.append(explanationOf(decision));
  }
  button.setAttribute("aria-expanded", String(!open));
}
