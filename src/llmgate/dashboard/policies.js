// What the other policies would have chosen.

import { Refused, json } from "./api.js";
import { $, make, put, sync } from "./dom.js";
import { age, percent, seconds, whole } from "./format.js";

const PERIOD_MS = 5000;

let next = 0;

export async function refreshPolicies() {
  if (Date.now() < next) return;
  next = Date.now() + PERIOD_MS;
  try {
    show(await json("api/policies"));
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    $("policies-section").hidden = true; // it is switched off
  }
}

function show({ since, decisions, policies }) {
  $("policies-section").hidden = false;
  put($("policies-about"), `${whole(decisions)} decisions in ${age(since)}`);
  sync($("policies").tBodies[0], policies, (policy) => policy.name, createRow, updateRow);
}

function createRow() {
  const row = make("tr");
  const name = make("th", "name");
  name.scope = "row";
  name.append(make("span", "label"), make("div", "about remark"));
  row.append(name);
  for (const label of ["Same choice", "First token", "Whole answer", "Cached", "Busiest endpoint"]) {
    const cell = make("td", "number");
    cell.dataset.label = label;
    row.append(cell);
  }
  return row;
}

function updateRow(row, policy) {
  row.classList.toggle("chosen", policy.active);
  put(row.querySelector(".label"), policy.active ? `✓ ${policy.name}` : policy.name);
  put(row.querySelector(".remark"), policy.active ? "routes now" : policy.note);
  const cells = row.querySelectorAll("td");
  const shown = [
    percent(policy.same_choice),
    seconds(policy.expected_ttft),
    seconds(policy.expected_e2e),
    percent(policy.cached_ratio),
    percent(policy.busiest_share),
  ];
  shown.forEach((text, index) => put(cells[index], text));
}
