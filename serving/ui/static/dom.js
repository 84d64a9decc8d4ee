// Building elements without markup: text stays text, whatever a server or a model was called.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
export const s = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
export const byId = (id) => document.getElementById(id);

// Makes `parent` hold `children`, changing only what differs: what has the focus keeps it. For content without listeners.
export function show(parent, ...children) {
  morph(parent, [...h("div", {}, ...children).childNodes]);
}

function morph(parent, fresh) {
  fresh.forEach((node, index) => {
    const old = parent.childNodes[index];
    if (old === undefined) parent.append(node);
    else if (old.isEqualNode(node)) return;
    else if (old.nodeType !== node.nodeType || old.nodeName !== node.nodeName) old.replaceWith(node);
    else if (old.nodeType === Node.TEXT_NODE) old.data = node.data;
    else {
      for (const name of old.getAttributeNames()) if (!node.hasAttribute(name)) old.removeAttribute(name);
      for (const name of node.getAttributeNames()) if (old.getAttribute(name) !== node.getAttribute(name)) old.setAttribute(name, node.getAttribute(name));
      morph(old, [...node.childNodes]);
    }
  });
  while (parent.childNodes.length > fresh.length) parent.lastChild.remove();
}
