// How clients reach the gateway, with its own URL and a model that it serves.

import { $, make, put, sync } from "./dom.js";

const shell = (text) => `'${text.replaceAll("'", "'\\''")}'`;
const python = (text) => JSON.stringify(text);

const SNIPPETS = {
  curl: (url, model) => `curl ${url}/chat/completions \\
  -H 'content-type: application/json' \\
  -d ${shell(JSON.stringify({ model, messages: [{ role: "user", content: "Hello!" }] }))}`,

  "Python, openai": (url, model) => `from openai import OpenAI

client = OpenAI(base_url=${python(url)}, api_key="unused")
answer = client.chat.completions.create(
    model=${python(model)},
    messages=[{"role": "user", "content": "Hello!"}],
)
print(answer.choices[0].message.content)`,

  LangChain: (url, model) => `from langchain_openai import ChatOpenAI

chat = ChatOpenAI(base_url=${python(url)}, api_key="unused", model=${python(model)})
print(chat.invoke("Hello!").content)`,
};

const ANYWHERE = ["0.0.0.0", "::", ""]; // then by the name that this page was reached by

export function showSnippets({ gateway, endpoints }) {
  const host = ANYWHERE.includes(gateway.host) ? location.hostname : gateway.host;
  const name = host.includes(":") && !host.startsWith("[") ? `[${host}]` : host;
  const url = `${gateway.tls ? "https" : "http"}://${name}:${gateway.port}/v1`;
  const model = endpoints.flatMap((endpoint) => endpoint.models).sort()[0] ?? "MODEL";
  sync(
    $("snippets"),
    Object.entries(SNIPPETS),
    ([title]) => title,
    createSnippet,
    (node, [, text]) => put(node.querySelector("pre"), text(url, model)),
  );
}

function createSnippet([title]) {
  const node = make("div", "snippet");
  const head = make("div", "title");
  const button = make("button", "quiet", "Copy");
  button.type = "button";
  button.setAttribute("aria-label", `Copy ${title}`);
  const text = make("pre");
  text.tabIndex = 0; // so that it can be scrolled by keys
  button.addEventListener("click", async () => {
    put(button, (await copied(text)) ? "Copied" : "Press Ctrl+C");
    setTimeout(() => put(button, "Copy"), 2000);
  });
  head.append(make("h3", "", title), button);
  node.append(head, text);
  return node;
}

/** Browsers give the clipboard only to pages of localhost and https; elsewhere the text is selected. */
async function copied(node) {
  try {
    await navigator.clipboard.writeText(node.textContent);
    return true;
  } catch {
    getSelection().selectAllChildren(node);
    return false;
  }
}
