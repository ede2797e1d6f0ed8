// Why a request went where it went: the candidates with their costs, and in full what spoke for and against each.

import { make } from "./dom.js";
import { UNKNOWN, cost, seconds, short, whole } from "./format.js";

const SHOWN_CANDIDATES = 6;

const REASONS = {
  chosen: "chosen",
  tied: "as good; fewer recent tokens, or chance, decided",
  over_slo: "would miss the request's target",
  no_room: "no room in its KV cache now",
  costlier: "costs more",
  busy: "had just refused a request as full",
  tried: "had failed this request, or cannot take it",
  draining: "is draining",
  trial: "is on trial, with one request",
  not_ready: "is not up",
};

/** The candidates as a list, the chosen one first. */
export function candidatesOf(decision) {
  const list = make("ul", "costs");
  decision.candidates.slice(0, SHOWN_CANDIDATES).forEach((candidate, index) => {
    const item = make("li", index ? "" : "chosen");
    item.append(make("span", "", (index ? "" : "✓ ") + candidate.endpoint), make("span", "", cost(candidate.cost)));
    if (candidate.cached_tokens) item.append(make("span", "cached", `${short(candidate.cached_tokens)} cached`));
    list.append(item);
  });
  const more = decision.candidates.length - SHOWN_CANDIDATES;
  if (more > 0) list.append(make("li", "more", `${more} more`));
  if (decision.tied > 1) list.append(make("li", "more", `${decision.tied} tied`));
  return list;
}

/** The whole explanation as a table, or a sentence if there is none. */
export function explanationOf({ explanation }) {
  if (!explanation?.options.length) {
    return make("p", "about", "Not explained in full: that is done for at most 20 decisions a second.");
  }
  const table = make("table", "options");
  const head = make("tr");
  for (const title of ["Endpoint", "Cost", "TTFT expected", "Cached", "In flight", "Prompt tokens ahead", "Why"]) {
    const cell = make("th", ["Endpoint", "Why"].includes(title) ? "" : "number", title);
    cell.scope = "col";
    head.append(cell);
  }
  table.createTHead().append(head);
  const body = table.createTBody();
  for (const option of explanation.options) {
    const row = make("tr", option.why === "chosen" ? "chosen" : "");
    const candidate = option.cached_tokens !== null;
    row.append(
      make("td", "", option.endpoint),
      make("td", "number", candidate ? cost(option.cost) : UNKNOWN),
      make("td", "number", seconds(option.predicted?.ttft)),
      make("td", "number", candidate ? `${whole(option.cached_tokens)}${source(option)}` : UNKNOWN),
      make("td", "number", whole(option.requests)),
      make("td", "number", whole(option.prompt_tokens_ahead)),
      make("td", "", REASONS[option.why] ?? option.why),
    );
    body.append(row);
  }
  const box = make("div", "scroll");
  box.tabIndex = 0; // so that it can be scrolled by keys
  box.setAttribute("role", "group");
  box.setAttribute("aria-label", "What spoke for and against each endpoint");
  box.append(table);
  if (explanation.left_out) box.append(make("p", "about", `${explanation.left_out} more endpoints are left out.`));
  return box;
}

const source = (option) => (option.cached_source === "events" ? " (its own word)" : "");

/** What was expected of the request and what came of it. */
export function outcomeOf({ explanation }) {
  const predicted = explanation?.predicted;
  if (!predicted) return "";
  const came = explanation.observed_ttft === null ? "" : `, came after ${seconds(explanation.observed_ttft)}`;
  return `first token expected after ${seconds(predicted.ttft)}${came}`;
}
