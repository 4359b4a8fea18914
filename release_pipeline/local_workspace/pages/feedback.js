// What a person says of one answer: thumbs, a rating from 1 to 5, a comment. Each is an assessment of its trace.

import { element } from "./elements.js";

const ATTEMPTS = 40;
const PAUSE = 500; // milliseconds

const pause = () => new Promise((resolve) => setTimeout(resolve, PAUSE));

/** The trace of a request, which comes a moment after the answer; null where it does not come. */
export async function awaitTrace(workspace, experiment, requestId) {
  for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
    const trace = await workspace.trace(experiment, requestId);
    if (trace) return trace;
    await pause();
  }
  return null;
}

/** The spans of a trace, whose file comes after it; none where it does not come. */
export async function awaitSpans(workspace, trace) {
  for (let attempt = 0; attempt < ATTEMPTS / 4; attempt++) {
    try {
      return await workspace.spans(trace);
    } catch (error) {
      if (error.status !== 404) throw error;
    }
    await pause();
  }
  return [];
}

/** The controls, disabled; `open` enables them once there is a trace that they belong to. */
export class Feedback {
  #workspace;
  #person;
  #names;
  #trace = null;
  #ids = new Map();
  #queue = Promise.resolve();

  constructor(workspace, person, names) {
    this.#workspace = workspace;
    this.#person = person;
    this.#names = names;
    this.status = element("span", { class: "status", role: "status" });
    this.sets = [this.#thumbs(), this.#rating(), this.#comment()];
    this.view = element("div", { class: "feedback" }, ...this.sets, this.status);
  }

  open(trace) {
    this.#trace = trace;
    for (const set of this.sets) set.disabled = false;
    this.status.textContent = "";
  }

  /** Say why there is nothing to be rated. */
  close(reason) {
    for (const set of this.sets) set.hidden = true;
    this.status.textContent = reason;
  }

  #thumbs() {
    const buttons = [["Yes", true, "up"], ["No", false, "down"]].map(([label, value, direction]) => {
      const thumb = element("span", { class: `thumb ${direction}` });
      const button = element("button", { type: "button", "aria-pressed": "false" }, thumb, label);
      button.addEventListener("click", () => {
        for (const each of buttons) each.setAttribute("aria-pressed", String(each === button));
        this.#save(this.#names.thumbs, value);
      });
      return button;
    });
    return this.#set(`${this.#names.thumbs}?`, "thumbs", buttons);
  }

  #rating() {
    const group = `rating-${crypto.randomUUID()}`;
    const marks = [1, 2, 3, 4, 5].map((value) => {
      const radio = element("input", { type: "radio", name: group, value: String(value) });
      radio.addEventListener("change", () => this.#save(this.#names.rating, value));
      return element("label", { class: "mark" }, radio, String(value));
    });
    return this.#set(`${this.#names.rating}, 5 is best:`, "rating", marks);
  }

  #comment() {
    const text = element("textarea", { rows: "1", "aria-label": "Comment", placeholder: "Comment" });
    const button = element("button", { type: "button" }, "Save comment");
    button.addEventListener("click", () => {
      if (text.value.trim()) this.#save("comment", text.value.trim());
    });
    return this.#set("", "comment", [text, button]);
  }

  #set(title, kind, parts) {
    const legend = title ? [element("legend", {}, title)] : [];
    return element("fieldset", { class: kind, disabled: "" }, ...legend, ...parts);
  }

  /** One after the other, so that a change of mind changes what was said before and adds nothing beside it. */
  #save(name, value) {
    this.status.textContent = "Saving…";
    this.#queue = this.#queue.then(async () => {
      try {
        const kept = await this.#workspace.assess(this.#trace, name, value, this.#person, this.#ids.get(name));
        this.#ids.set(name, kept.assessment.assessment_id);
        this.status.textContent = `Saved as ${this.#person}.`;
      } catch (error) {
        this.status.textContent = `Not saved: ${error.message}`;
      }
    });
  }
}
