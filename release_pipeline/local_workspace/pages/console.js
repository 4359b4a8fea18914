// The workspace's own pages: where the links of Dagster, of the command line and of MLflow's client lead.

import { element } from "./elements.js";
import { Session } from "./session.js";
import { viewOf } from "./views.js";

const at = (id) => document.getElementById(id);
const { title, show } = viewOf(location.pathname.split("/").filter(Boolean).map(decodeURIComponent));

let workspace = null;
let looks = 0; // what an older look brings, or one of somebody who has left, is not shown

at("title").textContent = title;
document.title = title;
at("again").addEventListener("click", () => look().catch(() => session.end("The token is no longer valid.")));
const session = new Session(
  async (signedIn) => {
    workspace = signedIn;
    await look();
    return at("again");
  },
  () => {
    looks += 1;
    workspace = null;
    at("view").replaceChildren();
  },
);

/** Read what the page shows; throws where the token is not valid, and shows every other error in place of it. */
async function look() {
  const mine = ++looks;
  let parts;
  try {
    parts = await show(workspace);
  } catch (error) {
    if (error.status === 401) throw error;
    const words = [error.code, error.message].filter(Boolean).join(": ");
    parts = [element("p", { class: "error", role: "alert" }, words)];
  }
  if (mine === looks) at("view").replaceChildren(...parts);
}
