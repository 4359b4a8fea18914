// Elements with text as text: nothing that an agent or a document says is ever read as HTML.

/** An element with attributes and children; a child that is text becomes a text node. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** Documents under one heading that opens them; an address is a link only where it is one of the web. */
export function sourceList(documents) {
  const items = documents.map(({ title, uri, text }) => {
    const web = /^https?:\/\//i.test(uri);
    const name = web ? element("a", { href: uri, target: "_blank", rel: "noopener noreferrer" }, title) : title;
    return element("li", {}, name, ...(text ? [element("pre", { tabindex: "0" }, text)] : []));
  });
  const count = `${documents.length} source${documents.length === 1 ? "" : "s"}`;
  return element("details", { class: "sources" }, element("summary", {}, count), element("ol", {}, ...items));
}

/** The calls of tools that an answer has made, closed until somebody asks. */
export function toolList(calls) {
  const lines = calls.map((call) => element("pre", { tabindex: "0" }, call));
  return element("details", { class: "tools" }, element("summary", {}, "Tools"), ...lines);
}
