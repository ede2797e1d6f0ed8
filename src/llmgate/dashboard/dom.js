// Elements. Everything that comes from the gateway goes in by textContent, never as markup.

export const $ = (id) => document.getElementById(id);

export function make(tag, className = "", text = "") {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.textContent = text;
  return node;
}

/** Changes the text only if it differs, so that what is selected stays so. */
export function put(node, text) {
  if (node.textContent !== text) node.textContent = text;
  return node;
}

/** Makes `parent` hold one child for each item, in order; a child is kept while its key lives, so focus stays put. */
export function sync(parent, items, key, create, update) {
  const old = new Map();
  for (const child of [...parent.children]) {
    if (old.has(child.dataset.key)) child.remove();
    else old.set(child.dataset.key, child);
  }
  let at = parent.firstElementChild;
  for (const item of items) {
    const name = key(item);
    let child = old.get(name);
    old.delete(name);
    if (!child) {
      child = create(item);
      child.dataset.key = name;
    }
    if (child === at) at = at.nextElementSibling;
    else parent.insertBefore(child, at);
    update(child, item);
  }
  for (const child of old.values()) child.remove();
}
