// The review page of one endpoint: signs in, holds the conversation, shows who answered, takes feedback.

import { Answer, events, sources } from "./answer.js";
import { element, sourceList, toolList } from "./elements.js";
import { Feedback, awaitSpans, awaitTrace } from "./feedback.js";
import { Session } from "./session.js";

const WHOLE = "release-pipeline-whole"; // endpoints of this tab that do not stream
const NO_STREAM = "does not support streaming";

const name = decodeURIComponent(location.pathname.split("/")[2]);
const query = new URLSearchParams(location.search);
const names = { thumbs: query.get("thumbs") || "helpful", rating: query.get("rating") || "rating" };
const at = (id) => document.getElementById(id);

let workspace = null;
let person = "";
let field = null;
let entities = new Map();
let conversation = [];

at("endpoint").textContent = name;
document.title = `${name} – review`;
at("again").addEventListener("click", beginAnew);
at("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
at("question").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  at("ask").requestSubmit();
});

const session = new Session(enter, leave);

async function enter(signedIn, who) {
  workspace = signedIn;
  person = who;
  await look();
  field = await workspace.conversationField(name);
  if (!field) {
    at("problem").textContent = "This endpoint serves no agent: its models take tables, and there is nothing to chat with.";
    at("send").disabled = at("question").disabled = true;
  }
  return field ? at("question") : undefined;
}

function leave() {
  workspace = null;
  at("versions").textContent = "";
  beginAnew();
}

function beginAnew() {
  conversation = [];
  at("log").replaceChildren();
  at("problem").textContent = "";
}

/** Read what the endpoint serves now. */
async function look() {
  const config = (await workspace.endpoint(name)).config ?? {};
  entities = new Map((config.served_entities ?? []).map((entity) => [entity.name, entity]));
  const shares = (config.traffic_config?.routes ?? []).map((route) => {
    const version = entities.get(route.served_entity_name)?.entity_version;
    return `version ${version} has ${route.traffic_percentage} %`;
  });
  at("versions").textContent = shares.length ? `Traffic: ${shares.join(", ")}` : "Nothing is served here yet.";
}

async function send() {
  const text = at("question").value.trim();
  if (!text || at("send").disabled) return;
  let custom;
  try {
    custom = customInputs();
  } catch (error) {
    at("problem").textContent = error.message;
    return;
  }
  at("problem").textContent = "";
  at("question").value = "";
  at("send").disabled = true;
  const card = new Card(text);
  const answer = new Answer();
  const talk = conversation; // another may begin before the answer is there
  talk.push({ role: "user", content: text });
  try {
    const response = await ask(talk, custom);
    await card.named(response.headers);
    if (response.headers.get("content-type")?.startsWith("text/event-stream")) {
      for await (const event of events(response)) {
        answer.take(event);
        card.update(answer);
      }
    } else {
      answer.take(await response.json());
    }
  } catch (error) {
    if (error.status === 401) {
      session.end("The token is no longer valid.");
      return;
    }
    answer.error = [error.status || "", error.code, error.message].filter(Boolean).join(" ");
    await card.named(error.headers ?? new Headers());
  } finally {
    at("send").disabled = false;
  }
  // What failed is no part of the conversation: the next question is asked without it.
  if (answer.text) talk.push({ role: "assistant", content: answer.text });
  else talk.pop();
  card.finish(answer);
}

function customInputs() {
  const text = at("custom").value.trim();
  if (!text) return undefined;
  let value = null;
  try {
    value = JSON.parse(text);
  } catch {
    // told below
  }
  if (value === null || typeof value !== "object" || Array.isArray(value)) {
    throw new Error('The custom inputs are no JSON object, such as {"passages": 2}.');
  }
  return value;
}

/** Ask for a stream; an agent that cannot is asked again for the whole answer, and from then on for that only. */
async function ask(talk, custom) {
  const messages = talk.map((message) => (field === "messages" ? { ...message, id: crypto.randomUUID() } : message));
  const body = { [field]: messages, ...(custom && { custom_inputs: custom }) };
  if (!sessionStorage.getItem(`${WHOLE}/${name}`)) {
    try {
      return await workspace.ask(name, { ...body, stream: true });
    } catch (error) {
      if (error.status !== 400 || !error.message.includes(NO_STREAM)) throw error;
      sessionStorage.setItem(`${WHOLE}/${name}`, "1");
    }
  }
  return workspace.ask(name, body);
}

/** One question and its answer on the page. */
class Card {
  constructor(question) {
    this.workspace = workspace;
    this.heading = element("h2", {}, "Waiting for the answer…");
    this.text = element("p", { class: "text" });
    this.error = element("p", { class: "error" });
    this.article = element("article", { class: "answer", "aria-busy": "true" }, this.heading, this.text, this.error);
    const asked = element("article", { class: "question" }, element("h2", {}, "You"), element("p", { class: "text" }, question));
    at("log").append(asked, this.article);
    this.article.scrollIntoView({ block: "end" });
  }

  /** Say which version answers. */
  async named(headers) {
    const entity = headers.get("served-model-name");
    this.requestId = headers.get("x-request-id");
    // A release may have begun since the page was opened.
    if (entity && !entities.has(entity)) await look().catch(() => {});
    this.entity = entities.get(entity);
    if (this.entity) this.heading.textContent = `Version ${this.entity.entity_version} of ${this.entity.entity_name}`;
    else this.heading.textContent = entity ? `Served entity ${entity}` : "No version answered";
  }

  /** Change the card; who reads its end stays there, who has scrolled away is left alone. */
  change(how) {
    const log = at("log");
    const atEnd = log.scrollTop + log.clientHeight >= log.scrollHeight - 80;
    how();
    if (atEnd) this.article.scrollIntoView({ block: "end" });
  }

  update(answer) {
    this.change(() => { this.text.textContent = answer.text; });
  }

  async finish(answer) {
    this.update(answer);
    this.article.setAttribute("aria-busy", "false");
    this.error.textContent = answer.error && `This went wrong: ${answer.error}`;
    const feedback = new Feedback(this.workspace, person, names);
    this.change(() => {
      if (answer.tools.length) this.article.append(toolList(answer.tools));
      if (answer.citations.length) this.article.append(sourceList(answer.citations));
      this.article.append(feedback.view);
    });
    const environment = this.entity?.environment_vars ?? {};
    if (!this.requestId || environment.ENABLE_MLFLOW_TRACING !== "true" || !environment.MLFLOW_EXPERIMENT_ID) {
      feedback.close("No feedback: this version is served without traces, which it would belong to.");
      return;
    }
    feedback.status.textContent = "Waiting for the trace…";
    try {
      const trace = await awaitTrace(this.workspace, environment.MLFLOW_EXPERIMENT_ID, this.requestId);
      if (!trace) return feedback.close("No feedback: the trace of this answer has not come.");
      feedback.open(trace);
      const found = answer.citations.length ? [] : sources(trace, await awaitSpans(this.workspace, trace));
      if (found.length) this.change(() => feedback.view.before(sourceList(found)));
    } catch (error) {
      feedback.status.textContent = error.message;
    }
  }
}
