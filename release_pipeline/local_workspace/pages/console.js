// The workspace's own pages: where the links of Dagster, of the command line and of MLflow's client lead.

import { element } from "./elements.js";
import { Session } from "./session.js";
import { viewOf } from "./views.js";

const at = (id) => document.getElementById(id);
const { title, show } = viewOf(location.pathname.split("/").filter(Boolean).map(decodeURIComponent));

let workspace = null;

at("title").textContent = title;
document.title = title;
at("again").addEventListener("click", () => look().catch((error) => told(error)));
new Session(
  async (signedIn) => {
    workspace = signedIn;
    await look().catch((error) => {
      if (error.status === 401) throw error;
      told(error); // what one may not see, or is not there, is no reason to sign in again
    });
    return at("again");
  },
  () => at("view").replaceChildren(),
);

async function look() {
  at("view").replaceChildren(...(await show(workspace)));
}

function told(error) {
  const words = [error.code, error.message].filter(Boolean).join(": ");
  at("view").replaceChildren(element("p", { class: "error", role: "alert" }, words));
}
