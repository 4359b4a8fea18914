// Signing in: the token that a person types is kept by this tab until it is closed, and lent to other tabs of this
// workspace that are opened meanwhile, so that a link needs no second sign-in.

import { Workspace } from "./api.js";
import { element } from "./elements.js";

const TOKEN = "release-pipeline-token";
const at = (id) => document.getElementById(id);

export class Session {
  /**
   * `enter(workspace, person)` fills the page for somebody who has signed in, and resolves to what gets the focus; it
   * throws what the workspace refuses. `leave()` empties the page. What is inside has the class `inside`; the form that
   * asks for the token is put before it.
   */
  constructor(enter, leave) {
    this.enter = enter;
    this.leave = leave;
    document.querySelector("main").prepend(form());
    this.tabs = new BroadcastChannel(TOKEN);
    this.tabs.addEventListener("message", ({ data }) => this.heard(data));
    at("sign-in").addEventListener("submit", (event) => {
      event.preventDefault();
      this.signIn(at("token").value.trim());
    });
    at("leave").addEventListener("click", () => this.end(""));
    const kept = sessionStorage.getItem(TOKEN);
    if (kept) {
      this.signIn(kept);
    } else {
      this.end("");
      this.asking = true; // only a tab that was just opened is lent a token, not one in which somebody has signed out
      this.tabs.postMessage({ wanted: true });
    }
  }

  async signIn(token, lent = false) {
    const workspace = new Workspace(token);
    let first;
    try {
      const person = await workspace.userName();
      sessionStorage.setItem(TOKEN, token);
      this.asking = false;
      first = await this.enter(workspace, person);
      at("name").textContent = person;
    } catch (error) {
      if (lent && error.status === 401) return; // another tab may lend a better one
      this.end(error.status === 401 ? "This token is not valid here." : error.message);
      return;
    }
    at("token").value = "";
    this.show(true);
    first?.focus();
  }

  end(reason) {
    sessionStorage.removeItem(TOKEN);
    this.asking = false;
    this.show(false);
    this.leave();
    at("refused").textContent = reason;
    at("token").focus();
  }

  show(inside) {
    for (const part of document.querySelectorAll(".inside")) part.hidden = !inside;
    at("sign-in").hidden = inside;
  }

  /** Another tab of this workspace has asked for the token, or lends it. */
  heard(data) {
    const kept = sessionStorage.getItem(TOKEN);
    if (data.wanted && kept) this.tabs.postMessage({ token: kept });
    if (data.token && this.asking && !at("token").value) this.signIn(data.token, true);
  }
}

function form() {
  const help = "The one that every client needs, such as the text in the workspace's token file. This tab keeps it until it is closed.";
  const described = { autocomplete: "off", required: "", "aria-describedby": "token-help refused" };
  return element(
    "form",
    { id: "sign-in", hidden: "" },
    element("label", { for: "token" }, "Token of this workspace"),
    element("input", { id: "token", type: "password", ...described }),
    element("button", { type: "submit" }, "Sign in"),
    element("p", { id: "token-help" }, help),
    element("p", { id: "refused", class: "error", role: "alert" }),
  );
}
