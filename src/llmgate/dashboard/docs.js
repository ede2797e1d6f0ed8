// The API page: openapi.json, made readable. Everything that it says goes in as text, never as markup.
"use strict";

const $ = (id) => document.getElementById(id);

function make(tag, className = "", ...content) {
  const node = document.createElement(tag);
  node.className = className;
  node.append(...content); // strings become text
  return node;
}

/** What kind of value a schema describes, as text and links to the types below. */
function kind(schema) {
  if (schema.$ref) {
    const name = schema.$ref.split("/").pop();
    const link = make("a", "", name);
    link.href = `#${name}`;
    return [link];
  }
  if (schema.anyOf) return schema.anyOf.flatMap((each, index) => [...(index ? [" or "] : []), ...kind(each)]);
  if (schema.enum) return [schema.enum.join(" | ")];
  if (schema.type === "array") return ["list of ", ...kind(schema.items || {})];
  if (schema.additionalProperties) return ["object of ", ...kind(schema.additionalProperties)];
  const range = "minimum" in schema && "maximum" in schema ? `, ${schema.minimum} to ${schema.maximum}` : "";
  return [(schema.type || "anything") + range];
}

/** A list of names, each with what it is; `rows` are [name, kind, description]. */
function definitions(title, rows) {
  if (!rows.length) return [];
  const list = make("dl");
  for (const [name, what, description] of rows) {
    const detail = make("dd");
    if (what.length) detail.append(make("span", "type about", ...what));
    detail.append(description || "");
    list.append(make("dt", "", name), detail);
  }
  return title ? [make("h4", "", title), list] : [list];
}

function parameterRow(parameter) {
  const schema = parameter.schema || {};
  const notes = [", in the ", parameter.in, parameter.required ? ", required" : ""];
  if ("default" in schema) notes.push(`, default ${schema.default}`);
  return [parameter.name, [...kind(schema), ...notes], parameter.description];
}

function responseRow([status, response]) {
  const [content] = Object.values(response.content || {});
  return [status, content ? kind(content.schema || {}) : [], response.description];
}

function request(path, method, operation) {
  const heading = make("h3");
  heading.append(
    make("span", method === "get" ? "method" : "method changes", method.toUpperCase()),
    make("code", "", path),
    make("span", "about", operation.summary || ""),
  );
  const entry = make("article", "panel entry", heading, make("p", "", operation.description || ""));
  if (operation.security) entry.append(make("p", "about", "wants the token: authorization: Bearer …"));
  entry.append(...definitions("Parameters", (operation.parameters || []).map(parameterRow)));
  entry.append(...definitions("Answers", Object.entries(operation.responses || {}).map(responseRow)));
  return entry;
}

function type(name, schema) {
  const entry = make("article", "panel entry", make("h3", "", make("code", "", name)));
  entry.id = name;
  if (schema.description) entry.append(make("p", "", schema.description));
  if (!schema.properties) entry.append(make("p", "", ...kind(schema)));
  const fields = Object.entries(schema.properties || {});
  entry.append(...definitions("", fields.map(([field, of]) => [field, kind(of), of.description])));
  return entry;
}

async function show() {
  try {
    const response = await fetch("openapi.json");
    if (!response.ok) throw new Error(`status ${response.status}`);
    const { info, paths, components } = await response.json();
    $("title").textContent = info.title;
    $("about").textContent = `${info.version}. ${info.description || ""}`;
    for (const [path, operations] of Object.entries(paths)) {
      for (const [method, operation] of Object.entries(operations)) {
        $("requests").append(request(path, method, operation));
      }
    }
    const types = Object.entries((components && components.schemas) || {});
    $("types").append(...types.map(([name, schema]) => type(name, schema)));
    document.getElementById(location.hash.slice(1))?.scrollIntoView(); // it was not there when the page opened
  } catch (error) {
    $("alarm").textContent = `The description of the API could not be read (${error.message}). Load the page again.`;
    $("alarm").hidden = false;
  }
}

show();
